"""
Every HTTP response, byte for byte as Go's net/http writes it.  Pure.

`/livez`, `/readyz` and `/startupz` respond in the manner of Kubernetes components (`/livez?verbose` of the API server).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.probing.standing import Health, Standing
from livenessprobe.web.routes import Handler

REASON_HEADER = "X-Livenessprobe-Reason"
"""In every response about health: a reason, or HEALTHY, by which a client knows this program from other web servers."""
HEALTHY = "healthy"
TEXT = "text/plain; charset=utf-8"
_CHUNKED_ABOVE = 2048
"""Bytes that Go's server buffers before it responds in chunks, without a Content-Length."""
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class Response(NamedTuple):
    """One response; without a Content-Length header it is sent in chunks."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, as ASGI has them."""
    body: bytes


def _chunked(status: int, headers: dict[str, str], body: bytes) -> Response:
    return Response(status, tuple((name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()), body)


def _whole(status: int, headers: dict[str, str], body: bytes) -> Response:
    return _chunked(status, headers | {"Content-Length": str(len(body))}, body)


PLAIN = {
    Handler.BAD_REQUEST: _whole(400, {"Connection": "close"}, b""),
    Handler.SERVER_OPTIONS: _whole(200, {}, b""),
    Handler.NOT_FOUND: _whole(404, {"Content-Type": TEXT, "X-Content-Type-Options": "nosniff"}, b"404 page not found\n"),
}
"""Responses that never vary."""


@lru_cache(maxsize=4)
def health(result: ProbeResult) -> Response:
    """The response of `/healthz` to a probe's `result`."""
    # A gRPC message may hold bytes that are not UTF-8; the response has the same bytes.
    body = result.body.encode(errors="surrogateescape")
    headers = {"Content-Type": "application/octet-stream" if _BINARY.search(body) else TEXT}
    headers[REASON_HEADER] = HEALTHY if result.reason is None else result.reason.value
    status = 200 if result.ready else 500
    return _chunked(status, headers, body) if len(body) > _CHUNKED_ABOVE else _whole(status, headers, body)


def check_response(handler: Handler, standing: Standing, accept: str, *, verbose: bool, driver: str) -> Response:
    """The response of `/livez`, `/readyz` or `/startupz` about `driver`; at least one probe must have ended."""
    found = checks(handler, standing)
    if wants_json(accept):
        content, kind = as_json(handler, found, driver), "application/json"
    else:
        content, kind = as_text(handler, found, verbose=verbose), TEXT
    headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff"}
    decisive = _decisive(found)
    reason = None if decisive.good else decisive.result.reason
    if decisive.good or reason is not None:
        headers[REASON_HEADER] = HEALTHY if reason is None else reason.value
    return _whole(200 if decisive.good else 500, headers, content.encode(errors="surrogateescape"))


def redirect(method: str, location: str, query: str) -> Response:
    """A redirect to `location`, a path."""
    location = f"{location}?{query}" if query else location
    if method not in ("GET", "HEAD"):
        return _whole(307, {"Location": location}, b"")
    shown = (
        location.replace("&", "&amp;").replace('"', "&#34;").replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;")
    )
    body = f'<a href="{shown}">Temporary Redirect</a>.\n\n'.encode()
    headers = {"Location": location, "Content-Type": "text/html; charset=utf-8"}
    return _whole(307, headers, body) if method == "GET" else _chunked(307, headers, b"")


_REFUSALS = {417: b"", 501: b"Unsupported transfer encoding"}
REASONS = {
    200: b"OK",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    408: b"Request Timeout",
    413: b"Request Entity Too Large",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}
"""Reason phrases in Go's spelling (net/http, `StatusText`).  Python's `http` has most of them too, and costs memory."""


def refusal(status: int, why: bytes = b"") -> bytes:
    """The bytes sent to a client whose request reaches no handler (net/http, `conn.serve`); the connection closes behind them."""
    reason = REASONS[status] + (b": " + why if why else b"")
    body = _REFUSALS.get(status, b"%d %s" % (status, reason))
    kind = b"Content-Type: text/plain; charset=utf-8\r\n" if body else b""
    lines = b"HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
    return lines % (status, reason, kind, len(body)) + body


# --- /livez, /readyz and /startupz, in the manner of Kubernetes components


class Check(NamedTuple):
    """One check of the driver, as a line of the response shows it."""

    name: str
    good: bool
    result: ProbeResult
    """The probe result that decides."""
    seconds: float = 0.0
    """How long that probe took."""


def checks(handler: Handler, standing: Standing) -> tuple[Check, ...]:
    """The checks of `handler`, in the order of the text; at least one probe must have ended."""
    answers = _check("answers", standing.alive)
    ready = _check("ready", standing.ready)
    match handler:
        case Handler.LIVEZ:
            return (answers,)
        case Handler.READYZ:
            return (answers, ready)
        case _:
            return (ready._replace(name="has-been-ready", good=standing.started),)


def _check(name: str, health: Health) -> Check:
    assert health.report is not None
    return Check(name, bool(health.stands), health.report, health.seconds)


def _decisive(found: tuple[Check, ...]) -> Check:
    """The first check that has failed, or else the last one."""
    return next((check for check in found if not check.good), found[-1])


def as_text(handler: Handler, found: tuple[Check, ...], *, verbose: bool) -> str:
    """`ok`; or a line for each check, if the client asked for them or if one has failed."""
    good = all(check.good for check in found)
    if good and not verbose:
        return "ok"
    lines = [f"[+]{check.name} ok" if check.good else f"[-]{check.name} failed: {_failure(check)}" for check in found]
    return "\n".join([*lines, f"{handler.name.lower()} check {'passed' if good else 'failed'}\n"])


def _failure(check: Check) -> str:
    if check.result.reason is None:
        return "not yet"
    # A driver's message must not look like a line of this response.
    body = "".join(each if each.isprintable() else " " for each in check.result.body)
    return f"{check.result.reason.value}: {body}"


def as_json(handler: Handler, found: tuple[Check, ...], driver: str) -> str:
    """The checks of `driver` as one JSON object; `seconds` and `connected` are of the probe that decides."""
    rows = []
    for check in found:
        reason = check.result.reason
        row: dict[str, object] = {"name": check.name, "ok": check.good}
        if not check.good:
            row |= {"reason": reason.value if reason else None, "message": check.result.body if reason else "not yet"}
        rows.append(row)
    decisive = _decisive(found)
    shown = {
        "check": handler.name.lower(),
        "status": "ok" if decisive.good else "failed",
        "driver": driver,
        "seconds": round(decisive.seconds, 6),
        "connected": decisive.result.connected,
        "parts": rows,
    }
    return json.dumps(shown) + "\n"


def wants_json(accept: str) -> bool:
    """Whether an Accept header asks for JSON rather than text."""
    for item in accept.split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in ("application/json", "text/plain", "text/*", "*/*"):
            return kind == "application/json"
    return False
