"""Which handler serves a path, by the rules of Go's http.ServeMux as upstream uses it.  Pure."""

from __future__ import annotations

import posixpath
import re
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from livenessprobe.probing.askers import parse_ip, place_of


class Handler(Enum):
    """The handlers a request can reach."""

    HEALTHZ = auto()
    LIVEZ = auto()
    READYZ = auto()
    STARTUPZ = auto()
    METRICS = auto()
    INDEX = auto()
    STATUSZ = auto()
    FLAGZ = auto()
    NOT_FOUND = auto()
    REDIRECT = auto()
    BAD_REQUEST = auto()
    SERVER_OPTIONS = auto()
    """`OPTIONS *`: Go's server responds itself."""


HEALTH = frozenset({Handler.HEALTHZ, Handler.LIVEZ, Handler.READYZ, Handler.STARTUPZ})
"""The handlers that report the driver's health."""
PAGES = frozenset({Handler.INDEX, Handler.STATUSZ, Handler.FLAGZ})
"""The handlers that are for admitted clients alone."""


class Route(NamedTuple):
    """The handler of a request; `location` is the path of a redirect."""

    handler: Handler
    location: str = ""


class Routes(NamedTuple):
    """The paths that one listener serves."""

    healthz: bool
    metrics_path: str | None
    """A literal path, None if metrics are not served; if it ends in a slash, all paths below it are served too."""
    pages: str = "off"
    """To whom pages are shown: `local`, `all` or `off`."""

    def route(self, method: str, raw_path: str) -> Route:
        """The route of a request; `raw_path` is its path as `heads.origin_form` has it, still percent-encoded."""
        if raw_path == "*":
            return Route(Handler.SERVER_OPTIONS if method == "OPTIONS" else Handler.BAD_REQUEST)
        if not _VALID.fullmatch(raw_path):
            raw_path = quote(unquote_to_bytes(raw_path), safe=_UNESCAPED)
        # As in Go an escaped dot or slash is no part of the path's structure.
        clean = _clean(raw_path)
        if method != "CONNECT" and clean != raw_path:
            return Route(Handler.REDIRECT, clean)
        path = unquote_to_bytes(_ESCAPED_SLASH.sub("%252F", raw_path)).decode(errors="surrogateescape")
        if self.healthz and path == "/healthz":
            return Route(Handler.HEALTHZ)
        if self.metrics_path is not None:
            if path == self.metrics_path or (self.metrics_path.endswith("/") and path.startswith(self.metrics_path)):
                return Route(Handler.METRICS)
            if f"{path}/" == self.metrics_path:
                return Route(Handler.REDIRECT, self.metrics_path)
        # Paths that upstream lacks come last: a metrics path of the same name keeps its meaning.
        if self.healthz and path in _OWN_PATHS:
            return Route(_OWN_PATHS[path])
        if self.pages != "off" and path in PAGE_PATHS and (path != "/" or self.metrics_path is not None):
            return Route(PAGE_PATHS[path])
        return Route(Handler.NOT_FOUND)

    def admits(self, address: str | None, host: str | None) -> bool:
        """
        Whether a client at `address`, None on a unix socket, may see a page that it asks for with the Host header `host`.

        Any other host name than localhost is that of a web site, whose script a browser runs on this machine (DNS rebinding).
        """
        if host is not None and not _names_a_machine(host):
            return False
        return self.pages == "all" or (self.pages == "local" and (address is None or place_of(address) == "loopback"))

    def paths(self) -> tuple[str, ...]:
        """The paths that are served, sorted, without the index; pages that the metrics path hides are left out."""
        known = {"/healthz": Handler.HEALTHZ, **_OWN_PATHS, **PAGE_PATHS}
        found = {path for path, handler in known.items() if self.route("GET", path).handler is handler} - {"/"}
        return tuple(sorted(found | ({self.metrics_path} if self.metrics_path else set())))

    def hidden_pages(self) -> tuple[str, ...]:
        """The pages whose paths belong to the metrics path."""
        if self.pages == "off":
            return ()
        return tuple(path for path in ("/flagz", "/statusz") if self.route("GET", path).handler not in PAGES)


_UNESCAPED = "/:@$&+,;="
"""What Go leaves as it is when it escapes a path (url.URL.EscapedPath), beside letters, digits and `-._~`."""
_VALID = re.compile(r"[-._~A-Za-z0-9!'()*\[\]%" + _UNESCAPED + "]*")
"""A path that Go does not escape again."""
_ESCAPED_SLASH = re.compile("%2F", re.IGNORECASE)
_OWN_PATHS = {"/livez": Handler.LIVEZ, "/readyz": Handler.READYZ, "/startupz": Handler.STARTUPZ}
PAGE_PATHS = {"/": Handler.INDEX, "/statusz": Handler.STATUSZ, "/flagz": Handler.FLAGZ}


_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


def _names_a_machine(host: str) -> bool:
    """Whether a Host header, with or without a port, has an IP address or `localhost`."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    in_brackets, plain = found.groups()
    if in_brackets is not None:
        return ":" in in_brackets and parse_ip(in_brackets) is not None
    return plain.lower() == "localhost" or parse_ip(plain) is not None


def _clean(path: str) -> str:
    """`path` without `.`, `..` and double slashes, as Go's cleanPath; a slash at the end stays."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean
