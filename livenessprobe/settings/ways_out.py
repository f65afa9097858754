"""What to write instead of a refused value, where the refusal has upstream's words, which say nothing of it.  Pure."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from livenessprobe.driver.address import unexpanded

_OFF = ("-1", "0", "disabled", "false", "no", "none", "off")
_PORT = "a port is a number from 0 to 65535, or the name of a service that the system knows"


def of_csi_address(text: str) -> str:
    """For --csi-address; empty if the refusal says what to write."""
    if not text.strip():
        return "write the path of the driver's socket, such as /csi/csi.sock; a variable may be empty"
    if variable := unexpanded(text):
        return variable
    if path := re.match(r"unix://([^/@].*)", text, re.IGNORECASE | re.DOTALL):
        return f"three slashes: unix:///{path[1]}"
    if re.search(r"[\x00-\x1f\x7f]", text):
        return "remove the line break or control character"
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        return "write %25 for a percent sign"
    if re.match(r"unix-abstract:|unix:@", text):
        return "write unix-abstract:NAME"
    scheme, _, rest = text.rpartition("://")
    return _brackets(rest, f"{scheme}://" if scheme else "", 50051)


def of_listen_address(text: str) -> str:
    """For --http-endpoint and --metrics-address."""
    if variable := unexpanded(text):
        return variable
    if (plain := text.strip("'\" \t\r\n")) != text:
        return f"write {plain}, without quotes and blanks"
    if text.startswith("unix:"):
        return f"three slashes: unix:///{text.removeprefix('unix:').strip('/') or 'path/to/socket'}"
    if text.startswith("/"):
        return f"write unix://{text}"
    if url := re.match(r"[a-z]+://([^/]*)", text):
        return f"write {url[1] or ':9808'}, without a scheme"
    if path := re.match(r"([^/]*)/", text):
        return f"write {path[1]}, without a path"
    if text.lower() in _OFF:
        return "leave the setting out to serve nothing there"
    if text.isdecimal():
        return f"write :{text}"
    host, colon, port = text.rpartition(":")
    if host == "*":
        return f"write :{port} for all addresses"
    if brackets := _brackets(text, "", 9808):
        return brackets
    if not colon and not re.search(r"[\s\[\]]", text):
        return f"write an address and a port, such as {text}:9808"
    if not colon or not re.fullmatch(r"\[[^][]*\]|[^][:]*", host):
        return "write HOST:PORT, or [HOST]:PORT for an IPv6 address"
    if not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        return _PORT
    return f"write an address of this pod, or :{port} for all"


def of_health_port(text: str) -> str:
    """For --health-port."""
    if variable := unexpanded(text):
        return variable
    if (plain := text.strip("'\" \t\r\n")) != text:
        return f"write {plain}, without quotes and blanks"
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal():
        alone = f"write the port alone: {port}"
        return alone if host in ("", "0.0.0.0", "::", "[::]") else f"{alone}; --http-endpoint takes an address"  # noqa: S104
    return _PORT


def of_taken(known: str, flag: str) -> str:
    """For an address that exists and cannot be had; `known` is what the system tells of it, `flag` gives another one."""
    return f"{known}; choose another with --{flag}" if known else f"choose another with --{flag}"


def _brackets(text: str, prefix: str, port: int) -> str:
    """For an IPv6 address without brackets, with or without a port; empty if `text` is none."""
    host, _, last = text.rpartition(":")
    bare = text.strip("[]")
    if "[" not in text and last.isdecimal() and _is_ipv6(host):
        return f"write an IPv6 address in brackets: {prefix}[{host}]:{last}"
    if _is_ipv6(bare):
        return f"write an IPv6 address in brackets, with a port: {prefix}[{bare}]:{port}"
    return ""


def _is_ipv6(text: str) -> bool:
    try:
        return bool(IPv6Address(text))
    except ValueError:
        return False
