"""HTTP: what /healthz and /metrics answer, byte for byte as Go's net/http does it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from quart import Quart, Request, Response, request

from livenessprobe.gotext import format_duration
from livenessprobe.health import ProbeResult, Reason
from livenessprobe.klog import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.mux import Handler, Mux
from livenessprobe.prober import Prober

log = get_logger(__file__)

REASON_HEADER = "X-Livenessprobe-Reason"
_TEXT = "text/plain; charset=utf-8"
_CHUNKED_ABOVE = 2048
"""Go's server buffers so much before it gives up on a Content-Length."""
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


App = Quart
"""What `create_app` makes, for rooms that must not know of Quart."""


def create_app(prober: Prober, metrics: Metrics, mux: Callable[[], Mux]) -> App:
    """The application of one listener; `mux` says what it serves at the time of a request."""
    app = Quart(__name__)
    advice = _Advice(prober)

    # One hook instead of routes: upstream serves any method, and Go's mux has rules that Quart's router lacks.
    @app.before_request
    async def serve() -> Response:
        try:
            response = await _answer(request, prober, metrics, mux(), advice)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told, and so is the log
            log.error("Request failed inside the sidecar", err=repr(error))
            response = _health_response(ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {error!r}"))
        metrics.responded(response.status_code)
        return response

    return app


async def _answer(request: Request, prober: Prober, metrics: Metrics, mux: Mux, advice: _Advice) -> Response:
    raw_path = bytes(request.scope["raw_path"]).decode("latin-1")
    route = mux.route(request.method, raw_path)
    match route.handler:
        case Handler.HEALTHZ:
            return await _healthz(request, prober, metrics, advice)
        case Handler.METRICS:
            exposition = metrics.expose(request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", ""))
            return _response(exposition.body, 200, exposition.headers, chunked=True)
        case Handler.REDIRECT:
            return _redirect(request, route.location)
        case Handler.BAD_REQUEST:
            return _response(b"400 Bad Request", 400, {"Content-Type": _TEXT, "Connection": "close"})
        case Handler.SERVER_OPTIONS:
            return _response(b"", 200, {})
        case Handler.NOT_FOUND:
            return _response(b"404 page not found\n", 404, {"Content-Type": _TEXT, "X-Content-Type-Options": "nosniff"})


async def _healthz(request: Request, prober: Prober, metrics: Metrics, advice: _Advice) -> Response:
    started = time.monotonic()
    try:
        result = await prober.check()
    except asyncio.CancelledError:
        metrics.callers_gone.inc()
        advice.caller_gone(request.headers.get("User-Agent", ""), time.monotonic() - started)
        raise
    return _health_response(result)


def _health_response(result: ProbeResult) -> Response:
    # A gRPC message may hold bytes that are no UTF-8; they go out as they came.
    body = result.body.encode(errors="surrogateescape")
    headers = {"Content-Type": "application/octet-stream" if _BINARY.search(body) else _TEXT}
    if result.reason is not None:
        headers[REASON_HEADER] = result.reason.value
    return _response(body, 200 if result.ready else 500, headers, chunked=len(body) > _CHUNKED_ABOVE)


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


class _Advice:
    """One record for a kubelet that hangs up before the probe timeout: most manifests have that mistake."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._given = False

    def caller_gone(self, user_agent: str, seconds: float) -> None:
        timeout = self._prober.settings.probe_timeout
        if self._given or not user_agent.startswith("kube-probe/") or seconds > timeout + 1:
            return
        self._given = True
        log.warning(
            "The kubelet hung up before the probe timeout, so it never sees the reason of a failure",
            waited=format_duration(round(seconds * 10) * 100_000_000),
            probeTimeout=format_duration(round(timeout * 1_000_000_000)),
            advice="set timeoutSeconds of the liveness probe above --probe-timeout",
        )
