"""Writes the reason for an exit to the termination message file, which the kubelet shows (terminationMessagePath)."""

from __future__ import annotations

import contextlib
import os

DEFAULT_PATH = "/dev/termination-log"
"""The default of --termination-log, and of a container's terminationMessagePath."""
MESSAGE_MAX = 4096
"""Bytes that the kubelet reads."""


def write_message(path: str, message: str) -> str:
    """
    Write `message` to `path`; returns an error for the log, empty if there is none.

    The kubelet makes the default file.  If it is missing, no kubelet would read it, so it is not made here.
    """
    if not path:
        return ""
    data = message.encode(errors="backslashreplace")[: MESSAGE_MAX - 1]
    data = data.decode(errors="ignore").encode() + b"\n"  # no part of a character at the end
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if path == DEFAULT_PATH else os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        return "" if path == DEFAULT_PATH else f"{path}: {error.strerror or error}"
    with contextlib.suppress(OSError):
        os.write(descriptor, data)
    os.close(descriptor)
    return ""
