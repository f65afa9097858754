"""
What Go's net/http refuses in the head of a request.  Pure.

h11 refuses other requests, and without Go's reasons, so heads are judged before h11 parses them.  The first fault decides, in
the order of `readRequest` in Go's request.go and server.go (go1.27.3).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = rb"-!#$%&'*+.^_`|~0-9A-Za-z"
_LINE = re.compile(rb"([%b]+) ([^\x00-\x20\x7f]+) HTTP/([0-9])\.([0-9])\r?\n" % _TOKEN)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_FIELD = re.compile(rb"([%b ]+):([\t\x20-\x7e\x80-\xff]*)\r?" % _TOKEN)
_HOST = re.compile(rb"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")
_EXPECTS_CONTINUE = re.compile(rb"(?:.*[ ,\t])?100-continue(?:[ ,\t].*)?", re.IGNORECASE)
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*:")
_USER = rb"(?:[A-Za-z0-9\-._:~!$&'()*+,;=@]|%[0-9A-Fa-f]{2})*@"
_NAME = rb"""(?:[A-Za-z0-9\-._~!"$&'()*+,;<=>\x80-\xff]|%25|%[89A-Fa-f][0-9A-Fa-f])*"""
_AUTHORITY = re.compile(rb"(?:%b)?(?:\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%%25[^\[\]]+)?\]|%b)(?::[0-9]*)?" % (_USER, _NAME))
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_MOST_DIGITS = 19
"""Of a Content-Length, which Go reads as an int64."""


class Refusal(NamedTuple):
    """Why a request is refused before any handler sees it: the status, and what net/http writes behind it."""

    status: int
    why: bytes = b""


def line_is_valid(received: bytes | bytearray) -> bool:
    """Whether the first line of `received`, which has an end, is a request line that Go accepts."""
    line = _LINE.match(received)
    return line is not None and origin_form(line[1], line[2]) is not None


def origin_form(method: bytes, target: bytes) -> bytes | None:
    """Path and query of a request target, which may be an absolute URI without a path; None for a target that Go refuses."""
    if target == b"*":
        return target
    if method == b"CONNECT" and not target.startswith(b"/"):
        target = b"http://" + target
    path, mark, query = target.partition(b"?")
    if scheme := _SCHEME.match(path):
        path = path[scheme.end() :]
        if path.startswith(b"//"):
            authority = path[2:].partition(b"/")[0]
            if not _AUTHORITY.fullmatch(authority):
                return None
            path = path[2 + len(authority) :]
        elif not path.startswith(b"/"):
            path = b""  # `mailto:x`, and `localhost:80` too
    elif not path.startswith(b"/"):
        return None
    return None if _BAD_ESCAPE.search(path) else path + mark + query


def escaped(head: bytes) -> bytes:
    """`head` with its request line in ASCII, as h11 wants it: Go accepts other bytes in a target, and escapes them later."""
    line, end, fields = head.partition(b"\n")
    return head if line.isascii() else re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % byte[0][0], line) + end + fields


def fault(head: bytes) -> Refusal | None:
    """Why Go refuses a complete head that begins with a valid request line; None if it does not."""
    line = _LINE.match(head)
    assert line is not None
    method, _, major, minor = line.groups()
    fields = head[line.end() :]
    if fields.startswith((b" ", b"\t")):
        return Refusal(400)
    headers: dict[bytes, list[bytes]] = {}
    lines = _FOLD.sub(b" ", fields).rstrip(b"\r\n")
    for each in lines.split(b"\n") if lines else ():
        field = _FIELD.fullmatch(each)
        if field is None:
            return Refusal(400)
        headers.setdefault(field[1].lower(), []).append(field[2].strip(b" \t"))
    hosts, lengths, encodings = (headers.get(name, []) for name in (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) > 1:
        return Refusal(400)
    if encodings and (major, minor) >= (b"1", b"1") and [each.lower() for each in encodings] != [b"chunked"]:
        return Refusal(501)
    if any(each != lengths[0] or not _is_length(each) for each in lengths):
        return Refusal(400)
    if major != b"1":
        if line[0].startswith(b"PRI * HTTP/2.0"):
            return Refusal(400)
        return Refusal(505, b"unsupported protocol version")
    if not hosts and minor != b"0" and method != b"CONNECT":
        return Refusal(400, b"missing required Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        return Refusal(400, b"malformed Host header")
    if any(b" " in name for name in headers):
        return Refusal(400, b"invalid header name")
    expected = headers.get(b"expect", [b""])[0]
    if expected and not _EXPECTS_CONTINUE.fullmatch(expected):
        return Refusal(417)
    # With both lengths a proxy in front may see two requests where Go, which takes the chunks, sees one (RFC 9112, 6.3).
    return Refusal(400) if lengths and encodings else None


def _is_length(text: bytes) -> bool:
    return text.isdigit() and len(text.lstrip(b"0")) <= _MOST_DIGITS and int(text[-_MOST_DIGITS:]) < 1 << 63
