"""
The ASGI callable that answers health requests, redirects and 404.

It needs no web framework, since a kubelet asks every few seconds on every node.  Metrics are left to an inner application,
in front of which it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.callers import Caller, Callers
from livenessprobe.web import responses
from livenessprobe.web.responses import Response
from livenessprobe.web.routes import HEALTH, Handler, Route, Routes

log = get_logger(__file__)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

HANG_UP = "hang_up"
"""In the ASGI state of a request: a future that gets the time at which its client hung up, if it did so before the response."""
METRICS_PATH = "/metrics"
"""Where the inner application serves metrics."""

_route = lru_cache(maxsize=16)(Routes.route)


@dataclass(frozen=True, slots=True)
class Health:
    """Answers for one listener; `inner` answers metrics requests, with their path set to METRICS_PATH."""

    callers: Callers
    metrics: Metrics
    routes: Routes
    inner: ASGI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Response one request."""
        if scope["type"] != "http":
            if self.inner is not None:
                await self.inner(scope, receive, send)
            return
        route = self.route(scope)
        if route.handler is Handler.METRICS:
            await self._ask_inner(scope, receive, send)
            return
        try:
            response = await self._respond(route, scope, receive)
        except Exception as error:  # noqa: BLE001  whatever it is, the client is told, and so is the log
            response = failure(error)
        await deliver(response, send)

    def route(self, scope: Scope) -> Route:
        """Which handler an HTTP request reaches."""
        return _route(self.routes, scope["method"], scope["raw_path"].decode("latin-1"))

    async def _respond(self, route: Route, scope: Scope, receive: Receive) -> Response:
        match route.handler:
            case Handler.REDIRECT:
                return responses.redirect(scope["method"], route.location, scope["query_string"].decode("latin-1"))
            case handler if handler in HEALTH:
                return await self._health(handler, scope, receive)
            case handler:
                return responses.PLAIN[handler]

    async def _health(self, handler: Handler, scope: Scope, receive: Receive) -> Response:
        self.metrics.asked()
        request = asyncio.current_task()
        assert request is not None
        hang_up = asyncio.create_task(_cancel_on_hang_up(receive, request), name="wait for hang-up")
        try:
            client = ((scope.get("client") or ("",))[0], _header(scope, b"user-agent"), scope["path"])
            standing = await self.callers.check(Caller(client, scope.get("state", {}).get(HANG_UP)))
        finally:
            hang_up.cancel()
        if handler is Handler.HEALTHZ:
            assert standing.ready.report is not None
            return responses.health(standing.ready.report)
        verbose = "verbose" in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return responses.check_response(
            handler, standing, _header(scope, b"accept"), verbose=verbose, driver=self.callers.driver
        )

    async def _ask_inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(event: Any) -> None:
            nonlocal started
            started = True
            await send(event)

        try:
            assert self.inner is not None
            # One path, whatever --metrics-path is: the setting never enters the inner application's pattern language.  One
            # Host header too: Go's server accepts hosts that others refuse.
            headers = [(b"host", b"localhost"), *((name, value) for name, value in scope["headers"] if name != b"host")]
            await self.inner({**scope, "path": METRICS_PATH, "headers": headers}, receive, note)
        except Exception as error:  # noqa: BLE001  as for health
            response = failure(error)
            if not started:
                await deliver(response, send)


def failure(error: Exception) -> Response:
    """The response to a request that failed inside the sidecar; it is logged too."""
    log.error("Request failed inside the sidecar", err=repr(error))
    return responses.health(ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {error!r}"))


async def deliver(response: Response, send: Send) -> None:
    """Send `response` by ASGI."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


async def _cancel_on_hang_up(receive: Receive, request: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    request.cancel()


def _header(scope: Scope, name: bytes) -> str:
    """All header values of that name, joined by commas."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)
