"""
Where connections wait for their first request, all of them bounded in number, size and time.

A connection that has not sent a complete request costs a few kilobytes here and no task.  What can be no request is
refused at the door, in the words of Go's net/http; everything else is let in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable

from livenessprobe.klog.log import get_logger
from livenessprobe.web.limits import TRY_AGAIN_SECONDS, Connections
from livenessprobe.web.responses import refusal

log = get_logger(__file__)
ACCEPT_AT_A_TIME = 16
"""At most, so that those that are there get their turn; the kernel holds the others."""
LOOK_SECONDS = 0.02
"""Between looks whether there is room again."""

READ_BYTES = 2048
"""
At a time, into a buffer that each connection keeps.

Without one asyncio takes 256 KiB from malloc for each read and gives most of it back, which leaves holes: under attack the
process grew by 7.5 MiB instead of 3.3.
"""

_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+ [\x21-\x7e]+ HTTP/[0-9]\.[0-9]\r?\n")
_HEAD_END = re.compile(rb"\n\r?\n")


class Door(asyncio.BufferedProtocol):
    """One connection until the head of its first request is complete."""

    def __init__(self, connections: Connections, let_in: Callable[[asyncio.Transport, Door, bytes], None]) -> None:
        self._connections = connections
        self._let_in = let_in
        self._transport: asyncio.Transport
        self._buffer = bytearray(READ_BYTES)
        self._head = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.opened(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  asyncio's signature
        """Where to put what it sends."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Let it in, refuse it, or wait for more."""
        if self._transport.is_closing():
            return
        searched = max(0, len(self._head) - 3)
        self._head += self._buffer[:nbytes]
        head = self._head
        if head[0] < 0x21 or (b"\n" in head and not _REQUEST_LINE.match(head)):
            self._refuse(400)
        elif _HEAD_END.search(head, searched):
            self._let_in(self._transport, self, bytes(head))
        elif len(head) > self._connections.limits().header_bytes:
            self._refuse(431)

    def _refuse(self, status: int) -> None:
        self._transport.write(refusal(status))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """It is closed."""
        self._connections.gone(self)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def has_sent(self) -> bool:
        """Whether it has sent something that nobody has looked at yet."""
        return unread(self._transport)


def unread(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel holds something that the client of `transport` has sent."""
    found: socket.socket = transport.get_extra_info("socket")
    try:
        if sys.platform == "win32":
            return bool(select.select([found], [], [], 0)[0])
        poll = select.poll()  # select itself knows descriptors up to 1023 only
        poll.register(found, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return False  # closed


@contextlib.asynccontextmanager
async def accepting(
    listener: socket.socket, connections: Connections, let_in: Callable[[asyncio.Transport, Door, bytes], None]
) -> AsyncIterator[None]:
    """Bring the clients of `listener` to a door of their own while there is room."""

    def door() -> Door:
        return Door(connections, let_in)

    if sys.platform == "win32":  # there all are accepted; whoever is one too many is closed by and by
        server = await asyncio.get_running_loop().create_server(door, sock=listener, backlog=socket.SOMAXCONN)
        try:
            yield
        finally:
            server.close()
    else:
        entrance = Entrance(listener, connections, door)
        try:
            yield
        finally:
            await entrance.close()


class Entrance:
    """
    Accepts clients, as asyncio's servers do, and stops while there is no room: the kernel holds the others.

    asyncio's own can only stop for good, and drops those whom it has accepted just before.
    """

    def __init__(self, listener: socket.socket, connections: Connections, door: Callable[[], Door]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._connections = connections
        self._door = door
        self._coming: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._open()

    def _open(self) -> None:
        if self._connections.room():
            self._loop.add_reader(self._listener, self._accept)
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._open)

    def _shut(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._open)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_A_TIME):
            if self._connections.room() <= len(self._coming):
                self._shut(LOOK_SECONDS)
                return
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory for it; the client stays with the kernel
                log.error("Cannot accept a connection; trying again", err=str(error))
                self._shut(TRY_AGAIN_SECONDS)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._door, client), name="accept")
            self._coming.add(task)
            task.add_done_callback(self._came)

    def _came(self, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Cannot take up a connection", err=str(error))

    async def close(self) -> None:
        """Accept nobody any more; who has been accepted is still brought in."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        if self._coming:
            await asyncio.wait(self._coming)
