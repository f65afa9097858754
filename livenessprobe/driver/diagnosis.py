"""
Explains why there is no connection to the driver: turns an errno or gRPC's error message into a reason code and a sentence.

gRPC reports causes only in words, so they are recognised by the text of the errno in them.
"""

from __future__ import annotations

import errno
import os
import sys

from livenessprobe.driver import whereabouts
from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.result import Reason


class NotConnected(Exception):
    """There is no connection: the reason, and a sentence for people."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


def no_descriptors(address: CSIAddress, number: int) -> NotConnected:
    """The failure if the errno `number` says that this process, or the node, has no descriptors left."""
    words = os.strerror(number)
    return NotConnected(
        Reason.INTERNAL, f"livenessprobe has too few file descriptors left to connect to {address.name}: {words}"
    )


def not_connected(number: int | None, path: str) -> NotConnected:
    """The failure for the errno `number` of a look at the socket file `path`, or of a connection to it."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        missing = f"{path} does not exist: the driver is not running, or its folder is not mounted here"
        return NotConnected(Reason.SOCKET_MISSING, missing + whereabouts.of_missing(path))
    if number in (errno.EACCES, errno.EPERM):
        return NotConnected(Reason.PERMISSION_DENIED, f"{path}: permission denied: {whereabouts.of_forbidden()}")
    return NotConnected(Reason.UNREACHABLE, f"{path}: {os.strerror(number or 0)}")


def explanation(address: CSIAddress, details: str) -> NotConnected:
    """The failure for gRPC's error message `details` about a connection to `address`."""
    where = address.name
    words = details.rpartition("error: ")[2]
    if _is_about(details, errno.ECONNREFUSED) or (sys.platform == "win32" and _is_about(details, errno.ENOTCONN)):
        if address.network == "unix" and _is_mount_point(where):
            return NotConnected(
                Reason.STALE_MOUNT,
                f"{where} is itself a mount, and of a socket nobody listens on any more: mount the folder, not the file",
            )
        return NotConnected(Reason.REFUSED, f"nobody listens on {where}: the driver is down or starting")
    for number in (errno.EACCES, errno.ENOENT):
        if _is_about(details, number) and address.network == "unix":
            return not_connected(number, where)
    for number in (errno.EMFILE, errno.ENFILE):
        if _is_about(details, number):
            return no_descriptors(address, number)
    # A unix socket with a full queue does not make the client wait; gRPC goes on, and finds that it is not connected.
    if _is_about(details, errno.ENOTCONN) and address.network != "tcp":
        return NotConnected(
            Reason.UNREACHABLE,
            f"the driver at {where} does not accept connections, and its queue of them is full: it is hung, stopped or overloaded",
        )
    if _is_about(details, errno.EPROTOTYPE):
        return NotConnected(Reason.NOT_A_SOCKET, f"{where} is a socket of another kind than a stream")
    if "http1.x" in details:
        return NotConnected(
            Reason.PROTOCOL_ERROR, f"{where} answers in HTTP/1, not gRPC: this is not the driver's CSI socket"
        )
    if "HTTP/2" in details:
        return NotConnected(Reason.PROTOCOL_ERROR, f"{where} does not speak gRPC: this is not the driver's CSI socket")
    if _is_about(details, errno.ECONNRESET) or "closed" in details.lower() or _is_about(details, errno.EPIPE):
        return NotConnected(Reason.PROTOCOL_ERROR, closes(address))
    if "resolving" in details or "lookup" in details:
        return NotConnected(Reason.UNRESOLVED, f"{where}: the name cannot be resolved")
    return NotConnected(Reason.UNREACHABLE, f"{where}: {words or details}")


def _is_about(details: str, number: int) -> bool:
    """
    Whether gRPC's error message `details` is about the errno `number`.

    On Windows it ends in WinSock's number.  If a connection is refused at once, gRPC reads the number too late, and finds
    that the socket is not connected (ENOTCONN).
    """
    if sys.platform == "win32":
        return f" -- {number if number > 10_000 else 10_000 + number})" in details
    return os.strerror(number) in details


def closes(address: CSIAddress) -> str:
    """The sentence for a driver that closes connections before gRPC has begun."""
    return f"{address.name} closes every connection without a word of gRPC"


def _is_mount_point(path: str) -> bool:
    """Whether the file itself is a bind mount, as `docker run -v …/csi.sock:/csi/csi.sock` makes it (proc(5), mountinfo)."""
    escaped = path.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.split(" ")[4] == escaped for line in file)
    except (OSError, IndexError):
        return False
