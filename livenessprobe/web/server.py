"""
Hypercorn, held to what Go's net/http does: our own sockets, HTTP/1 only, no upgrades.

The only room that knows Hypercorn.  It serves one connection at a time with Hypercorn's `TCPServer` and `H11Protocol`;
neither is documented for that, which is why the version is pinned.  Connections come from `door`, which also ends those
that wait too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ASGIFramework, ConnectionState, H11SendableEvent, LifespanState
from hypercorn.utils import parse_socket_addr

from livenessprobe.web.accept import READ_BYTES, Door, accepting, unread
from livenessprobe.web.limits import Connections, Limits
from livenessprobe.web.responses import REASONS, refusal

Address = tuple[str, int] | None
LATE_SECONDS = 0.5
"""By which a request may be taken up after the order to stop."""
AHEAD_BYTES = 16_384
"""What a client may send ahead of an answer; the rest stays with the kernel, and so does the news that it has hung up."""


class _HTTP1Only(H11Protocol):
    """
    Hypercorn's protocol, one request at a time, as Go's net/http has it.

    What follows a request is not looked at before its answer is out, so it can neither overtake that nor keep it waiting;
    meanwhile reading goes on, or nobody would notice a client that hangs up.  Bodies are passed over: no handler reads one.
    """

    def __init__(self, connection: _Connection, group: TaskGroup, client: Address, server: Address) -> None:
        super().__init__(
            connection.app,
            connection.config,
            connection.context,
            group,
            ConnectionState(connection.state),
            ssl=False,
            client=client,
            server=server,
            send=connection.protocol_send,
        )
        self._connections = connection.connections
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self._connections.limits().header_bytes)
        self._version = b"1.1"
        self._answer = b""
        """What of an answer there is so far."""
        self._ahead = b""
        """What has come behind the request that is being answered."""
        self._looked_at = asyncio.Event()
        """Whether it has been taken from there."""

    async def handle(self, event: Event) -> None:
        """Hypercorn's way from the client to a handler."""
        if isinstance(event, Closed):
            self.end()
            await self._close_stream()
        elif isinstance(event, RawData) and not self._over():
            if self._occupied():
                self._ahead += event.data
                if len(self._ahead) > AHEAD_BYTES:
                    self._looked_at.clear()
                    await self._looked_at.wait()
            else:
                self.connection.receive_data(event.data)
                await self._handle_events()

    def _over(self) -> bool:
        return self.connection is _NOTHING_MORE

    def end(self) -> None:
        """Look at nothing any more, and send nothing."""
        self.connection = _NOTHING_MORE
        self._look_at_the_rest()

    def _look_at_the_rest(self) -> bytes:
        rest, self._ahead = self._ahead, b""
        self._looked_at.set()
        return rest

    def _occupied(self) -> bool:
        """Whether what comes now is none of the request's that is being answered."""
        return self.stream is not None and self.connection.their_state is not h11.SEND_BODY

    async def _handle_events(self) -> None:
        while not self._occupied():
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self.stream is None:
                    await self._refuse(error.error_status_hint)
                return  # a body that is none is no reason to withhold the answer
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                await self._create_stream(event)
            elif not isinstance(event, (h11.Data, h11.EndOfMessage)):
                return

    async def _create_stream(self, request: h11.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        if request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(400 if request.method == b"PRI" else 505)
            return
        size = len(request.method) + len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self._connections.limits().header_bytes:  # h11 looks only at what is incomplete; this came in one piece
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
        # Hypercorn's own way would take an upgrade for WebSocket, and `head` for HEAD.
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            ssl=False,
            client=self.client,
            server=self.server,
            send=self.stream_send,
            stream_id=STREAM_ID,
        )
        asked = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode(),
            raw_path=request.target,
            state=self.connection_state,
        )
        await self.stream.handle(asked)
        await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def _refuse(self, status_code: int, why: bytes = b"") -> None:
        """Before any handler is asked."""
        await self.send(RawData(data=refusal(status_code, why)))
        await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        """Hypercorn's way from a handler to the client: an answer with its status line as Go writes it."""
        if not isinstance(event, Response):
            await super().stream_send(event)
            return
        headers = [*event.headers, *self.config.response_headers("h11")]
        # There is a body that nobody is going to read, or there are others who have not even been let in.
        if self.connection.their_state in (h11.SEND_BODY, h11.ERROR) or self._connections.full:
            headers.append((b"connection", b"close"))
        reason = REASONS.get(event.status_code, b"")
        await self._send_h11_event(h11.Response(status_code=event.status_code, headers=headers, reason=reason))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if self._over():
            return
        if self.connection.our_state is h11.SWITCHED_PROTOCOL:  # by CONNECT, which Go answers as any other method
            data = bytes(event.data) if isinstance(event, h11.Data) else b""
        else:
            data = self.connection.send(event) or b""
        if self._version == b"1.0" and isinstance(event, h11.Response):
            data = data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        self._answer += data
        if isinstance(event, h11.EndOfMessage):  # in one piece, which costs both sides less
            whole, self._answer = self._answer, b""
            await self.send(RawData(data=whole))

    async def _maybe_recycle(self) -> None:
        stream, self.stream = self.stream, None
        try:
            await self._go_on()
        finally:  # last, since Quart then cancels whoever is still at it
            if stream is not None:
                await stream.handle(StreamClosed(stream_id=STREAM_ID))

    async def _go_on(self) -> None:
        """After an answer: to the next request, or to the end."""
        if self._over():
            return
        states = (self.connection.our_state, self.connection.their_state)
        if self.context.terminated.is_set() or states != (h11.DONE, h11.DONE):
            await self.send(Closed())
            return
        self.connection.start_next_cycle()
        await self.send(Updated(idle=True))
        if rest := self._look_at_the_rest():
            self.connection.receive_data(rest)
        await self._handle_events()


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
        self.connections = server.connections
        self._transport = transport
        transport.set_write_buffer_limits(0)  # an answer that nobody reads is enough to wait for its reader
        self._head = head
        self._http: _HTTP1Only | None = None
        self._slow = False

    async def run(self) -> None:
        """Answer its requests, until one of both sides ends it."""
        told = self._transport.get_extra_info
        found = told("socket")
        try:
            client = parse_socket_addr(found.family, found.getpeername())  # who has reset it already is told by this
            server = parse_socket_addr(found.family, told("sockname"))
            async with TaskGroup(self.loop) as group:
                self._http = http = _HTTP1Only(self, group, client, server)
                self.protocol = http  # type: ignore[assignment]  # where Hypercorn has a wrapper, with a way to HTTP/2
                await http.handle(RawData(self._head))
                await self._read_data()
        except OSError:
            pass  # gone
        finally:
            self.abort()  # all is sent, or nobody waits for it
            with contextlib.suppress(OSError, RuntimeError):
                await self.writer.wait_closed()
            self.connections.gone(self)

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol wants: write, close, or wait for a request in no task of its own."""
        match event:
            case RawData() if self._transport.is_closing():
                self._end()  # nobody is there
            case RawData():
                await self._write(event.data)
            case Updated(idle=True):
                self.connections.answered(self)
            case Updated():
                self.connections.asked(self)
            case Closed():
                self._end()
                self.writer.close()

    def _end(self) -> None:
        if self._http is not None:
            self._http.end()

    async def _write(self, data: bytes) -> None:
        self.writer.write(data)
        if not self._transport.get_write_buffer_size():
            return
        try:
            with self._client_is_slow():
                await self.writer.drain()
        except asyncio.CancelledError:  # its client has left, by half
            self.abort()
            raise
        except (ConnectionError, RuntimeError):
            await self.protocol.handle(Closed())

    @contextlib.contextmanager
    def _client_is_slow(self) -> Iterator[None]:
        """While it takes its time to read an answer it is among those that have asked nothing: bounded in number and time."""
        self._slow = True
        self.connections.answered(self)
        try:
            yield
        finally:
            self._slow = False
            self.connections.asked(self)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def has_sent(self) -> bool:
        """Whether there is a request that is about to be asked, or something that nobody has looked at yet."""
        if self._slow:
            return False
        if self._http is None or self._http.connection.their_state in (h11.SEND_BODY, h11.DONE):
            return True
        if self.reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001  nothing public tells without taking it out
            return True
        return unread(self._transport)


class _Server:
    """The connections of one listener, and what they share."""

    def __init__(self, app: ASGIFramework, connections: Connections) -> None:
        self.connections = connections
        self.app = ASGIWrapper(app)
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.include_server_header = False
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
        # What has come at this very moment is taken up a little later, and has its whole time too.
        deadline = asyncio.get_running_loop().time() + seconds + LATE_SECONDS
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()


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
    with listener:
        async with accepting(listener, connections, server.let_in):
            await stopping()
    await server.finish(grace())
