"""Runs the sidecar: builds all parts, logs the addresses, serves until it is told to stop, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from livenessprobe.driver.connection import Dialer
from livenessprobe.driver.identity import Identity
from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing import wiring
from livenessprobe.probing.callers import Callers
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.reporter import Reporter
from livenessprobe.process import memory, signals, termination
from livenessprobe.process.start_time import process_start_time
from livenessprobe.process.starvation import Counters
from livenessprobe.process.watchdog import Watchdog
from livenessprobe.reload import Reloader
from livenessprobe.settings.file import FileContent
from livenessprobe.settings.model import Loaded, Settings
from livenessprobe.web.app import Applications, create_lean_app
from livenessprobe.web.health import Health, Known
from livenessprobe.web.limits import Limits
from livenessprobe.web.routes import Routes
from livenessprobe.web.server import serve

log = get_logger(__file__)

EXIT_ON_FAILURE = 3
"""The exit code of --exit-on-failure."""
OWN_DESCRIPTORS = 24
"""Descriptors that the process needs for itself: files, gRPC, a few connections to the driver."""
THREADS = 2
"""Threads for files, which a disk may hang: one reads the settings file, one writes the health file."""


class Listeners(NamedTuple):
    """Sockets that listen already; the second only for --metrics-address."""

    http: socket.socket
    metrics: socket.socket | None = None


class SettingsFile(NamedTuple):
    """The file that may be or become the settings file, and how to read settings again with its new content."""

    path: str
    polled: bool
    load: Callable[[FileContent], Loaded]


def event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop for `run`."""
    if sys.platform == "win32":
        from livenessprobe.process import windows

        return windows.event_loop()
    return asyncio.new_event_loop()


async def run(loaded: Loaded, file: SettingsFile, listeners: Listeners, threads: int) -> int:
    """Serve until SIGTERM or SIGINT: 0, or until --exit-on-failure ends it: 3.  `threads` bounds the default executor."""
    settings, loop = loaded.settings, asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="executor"))
    limits = _limits(settings, listeners)
    process_start = process_start_time()
    metrics = Metrics(process_start)
    metrics.log_records_dropped.set_function(klog.dropped)
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    dialer = Dialer(settings.csi_address, metrics.connections.inc)
    prober = Prober(Identity(dialer), settings, metrics, Counters())
    reporter = Reporter(prober, settings)
    reloader = Reloader(loaded, file.path, file.load, lambda settings: _adopt(prober, settings), metrics)
    # A start in the future is that of a clock that was set back since.
    started = loop.time() - max(0.0, time.time() - process_start)
    container = wiring.look()
    known = Known(prober, Callers(prober, metrics), reloader, started, container.host_network)
    applications = Applications(_healths(known, metrics, settings), metrics, create=create_lean_app)
    with signals.as_events() as events:
        _announce(settings)
        memory.before_serving()
        termination.report("driver not probed", loop.time(), "")
        with Watchdog():
            try:
                async with asyncio.TaskGroup() as group:
                    beside = [
                        group.create_task(prober.driver_name.run(), name="learn the driver's name"),
                        group.create_task(prober.run(), name="probe on schedule"),
                        group.create_task(reporter.run(events.stop), name="report health"),
                        group.create_task(reloader.watch(events.reload, polled=file.polled), name="settings file"),
                        group.create_task(applications.run(), name="load Quart"),
                        group.create_task(wiring.watch(settings, known.callers.askers, container), name="wiring"),
                    ]
                    servers = [
                        group.create_task(serve(app, listener, limits, metrics, events.stop, prober.longest_wait))
                        for app, listener in zip(applications.listeners, filter(None, listeners), strict=True)
                    ]
                    await asyncio.wait(servers)
                    for task in beside:
                        task.cancel()
            finally:
                await reporter.close()
                await dialer.close()
        if events.stopped_by:
            reporter.leave_message(f"stopped by {events.stopped_by[0]}")
    return EXIT_ON_FAILURE if reporter.failed else 0


def _limits(settings: Settings, listeners: Listeners) -> Limits:
    """The limits of each listener: half of the spare descriptors is for clients, the rest for the driver and files."""
    spare = max(_raise_descriptor_limit() - OWN_DESCRIPTORS, 8)
    share = spare // 2 // (1 if listeners.metrics is None else 2)
    return Limits(
        connections=min(settings.http_max_connections, share),
        header_bytes=settings.http_max_header_bytes,
        idle_seconds=settings.http_idle_timeout,
    )


def _raise_descriptor_limit() -> int:
    """
    Raise the limit of open descriptors to the hard limit, as Go does at every start; returns it.

    A probe needs descriptors however many clients there are.  Where the limit cannot be read, as under old container runtimes
    that refuse prlimit64, it is taken to be the kernel's default.
    """
    if sys.platform == "win32":
        return 1 << 20
    import resource

    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:
        return 1024
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def _healths(known: Known, metrics: Metrics, settings: Settings) -> list[Health]:
    """What answers on each listener."""
    path, pages = settings.metrics_path, settings.pages
    routes = [Routes(healthz=True, metrics_path=path if settings.metrics_on_http else None, pages=pages)]
    if settings.metrics is not None:
        routes.append(Routes(healthz=False, metrics_path=path, pages=pages))
    if hidden := sorted({page for each in routes for page in each.hidden_pages()}):
        log.warning(
            "The metrics path hides pages", metricsPath=path, pages=",".join(hidden), advice="choose another --metrics-path"
        )
    return [Health(known.callers, metrics, each, known=known) for each in routes]


def _adopt(prober: Prober, settings: Settings) -> None:
    if settings.log != prober.settings.log:
        klog.configure(settings.log)
    prober.adopt(settings)


def _announce(settings: Settings) -> None:
    log.info("ServeMux listening", address=settings.http.text)
    if settings.metrics is not None:
        log.info("Separate metrics ServeMux listening", address=settings.metrics.text)
