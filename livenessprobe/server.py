"""
Hypercorn, held to what Go's net/http does: our own sockets, HTTP/1 only, no upgrades.

The only room that knows Hypercorn.  One seam is private (`hypercorn.protocol.H11Protocol`), which is why its version is
pinned; a test fails if the seam no longer takes effect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import h11
import hypercorn.protocol
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    H11SendableEvent,
    Scope,
)

HEADER_LIMIT = 16 * 1024
KEEP_ALIVE_SECONDS = 75.0
"""How long an idle or incomplete connection may stay; Prometheus and the kubelet come more often or close."""


class _HTTP1Only(H11Protocol):
    """Ignores `Upgrade`, refuses what is not HTTP/1, and writes status lines and refusals as Go's net/http does."""

    _version = b"1.1"

    async def handle(self, event: Event) -> None:
        """What comes from the connection."""
        await super().handle(event)
        if isinstance(event, Closed):
            # Else a connection that its client has closed would stay open here until its idle time is up.
            await self.send(Updated(idle=False))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn's hook for going over to HTTP/2; we never do."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        if request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(400 if request.method == b"PRI" else 505)
            return
        size = len(request.method) + len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > HEADER_LIMIT:  # h11 looks only at what is incomplete; this came in one piece
            await self._refuse(431)
            return
        if request.target.startswith(b"?"):
            await self._refuse(400)
            return
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
            await self._refuse(417)
            return
        self._version = request.http_version
        kept = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"upgrade"]
        await super()._create_stream(
            h11.Request(method=request.method, target=request.target, headers=kept, http_version=request.http_version)
        )

    async def _refuse(self, status_code: int) -> None:
        await self._send_error_response(status_code)
        await self.send(Closed())

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.InformationalResponse):
            return  # upstream never reads a body, so it never asks a client to go on with one
        if isinstance(event, h11.Response) and not event.reason:
            event = h11.Response(
                status_code=event.status_code,
                headers=event.headers.raw_items(),
                http_version=event.http_version,
                reason=_REASONS.get(event.status_code, b""),
            )
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if data and self._version == b"1.0" and isinstance(event, h11.Response):
            data = data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        """A refusal before any handler is asked, then the end of the connection."""
        body = b"" if status_code == 417 else _REFUSALS.get(status_code, b"%d %s" % (status_code, _REASONS[status_code]))
        headers = [(b"Content-Type", b"text/plain; charset=utf-8")] if body else []
        headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    431: b"Request Header Fields Too Large",
    505: b"HTTP Version Not Supported",
}
_REFUSALS = {501: b"Unsupported transfer encoding"}

hypercorn.protocol.H11Protocol = _HTTP1Only  # type: ignore[attr-defined]  # the seam


class _OurSockets(Config):
    """Hypercorn's settings with listeners that are open already."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        super().__init__()
        self._listeners = listeners
        self.include_server_header = False
        self.h11_max_incomplete_size = HEADER_LIMIT
        self.keep_alive_timeout = KEEP_ALIVE_SECONDS
        self.keep_alive_max_requests = 1 << 30
        self.accesslog = None
        self.errorlog = logging.getLogger("hypercorn")
        self.errorlog.setLevel(logging.WARNING)

    def create_sockets(self) -> Sockets:
        """What Hypercorn is to serve on."""
        return Sockets([], self._listeners, [])


def _without_bodies(app: ASGIFramework) -> ASGIFramework:
    """`app` behind a wall that lets no request body through: nobody reads them, and Quart would keep them all."""

    async def walled(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def receive_empty() -> ASGIReceiveEvent:
            event = await receive()
            if event["type"] == "http.request":
                event["body"] = b""
            return event

        await app(scope, receive_empty, send)

    return walled


async def serve(
    app: ASGIFramework,
    listener: socket.socket,
    stopping: Callable[[], Awaitable[object]],
    grace: Callable[[], float],
) -> None:
    """Serve `app` on `listener` until `stopping` returns; then finish open requests, for at most `grace()` seconds."""
    config = _OurSockets([listener])

    async def stop() -> None:
        await stopping()
        config.graceful_timeout = grace()

    serving = asyncio.create_task(hypercorn_serve(_without_bodies(app), config, shutdown_trigger=stop), name="hypercorn")
    stopped = asyncio.create_task(stop(), name="stopping")
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    # Hypercorn's own limit does not cover everything it waits for (Server.wait_closed since Python 3.12.1).
    done, _ = await asyncio.wait({serving}, timeout=grace() + 1)
    if done:
        serving.result()
    else:
        serving.cancel()
    stopped.cancel()
