"""
Hypercorn, held to what Go's net/http does: our own sockets, HTTP/1 only, no upgrades.

The only room that knows Hypercorn.  One seam is private (`hypercorn.protocol.H11Protocol`), which is why its version is
pinned; a test fails if the seam no longer takes effect.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

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

from livenessprobe.listener import BACKLOG

ACCEPT_AT_A_TIME = 16
YOUNG_SECONDS = 1.0
"""For which a client may take to send its request, however many others there are, up to a crowd."""
TRY_AGAIN_SECONDS = 0.1
"""After which those that could not be closed yet are looked at again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take."""

    connections: int
    """Open without a complete request, beyond YOUNG_SECONDS of age; what is being answered does not count."""
    crowd: int
    """Open without a complete request, of whatever age."""
    header_bytes: int
    """Of a request's line and headers together."""
    idle_seconds: float
    """How long a connection may be open without a complete request."""


class Connections:
    """All that are open on one listener, those longest without a complete request first."""

    def __init__(self, limits: Callable[[], Limits], closed: Callable[[], object]) -> None:
        self._limits = limits
        self._closed = closed
        self._waiting: dict[_HTTP1Only, float] = {}
        """Without a complete request, and since when by the loop's time; the longest first."""
        self._answering: set[_HTTP1Only] = set()
        self._trying_again = False

    def opened(self, connection: _HTTP1Only) -> None:
        """Make room for `connection`: what was asked completely keeps its answer, so only others are closed."""
        self._make_room(1)
        self._waiting[connection] = asyncio.get_running_loop().time()

    def _make_room(self, needed: int) -> None:
        limits, now = self._limits(), asyncio.get_running_loop().time()
        excess = len(self._waiting) + needed - limits.connections
        if excess <= 0:
            return
        crowded = len(self._waiting) + needed - limits.crowd
        # Of many that come at once some have not sent their request yet, or it has not been read yet.
        victims = [
            connection
            for number, (connection, since) in enumerate(self._waiting.items())
            if (now - since >= YOUNG_SECONDS or number < crowded) and not connection.has_sent()
        ][:excess]
        for victim in victims:
            del self._waiting[victim]
            self._closed()
            victim.abort()
        if len(victims) < excess and not self._trying_again:
            self._trying_again = True
            asyncio.get_running_loop().call_later(TRY_AGAIN_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._trying_again = False
        self._make_room(0)

    def asked(self, connection: _HTTP1Only) -> None:
        """It has sent a complete request."""
        if self._waiting.pop(connection, None) is not None:
            self._answering.add(connection)

    def answered(self, connection: _HTTP1Only) -> None:
        """It has its answer, and may send another request."""
        if connection in self._answering:
            self._answering.remove(connection)
            self._waiting[connection] = asyncio.get_running_loop().time()

    def gone(self, connection: _HTTP1Only) -> None:
        """It is closed."""
        self._waiting.pop(connection, None)
        self._answering.discard(connection)


class _HTTP1Only(H11Protocol):
    """Ignores `Upgrade`, refuses what is not HTTP/1, and writes status lines and refusals as Go's net/http does."""

    _version = b"1.1"
    config: _OurSockets

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        server = self.send.__self__  # type: ignore[attr-defined]  # the seam again: Hypercorn's TCPServer
        self._transport: asyncio.Transport = server.writer.transport
        self._reader: asyncio.StreamReader = server.reader
        connections = self.config.connections
        connections.opened(self)
        self._task = asyncio.current_task()  # Hypercorn's for this connection
        assert self._task is not None  # noqa: S101  it is called from within it
        self._task.add_done_callback(lambda _: connections.gone(self))

        self._forward, self.send = self.send, self._send_unless_gone
        self._gone = False

    # Hypercorn goes on waiting for a request of a client that has gone, and keeps its socket for as long as an idle
    # connection may last: if it went before it had sent a whole request, and if it went while it was answered.

    async def handle(self, event: Event) -> None:
        """What the client did."""
        if isinstance(event, Closed):
            self._gone = True
            if asyncio.current_task() is self._task:  # that is, nothing more can be read
                await self._forward(Updated(idle=False))
        await super().handle(event)

    async def _send_unless_gone(self, event: Event) -> None:
        if not (self._gone and isinstance(event, Updated) and event.idle):
            await self._forward(event)

    def abort(self) -> None:
        """Close at once, whatever is unsent: a client that does not read would keep an orderly close waiting for ever."""
        self._transport.abort()

    def has_sent(self) -> bool:
        """Whether there is a request that is about to be asked, or something that nobody has looked at yet."""
        if self.connection.their_state in (h11.SEND_BODY, h11.DONE):
            return True
        if self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001  nothing public tells without taking it out
            return True
        found = self._transport.get_extra_info("socket")
        try:
            if sys.platform == "win32":
                return bool(select.select([found], [], [], 0)[0])
            poll = select.poll()  # select itself knows descriptors up to 1023 only
            poll.register(found, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return False  # closed

    async def _maybe_recycle(self) -> None:
        self.config.connections.answered(self)
        await super()._maybe_recycle()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn's hook for going over to HTTP/2; we never do."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        if request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(400 if request.method == b"PRI" else 505)
            return
        size = len(request.method) + len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self.config.limits().header_bytes:  # h11 looks only at what is incomplete; this came in one piece
            await self._refuse(431)
            return
        # With both lengths a proxy in front may see two requests where we see one (RFC 9112, 6.3).
        if request.target.startswith(b"?") or (b"content-length" in headers and b"transfer-encoding" in headers):
            await self._refuse(400)
            return
        if not _HOST.fullmatch(headers.get(b"host", b"")):
            await self._refuse(400, b"malformed Host header")
            return
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
            await self._refuse(417)
            return
        self._version = request.http_version
        self.config.connections.asked(self)
        kept = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"upgrade"]
        await super()._create_stream(
            h11.Request(method=request.method, target=request.target, headers=kept, http_version=request.http_version)
        )

    async def _refuse(self, status_code: int, why: bytes = b"") -> None:
        await self._send_error_response(status_code, why)
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

    async def _send_error_response(self, status_code: int, why: bytes = b"") -> None:
        """A refusal before any handler is asked, then the end of the connection."""
        reason = _REASONS[status_code] + (b": " + why if why else b"")
        body = b"" if status_code == 417 else _REFUSALS.get(status_code, b"%d %s" % (status_code, reason))
        headers = [(b"Content-Type", b"text/plain; charset=utf-8")] if body else []
        headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers, reason=reason))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    431: b"Request Header Fields Too Large",
    505: b"HTTP Version Not Supported",
}
_HOST = re.compile(rb"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")
"""What Go's server takes for a Host header (httpguts.ValidHostHeader)."""
_REFUSALS = {501: b"Unsupported transfer encoding"}

