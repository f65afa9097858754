"""
One HTTP/1 connection as Go's net/http serves it: h11 parses, Hypercorn's HTTPStream runs each request in the application.

Requests are served one at a time.  Bytes behind a request are not parsed before its response is out, so they can neither
overtake it nor hold it up.  Request bodies are skipped: no handler reads one.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple

import h11
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream

from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.web import heads
from livenessprobe.web.hang_ups import HangUps, pending
from livenessprobe.web.heads import Refusal
from livenessprobe.web.health import HANG_UP
from livenessprobe.web.limits import Connections
from livenessprobe.web.responses import REASONS, refusal

log = get_logger(__file__)

READ_BYTES = 2048
"""
Size of a connection's read buffer.

Without a buffer of ours asyncio takes 256 KiB from malloc for each read and gives most of it back, which leaves holes: under
attack the process grew by 7.5 MiB instead of 3.3.
"""
AHEAD_BYTES = 16_384
"""Bytes that a client may send ahead of a response; the rest stays with the kernel, and so does the news of a hang-up."""
NEXT_BYTES = 4
"""
Bytes from which on a further request is looked at, as in Go: some clients send an empty line behind a request, which is no
second request to be refused.
"""
REFUSES_CONNECT = 300
"""The status from which on a response has refused a CONNECT (RFC 9110, 9.3.6)."""
STREAM_ID = 1
"""Hypercorn numbers requests for HTTP/2; HTTP/1 has one at a time."""

_HEAD_END = re.compile(rb"\n\r?\n")


class Listener(NamedTuple):
    """What the connections of one listener share."""

    app: ASGIWrapper
    config: Config
    context: WorkerContext
    group: TaskGroup
    """Parent of the tasks of all requests."""
    connections: Connections
    metrics: Metrics


class HTTP1(asyncio.BufferedProtocol):
    """
    One connection.

    It is idle until the head of a request is complete; then a stream runs the request until its response is written; then it
    is idle again, or closing.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._connections = listener.connections
        self._transport: asyncio.Transport
        self._hang_ups: HangUps
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._buffer = bytearray(READ_BYTES)
        self._received = bytearray()
        """Bytes that were not parsed yet."""
        self._parser = h11.Connection(h11.SERVER)
        """Of the request in progress: each request has its own, so bytes behind a request stay out of it."""
        self._stream: HTTPStream | None = None
        """Runs the request in progress."""
        self._request: h11.Request | None = None
        """The request in progress, or the last one."""
        self._response = b""
        """What of the response is there so far; it is written in one piece, which costs both sides less."""
        self._status = 0
        self._writable: asyncio.Future[None] | None = None
        """Set while the client is slow to read a response."""

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the place of the connection among those of its listener."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._hang_ups = HangUps(transport)
        transport.set_write_buffer_limits(0)  # so that any response that the client does not read is noticed
        self._client, self._server = _endpoint(transport, "peername"), _endpoint(transport, "sockname")
        self._connections.opened(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  asyncio's signature
        """The buffer that asyncio reads into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what asyncio has read into the buffer."""
        if self._transport.is_closing():
            return
        self._received += self._buffer[:nbytes]
        if self._stream is None:
            self._next_request()
        else:
            self._skip_body()
            if len(self._received) > AHEAD_BYTES:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has closed its side: respond to its requests.  False closes the connection."""
        self._hang_ups.closed_its_side()
        if self._stream is None:
            self._next_request()
        return self._stream is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client is gone."""
        self._hang_ups.lost(exc)
        self._connections.closed(self)
        self.resume_writing()
        if self._stream is not None:
            self._listener.group.spawn(self._stream.handle, StreamClosed(stream_id=STREAM_ID))

    def pause_writing(self) -> None:
        """The client has not read all of the response yet."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The client has read the response, or will never read it."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # --- for the bound on connections

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def has_unsent(self) -> bool:
        """Whether the client has not read all of a response yet."""
        return self._transport.get_write_buffer_size() > 0

    def was_read(self) -> bool:
        """Whether bytes of the client were read."""
        return self._request is not None or bool(self._received)

    def has_unread(self) -> bool:
        """Whether the kernel holds bytes of the client that may complete a request."""
        if self._transport.is_closing() or self._writable is not None or self._hang_ups.fin is not None:
            return False
        return bool(pending(self._transport))

    # --- from bytes to a request

    def _next_request(self) -> None:
        """Start the next request if its head is complete, or refuse it."""
        received, header_bytes = self._received, self._connections.limits.header_bytes
        if not received or (self._request is not None and len(received) < NEXT_BYTES):
            return
        if received[0] < 0x21 or (b"\n" in received and not heads.line_is_valid(received)):
            self._refuse(Refusal(400))
            return
        end = _HEAD_END.search(received)
        if end is None:
            if len(received) > header_bytes:
                self._refuse(Refusal(431))
            elif self._hang_ups.fin is not None:
                self._refuse(Refusal(400))  # it will never be complete
            return
        head = bytes(received[: end.end()])
        del received[: end.end()]
        refused = Refusal(431) if len(head) > header_bytes else heads.fault(head)
        if refused is not None:
            self._refuse(refused)
            return
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes)
        self._parser.receive_data(heads.escaped(head))
        try:
            request = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            self._refuse(Refusal(error.error_status_hint))
            return
        assert isinstance(request, h11.Request)
        self._start(request)

    def _start(self, request: h11.Request) -> None:
        self._connections.is_served(self)
        self._request = request
        target = heads.origin_form(request.method, request.target)
        assert target is not None
        shared = self._listener
        self._stream = HTTPStream(
            shared.app,
            shared.config,
            shared.context,
            shared.group,
            ssl=False,
            client=self._client,
            server=self._server,
            send=self._send,
            stream_id=STREAM_ID,
        )
        # Hypercorn's own HTTP/1 would take an upgrade for WebSocket, and `head` for HEAD.
        asked = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode(),
            raw_path=target,
            state={HANG_UP: self._hang_ups.begin(request.headers)},  # type: ignore[arg-type]  # meant for a lifespan
        )
        shared.group.spawn(_run, self._stream, asked)
        self._skip_body()

    def _skip_body(self) -> None:
        """Parse the body of the request in progress; bytes behind it stay unparsed."""
        parser = self._parser
        if parser.their_state is not h11.SEND_BODY:
            return
        try:
            if self._received:
                parser.receive_data(bytes(self._received))
                self._received.clear()
            while type(parser.next_event()) is h11.Data:
                pass
        except h11.RemoteProtocolError:
            return  # the response does not depend on the body
        if parser.their_state is not h11.SEND_BODY:
            self._received[:0] = parser.trailing_data[0]

    def _refuse(self, refused: Refusal) -> None:
        """Answer a request that no handler sees, and close."""
        self._listener.metrics.responded(refused.status)
        self._transport.write(refusal(refused.status, refused.why))
        self._transport.close()

    # --- from the application to bytes

    async def _send(self, event: object) -> None:
        """Take one event of Hypercorn's stream; whatever is wrong with the response ends this connection alone."""
        try:
            await self._respond(event)
        except h11.LocalProtocolError as error:
            log.error("Response cannot be sent", err=repr(error))
            self._transport.abort()

    async def _respond(self, event: object) -> None:
        match event:
            case StreamClosed():
                await self._end()
            case _ if self._transport.is_closing():
                pass
            case Response():
                self._status = event.status_code
                self._response = self._head(event)
            case Body():
                self._response += self._encode(h11.Data(data=event.data))
            case EndBody():
                self._response += self._encode(h11.EndOfMessage())
                await self._write()

    def _head(self, response: Response) -> bytes:
        """The status line and the headers as Go writes them."""
        assert self._request is not None
        headers = [*response.headers, (b"date", _date())]
        # Close behind a body that was not read to its end, or if another client waits for a place.
        refused_connect = self._request.method == b"CONNECT" and response.status_code >= REFUSES_CONNECT
        if self._parser.their_state in (h11.SEND_BODY, h11.ERROR) or self._connections.full or refused_connect:
            headers.append((b"connection", b"close"))
        reason = REASONS.get(response.status_code, b"")
        head = self._encode(h11.Response(status_code=response.status_code, headers=headers, reason=reason))
        if self._request.method == b"HEAD":
            head = head.replace(b"Transfer-Encoding: chunked\r\n", b"")
        if self._request.http_version == b"1.0":
            head = head.replace(b"HTTP/1.1", b"HTTP/1.0", 1).replace(b"Connection: close\r\n", b"")
        return head

    def _encode(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> bytes:
        if self._parser.our_state is h11.SWITCHED_PROTOCOL:  # by CONNECT, which Go answers as any other method
            return bytes(event.data) if isinstance(event, h11.Data) else b""
        return self._parser.send(event) or b""

    async def _write(self) -> None:
        """Write the response, and wait until the client has read it."""
        response, self._response = self._response, b""
        self._listener.metrics.responded(self._status)
        self._transport.write(response)
        self._hang_ups.answered()
        if self._writable is not None:
            self._connections.waits(self)
            await self._writable
            self._connections.is_served(self)

    async def _end(self) -> None:
        """After a response: to the next request, or to the end of the connection."""
        stream, self._stream = self._stream, None
        if not self._transport.is_closing():
            self._connections.waits(self)
            may_go_on = not self._listener.context.terminated.is_set() and self._parser.states == _BOTH_DONE
            may_go_on = may_go_on and not self._hang_ups.is_broken()
            if may_go_on:
                self._transport.resume_reading()
                self._next_request()
                may_go_on = self._hang_ups.fin is None
            if self._stream is None and not may_go_on:
                self._hang_ups.close()
        if stream is not None:  # last, since Quart then cancels what is still running for the request
            await stream.handle(StreamClosed(stream_id=STREAM_ID))


_BOTH_DONE = {h11.SERVER: h11.DONE, h11.CLIENT: h11.DONE}


async def _run(stream: HTTPStream, asked: Request) -> None:
    await stream.handle(asked)
    await stream.handle(EndBody(stream_id=STREAM_ID))


def _endpoint(transport: asyncio.Transport, name: str) -> tuple[str, int] | None:
    """An address of the connection as ASGI has it; None for a unix socket."""
    address: Any = transport.get_extra_info(name)
    return (address[0], address[1]) if isinstance(address, tuple) else None


def _date() -> bytes:
    """The value of the Date header (RFC 9110, 5.6.7).  The process keeps the C locale, so the names are English."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
