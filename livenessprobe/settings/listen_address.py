"""Addresses to listen on: host:port as Go's net.Listen reads it, or a unix socket.  Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from livenessprobe.driver.address import SUN_PATH_MAX, AddressError, encode, refuse_unencodable


class ListenAddress(NamedTuple):
    """An address to listen on: `host` and `port` as written, or the `path` of a unix socket."""

    text: str
    """As log lines show it."""
    host: str = ""
    port: str = ""
    path: str = ""

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The host if it is an IP address; IPv4 if it is such an address in the form of IPv6, as for Go."""
        try:
            found = ip_address(self.host)
        except ValueError:
            return None
        return getattr(found, "ipv4_mapped", None) or found

    @property
    def dual_stack(self) -> bool:
        """Go opens one socket for IPv4 and IPv6 when the host is a wildcard of either, or is missing."""
        return not self.path and (not self.host or (self.ip is not None and self.ip.is_unspecified))

    def is_same_as(self, other: ListenAddress) -> bool:
        """Whether both are one address, however they are written; names of hosts and ports are compared as text."""
        hosts_are_same = self.host == other.host or (self.ip is not None and self.ip == other.ip)
        return (self.path, self.port) == (other.path, other.port) and (
            hosts_are_same or (self.dual_stack and other.dual_stack)
        )


def parse_listen_address(text: str) -> ListenAddress:
    """
    Read `host:port`, `:port`, `[v6]:port` or `unix:///path`.

    Raises AddressError with the words of Go's net.Listen.  Ports are looked up only when listening.
    """
    try:
        refuse_unencodable(text, text)
    except AddressError as error:
        raise AddressError(f"listen {error}") from None
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or path.endswith("/") or len(encode(path)) > SUN_PATH_MAX:
            raise AddressError(f"listen unix {path}: a socket wants an absolute path of at most {SUN_PATH_MAX} bytes")
        return ListenAddress(text, path=path)
    host, colon, port = text.rpartition(":")
    if not colon:
        problem = "missing port in address"
    elif text.startswith("["):
        problem = _bracket_problem(text)
        host = host[1:-1]
    else:
        problem = "too many colons in address" if ":" in host else ""
    if not problem:
        problem = next((f"unexpected {bracket!r} in address" for bracket in "[]" if bracket in host + port), "")
    if problem:
        raise AddressError(f"listen tcp: address {text}: {problem}")
    return ListenAddress(text, host, port)


def _bracket_problem(text: str) -> str:
    """The cases of Go's net.SplitHostPort for `[host]:port`."""
    _, bracket, tail = text.partition("]")
    if not bracket:
        return "missing ']' in address"
    if tail.startswith(":") and ":" not in tail[1:]:
        return ""
    return "too many colons in address" if tail.startswith(":") else "missing port in address"


def join_host_port(host: str, port: str) -> str:
    """Go's net.JoinHostPort."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
