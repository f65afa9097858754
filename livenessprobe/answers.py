"""What goes out over HTTP, byte for byte as Go's net/http does it.  Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.healthz import as_json, parts, text, wants_json
from livenessprobe.mux import Handler
from livenessprobe.probing.standing import Standing

REASON_HEADER = "X-Livenessprobe-Reason"
TEXT = "text/plain; charset=utf-8"
_CHUNKED_ABOVE = 2048
"""Go's server buffers so much before it gives up on a Content-Length."""
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class Answer(NamedTuple):
    """Without a Content-Length it is chunked."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """As ASGI wants them."""
    body: bytes


def _answer(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return Answer(status, tuple((name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()), body)


def _whole(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return _answer(status, headers | {"Content-Length": str(len(body))}, body)


PLAIN = {
    Handler.BAD_REQUEST: _whole(400, {"Content-Type": TEXT, "Connection": "close"}, b"400 Bad Request"),
    Handler.SERVER_OPTIONS: _whole(200, {}, b""),
    Handler.NOT_FOUND: _whole(404, {"Content-Type": TEXT, "X-Content-Type-Options": "nosniff"}, b"404 page not found\n"),
}
"""Those that are always the same."""


@lru_cache(maxsize=4)
def health(result: ProbeResult) -> Answer:
    """What `/healthz` says of `result`; mostly the same as before."""
    # A gRPC message may hold bytes that are no UTF-8; they go out as they came.
    body = result.body.encode(errors="surrogateescape")
    headers = {"Content-Type": "application/octet-stream" if _BINARY.search(body) else TEXT}
    if result.reason is not None:
        headers[REASON_HEADER] = result.reason.value
    status = 200 if result.ready else 500
    return _answer(status, headers, body) if len(body) > _CHUNKED_ABOVE else _whole(status, headers, body)


def split(handler: Handler, standing: Standing, accept: str, *, verbose: bool) -> Answer:
    """What `/livez` and its kin say; there must have been a probe."""
    found = parts(handler, standing)
    if wants_json(accept):
        content, kind = as_json(handler, found), "application/json"
    else:
        content, kind = text(handler, found, verbose=verbose), TEXT
    headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff"}
    failed = [part.result.reason for part in found if not part.good]
    if failed and failed[0] is not None:
        headers[REASON_HEADER] = failed[0].value
    return _whole(500 if failed else 200, headers, content.encode(errors="surrogateescape"))


def redirect(method: str, location: str, query: str) -> Answer:
    """To `location`, a path."""
    location = f"{location}?{query}" if query else location
    if method not in ("GET", "HEAD"):
        return _whole(307, {"Location": location}, b"")
    shown = (
        location.replace("&", "&amp;").replace('"', "&#34;").replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;")
    )
    body = f'<a href="{shown}">Temporary Redirect</a>.\n\n'.encode()
    return _whole(307, {"Location": location, "Content-Type": "text/html; charset=utf-8"}, body)
