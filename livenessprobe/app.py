"""HTTP: what /healthz and /metrics answer, byte for byte as Go's net/http does it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from quart import Quart, Request, Response, request

from livenessprobe.gotext import format_duration
from livenessprobe.health import ProbeResult, Reason, Standing
from livenessprobe.healthz import as_json, parts, text, wants_json
from livenessprobe.klog import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.mux import Handler, Mux
from livenessprobe.patience import KUBELET, Caller, Patience
from livenessprobe.prober import Prober

log = get_logger(__file__)

REASON_HEADER = "X-Livenessprobe-Reason"
_TEXT = "text/plain; charset=utf-8"
_CHUNKED_ABOVE = 2048
"""Go's server buffers so much before it gives up on a Content-Length."""
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


App = Quart
"""What `create_app` makes, for rooms that must not know of Quart."""
Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


def create_app(prober: Prober, metrics: Metrics, mux: Callable[[], Mux]) -> App:
    """The application of one listener; `mux` says what it serves at the time of a request."""
    app = Quart(__name__)
    callers = _Callers(prober, metrics)
    app.asgi_app = _WithoutQuart(app.asgi_app, metrics, mux, callers)  # type: ignore[method-assign]  # as Quart documents it

    # One hook instead of routes: upstream serves any method, and Go's mux has rules that Quart's router lacks.
    @app.before_request
    async def serve() -> Response:
        try:
            response = await _answer(request, metrics, mux(), callers)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told, and so is the log
            answer = _health_answer(_own_fault(error))
            response = _response(answer.body, answer.status, answer.headers)
        metrics.responded(response.status_code)
        return response

    return app


async def _answer(request: Request, metrics: Metrics, mux: Mux, callers: _Callers) -> Response:
    raw_path = bytes(request.scope["raw_path"]).decode("latin-1")
    route = mux.route(request.method, raw_path)
    match route.handler:
        case Handler.LIVEZ | Handler.READYZ | Handler.STARTUPZ:
            caller = request.remote_addr or "", request.headers.get("User-Agent", ""), request.path
            return _split_response(request, route.handler, await callers.check(caller))
        case Handler.METRICS:
            exposition = metrics.expose(request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", ""))
            return _response(exposition.body, 200, exposition.headers, chunked=True)
        case Handler.REDIRECT:
            return _redirect(request, route.location)
        case other:
            raise AssertionError(f"{other} is answered without Quart")


def _reported(standing: Standing) -> ProbeResult:
    assert standing.ready.report is not None  # noqa: S101  there has been a probe
    return standing.ready.report


def _split_response(request: Request, handler: Handler, standing: Standing) -> Response:
    found = parts(handler, standing)
    if wants_json(request.headers.get("Accept", "")):
        content, kind = as_json(handler, found), "application/json"
    else:
        content, kind = text(handler, found, verbose="verbose" in request.args), _TEXT
    headers = {"Content-Type": kind, "X-Content-Type-Options": "nosniff"}
    failed = [part.result.reason for part in found if not part.good]
    if failed and failed[0] is not None:
        headers[REASON_HEADER] = failed[0].value
    return _response(content.encode(errors="surrogateescape"), 500 if failed else 200, headers)


def _own_fault(error: Exception) -> ProbeResult:
    log.error("Request failed inside the sidecar", err=repr(error))
    return ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {error!r}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes out; without Content-Length it is chunked."""

    body: bytes
    status: int
    headers: dict[str, str]


def _plain(body: bytes, status: int, **headers: str) -> _Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _Answer(body, status, named | {"Content-Length": str(len(body))})


_PLAIN = {
    Handler.BAD_REQUEST: _plain(b"400 Bad Request", 400, Content_Type=_TEXT, Connection="close"),
    Handler.SERVER_OPTIONS: _plain(b"", 200),
    Handler.NOT_FOUND: _plain(b"404 page not found\n", 404, Content_Type=_TEXT, X_Content_Type_Options="nosniff"),
}


def _health_answer(result: ProbeResult) -> _Answer:
    # A gRPC message may hold bytes that are no UTF-8; they go out as they came.
    body = result.body.encode(errors="surrogateescape")
    headers = {"Content-Type": "application/octet-stream" if _BINARY.search(body) else _TEXT}
    if result.reason is not None:
        headers[REASON_HEADER] = result.reason.value
    if len(body) <= _CHUNKED_ABOVE:
        headers["Content-Length"] = str(len(body))
    return _Answer(body, 200 if result.ready else 500, headers)


def _redirect(request: Request, location: str) -> Response:
    if query := bytes(request.scope["query_string"]).decode("latin-1"):
        location = f"{location}?{query}"
    if request.method not in ("GET", "HEAD"):
        return _response(b"", 307, {"Location": location})
    shown = (
        location.replace("&", "&amp;").replace('"', "&#34;").replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;")
    )
    body = f'<a href="{shown}">Temporary Redirect</a>.\n\n'.encode()
    return _response(body, 307, {"Location": location, "Content-Type": "text/html; charset=utf-8"})


def _response(body: bytes, status: int, headers: dict[str, str], *, chunked: bool = False) -> Response:
    response = Response(body, status, headers)
    if "Content-Type" not in headers:
        del response.headers["Content-Type"]
    if chunked:
        del response.headers["Content-Length"]
    return response


class _WithoutQuart:
    """
    Answers what needs none of Quart's requests, responses and tasks, before Quart sees it.

    `/healthz` is asked every few seconds on every node; and what is not there anyone may ask for, thousands of times.
    """

    def __init__(self, app: ASGI, metrics: Metrics, mux: Callable[[], Mux], callers: _Callers) -> None:
        self._app = app
        self._metrics = metrics
        self._mux = mux
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        handler = self._mux().route(scope["method"], scope["raw_path"].decode("latin-1")).handler
        if handler is Handler.HEALTHZ:
            answer = _health_answer(await self._health(scope, receive))
        elif handler in _PLAIN:
            answer = _PLAIN[handler]
        else:
            await self._app(scope, receive, send)
            return
        self._metrics.responded(answer.status)
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _health(self, scope: Scope, receive: Receive) -> ProbeResult:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101  we are in a coroutine
        leaving = asyncio.create_task(_left(receive, me), name="wait for hang-up")
        try:
            return _reported(await self._callers.check(_caller(scope)))
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told, and so is the log
            return _own_fault(error)
        finally:
            leaving.cancel()


async def _left(receive: Receive, task: asyncio.Task[Any]) -> None:
    """Cancel `task` once the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _caller(scope: Scope) -> Caller:
    agents = [value.decode("latin-1") for name, value in scope["headers"] if name == b"user-agent"]
    return (scope["client"] or ("",))[0], ",".join(agents), "/healthz"


class _Callers:
    """Those who ask for health: how long they wait, and what a kubelet that hangs up too soon is told."""

    def __init__(self, prober: Prober, metrics: Metrics) -> None:
        self._prober = prober
        self._metrics = metrics
        self._patience = Patience()
        self._advised = False
        metrics.kubelet_patience.set_function(lambda: self._patience.shortest(time.monotonic()))

    async def check(self, caller: Caller) -> Standing:
        """What is reported, in time for this caller if it is known to hang up."""
        started = time.monotonic()
        patience = self._patience.of(caller, started) if self._prober.settings.answer_before_hangup else None
        try:
            standing = await self._prober.check(patience)
        except asyncio.CancelledError:
            now = time.monotonic()
            self._metrics.callers_gone.inc()
            self._patience.hung_up(caller, now - started, now)
            self._advise(caller[1], now - started)
            raise
        now = time.monotonic()
        self._patience.answered(caller, now - started, now, hurried=patience is not None)
        return standing

    def _advise(self, user_agent: str, seconds: float) -> None:
        """One record for a kubelet that hangs up before the probe timeout: most manifests have that mistake."""
        timeout = self._prober.settings.probe_timeout
        if self._advised or not user_agent.startswith(KUBELET) or seconds > timeout + 1:
            return
        self._advised = True
        log.warning(
            "The kubelet hung up before the probe timeout, so it never sees the reason of a failure",
            waited=format_duration(round(seconds * 10) * 100_000_000),
            probeTimeout=format_duration(round(timeout * 1_000_000_000)),
            advice="set timeoutSeconds of the liveness probe above --probe-timeout",
        )
