"""Limits of one listener: how many connections it holds, for how long, which it closes to make room, and the size of headers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from livenessprobe.metrics import Metrics

YOUNG_SECONDS = 0.03
"""
A connection without a byte from its client is not closed to make room within this time: the request may be on its way.

Other connections can be closed at once: who opens a hundred at a time and completes no request must not hold up the next
client for as long.
"""
CLOSE_AGAIN_SECONDS = 0.1
"""Least time between two looks for connections that have been idle too long."""
STOP_SECONDS = 0.02
"""Time between two looks for connections that can be closed, while the listener stops."""


class Limits(NamedTuple):
    """What the clients of one listener may take together, and each of them."""

    connections: int
    """Open connections, whatever their state."""
    header_bytes: int
    """Bytes of a request line and its headers together."""
    idle_seconds: float
    """How long a connection may be open without a complete request, or take to read a response."""


class Connection(Protocol):
    """What the bound needs to know of a connection, and may do to it."""

    def abort(self) -> None:
        """Close at once; an orderly close could wait for ever for a client that does not read."""

    def was_read(self) -> bool:
        """Whether bytes of the client were read."""

    def has_unread(self) -> bool:
        """Whether the client has sent bytes that were not read yet: they may be a complete request."""

    def has_unsent(self) -> bool:
        """Whether the client has not read all of a response yet."""


class Connections:
    """
    All connections of one listener.

    A connection is waiting while it has no complete request, or while its client is slow to read a response; else it is
    being served.  To make room the longest waiting connection without unread bytes is closed.  A connection that is being
    served is never closed.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._waiting: dict[Connection, float] = {}
        """With the loop's time since when; the longest waiting first."""
        self._served: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.full = False
        """Whether a client waits for a place, while requests in progress take them all."""

    def room(self, coming: int, wanted: int) -> int:
        """How many of `wanted` more connections can be held beside those open and the `coming`, others being closed if need be."""
        free = self.limits.connections - len(self._waiting) - len(self._served) - coming
        lacking = wanted - free
        return wanted if lacking <= 0 else max(0, free + len(list(islice(self._closable(), lacking))))

    def _closable(self) -> Iterator[Connection]:
        old = asyncio.get_running_loop().time() - YOUNG_SECONDS
        return (
            connection
            for connection, since in self._waiting.items()
            if (since <= old or connection.was_read()) and not connection.has_unread()
        )

    def opened(self, connection: Connection) -> None:
        """Add `connection`; above the bound the longest waiting is closed."""
        if len(self._waiting) + len(self._served) >= self.limits.connections:
            self._make_room(connection)
        self.waits(connection)

    def _make_room(self, newest: Connection) -> None:
        victim = next(self._closable(), None)
        if victim is None:
            if sys.platform != "win32":
                return  # it was accepted when there was room; accepting pauses until there is room again
            victim = newest
        self._waiting.pop(victim, None)
        self._metrics.connections_closed.inc()
        victim.abort()

    def waits(self, connection: Connection) -> None:
        """The connection has no complete request from now on, or its client is slow to read the response."""
        self._served.discard(connection)
        loop = asyncio.get_running_loop()
        self._waiting[connection] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.limits.idle_seconds, self._close_idle)

    def is_served(self, connection: Connection) -> None:
        """The connection has a complete request from now on."""
        if self._waiting.pop(connection, None) is not None:
            self._served.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget `connection`."""
        self._waiting.pop(connection, None)
        self._served.discard(connection)

    async def finish(self, seconds: float) -> None:
        """Close every connection: at once those without a request, the others after their response or after `seconds`."""
        if self._timer is not None:
            self._timer.cancel()
        deadline = asyncio.get_running_loop().time() + seconds
        pause = 0.0
        while self._are_open() and asyncio.get_running_loop().time() < deadline:
            for connection in [each for each in self._closable() if not each.has_unsent()]:
                connection.abort()
            await asyncio.sleep(pause)
            pause = STOP_SECONDS
        for connection in [*self._waiting, *self._served]:
            connection.abort()

    def _are_open(self) -> bool:
        return bool(self._waiting or self._served)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        idle_since = loop.time() - self.limits.idle_seconds
        for connection in [each for each in self._closable() if self._waiting[each] <= idle_since]:
            del self._waiting[connection]
            connection.abort()
        self._timer = None
        if self._waiting:
            due = next(iter(self._waiting.values())) + self.limits.idle_seconds
            self._timer = loop.call_at(max(due, loop.time() + CLOSE_AGAIN_SECONDS), self._close_idle)
