"""Listening sockets as Go's net.Listen makes them: dual-stack wildcards, exclusive ports, errors in Go's words."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys

from livenessprobe.endpoint import ListenAddress, join_host_port

BACKLOG = 1024
"""Connections the kernel holds for us while we start or are throttled."""


class ListenError(Exception):
    """A listener that cannot be opened; the text names address and cause."""


def listen(address: ListenAddress) -> socket.socket:
    """
    A bound, listening, non-blocking socket.

    Raises ListenError.  A unix socket left over by a dead process is replaced; a living one's is not.
    """
    if address.path:
        return _listen_unix(address.path)
    port = _port(address)
    if address.dual_stack and socket.has_dualstack_ipv6():
        return _bind(socket.AF_INET6, "::", port, address, v6_only=False)
    host = address.host
    if address.dual_stack:
        host = "" if host != "::" else "::"
    family, numeric = _resolve(host)
    return _bind(family, numeric, port, address, v6_only=family == socket.AF_INET6)


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
    except (OSError, UnicodeError):
        raise ListenError(f"listen tcp: lookup tcp/{text}: unknown port") from None


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    """Family and numeric address; of a name with both, IPv4, as Go does."""
    if host == "":
        return socket.AF_INET, "0.0.0.0"  # noqa: S104  the wildcard is what was asked for
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ListenError(f"listen tcp: lookup {host}: no such host") from None
    family, *_, sockaddr = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, str(sockaddr[0])


def _bind(family: socket.AddressFamily, host: str, port: int, address: ListenAddress, *, v6_only: bool) -> socket.socket:
    # With the protocol left at 0 asyncio would not set TCP_NODELAY on what is accepted, and each answer on a kept
    # connection would wait 40 ms for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR there would let any process take the port from under us.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        shown = join_host_port(host if address.host not in ("", "0.0.0.0") else address.host, str(port))  # noqa: S104
        raise ListenError(f"listen tcp {shown}: bind: {_go_errno(error)}") from None
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
    text = os.strerror(error.errno)
    if sys.platform == "win32" and error.errno in (errno.EADDRINUSE, 10048, 10013):
        return "Only one usage of each socket address (protocol/network address/port) is normally permitted."
    return text[:1].lower() + text[1:]
