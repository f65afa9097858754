"""Accepts the connections of one listener, and pauses while there is no room for more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable

from livenessprobe.klog.log import get_logger
from livenessprobe.web.limits import Connections

log = get_logger(__file__)

ACCEPT_AT_A_TIME = 16
"""Connections accepted in one step of the event loop, so that open connections get their turn; the kernel holds the others."""
PAUSE_SECONDS = 0.02
"""How long accepting pauses while requests take all places, before it looks again."""
RETRY_SECONDS = 0.1
"""How long accepting pauses after it has failed."""

NewConnection = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of an accepted connection."""


@contextlib.asynccontextmanager
async def accepting(listener: socket.socket, connections: Connections, new: NewConnection) -> AsyncIterator[None]:
    """Accept connections while the context is open; connections accepted by then are still set up before it closes."""
    if sys.platform == "win32":
        # Accepting cannot pause on Windows: connections beyond the bound are closed after they are accepted.
        server = await asyncio.get_running_loop().create_server(new, sock=listener, backlog=socket.SOMAXCONN)
        try:
            yield
        finally:
            server.close()
        return
    acceptor = _Acceptor(listener, connections, new)
    try:
        yield
    finally:
        await acceptor.close()


class _Acceptor:
    """
    Accepts as asyncio's servers do, and pauses while there is no room: the kernel holds the clients meanwhile.

    asyncio's own server cannot pause, and drops connections that it accepted just before it is closed.
    """

    def __init__(self, listener: socket.socket, connections: Connections, new: NewConnection) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._connections = connections
        self._new = new
        self._coming: set[asyncio.Task[object]] = set()
        """Accepted connections that asyncio is still setting up."""
        self._timer: asyncio.TimerHandle | None = None
        self._resume()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        room = self._connections.room(len(self._coming), ACCEPT_AT_A_TIME)
        # Connections that are being set up have their turn before the next call, and make room then.
        self._connections.full = not room and not self._coming
        if self._connections.full:
            self._pause(PAUSE_SECONDS)
        for _ in range(room):
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory for it; the client stays with the kernel
                log.error("Cannot accept a connection; trying again", err=str(error))
                self._pause(RETRY_SECONDS)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._new, client), name="accept")
            self._coming.add(task)
            task.add_done_callback(self._set_up)

    def _set_up(self, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Cannot set up a connection", err=str(error))

    async def close(self) -> None:
        """Accept no more; wait until accepted connections are set up."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        if self._coming:
            await asyncio.wait(self._coming)
