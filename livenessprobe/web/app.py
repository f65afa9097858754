"""
The Quart application: metrics and pages behind the health callable.

Quart is imported in a thread after the first health response, or for the first page if no metrics are served.  Loading it takes
0.2 s of CPU, which is 10 s where a container has 20 mCPU: it must not compete with the first probes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.process import imports, memory
from livenessprobe.process.imports import UNUSED_BY_QUART
from livenessprobe.web import responses
from livenessprobe.web.health import ASGI, INNER, METRICS_PATH, Health, Known, Receive, Scope, Send, deliver, failure
from livenessprobe.web.routes import HEALTH, PAGE_PATHS

if TYPE_CHECKING:
    from quart import Quart

Result = TypeVar("Result")

log = get_logger(__file__)

FIRST_RESPONSE_SECONDS = 10.0
"""How long loading Quart waits for the first health response."""


def create_app(health: Health, metrics: Metrics) -> Quart:
    """
    The Quart application of one listener.

    `health` stands in front of its dispatch and decides which requests reach it; Quart itself serves metrics and pages, at fixed
    paths, for every method as upstream does.
    """
    from quart import Quart, Response, request
    from quart.routing import QuartRule

    class AnyMethod(QuartRule):
        """A rule without a list of methods; werkzeug's own cannot say so where automatic OPTIONS are off."""

        def __init__(self, path: str, methods: object = None, **options: object) -> None:  # noqa: ARG002  Quart gives GET
            super().__init__(path, methods=None, **options)  # type: ignore[arg-type]

    # Unless it is given these folders, which serve nothing here, Quart searches them, for which it loads more modules.
    nowhere = os.path.abspath(os.sep)
    app = Quart(__name__, static_folder=None, template_folder=None, root_path=nowhere, instance_path=nowhere)
    app.url_rule_class = AnyMethod  # type: ignore[assignment]  # declared as QuartRule itself

    # On the event loop, as all changes of metrics are: in a thread some would be read before a change and some after it.
    async def expose() -> Response:
        exposition = metrics.expose(request.headers.get("Accept", ""), request.headers.get("Accept-Encoding", ""))
        response = Response(exposition.body, 200, exposition.headers)
        del response.headers["Content-Length"]  # Go's server sends metrics in chunks
        return response

    async def fail(error: Exception) -> Response:
        response = failure(error)
        return Response(response.body, response.status, _as_dict(response.headers))

    draw: Draw | None = None

    async def show() -> Response:
        nonlocal draw
        if draw is None:
            draw = await _in_own_thread(_import_draw)
        assert health.known is not None
        page = draw(
            request.path, health.known, health.routes.paths(), request.headers.get("Accept", ""), request.query_string
        )
        return Response(page.body, page.status, _as_dict(page.headers))

    app.add_url_rule(METRICS_PATH, "metrics", expose, provide_automatic_options=False)
    if health.known is not None:
        for path in PAGE_PATHS:
            app.add_url_rule(path, f"page {path}", show, provide_automatic_options=False)
    app.register_error_handler(Exception, fail)
    app.asgi_app = replace(health, inner=app.asgi_app)  # type: ignore[method-assign]  # as Quart documents for middleware
    return app


def create_lean_app(health: Health, metrics: Metrics) -> Quart:
    """
    The same at less than half the memory: without OpenSSL, and with placeholders for the modules in UNUSED_BY_QUART.

    For the sidecar's own process, since test_client(), templates and the command line do not work.
    """
    placeholders = imports.install_placeholders(UNUSED_BY_QUART) if "quart" not in sys.modules else []
    try:
        with imports.hide_openssl():
            return create_app(health, metrics)
    except Exception as error:
        if not placeholders:
            raise
        log.warning("Quart needs more than it should; loading all of it, which costs memory", err=repr(error))
        imports.forget_modules("quart", "flask", "werkzeug")
        return create_app(health, metrics)


Draw = Callable[[str, Known, tuple[str, ...], str, bytes], responses.Response]
"""Draws the page of a path: from what is known, for the paths of the listener, the Accept header and the query string."""


def _import_draw() -> Draw:
    """Import what draws pages; takes 20 ms of CPU, and memory that a sidecar without viewers does not need."""
    from livenessprobe.probing.status import Now, Process, gather
    from livenessprobe.web import pages

    def draw(path: str, known: Known, paths: tuple[str, ...], accept: str, query: bytes) -> responses.Response:
        prober, callers, follower, started, host_network = known
        process = Process(started, host_network)
        status = gather(prober, callers, follower.in_force, process, paths, Now(time.monotonic(), time.time()))
        return pages.respond(path, status, accept, query.decode("latin-1"))

    return draw


def _as_dict(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


class Applications:
    """The application of each listener: its health callable at first, its Quart application once Quart is loaded."""

    def __init__(
        self,
        healths: Sequence[Health],
        metrics: Metrics,
        *,
        create: Callable[[Health, Metrics], ASGI] = create_app,
        load_after: float = FIRST_RESPONSE_SECONDS,
    ) -> None:
        self._healths = healths
        self._metrics = metrics
        self._create = create
        self._load_after = load_after
        self._loading: asyncio.Task[None] | None = None
        self.first_response = asyncio.Event()
        self.listeners = [Application(self, health) for health in healths]
        """In the order of `healths`."""

    async def run(self) -> None:
        """Load Quart after the first health response, or `load_after` seconds from now; only if metrics are served."""
        if all(health.routes.metrics_path is None for health in self._healths):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._load_after):
                await self.first_response.wait()
        try:
            await self.load()
        except Exception as error:  # noqa: BLE001  health must not suffer from it, whatever it is
            log.error("Cannot load Quart; the next metrics request will try again", err=repr(error))

    async def load(self) -> None:
        """Load Quart, unless it is loaded; joins a load in progress.  Raises whatever stands in the way."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(self._load(), name="load Quart")
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        apps = await _in_own_thread(lambda: [self._create(health, self._metrics) for health in self._healths])
        memory.freeze()
        for listener, app in zip(self.listeners, apps, strict=True):
            listener.current = app


class Application:
    """The ASGI application that a listener serves."""

    def __init__(self, applications: Applications, health: Health) -> None:
        self._applications = applications
        self._health = health
        self.current: ASGI = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a request for metrics or a page waits until Quart is loaded."""
        if self.current is not self._health:
            await self.current(scope, receive, send)
            return
        handler = self._health.route(scope).handler
        if handler in INNER:
            try:
                await self._applications.load()
            except Exception as error:  # noqa: BLE001  the client is told, and so is the log
                await deliver(failure(error), send)
                return
        await self.current(scope, receive, send)
        if handler in HEALTH:
            self._applications.first_response.set()


async def _in_own_thread(function: Callable[[], Result]) -> Result:
    """The result of `function`, run in a thread that ends with it: the executor's threads are for disks."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001  it is raised again where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="load Quart", daemon=True).start()
    return await asyncio.wrap_future(done)
