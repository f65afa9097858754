"""
The ASGI application of one listener.

What kubelets ask is answered here, since it is asked every few seconds on every node; and what is not there too, since anyone
may ask for it thousands of times.  Quart answers the rest, and is loaded when that is asked for the first time.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.callers import Callers
from livenessprobe.web import responses
from livenessprobe.web.responses import Answer
from livenessprobe.web.routes import Handler, Mux

log = get_logger(__file__)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

_route = lru_cache(maxsize=16)(Mux.route)


class App:
    """`mux` says what is served at the time of a request."""

    def __init__(self, callers: Callers, metrics: Metrics, mux: Callable[[], Mux]) -> None:
        self._callers = callers
        self._metrics = metrics
        self._mux = mux
        self._loading: asyncio.Task[ASGI] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(scope, receive)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told, and so is the log
            log.error("Request failed inside the sidecar", err=repr(error))
            answer = responses.health(ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {error!r}"))
        if isinstance(answer, Answer):
            self._metrics.responded(answer.status)
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body})
        else:
            self._metrics.responded(200)
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | ASGI:
        """What goes out, or who says it."""
        route = _route(self._mux(), scope["method"], scope["raw_path"].decode("latin-1"))
        match route.handler:
            case Handler.METRICS:
                return await self._quart()
            case Handler.REDIRECT:
                return responses.redirect(scope["method"], route.location, scope["query_string"].decode("latin-1"))
            case Handler.HEALTHZ | Handler.LIVEZ | Handler.READYZ | Handler.STARTUPZ:
                return await self._health(route.handler, scope, receive)
            case handler:
                return responses.PLAIN[handler]

    async def _health(self, handler: Handler, scope: Scope, receive: Receive) -> Answer:
        self._metrics.asked()
        me = asyncio.current_task()
        assert me is not None  # we are in a coroutine
        leaving = asyncio.create_task(_left(receive, me), name="wait for hang-up")
        try:
            standing = await self._callers.check(
                ((scope["client"] or ("",))[0], _header(scope, b"user-agent"), scope["path"])
            )
        finally:
            leaving.cancel()
        if handler is Handler.HEALTHZ:
            assert standing.ready.report is not None  # there has been a probe
            return responses.health(standing.ready.report)
        verbose = "verbose" in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return responses.split(handler, standing, _header(scope, b"accept"), verbose=verbose)

    async def _quart(self) -> ASGI:
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load(), name="load Quart")
        return await asyncio.shield(self._loading)

    async def _load(self) -> ASGI:
        """In a thread: it takes 0.2 s of CPU, which may be many seconds where there is little of it."""
        app = await asyncio.to_thread(_create_pages, self._metrics)
        gc.freeze()  # it stays for good, as what was loaded at the start
        return app


def _create_pages(metrics: Metrics) -> ASGI:
    from livenessprobe.web.pages import create_app

    return create_app(metrics)


async def _left(receive: Receive, task: asyncio.Task[Any]) -> None:
    """Cancel `task` once the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _header(scope: Scope, name: bytes) -> str:
    """All of that name, as one."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)
