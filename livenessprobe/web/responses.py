"""What goes out over HTTP, byte for byte as Go's net/http does it.  Pure."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.probing.standing import Health, Standing
from livenessprobe.web.routes import Handler

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


_REFUSALS = {417: b"", 501: b"Unsupported transfer encoding"}
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    431: b"Request Header Fields Too Large",
    505: b"HTTP Version Not Supported",
}
"""As Go spells them."""


def refusal(status: int, why: bytes = b"") -> bytes:
    """What a client is sent that has asked for nothing any handler is for (net/http, `conn.serve`)."""
    reason = REASONS[status] + (b": " + why if why else b"")
    body = _REFUSALS.get(status, b"%d %s" % (status, reason))
    kind = b"Content-Type: text/plain; charset=utf-8\r\n" if body else b""
    lines = b"HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
    return lines % (status, reason, kind, len(body)) + body


# --- /livez, /readyz and /startupz, in the manner of Kubernetes components


class Part(NamedTuple):
    """One thing that is looked at."""

    name: str
    good: bool
    result: ProbeResult
    """What was found last of its kind."""


def parts(handler: Handler, standing: Standing) -> tuple[Part, ...]:
    """What `handler` looks at, in the order of the text.  There must have been a probe."""
    answers = _part("answers", standing.alive)
    ready = _part("ready", standing.ready)
    match handler:
        case Handler.LIVEZ:
            return (answers,)
        case Handler.READYZ:
            return (answers, ready)
        case _:
            return (Part("has-been-ready", standing.started, ready.result),)


def _part(name: str, health: Health) -> Part:
    assert health.report is not None  # there has been a probe
    return Part(name, bool(health.stands), health.report)


def text(handler: Handler, found: tuple[Part, ...], *, verbose: bool) -> str:
    """`ok`, or the parts a line each if wanted or if one has failed."""
    good = all(part.good for part in found)
    if good and not verbose:
        return "ok"
    lines = [f"[+]{part.name} ok" if part.good else f"[-]{part.name} failed: {_told(part)}" for part in found]
    return "\n".join([*lines, f"{handler.name.lower()} check {'passed' if good else 'failed'}\n"])


def _told(part: Part) -> str:
    if part.result.reason is None:
        return "not yet"
    # A driver's message must not pass for a line of ours.
    body = "".join(each if each.isprintable() else " " for each in part.result.body)
    return f"{part.result.reason.value}: {body}"


def as_json(handler: Handler, found: tuple[Part, ...]) -> str:
    """The same for programs."""
    rows = []
    for part in found:
        reason = part.result.reason
        row: dict[str, object] = {"name": part.name, "ok": part.good}
        if not part.good:
            row |= {"reason": reason.value if reason else None, "message": part.result.body if reason else "not yet"}
        rows.append(row)
    status = "ok" if all(part.good for part in found) else "failed"
    return json.dumps({"check": handler.name.lower(), "status": status, "parts": rows}) + "\n"


def wants_json(accept: str) -> bool:
    """Whether an Accept header asks for JSON rather than text."""
    for item in accept.split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in ("application/json", "text/plain", "text/*", "*/*"):
            return kind == "application/json"
    return False
