"""
The ASGI callable that answers health requests, redirects and 404.

It needs no web framework, since a kubelet asks every few seconds on every node.  Metrics and pages are left to an inner
application, in front of which it stands; it decides which clients are admitted to pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.askers import AGENT_MAX
from livenessprobe.probing.callers import Caller, Callers
from livenessprobe.probing.prober import Prober
from livenessprobe.settings.model import InForce
from livenessprobe.web import responses
from livenessprobe.web.responses import Response
from livenessprobe.web.routes import HEALTH, PAGE_PATHS, PAGES, Handler, Route, Routes

log = get_logger(__file__)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

HANG_UP = "hang_up"
"""In the ASGI state of a request: a future that gets the time at which its client hung up, if it did so before the response."""
METRICS_PATH = "/metrics"
"""Where the inner application serves metrics."""
INNER = {Handler.METRICS: METRICS_PATH} | {handler: path for path, handler in PAGE_PATHS.items()}
"""The handlers of the inner application, and their paths there."""

_route = lru_cache(maxsize=16)(Routes.route)


class Follower(Protocol):
    """Follows the settings file."""

    @property
    def in_force(self) -> InForce:
        """The settings in force now."""


class Known(NamedTuple):
    """The objects that know what the pages show."""

    prober: Prober
    callers: Callers
    follower: Follower
    started: float
    """When the process started, by the monotonic clock."""
    host_network: bool | None = None
    """Whether its network is the node's; None if that is not known."""


@dataclass(frozen=True, slots=True)
class Health:
    """Answers for one listener; `inner` answers requests for the handlers of INNER, each with its path set to the one there."""

    callers: Callers
    metrics: Metrics
    routes: Routes
    inner: ASGI | None = None
    known: Known | None = None
    """For pages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Response one request."""
        if scope["type"] != "http":
            if self.inner is not None:
                await self.inner(scope, receive, send)
            return
        route = self.route(scope)
        if route.handler in INNER:
            await self._ask_inner(INNER[route.handler], scope, receive, send)
            return
        try:
            response = await self._respond(route, scope, receive)
        except Exception as error:  # noqa: BLE001  whatever it is, the client is told, and so is the log
            response = failure(error)
        await deliver(response, send)

    def route(self, scope: Scope) -> Route:
        """Which handler an HTTP request reaches; that of an unknown path if its client is not admitted to pages."""
        route = _route(self.routes, scope["method"], scope["raw_path"].decode("latin-1"))
        if route.handler in PAGES and not self._admits(scope):
            return Route(Handler.NOT_FOUND)
        return route

    def _admits(self, scope: Scope) -> bool:
        # A client of a unix socket has no address, and neither has the socket itself.
        is_unix = scope.get("client") is None and scope.get("server") is None
        address = None if is_unix else (scope.get("client") or ("",))[0]
        has_host = any(name.lower() == b"host" for name, _ in scope["headers"])
        return self.routes.admits(address, _header(scope, b"host") if has_host else None)

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
            agent = _header(scope, b"user-agent")[:AGENT_MAX]  # clients are kept, and each may send 16 KiB
            client = ((scope.get("client") or ("",))[0], agent, scope["path"])
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

    async def _ask_inner(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(event: Any) -> None:
            nonlocal started
            started = True
            await send(event)

        try:
            assert self.inner is not None
            # A fixed path, whatever --metrics-path is: the setting never enters the inner application's pattern language.
            # A fixed Host header too: Go's server accepts hosts that others refuse.
            headers = [(b"host", b"localhost"), *((name, value) for name, value in scope["headers"] if name != b"host")]
            await self.inner({**scope, "path": path, "headers": headers}, receive, note)
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
