"""The life of the sidecar: serve from the start, learn the driver's name beside, stop when told."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from livenessprobe import klog, signals
from livenessprobe.app import create_app
from livenessprobe.connection import Dialer
from livenessprobe.identity import Identity
from livenessprobe.klog import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.mux import Mux
from livenessprobe.prober import Prober
from livenessprobe.server import serve
from livenessprobe.settings import Loaded

log = get_logger(__file__)


@dataclass(frozen=True, slots=True)
class Listeners:
    """Sockets that listen already; the second only for --metrics-address."""

    http: socket.socket
    metrics: socket.socket | None = None


async def run(loaded: Loaded, listeners: Listeners, threads: int) -> None:
    """Serve until SIGTERM or SIGINT.  `threads` bounds the default executor."""
    settings = loaded.settings
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="executor"))
    with signals.control() as control:
        metrics = Metrics()
        metrics.probe_timeout.set(settings.probe_timeout)
        metrics.log_records_dropped.set_function(klog.dropped)
        metrics.config_good.set(not loaded.file_error)
        dialer = Dialer(settings.csi_address, settings.connection_reuse, metrics.connections.inc)
        prober = Prober(Identity(dialer, metrics), settings, metrics)
        _announce(loaded)
        grace = max(settings.probe_timeout, 0.0)
        try:
            async with asyncio.TaskGroup() as group:
                naming = group.create_task(prober.learn_names(), name="learn names")
                hangups = group.create_task(_on_hangup(control), name="SIGHUP")

                def mux() -> Mux:
                    return Mux(healthz=True, metrics_path=prober.settings.metrics_path if settings.metrics_on_http else None)

                def metrics_mux() -> Mux:
                    return Mux(healthz=False, metrics_path=prober.settings.metrics_path)

                servers = [
                    group.create_task(serve(create_app(prober, metrics, mux), listeners.http, control.stop.wait, grace))
                ]
                if listeners.metrics is not None:
                    app = create_app(prober, metrics, metrics_mux)
                    servers.append(group.create_task(serve(app, listeners.metrics, control.stop.wait, grace)))
                await asyncio.wait(servers)
                naming.cancel()
                hangups.cancel()
        finally:
            await dialer.close()


def _announce(loaded: Loaded) -> None:
    settings = loaded.settings
    log.info("ServeMux listening", address=settings.http.text)
    if settings.metrics is not None:
        log.info("Separate metrics ServeMux listening", address=settings.metrics.text)


async def _on_hangup(control: signals.Control) -> None:
    while True:
        await control.reload.wait()
        control.reload.clear()
        log.info("SIGHUP received; settings are read at the start only")
