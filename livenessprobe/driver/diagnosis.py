"""
Why there is no connection to the driver: a reason and a sentence for what the system and gRPC say of it.

gRPC tells causes in words only, so they are told apart by the words of the errno in them.
"""

from __future__ import annotations

import errno
import os
import sys

from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.result import Reason


class NotConnected(Exception):
    """No connection; says why."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


def no_descriptors(address: CSIAddress, number: int) -> NotConnected:
    """The driver is not to blame."""
    words = os.strerror(number)
    return NotConnected(
        Reason.INTERNAL, f"livenessprobe has too few file descriptors left to connect to {address.name}: {words}"
    )


def not_connected(number: int | None, path: str) -> NotConnected:
    """What an errno of looking at or connecting to a socket file means."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        missing = f"{path} does not exist: the driver is not running, or its folder is not mounted here"
        return NotConnected(Reason.SOCKET_MISSING, missing)
    if number in (errno.EACCES, errno.EPERM):
        return NotConnected(Reason.PERMISSION_DENIED, f"{path}: permission denied: run as the driver's user or as root")
    return NotConnected(Reason.UNREACHABLE, f"{path}: {os.strerror(number or 0)}")


def explanation(address: CSIAddress, details: str) -> NotConnected:
    """A reason for gRPC's words about a connection that failed."""
    where = address.name
    words = details.rpartition("error: ")[2]
    if _tells(details, errno.ECONNREFUSED) or (sys.platform == "win32" and _tells(details, errno.ENOTCONN)):
        if address.network == "unix" and _is_mount_point(where):
            return NotConnected(
                Reason.STALE_MOUNT,
                f"{where} is itself a mount, and of a socket nobody listens on any more: mount the folder, not the file",
            )
        return NotConnected(Reason.REFUSED, f"nobody listens on {where}: the driver is down or starting")
    for number in (errno.EACCES, errno.ENOENT):
        if _tells(details, number) and address.network == "unix":
            return not_connected(number, where)
    for number in (errno.EMFILE, errno.ENFILE):
        if _tells(details, number):
            return no_descriptors(address, number)
    # A unix socket whose queue is full refuses to wait; gRPC goes on all the same and finds that it is not connected.
    if _tells(details, errno.ENOTCONN) and address.network != "tcp":
        return NotConnected(
            Reason.UNREACHABLE,
            f"the driver at {where} does not accept connections, and its queue of them is full: it is hung, stopped or overloaded",
        )
    if _tells(details, errno.EPROTOTYPE):
        return NotConnected(Reason.NOT_A_SOCKET, f"{where} is a socket of another kind than a stream")
    if "http1.x" in details:
        return NotConnected(
            Reason.PROTOCOL_ERROR, f"{where} answers in HTTP/1, not gRPC: this is not the driver's CSI socket"
        )
    if "HTTP/2" in details:
        return NotConnected(Reason.PROTOCOL_ERROR, f"{where} does not speak gRPC: this is not the driver's CSI socket")
    if _tells(details, errno.ECONNRESET) or "closed" in details.lower() or _tells(details, errno.EPIPE):
        return NotConnected(Reason.PROTOCOL_ERROR, closes(address))
    if "resolving" in details or "lookup" in details:
        return NotConnected(Reason.UNRESOLVED, f"{where}: the name cannot be resolved")
    return NotConnected(Reason.UNREACHABLE, f"{where}: {words or details}")


def _tells(details: str, number: int) -> bool:
    """
    Whether gRPC's words about a connection are of the errno `number`.

    On Windows they end in WinSock's number.  Of a connection that is refused at once gRPC reads it too late, and finds that
    the socket is not connected (ENOTCONN).
    """
    if sys.platform == "win32":
        return f" -- {number if number > 10_000 else 10_000 + number})" in details
    return os.strerror(number) in details


def closes(address: CSIAddress) -> str:
    """A sentence."""
    return f"{address.name} closes every connection without a word of gRPC"


def _is_mount_point(path: str) -> bool:
    """Whether the very file is a bind mount, as `docker run -v …/csi.sock:/csi/csi.sock` makes it (proc(5), mountinfo)."""
    escaped = path.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.split(" ")[4] == escaped for line in file)
    except (OSError, IndexError):
        return False
