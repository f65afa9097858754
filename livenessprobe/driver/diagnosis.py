"""
Judges what gRPC reports: why there is no connection to the driver, or why a call failed, as a reason code and a sentence.

gRPC reports causes only in words, so they are recognised by grpcio's own sentences, or by the text of an errno in them.  The
words are those of grpcio 1.83 to 1.85.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from enum import Enum
from typing import NamedTuple

from livenessprobe.driver import whereabouts
from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.result import Reason


class NotConnected(Exception):
    """There is no connection: the reason, a sentence for people, and whether another dial may find out more at once."""

    def __init__(self, reason: Reason, sentence: str, *, again: bool = False) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.again = again


class Phase(Enum):
    """How far a connection had come."""

    DIAL = "no connection"
    GREETED = "the driver had sent its SETTINGS, and the connection ended before a call"
    CALL = "a call has ended, and its connection is open"
    LOST = "a call has ended, and so has its connection"


class Verdict(NamedTuple):
    """What a failure says about the driver."""

    code: str
    """The gRPC code in Go's spelling: as far as it can be told, the code that the Go program reports."""
    reason: Reason
    sentence: str
    """The message of a failed call, or the sentence for a driver that was not reached."""
    again: bool = False
    """Whether the driver has not looked at the call, so that it is made once more on a fresh connection."""


def judge(code: str, words: str, phase: Phase, address: CSIAddress) -> Verdict:
    """The verdict on a failure that grpcio reports with `code`, such as UNAVAILABLE, and with `words`."""
    if phase is Phase.DIAL:
        return _judge_dial(words, address)
    if phase is Phase.GREETED:
        return Verdict("Unavailable", Reason.PROTOCOL_ERROR, _ends_early(address), again=True)
    if code == "OK":
        return Verdict("Internal", Reason.PROTOCOL_ERROR, words or "the answer has no complete message")
    # grpcio's message begins with "Stream removed (" if a stream ended without a status from the driver.  A driver may send
    # such a message of its own gRPC library, about its backend; the two cannot be told apart for certain.
    if words.startswith((_REMOVED, *_GRPCS_WORDS)):
        return _judge_made_up(_in_gos_spelling(code), words)
    if code == "UNAVAILABLE" and phase is Phase.LOST:
        return Verdict("Unavailable", Reason.CONNECTION_LOST, words)
    reason = {"UNIMPLEMENTED": Reason.UNIMPLEMENTED, "DEADLINE_EXCEEDED": Reason.DEADLINE}.get(code, Reason.DRIVER_ERROR)
    return Verdict(_in_gos_spelling(code), reason, words)


SECOND_MESSAGE = "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message"
"""Go's words for a response of two messages; judged with the code OK."""
BYTES_BEHIND = "the response has bytes behind its message, so that gRPC's core does not see its end"
"""Of a response that ends as a stream, but not as that of a unary call; judged with the code OK."""

_REMOVED = "Stream removed ("
_GRPCS_WORDS = (
    "Received http2 header with status",
    "No status received",
    "Compression bit set",
    "Decompression failed",
    "Decompressed message larger than max",
)
_RST = re.compile(r"RST_STREAM \(Received RST_STREAM with error code (\d+)\)")
_REFUSED_STREAM = 7
_RST_CODES = {
    **dict.fromkeys((0, 1, 2, 4, 5, 6, 9, 10, 13), "Internal"),
    3: "ResourceExhausted",
    8: "Canceled",
    11: "ResourceExhausted",
    12: "PermissionDenied",
}
"""grpc-go's code for each error code of HTTP/2 (http2ErrConvTab); all others are Unknown."""
_OTHER_CODES = {"Data frame with END_STREAM flag received": "Internal", "Error parsing 'grpc-status' metadata": "Unknown"}
"""grpc-go's code where it differs from grpcio's (handleData and operateHeaders in http2_client.go)."""
_NOT_UNDERSTOOD = re.compile(r"Failed parsing HTTP/2 |unsupported data flags|Received http2 header with status: 1\d\d$")
"""
HTTP/2 that gRPC's core refuses.  Most of it is legal, and Go understands it: padding, unused flags, interim responses, an
acknowledgement of SETTINGS that comes early.  The words do not tell it from HTTP/2 that is wrong.
"""


