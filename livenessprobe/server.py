"""
Hypercorn, held to what Go's net/http does: our own sockets, HTTP/1 only, no upgrades.

The only room that knows Hypercorn.  It serves one connection at a time with Hypercorn's `TCPServer` and `H11Protocol`;
neither is documented for that, which is why the version is pinned.  Connections come from `door`, which also ends those
that wait too long.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ConnectionState,
    H11SendableEvent,
    LifespanState,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from livenessprobe.door import READ_BYTES, REASONS, Connections, Door, Limits, refusal, unread
from livenessprobe.listener import BACKLOG

ACCEPT_AT_A_TIME = 16
"""So that those that are there get their turn; the kernel holds the others."""


class _HTTP1Only(H11Protocol):
    """Ignores `Upgrade`, refuses what is not HTTP/1, and writes status lines and refusals as Go's net/http does."""

    _version = b"1.1"
    _answer = b""
    """What of an answer there is so far."""
    limits: Callable[[], Limits]
    """As they are at this moment."""

    async def handle(self, event: Event) -> None:
        """Hypercorn's way from the client to a handler."""
        if self.connection is not _NOTHING_MORE or isinstance(event, Closed):
            await super().handle(event)

    async def end(self) -> None:
        """
        Look at nothing that comes after the last answer.

        Where there is something, h11 says that it waits to be used again, and Hypercorn would wait for that for ever.
        """
        self.connection = _NOTHING_MORE
        await self.can_read.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn's hook for going over to HTTP/2; we never do."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        if request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(400 if request.method == b"PRI" else 505)
            return
        size = len(request.method) + len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self.limits().header_bytes:  # h11 looks only at what is incomplete; this came in one piece
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
        if b"upgrade" in headers:
            kept = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"upgrade"]
            request = h11.Request(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def _refuse(self, status_code: int, why: bytes = b"") -> None:
        await self._send_error_response(status_code, why)
        await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        """Hypercorn's way from a handler to the client: an answer with its status line as Go writes it."""
        if not isinstance(event, Response):
            await super().stream_send(event)
            return
        reason = REASONS.get(event.status_code, b"")
        headers = [*event.headers, *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=event.status_code, headers=headers, reason=reason))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.InformationalResponse):
            return  # upstream never reads a body, so it never asks a client to go on with one
        if self.connection is _NOTHING_MORE:
            return
        try:
            if self.connection.our_state is h11.SWITCHED_PROTOCOL:  # by CONNECT, which Go answers as any other method
                data = bytes(event.data) if isinstance(event, h11.Data) else b""
            else:
                data = self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if self._version == b"1.0" and isinstance(event, h11.Response):
            data = data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        self._answer += data
        if isinstance(event, h11.EndOfMessage):  # in one piece, which costs both sides less
            whole, self._answer = self._answer, b""
            await self.send(RawData(data=whole))

    async def _send_error_response(self, status_code: int, why: bytes = b"") -> None:
        """A refusal before any handler is asked."""
        await self.send(RawData(data=refusal(status_code, why)))


_NOTHING_MORE = h11.Connection(h11.SERVER)
"""In the place of a connection that is over; it is never given anything."""
_HOST = re.compile(rb"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")
"""What Go's server takes for a Host header (httpguts.ValidHostHeader)."""


