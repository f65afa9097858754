"""
The health file: exists while the driver is healthy, for exec probes that cannot ask a port.

It has the driver's name, the time of the last result, and when that result expires.  Times to compare are seconds of uptime:
that clock is the same in all containers of a node, and is never set.
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
"""Seconds until a file expires if the driver is probed only on request."""

_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Opens a file without following a link, and without waiting for the other end of a FIFO."""
READER_TRIES, READER_SECONDS = 20, 0.01
"""On Windows: how often to try to replace a file that is being read, and the pause between tries."""


class HealthFileError(Exception):
    """The file cannot be written or removed, or does not report a healthy driver; the text is for people."""


class HealthFileExpired(HealthFileError):
    """The file reports a healthy driver, and is too old."""


def write(path: str, driver: str, lasts: float, age: float = 0.0) -> None:
    """
    Report that `driver` was healthy `age` seconds ago, which expires `lasts` seconds after that.

    A reader sees the old file or the new one, complete.  Raises HealthFileError; the old file is removed then.
    """
    _refuse_other_than_regular(path)
    found = time.time() - age
    content = {
        "driver": driver,
        "time": _rfc3339(found),
        "expires": _rfc3339(found + lasts),
        "uptime": time.monotonic() - age,  # not rounded: a rounded time could be later than now
        "lasts": lasts,
    }
    line = json.dumps(content).encode() + b"\n"
    try:
        try:
            _replace(path, line)
        except OSError as error:
            # The old file would go on reporting a healthy driver.
            with contextlib.suppress(HealthFileError):
                remove(path)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _replace(path, line)  # into the space that has become free
    except OSError as error:
        raise HealthFileError(f"health file {path} cannot be written: {error.strerror}") from None


def _replace(path: str, line: bytes) -> None:
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        # Exclusively: in a folder that other users write to, the name could be a link to another file.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
            file.write(line)
        os.chmod(temporary, 0o644)
        _move(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _move(temporary: str, path: str) -> None:
    """Rename `temporary` to `path`; Windows refuses that while `path` is being read, so it is tried again there."""
    for _ in range(READER_TRIES if sys.platform == "win32" else 0):
        with contextlib.suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(READER_SECONDS)
    os.replace(temporary, path)


def remove(path: str) -> None:
    """Report that the driver is not healthy, or that its health is not known.  Raises HealthFileError."""
    _refuse_other_than_regular(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # The folder may be read-only, or the file a mount of its own.  An empty file reports nothing either.
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | _AS_IT_IS))
        raise HealthFileError(f"health file {path} cannot be removed: {error.strerror}") from None


def read(path: str) -> str:
    """The name of the healthy driver; raises HealthFileExpired, or HealthFileError if there is no file or no valid one."""
    try:
        content = json.loads(_content(path))
        # After a restart of the machine the time in an old file may lie in the future.
        valid = 0 <= time.monotonic() - content["uptime"] <= content["lasts"]
        driver, written = str(content["driver"]), str(content["time"])
    except FileNotFoundError:
        raise HealthFileError(f"{path} does not exist: the driver is not healthy, or has not been probed yet") from None
    except OSError as error:
        raise HealthFileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        raise HealthFileError(f"{path} is not a health file of livenessprobe") from None
    if not valid:
        raise HealthFileExpired(
            f"{path} is of {written} and has expired: livenessprobe does not renew it, so it may be dead"
        )
    return driver


def _content(path: str) -> bytes:
    """The content of a regular file; raises ValueError for any other, and never blocks on a FIFO."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError
        return file.read(65_536)


def _refuse_other_than_regular(path: str) -> None:
    """Raises HealthFileError for a folder, link or socket: a mistyped path must not cost a driver its socket."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise HealthFileError(f"{path} exists and is not a regular file; choose another path for the health file")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
