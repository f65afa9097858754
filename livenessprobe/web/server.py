"""Serves an ASGI application on one listener, and finishes open requests when it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from livenessprobe.metrics import Metrics
from livenessprobe.web.accept import accepting
from livenessprobe.web.health import ASGI
from livenessprobe.web.http1 import HTTP1, Listener
from livenessprobe.web.limits import Connections, Limits

LATE_SECONDS = 0.5
"""A request that arrives together with the order to stop may be started this much later, and has its whole time too."""


async def serve(
    app: ASGI,
    listener: socket.socket,
    limits: Limits,
    metrics: Metrics,
    stop: asyncio.Event,
    longest_wait: Callable[[], float],
) -> None:
    """
    Serve `app` on `listener` until `stop` is set; then finish open requests.

    `longest_wait` returns the seconds within which every request in progress has its response.
    """
    connections = Connections(limits, metrics)
    context = WorkerContext(None)
    async with TaskGroup(asyncio.get_running_loop()) as group:
        shared = Listener(ASGIWrapper(app), _config(), context, group, connections, metrics)
        with listener:
            async with accepting(listener, connections, lambda: HTTP1(shared)):
                await stop.wait()
        await context.terminated.set()
        await connections.finish(longest_wait() + LATE_SECONDS)


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    return config
