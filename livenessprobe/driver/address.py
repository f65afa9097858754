"""
--csi-address as a target for gRPC.  Pure: the platform is an argument.

Each address that upstream's dialer (csi-lib-utils) can reach is reached here too, under the same spelling.  Addresses that it
would retry for ever in silence either work (`tcp://`, `ipv4:`, relative paths) or are refused with a sentence.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote

from livenessprobe import gotext

SUN_PATH_MAX = 107
"""Bytes in sockaddr_un.sun_path, less the final NUL; gRPC refuses longer paths too."""


class AddressError(ValueError):
    """An address that can never work; the text is for people."""


class CSIAddress(NamedTuple):
    """Where the driver listens."""

    text: str
    """As log lines show it: a plain path gets `unix://` in front, as in upstream."""
    network: Literal["unix", "abstract", "tcp"]
    name: str
    """The socket's path, the abstract name, or host:port."""
    target: str
    """For gRPC core."""

    @property
    def logs_lost_connections(self) -> bool:
        """Whether upstream logs "Lost connection": its own dialer does, and serves only this form."""
        return self.text.startswith("unix://")


_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_PIPE = re.compile(r"npipe:|(?:unix:(?://)?)?(?:\\\\[.?]\\|//\./pipe/)")
"""How Windows names devices; a driver can only have named pipes among them."""
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_GO_RESOLVER = "failed to exit idle mode: failed to start resolver: "


_VARIABLE = re.compile(r"\$\(([-.\w]*)\)|\$\{?([A-Za-z_]\w*)\}?")


def unexpanded(text: str) -> str:
    """What to do about a variable in `text` that Kubernetes has not expanded; empty if there is none."""
    if (found := _VARIABLE.search(text)) is None:
        return ""
    if found[2]:
        return f"{found[0]} is not expanded: Kubernetes expands only $({found[2]})"
    return f"{found[0]} was not expanded: the container has no variable {found[1]}; set it under env"


def parse_csi_address(text: str, platform: str) -> CSIAddress:
    """
    Read `--csi-address` for `platform` (as sys.platform spells it).

    Raises AddressError: with upstream's words if upstream refuses the address too, else with a sentence of ours.
    """
    if text == "":
        raise AddressError(f"{_GO_RESOLVER}passthrough: received empty target in Build()")
    refuse_unencodable(text, text)
    windows = platform == "win32"
    scheme, colon, rest = text.partition(":")
    if windows and _PIPE.match(text):
        raise AddressError(f"{gotext.quote(text)}: named pipes are not supported; CSI drivers listen on unix sockets")
    if text.startswith("/"):
        _refuse_what_go_cannot_parse(f"unix://{text}")
        return _unix(f"unix://{text}", _native(text, windows), windows=windows)
    if _DRIVE.match(text):
        if not windows:
            raise AddressError(f"{gotext.quote(text)} is a Windows path, and this is {platform}; write /path/to/csi.sock")
        return _unix(text, text, windows=windows)
    match scheme.lower() + colon:
        case "unix:":
            return _unix_url(text, rest, windows)
        case "unix-abstract:":
            return _abstract(text, _without_authority(rest), windows)
        case "tcp:" | "dns:" | "passthrough:":
            return _tcp(text, _endpoint(text, rest))
        case "ipv4:" | "ipv6:":
            return _literal_ip(text, scheme.lower(), rest.removeprefix("///"))
        case _ if "://" in text:
            raise AddressError(
                f"{gotext.quote(text)}: scheme {gotext.quote(scheme)} is not supported; "
                "write /path/to/csi.sock, unix:///path/to/csi.sock or tcp://host:port"
            )
        case _:
            return _bare(text)


def refuse_unencodable(text: str, name: str) -> None:
    """Raises AddressError if `name`, which is `text` decoded, holds NUL, or a character that has no bytes."""
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise AddressError(f"{gotext.quote(text)} is not text: it holds half a character") from None
    if "\0" in name:
        raise AddressError(f"{gotext.quote(text)}: an address cannot contain a NUL character")


def _unix_url(text: str, rest: str, windows: bool) -> CSIAddress:
    """`unix:` in any case.  Only the exact prefix `unix://` is taken undecoded, as upstream's dialer does."""
    # Go takes the `C:` of `unix://C:/csi/csi.sock` for a host and refuses it, which is never meant.
    if text.startswith("unix://") and ((windows and _DRIVE.match(text[7:])) or not _has_go_authority(text[7:])):
        _refuse_what_go_cannot_parse(text)
        return _unix(text, _native(text[7:], windows), windows=windows)
    path = _without_authority(rest)
    if path.startswith("@"):
        return _abstract(text, path[1:], windows)
    path = re.split(r"[?#]", path)[0]
    if path.startswith("/"):  # percent-decoded (url.URL.Path); a relative one is not (url.URL.Opaque)
        path = unquote(path, errors="surrogateescape")
    return _unix(text, _native(path, windows), windows=windows)


def _has_go_authority(rest: str) -> bool:
    """Whether Go's URL parser finds a host before the path; `C:\\csi` is no host, so it is left to the dialer."""
    host = re.split(r"[/?#]", rest)[0]
    return host != "" and not re.search(r"[\\ <>\"^`{|}]|:(?![0-9]*$)", host)


