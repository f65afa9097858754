"""Listening sockets as Go's net.Listen makes them: dual-stack wildcards, exclusive ports, errors in Go's words."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from livenessprobe.process import port_holder
from livenessprobe.settings.listen_address import ListenAddress, join_host_port

_WILDCARD = "0.0.0.0"  # noqa: S104  the wildcard is what was asked for
BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted, for instance while the process has no CPU."""


class ListenError(Exception):
    """
    A listener cannot be opened; the text names the address and the cause.

    `taken` is what is known about an address that exists and cannot be had; None if the address itself is wrong.
    """

    def __init__(self, message: str, taken: str | None = None) -> None:
        super().__init__(message)
        self.taken = taken


class SocketAddress(NamedTuple):
    """The address of a TCP listener, after names and ports are looked up."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]
    dual_stack: bool
    text: str
    """As Go prints it in errors."""


def look_up(address: ListenAddress) -> SocketAddress | None:
    """The TCP address to listen on, None for a unix socket; raises ListenError for unknown names and ports."""
    if address.path:
        return None
    port = _port(address)
    text = join_host_port(address.host, str(port))
    if address.dual_stack and socket.has_dualstack_ipv6():
        return SocketAddress(socket.AF_INET6, ("::", port, 0, 0), dual_stack=True, text=text)
    if address.dual_stack:
        return SocketAddress(socket.AF_INET, (_WILDCARD, port), dual_stack=False, text=text)
    if address.ip is not None:
        return _of_ip(address.ip, port)
    try:
        if _is_old_form(address.host):
            raise OSError
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        raise ListenError(f"listen tcp: lookup {address.host}: no such host") from None
    # If a name has addresses of both families, Go takes the first IPv4 address.
    family, *_, sockaddr = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    text = join_host_port(str(sockaddr[0]), str(port))
    return SocketAddress(family, sockaddr, dual_stack=False, text=text)  # type: ignore[arg-type]


def _of_ip(ip: IPv4Address | IPv6Address, port: int) -> SocketAddress:
    text = join_host_port(str(ip), str(port))
    if isinstance(ip, IPv4Address):
        return SocketAddress(socket.AF_INET, (str(ip), port), dual_stack=False, text=text)
    host, _, zone = str(ip).partition("%")
    try:
        index = socket.if_nametoindex(zone) if zone else 0
    except (OSError, ValueError):
        index = int(zone) if zone.isdecimal() else 0  # as Go does
    return SocketAddress(socket.AF_INET6, (host, port, 0, index), dual_stack=False, text=text)


def _is_old_form(host: str) -> bool:
    """Whether getaddrinfo takes `host` for an address and Go takes it for a name: `127.1`, `0x7f.0.0.1`, `*`."""
    try:
        return host == "*" or bool(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return False


def listen(address: ListenAddress) -> socket.socket:
    """
    A bound, listening, non-blocking socket.

    Raises ListenError.  A unix socket file is replaced only if no process listens on it.
    """
    found = look_up(address)
    return _listen_unix(address.path) if found is None else _listen_tcp(found)


def refuse_taken(address: ListenAddress) -> None:
    """Raises ListenError if `listen` would; listens on nothing, and makes and removes no file."""
    found = look_up(address)
    if found is None:
        _refuse_taken_path(address.path)
    else:
        _bind_tcp(found).close()


def _refuse_taken_path(path: str) -> None:
    if sys.platform == "win32":
        return
    number = 0
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
        number = errno.EADDRINUSE if not is_socket or _is_listened_on(path) else 0
    except FileNotFoundError:
        number = 0 if os.access(os.path.dirname(path), os.W_OK | os.X_OK) else errno.EACCES
    except OSError as error:
        number = error.errno or errno.EIO
    if number:
        raise ListenError(f"listen unix {path}: bind: {_go_errno(OSError(number, os.strerror(number)))}", "")


def _port(address: ListenAddress) -> int:
    text = address.port
    if text == "":
        return 0
    if re.fullmatch("[+-]?[0-9]+", text):
        digits = text.lstrip("+-0") or "0"
        if len(digits) > 5 or int(digits) > 65535 or (text[0] == "-" and digits != "0"):
            raise ListenError(f"listen tcp: address {text}: invalid port")
        return int(digits)
    try:
        return socket.getservbyname(text.lower(), "tcp")
    except (OSError, UnicodeError, ValueError):
        raise ListenError(f"listen tcp: lookup tcp/{text}: unknown port") from None


def _listen_tcp(address: SocketAddress) -> socket.socket:
    listener = _bind_tcp(address)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_bind(address, error) from None
    listener.setblocking(False)
    return listener


def _bind_tcp(address: SocketAddress) -> socket.socket:
    # If the protocol were 0, asyncio would not set TCP_NODELAY on accepted connections, and each response on a connection that
    # is kept alive would wait 40 ms for the client's delayed ACK.
    listener = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # On Windows SO_REUSEADDR would let any other process bind the same port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.dual_stack)
        listener.bind(address.sockaddr)
    except OSError as error:
        listener.close()
        raise _cannot_bind(address, error) from None
    return listener


def _cannot_bind(address: SocketAddress, error: OSError) -> ListenError:
    known = _known(error, address.sockaddr[1])
    return ListenError(f"listen tcp {address.text}: bind: {_go_errno(error)}", known)


def _known(error: OSError, port: int) -> str:
    """What is known of a TCP port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return port_holder.holder(port)
    if error.errno == errno.EACCES:
        return "a port below 1024 needs root or the capability NET_BIND_SERVICE"
    return "no network interface of this pod has the address" if error.errno == errno.EADDRNOTAVAIL else ""


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
        raise ListenError(f"listen unix {path}: bind: {_go_errno(error)}", "") from None
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket file on which no process listens."""
    if sys.platform == "win32":
        return
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not _is_listened_on(path):
            os.unlink(path)
    except OSError:
        pass  # `bind` reports what is wrong, if anything is


def _is_listened_on(path: str) -> bool:
    """Whether a process may listen on the socket file: all but a refused connection may mean that."""
    if sys.platform == "win32":
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except ConnectionRefusedError:
        return False
    except OSError:
        pass
    return True


def _go_errno(error: OSError) -> str:
    """The text of an errno as Go prints it: like strerror, but with a small first letter."""
    if error.errno is None:
        return str(error)
    if sys.platform == "win32":
        if error.errno == errno.EADDRINUSE:
            return "Only one usage of each socket address (protocol/network address/port) is normally permitted."
        return error.strerror or str(error)  # the system's own text, which Go prints too
    text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]
