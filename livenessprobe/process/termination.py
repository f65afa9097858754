"""
The termination message: one line that says why this process ended, which the kubelet shows (terminationMessagePath).

It is a matter of the whole process, as the log is: a signal, a thread or a refused setting may end the process.  The first cause
is kept.  Only a process that expects to serve leaves a message; a command that runs beside it must not.
"""

from __future__ import annotations

import os
import time

DEFAULT_PATH = "/dev/termination-log"
"""The default of --termination-log, and of a container's terminationMessagePath."""
MESSAGE_MAX = 4096
"""Bytes that the kubelet reads."""
CAUSE_MAX = 3000
"""Bytes of the cause, so that the last change has place behind it."""
WRITE_SECONDS = 1.0
"""How long `leave` waits for a write: a disk that hangs must not keep the process from ending."""


class _Message:
    """No dataclass: this module is imported before signals are handled, and dataclasses take long to import."""

    def __init__(self) -> None:
        self.path: str | None = None
        """None if no message is expected, empty if none is wanted."""
        self.left = False
        self.state = ""
        """What is reported of the driver, such as `driver healthy`."""
        self.since = 0.0
        """Since when, by the monotonic clock."""
        self.why = ""


_message = _Message()


def expect(path: str = DEFAULT_PATH) -> None:
    """From now on the end of this process leaves a message in the file `path`."""
    _message.path, _message.left, _message.state = path, False, ""


def use(path: str) -> None:
    """Leave the message, if one is expected, in the file `path`; empty for nowhere."""
    if _message.path is not None:
        _message.path = path


def report(state: str, since: float, why: str) -> None:
    """The driver is reported as `state` since that time of the monotonic clock, and `why`, which may be empty."""
    _message.state, _message.since, _message.why = state, since, why


def leave(cause: str, *, threads: bool = True) -> str:
    """
    Leave the message that `cause` ends the process, unless there was an earlier cause; returns an error for the log, or nothing.

    Without `threads`, for signal handlers, the write may take as long as the disk does.
    """
    if _message.path is None or _message.left:
        return ""
    _message.left = True
    path, line = _message.path, _line(cause, time.monotonic())
    if not threads:
        return write_message(path, line)
    from livenessprobe.process.threads import run_apart

    try:
        return run_apart(lambda: write_message(path, line), WRITE_SECONDS)
    except TimeoutError:
        return f"{path}: its file system does not respond"


def _line(cause: str, now: float) -> str:
    """The message, with the last change behind the cause unless the cause has it already."""
    cut = cause.encode(errors="backslashreplace")[:CAUSE_MAX].decode(errors="ignore")
    if not _message.state:
        return cut
    from livenessprobe.gotext import format_seconds  # not before signals are handled

    why = f": {_message.why}" if _message.why and _message.why not in cause else ""
    return f"{cut}, {_message.state} for {format_seconds(round(now - _message.since))}{why}"


def write_message(path: str, message: str) -> str:
    """
    Write `message` as one line to `path`; returns an error for the log, empty if there is none.

    The kubelet makes the file.  If it is missing, no kubelet would read it, so it is not made here.
    """
    if not path:
        return ""
    line = "".join(each if each.isprintable() else " " for each in message)
    data = line.encode(errors="backslashreplace")[: MESSAGE_MAX - 1]
    data = data.decode(errors="ignore").encode() + b"\n"  # no part of a character at the end
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        return "" if path == DEFAULT_PATH else f"{path}: {error.strerror or error}"
    try:
        os.write(descriptor, data)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    finally:
        os.close(descriptor)
    return ""