def _without_authority(rest: str) -> str:
    if not rest.startswith("//"):
        return rest
    host = re.split(r"[/?#]", rest[2:])[0]
    if host:
        raise AddressError(f"{_GO_RESOLVER}invalid (non-empty) authority: {host}")
    return rest[2:]


def _refuse_what_go_cannot_parse(url: str) -> None:
    """Raises AddressError as Go's URL parser does, which upstream uses: for control characters and bad escapes."""
    shown = gotext.quote(f"passthrough:///{url}")
    if any(character < " " or character == "\x7f" for character in url):
        raise AddressError(f"parse {shown}: net/url: invalid control character in URL")
    if bad := _BAD_ESCAPE.search(re.split(r"[?#]", url)[0]):
        raise AddressError(f"parse {shown}: invalid URL escape {gotext.quote(bad[0])}")


def _native(path: str, windows: bool) -> str:
    """`unix:///C:/csi/csi.sock` on Windows is the path without the first slash."""
    return path[1:] if windows and _DRIVE.match(path[1:]) and path.startswith("/") else path


def _unix(text: str, path: str, *, windows: bool = False) -> CSIAddress:
    refuse_unencodable(text, path)
    if path.strip("/") == "" or (windows and _DRIVE.sub("", path) == ""):
        raise AddressError(f"{gotext.quote(text)} names no socket; write the path of the driver's socket file")
    if path.endswith("/"):
        raise AddressError(
            f"{gotext.quote(text)} ends in a slash, so it can only be a folder; write the path of the socket file"
        )
    if len(encode(path)) > SUN_PATH_MAX:
        raise AddressError(
            f"{gotext.quote(text)}: the path is {len(encode(path))} bytes long and a unix socket's can have "
            f"{SUN_PATH_MAX}; mount the driver's folder under a shorter path"
        )
    # gRPC would read `//name` as an authority; to the kernel it is the same as `/name`.
    return CSIAddress(text, "unix", path, f"unix:{quote(encode(re.sub('^/+', '/', path)), safe='/:')}")


def _abstract(text: str, name: str, windows: bool) -> CSIAddress:
    if windows:
        raise AddressError(
            f"{gotext.quote(text)}: abstract sockets exist on Linux only; write the path of the driver's socket file"
        )
    if not name or len(encode(name)) > SUN_PATH_MAX:
        raise AddressError(f"{gotext.quote(text)}: the name of an abstract socket has 1 to {SUN_PATH_MAX} bytes")
    return CSIAddress(text, "abstract", name, f"unix-abstract:{quote(encode(name), safe='')}")


def encode(text: str) -> bytes:
    """The bytes of a path; surrogate escapes stand for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape")


def _bare(text: str) -> CSIAddress:
    """An address without leading slash and scheme: a relative path if it has a separator, else host:port."""
    if text != text.strip():
        raise AddressError(f"{gotext.quote(text)} begins or ends with a blank; remove it")
    if "/" in text or "\\" in text:
        return _unix(text, text)
    return _tcp(text, text)


def _endpoint(text: str, rest: str) -> str:
    """`///h:p`, `//h:p` (tcp only), `//server/h:p` (dns only: the server is not asked, the system's resolver is), `h:p`."""
    if not rest.startswith("//"):
        return rest
    host, slash, endpoint = rest[2:].partition("/")
    if text[:4].lower() == "tcp:":
        if endpoint or (slash and not host):
            raise AddressError(f"{gotext.quote(text)}: write tcp://host:port, with nothing behind the port")
        return host
    return endpoint


def _tcp(text: str, endpoint: str) -> CSIAddress:
    match = re.fullmatch(r"(\[[:.%\w]+\]|[^\s:/\[\]@?#%\\]*):(\w+)", endpoint, re.ASCII)
    if match is None:
        raise AddressError(
            f"{gotext.quote(text)} is neither a path nor host:port; write /path/to/csi.sock, "
            "unix:name for a socket in the working directory, or host:port"
        )
    host, port = match[1] or "localhost", match[2]
    if not (port.isdigit() and len(port) < 9 and 0 < int(port) < 65536):
        raise AddressError(f"{gotext.quote(text)}: port {gotext.quote(port)} is not a number from 1 to 65535")
    return CSIAddress(text, "tcp", f"{host}:{int(port)}", f"dns:///{host}:{int(port)}")


def _literal_ip(text: str, scheme: str, endpoint: str) -> CSIAddress:
    address = _tcp(text, endpoint)
    host = address.name.rpartition(":")[0].strip("[]")
    if not _is_ip(host, scheme):
        raise AddressError(
            f"{gotext.quote(text)}: {gotext.quote(host)} is not an {scheme} address; write host:port for a name"
        )
    return CSIAddress(text, "tcp", address.name, f"{scheme}:{address.name}")


def _is_ip(host: str, scheme: str) -> bool:
    try:
        return scheme == f"ipv{ipaddress.ip_address(host).version}"
    except ValueError:
        return False
