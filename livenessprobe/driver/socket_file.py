"""Looks at the driver's socket file: whether it is there, whether it is a socket, and whether it is still the same."""

from __future__ import annotations

import os
import stat
import sys

from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.diagnosis import NotConnected, not_connected
from livenessprobe.driver.result import Reason

SocketIdentity = tuple[int, int, int]


def look(address: CSIAddress) -> SocketIdentity | None:
    """
    The identity of the socket file; None if the address is no path, or on Windows, where there is none.

    Raises NotConnected if a dial could not succeed: looking is cheaper, and its reason more exact.
    """
    if address.network != "unix":
        return None
    path = address.name
    try:
        found = os.lstat(path) if sys.platform == "win32" else os.stat(path)
    except OSError as error:
        raise not_connected(error.errno, path) from None
    if sys.platform == "win32":
        return None
    if not stat.S_ISSOCK(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a file"
        raise NotConnected(Reason.NOT_A_SOCKET, f"{path} is {kind}, not a socket: the driver listens elsewhere")
    # A new socket may have the inode number of the old one, but not its change time.
    return (found.st_dev, found.st_ino, found.st_ctime_ns)


def is_mount_point(path: str) -> bool:
    """Whether the file itself is a bind mount, as `docker run -v …/csi.sock:/csi/csi.sock` makes it (proc(5), mountinfo)."""
    escaped = path.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.split(" ")[4] == escaped for line in file)
    except (OSError, IndexError):
        return False
