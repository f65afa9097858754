"""Listening sockets as Go's net.Listen makes them: dual-stack wildcards, exclusive ports, errors in Go's words."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from typing import NamedTuple

from livenessprobe.settings.listen_address import ListenAddress, join_host_port

_WILDCARD = "0.0.0.0"  # noqa: S104  the wildcard is what was asked for
BACKLOG = 1024
"""Connections the kernel holds for us while we start or are throttled."""


class ListenError(Exception):
    """A listener that cannot be opened; the text names address and cause."""


class Place(NamedTuple):
    """An address with names and ports looked up."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    dual_stack: bool
    shown: str
    """As Go shows it in errors."""


def look_up(address: ListenAddress) -> Place | None:
    """Where to listen, None for a unix socket; raises ListenError for unknown names and ports."""
    if address.path:
        return None
    port = _port(address)
    shown = join_host_port(address.host, str(port))
    if address.dual_stack and socket.has_dualstack_ipv6():
        return Place(socket.AF_INET6, ("::", port, 0, 0), dual_stack=True, shown=shown)
    if address.host in ("", _WILDCARD):
        return Place(socket.AF_INET, (_WILDCARD, port), dual_stack=False, shown=shown)
    try:
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, ValueError):
        raise ListenError(f"listen tcp: lookup {address.host}: no such host") from None
    # Of a name with addresses of both families Go takes the first of IPv4.
    family, *_, sockaddr = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return Place(family, sockaddr, dual_stack=False, shown=join_host_port(str(sockaddr[0]), str(port)))  # type: ignore[arg-type]


def listen(address: ListenAddress) -> socket.socket:
    """
    A bound, listening, non-blocking socket.

    Raises ListenError.  A unix socket left over by a dead process is replaced; a living one's is not.
    """
    place = look_up(address)
    return _listen_unix(address.path) if place is None else _bind(place)


def _port(address: ListenAddress) -> int:
    text = address.port
    digits = text.removeprefix("+")
    if text == "":
        return 0
    if digits.isascii() and digits.isdigit():
        if len(digits.lstrip("0")) > 5 or int(digits) > 65535:
            raise ListenError(f"listen tcp: address {text}: invalid port")
        return int(digits)
    try:
        return socket.getservbyname(text.lower(), "tcp")
    except (OSError, UnicodeError, ValueError):
        raise ListenError(f"listen tcp: lookup tcp/{text}: unknown port") from None


def _bind(place: Place) -> socket.socket:
    # With the protocol left at 0 asyncio would not set TCP_NODELAY on what is accepted, and each answer on a kept
    # connection would wait 40 ms for the client's delayed ACK.
    listener = socket.socket(place.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR there would let any process take the port from under us.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not place.dual_stack)
        listener.bind(place.sockaddr)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"listen tcp {place.shown}: bind: {_go_errno(error)}") from None
    listener.setblocking(False)
    return listener


def _listen_unix(path: str) -> socket.socket:
    if sys.platform == "win32":
        raise ListenError(f"listen unix {path}: this platform's Python has no unix sockets; use host:port")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"listen unix {path}: bind: {_go_errno(error)}") from None
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    """Unlink a socket file that nobody listens on."""
    if sys.platform == "win32":
        return
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass  # missing or not ours to judge: bind will say


def _go_errno(error: OSError) -> str:
    """An errno as Go spells it: like strerror, but in lower case."""
    if error.errno is None:
        return str(error)
    if sys.platform == "win32":
        if error.errno == errno.EADDRINUSE:
            return "Only one usage of each socket address (protocol/network address/port) is normally permitted."
        return error.strerror or str(error)  # the system's own sentence, which is Go's too
    text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]