def _judge_made_up(code: str, words: str) -> Verdict:
    """The verdict on a call that ended without a status from the driver."""
    removed = words.startswith(_REMOVED)
    cause = words.removeprefix(_REMOVED).removesuffix(")") if removed else words
    # A driver that had begun to process the call closes the connection behind its GOAWAY: "Socket closed (GOAWAY received…".
    if cause.startswith("GOAWAY received"):
        return Verdict("Unavailable", Reason.CONNECTION_LOST, words, again=True)
    if reset := _RST.match(cause):
        number = int(reset[1])
        # grpcio does not tell whether headers came before; a driver that refuses a stream after them is asked again, too.
        if number == _REFUSED_STREAM:
            return Verdict("Unavailable", Reason.CONNECTION_LOST, words, again=True)
        return Verdict(_RST_CODES.get(number, "Unknown"), Reason.PROTOCOL_ERROR, words)
    if _NOT_UNDERSTOOD.match(cause):
        return Verdict("Internal", Reason.PROTOCOL_ERROR, _not_understood(cause))
    reason = Reason.CONNECTION_LOST if code == "Unavailable" and removed else Reason.PROTOCOL_ERROR
    return Verdict(_OTHER_CODES.get(cause, code), reason, words)


def _not_understood(cause: str) -> str:
    return f"gRPC's core does not understand the driver's HTTP/2: {cause}"


def _in_gos_spelling(code: str) -> str:
    """google.golang.org/grpc/codes."""
    return "Canceled" if code == "CANCELLED" else code.title().replace("_", "")


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


def hung_mount(path: str) -> NotConnected:
    """The failure if a look at the socket file `path` has no result in time."""
    return NotConnected(
        Reason.HUNG_MOUNT,
        f"{path} cannot be looked at: its file system does not respond; "
        "on the node, look for a dead FUSE or NFS mount there, and unmount it (umount -l)",
    )


def no_thread(path: str, fault: str) -> NotConnected:
    """The failure if no thread can be started to look at the socket file `path`; `fault` says why."""
    return NotConnected(Reason.INTERNAL, f"livenessprobe cannot start the thread that looks at {path}: {fault}")


def stale_mount(path: str) -> NotConnected:
    """The failure if no process listens on the socket file `path`, which is a mount of its own."""
    return NotConnected(
        Reason.STALE_MOUNT,
        f"{path} is itself a mount, and of a socket nobody listens on any more: mount the folder, not the file",
    )


def _judge_dial(details: str, address: CSIAddress) -> Verdict:
    """The verdict on gRPC's error message `details` about a connection to `address`."""
    failure = _explanation(details, address)
    return Verdict("Unavailable", failure.reason, failure.sentence)


def _explanation(details: str, address: CSIAddress) -> NotConnected:
    where = address.name
    words = details.rpartition("error: ")[2]
    if _is_about(details, errno.ECONNREFUSED) or (sys.platform == "win32" and _is_about(details, errno.ENOTCONN)):
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
    if (parsing := _PARSING.search(details)) and not parsing[1].startswith("Expected SETTINGS"):
        return NotConnected(Reason.PROTOCOL_ERROR, _not_understood(parsing[1]))
    if "HTTP/2" in details:
        return NotConnected(Reason.PROTOCOL_ERROR, f"{where} does not speak gRPC: this is not the driver's CSI socket")
    if _is_about(details, errno.ECONNRESET) or "closed" in details.lower() or _is_about(details, errno.EPIPE):
        return NotConnected(Reason.PROTOCOL_ERROR, closes(address))
    if "resolving" in details or "lookup" in details:
        return NotConnected(Reason.UNRESOLVED, f"{where}: the name cannot be resolved")
    return NotConnected(Reason.UNREACHABLE, f"{where}: {words or details}")


_PARSING = re.compile(r"Failed parsing HTTP/2 \((.*)\)")


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


def _ends_early(address: CSIAddress) -> str:
    """The sentence for a connection that ended between SETTINGS and a call; gRPC does not say why."""
    return (
        f"the connection to {address.name} ended behind the driver's SETTINGS: "
        "the driver closes it, or gRPC's core does not understand the driver's HTTP/2"
    )