hypercorn.protocol.H11Protocol = _HTTP1Only  # type: ignore[attr-defined]  # the seam


class _OurSockets(Config):
    """Hypercorn's settings with a listener that is open already.  Limits are looked up each time: they may change."""

    def __init__(self, listener: socket.socket, limits: Callable[[], Limits], closed: Callable[[], object]) -> None:
        self.limits = limits
        self.connections = Connections(limits, closed)
        self._listener = listener
        super().__init__()
        self.backlog = ACCEPT_AT_A_TIME
        self.include_server_header = False
        self.keep_alive_max_requests = 1 << 30
        self.accesslog = None
        self.errorlog = logging.getLogger("hypercorn")
        self.errorlog.setLevel(logging.WARNING)

    @property
    def h11_max_incomplete_size(self) -> int:  # type: ignore[override]  # an attribute there
        """Bytes of an incomplete request's head."""
        return self.limits().header_bytes

    @property
    def keep_alive_timeout(self) -> float:  # type: ignore[override]  # the same
        """Seconds."""
        return self.limits().idle_seconds

    def create_sockets(self) -> Sockets:
        """What Hypercorn is to serve on."""
        # asyncio calls listen() again with its own backlog, which is also how many connections it accepts at a time.  Few at
        # a time, so that those that are there get their turn; but the kernel is to hold many.
        asyncio.get_running_loop().call_soon(self._listener.listen, BACKLOG)
        return Sockets([], [self._listener], [])


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
    limits: Callable[[], Limits],
    closed: Callable[[], object] = lambda: None,
) -> None:
    """
    Serve `app` on `listener` until `stopping` returns; then finish open requests, for at most `grace()` seconds.

    `closed` is told of each connection that is closed to make room for another.
    """
    config = _OurSockets(listener, limits, closed)

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