class _Streams(asyncio.StreamReaderProtocol, asyncio.BufferedProtocol):
    """asyncio's, reading into a buffer of its own; see READ_BYTES."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._buffer = bytearray(READ_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  asyncio's signature
        """Where to put what the client sends."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """It has sent so much."""
        self.data_received(bytes(self._buffer[:nbytes]))


class _Connection(TCPServer):
    """Hypercorn's connection, without HTTP/2 and without a task that waits for its next request."""

    def __init__(self, server: _Server, transport: asyncio.Transport, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        streams = _Streams(reader, loop=loop)
        transport.set_protocol(streams)
        streams.connection_made(transport)
        writer = asyncio.StreamWriter(transport, streams, reader, loop)
        super().__init__(server.app, loop, server.config, server.context, LifespanState(), reader, writer)
        self._connections = server.connections
        self._transport = transport
        self._head = head
        self._http: _HTTP1Only | None = None

    async def run(self) -> None:
        """Answer its requests, until one of both sides ends it."""
        told = self._transport.get_extra_info
        found = told("socket")
        try:
            client = parse_socket_addr(found.family, found.getpeername())  # who has reset it already is told by this
            server = parse_socket_addr(found.family, told("sockname"))
            async with TaskGroup(self.loop) as group:
                state = ConnectionState(self.state)
                http = _HTTP1Only(
                    self.app, self.config, self.context, group, state, False, client, server, self.protocol_send
                )
                http.limits = self._connections.limits
                self._http = http
                self.protocol = http  # type: ignore[assignment]  # where Hypercorn has a wrapper, with a way to HTTP/2
                await http.handle(RawData(self._head))
                await self._read_data()
        except OSError:
            pass  # gone
        finally:
            await self._close()
            self._connections.gone(self)

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol wants: write, close, or wait for a request in no task of its own."""
        match event:
            case RawData() if self._transport.is_closing():
                await self._end()  # nobody is there
            case RawData():
                await self._write(event.data)
            case Updated(idle=True):
                self._connections.answered(self)
            case Updated():
                self._connections.asked(self)
            case Closed():
                await self._end()
                await self._close()

    async def _end(self) -> None:
        if self._http is not None:
            await self._http.end()

    async def _write(self, data: bytes) -> None:
        self.writer.write(data)
        if not self._transport.get_write_buffer_size():
            return
        try:
            async with asyncio.timeout(self._connections.limits().idle_seconds):
                await self.writer.drain()
        except TimeoutError:  # it does not read
            self.abort()
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

    async def _close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(self._connections.limits().idle_seconds):
                await self.writer.wait_closed()
        except TimeoutError:
            self.abort()
        except (OSError, RuntimeError):
            pass  # closed already

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def has_sent(self) -> bool:
        """Whether there is a request that is about to be asked, or something that nobody has looked at yet."""
        if self._http is None or self._http.connection.their_state in (h11.SEND_BODY, h11.DONE):
            return True
        if self.reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001  nothing public tells without taking it out
            return True
        return unread(self._transport)


class _Server:
    """The connections of one listener, and what they share."""

    def __init__(self, app: ASGIFramework, connections: Connections) -> None:
        self.connections = connections
        self.app = ASGIWrapper(_without_bodies(app))
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.include_server_header = False
        self.config.keep_alive_max_requests = 1 << 30
        self.config.accesslog = None
        self.config.errorlog = logging.getLogger("hypercorn")
        self.config.errorlog.setLevel(logging.WARNING)
        self._tasks: set[asyncio.Task[None]] = set()

    def let_in(self, transport: asyncio.Transport, door: Door, head: bytes) -> None:
        """Answer what has come through `door`."""
        connection = _Connection(self, transport, head)
        self.connections.replaced(door, by=connection)
        task = asyncio.create_task(connection.run(), name="connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """End all connections: at once those that have asked for nothing, after their answer the others, if it comes in time."""
        await self.context.terminated.set()
        self.connections.close()
        await asyncio.sleep(0)  # what has arrived comes in
        deadline = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()


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
    connections = Connections(limits, closed)
    server = _Server(app, connections)
    accepting = await asyncio.get_running_loop().create_server(
        lambda: Door(connections, server.let_in), sock=listener, backlog=ACCEPT_AT_A_TIME
    )
    # asyncio takes its backlog for the number to accept at a time too; the kernel is to hold more.
    listener.listen(BACKLOG)
    try:
        await stopping()
    finally:
        accepting.close()
    await server.finish(grace())
