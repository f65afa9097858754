"""
The health file: there while the driver is healthy, for exec probes that cannot ask a port.

It says who was found healthy, when, and until when that counts, by the clock of the machine's uptime: it is the same in
all containers of a node and nobody sets it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import time
from datetime import UTC, datetime

REQUEST_MODE_LASTS = 60.0
"""Seconds a file counts where probes are made only when somebody asks."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Neither led elsewhere by a link nor held up by a FIFO."""
_FOR_READING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Neither held up by a FIFO nor with other ends of lines; no system has both."""
_FOR_WRITING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
"""Exclusively: in a folder that others write to, the name could be a link to somewhere else."""
READER_TRIES, READER_SECONDS = 20, 0.01
"""How often, and how far apart, a file is to be replaced that somebody reads."""


class HealthFileError(Exception):
    """The file cannot be written or removed, or does not say that the driver is healthy; a sentence."""


def write(path: str, driver: str, lasts: float, age: float = 0.0) -> None:
    """
    Say that `driver` was healthy `age` seconds ago, which counts for `lasts` seconds from then.

    Atomically, since somebody may be reading.
    """
    _refuse_what_is_no_file(path)
    found = time.time() - age
    content = {
        "driver": driver,
        "time": _rfc3339(found),
        "expires": _rfc3339(found + lasts),
        "uptime": time.monotonic() - age,  # not rounded: that could lie in the future, where a reader has just been
        "lasts": lasts,
    }
    line = json.dumps(content).encode() + b"\n"
    try:
        try:
            _replace(path, line)
        except OSError as error:
            # What stands there would go on saying that all is well.
            with contextlib.suppress(HealthFileError):
                remove(path)
            if error.errno not in _FULL:
                raise
            _replace(path, line)  # into the room that has become free
    except OSError as error:
        raise HealthFileError(f"health file {path} cannot be written: {error.strerror}") from None


def _replace(path: str, line: bytes) -> None:
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        descriptor = os.open(temporary, _FOR_WRITING, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(line)
        os.chmod(temporary, 0o644)
        _move(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _move(temporary: str, path: str) -> None:
    """Put the one in the place of the other; Windows refuses that while somebody reads, which takes but a moment."""
    for _ in range(READER_TRIES if sys.platform == "win32" else 0):
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(READER_SECONDS)
    os.replace(temporary, path)


def remove(path: str) -> None:
    """Say that the driver is not healthy, or that nobody knows."""
    _refuse_what_is_no_file(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # The folder is locked perhaps, or the file a mount of its own.  Empty it says nothing either.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | _AS_IT_IS))
        raise HealthFileError(f"health file {path} cannot be removed: {error.strerror}") from None


def read(path: str) -> str:
    """The name of the driver that the file says is healthy; raises HealthFileError if it does not say so, or no longer."""
    try:
        content = json.loads(_content(path))
        # From before a restart of the machine it would lie in the future.
        counts = 0 <= time.monotonic() - content["uptime"] <= content["lasts"]
        driver, said = str(content["driver"]), str(content["time"])
    except FileNotFoundError:
        raise HealthFileError(f"{path} does not exist: the driver is not healthy, or nobody has asked it yet") from None
    except OSError as error:
        raise HealthFileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        raise HealthFileError(f"{path} is no health file of livenessprobe's") from None
    if not counts:
        raise HealthFileError(f"{path} is of {said} and has expired: livenessprobe does not renew it, so it may be dead")
    return driver


def _content(path: str) -> bytes:
    """What is in the file; never blocks on a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | _FOR_READING)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError  # so it is no health file
        return file.read(65_536)


def _refuse_what_is_no_file(path: str) -> None:
    """A typing error must not cost a driver its socket."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise HealthFileError(f"{path} is there and is no plain file; choose another path for the health file")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
