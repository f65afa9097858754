"""The life of the sidecar: serve from the start, learn the driver's name beside, stop when told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from livenessprobe.driver.connection import Dialer
from livenessprobe.driver.identity import Identity
from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.callers import Callers
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.reporter import Reporter
from livenessprobe.process import signals
from livenessprobe.process.watchdog import Watchdog
from livenessprobe.reload import Reloader
from livenessprobe.settings.model import Loaded, Settings
from livenessprobe.web.app import App
from livenessprobe.web.limits import Limits
from livenessprobe.web.routes import Mux
from livenessprobe.web.server import serve

log = get_logger(__file__)

FAILED = 3
"""The exit code of --exit-on-failure."""
CROWD = 4
"""How many times --http-max-connections may be open for a moment."""
OWN_DESCRIPTORS = 24
"""What the process needs besides: files, gRPC, a few connections to the driver."""
EVERYONE = 10
"""How many times as many there may be together with those that are being answered."""
THREADS = 3
"""For disks, which may hang: one to read the settings file, one to write what is told by files, one for the first page."""


class Listeners(NamedTuple):
    """Sockets that listen already; the second only for --metrics-address."""

    http: socket.socket
    metrics: socket.socket | None = None


class SettingsFile(NamedTuple):
    """The file that may be or become the settings file, and how to read settings again with its new content."""

    path: str
    polled: bool
    load: Callable[[bytes], Loaded]


def event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop for `run`."""
    if sys.platform == "win32":
        from livenessprobe.process import windows

        return windows.event_loop()
    return asyncio.new_event_loop()


async def run(loaded: Loaded, file: SettingsFile, listeners: Listeners, threads: int) -> int:
    """Serve until SIGTERM or SIGINT: 0, or until --exit-on-failure ends it: 3.  `threads` bounds the default executor."""
    spare = max(_raise_descriptor_limit() - OWN_DESCRIPTORS, 8)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="executor"))
    with signals.control() as control:
        metrics = Metrics()
        metrics.log_records_dropped.set_function(klog.dropped)
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        dialer = Dialer(loaded.settings.csi_address, metrics.connections.inc)
        prober = Prober(Identity(dialer), loaded.settings, metrics)
        reporter = Reporter(prober, loaded.settings)
        reloader = Reloader(loaded, file.path, file.load, lambda settings: _adopt(prober, settings), metrics)
        _announce(loaded)
        # Connections leave cycles behind.  What is loaded by now stays for good, and left out of account it no longer puts
        # off collecting them: after 12 s of `make attack` memory has grown by 3.6 MiB then, by 5.5 without.
        gc.collect()
        gc.freeze()
        gc.set_threshold(1000, 5, 2)
        gc.enable()
        watchdog = Watchdog(lambda: prober.settings.termination_log)
        watchdog.start()
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(prober.driver_name.run(), name="driver name"),
                    group.create_task(prober.run(), name="probe by itself"),
                    group.create_task(reporter.run(control.stop), name="reporter"),
                    group.create_task(reloader.watch(control.reload, polled=file.polled), name="settings file"),
                ]

                def limits() -> Limits:
                    settings, most = prober.settings, prober.settings.http_max_connections
                    return Limits(
                        connections=min(most, spare // 4),
                        crowd=min(most * CROWD, spare // 3),
                        everyone=min(most * EVERYONE, spare // 2),
                        header_bytes=settings.http_max_header_bytes,
                        idle_seconds=settings.http_idle_timeout,
                    )

                closed = metrics.connections_closed.inc
                servers = [
                    group.create_task(serve(app, listener, control.stop.wait, prober.longest_wait, limits, closed))
                    for app, listener in _apps(prober, metrics, loaded.settings, listeners)
                ]
                await asyncio.wait(servers)
                for task in beside:
                    task.cancel()
        finally:
            watchdog.stop()
            await reporter.close()
            await dialer.close()
        return FAILED if reporter.failed else 0


def _raise_descriptor_limit() -> int:
    """
    Raise the limit of open descriptors as far as it may be, as Go does at every start; returns it.

    A probe needs descriptors however many clients there are.
    """
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def _adopt(prober: Prober, settings: Settings) -> None:
    if settings.log != prober.settings.log:
        klog.configure(settings.log)
    prober.adopt(settings)


def _apps(prober: Prober, metrics: Metrics, settings: Settings, listeners: Listeners) -> Iterator[tuple[App, socket.socket]]:
    """What is served on each listener.  The metrics path may change while we run."""

    def mux() -> Mux:
        return Mux(healthz=True, metrics_path=prober.settings.metrics_path if settings.metrics_on_http else None)

    def metrics_mux() -> Mux:
        return Mux(healthz=False, metrics_path=prober.settings.metrics_path)

    callers = Callers(prober, metrics)
    yield App(callers, metrics, mux), listeners.http
    if listeners.metrics is not None:
        yield App(callers, metrics, metrics_mux), listeners.metrics


def _announce(loaded: Loaded) -> None:
    settings = loaded.settings
    log.info("ServeMux listening", address=settings.http.text)
    if settings.metrics is not None:
        log.info("Separate metrics ServeMux listening", address=settings.metrics.text)
