"""Which handler serves a path, by the rules of Go's http.ServeMux as upstream uses it.  Pure."""

from __future__ import annotations

import posixpath
import re
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes


class Handler(Enum):
    """The handlers a request can reach."""

    HEALTHZ = auto()
    LIVEZ = auto()
    READYZ = auto()
    STARTUPZ = auto()
    METRICS = auto()
    NOT_FOUND = auto()
    REDIRECT = auto()
    BAD_REQUEST = auto()
    SERVER_OPTIONS = auto()
    """`OPTIONS *`: Go's server responds itself."""


HEALTH = frozenset({Handler.HEALTHZ, Handler.LIVEZ, Handler.READYZ, Handler.STARTUPZ})
"""The handlers that report the driver's health."""


class Route(NamedTuple):
    """The handler of a request; `location` is the path of a redirect."""

    handler: Handler
    location: str = ""


class Routes(NamedTuple):
    """The paths that one listener serves."""

    healthz: bool
    metrics_path: str | None
    """A literal path, None if metrics are not served; if it ends in a slash, all paths below it are served too."""

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
        return Route(Handler.NOT_FOUND)


_UNESCAPED = "/:@$&+,;="
"""What Go leaves as it is when it escapes a path (url.URL.EscapedPath), beside letters, digits and `-._~`."""
_VALID = re.compile(r"[-._~A-Za-z0-9!'()*\[\]%" + _UNESCAPED + "]*")
"""A path that Go does not escape again."""
_ESCAPED_SLASH = re.compile("%2F", re.IGNORECASE)
_OWN_PATHS = {"/livez": Handler.LIVEZ, "/readyz": Handler.READYZ, "/startupz": Handler.STARTUPZ}


def _clean(path: str) -> str:
    """`path` without `.`, `..` and double slashes, as Go's cleanPath; a slash at the end stays."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean
