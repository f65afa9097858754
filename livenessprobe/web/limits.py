"""How many connections a listener holds, for how long, and which of them are closed to make room for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

YOUNG_SECONDS = 1.0
"""For which a client may take to send its request, however many others there are, up to a crowd."""
TRY_AGAIN_SECONDS = 0.1
"""After which what could not be done yet is tried again."""


class Limits(NamedTuple):
    """What a client may take."""

    connections: int
    """Open without a complete request, beyond YOUNG_SECONDS of age; what is being answered does not count."""
    crowd: int
    """Open without a complete request, of whatever age."""
    everyone: int
    """Open at all; the kernel holds whoever comes then, until a quarter of them has gone."""
    header_bytes: int
    """Of a request's line and headers together."""
    idle_seconds: float
    """How long a connection may be open without a complete request, or take to read an answer."""


class Guest(Protocol):
    """A connection."""

    def abort(self) -> None:
        """Close at once, whatever is unsent: a client that does not read would keep an orderly close waiting for ever."""

    def has_sent(self) -> bool:
        """Whether there is a request that is about to be asked, or something that nobody has looked at yet."""


class Connections:
    """All that are open on one listener, those longest without a complete request first."""

    def __init__(self, limits: Callable[[], Limits], closed: Callable[[], object]) -> None:
        self.limits = limits
        self._closed = closed
        self._waiting: dict[Guest, float] = {}
        """Without a complete request, and since when by the loop's time; the longest first."""
        self._answering: set[Guest] = set()
        self.full = False
        """Whether there are as many as there may be at all; until a quarter of them has gone."""
        self._trying_again = False
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, guest: Guest) -> None:
        """Make room for `guest`: what was asked completely keeps its answer, so only others are closed."""
        self._make_room(1)
        self._wait(guest)

    def room(self) -> int:
        """How many more may come; while it is full, whether it still is may be asked at any time."""
        if self.full:
            self._make_room(0)  # limits may have become less
        everyone = self.limits().everyone
        number = len(self._waiting) + len(self._answering)
        self.full = number >= (everyone * 3 // 4 + 1 if self.full else everyone)
        return 0 if self.full else everyone - number

    def _wait(self, guest: Guest) -> None:
        loop = asyncio.get_running_loop()
        self._waiting[guest] = now = loop.time()
        ends = now + self.limits().idle_seconds
        if self._timer is not None and self._timer.when() > ends:  # the limit has become less
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(ends, self._close_idle)

    def _close_idle(self) -> None:
        loop, limits = asyncio.get_running_loop(), self.limits()
        long_ago = loop.time() - limits.idle_seconds
        for guest in [guest for guest, since in self._waiting.items() if since <= long_ago and not guest.has_sent()]:
            del self._waiting[guest]
            guest.abort()
        self._timer = None
        if self._waiting:
            next_one = next(iter(self._waiting.values())) + limits.idle_seconds
            self._timer = loop.call_at(max(next_one, loop.time() + TRY_AGAIN_SECONDS), self._close_idle)

    def _make_room(self, needed: int) -> None:
        limits, now = self.limits(), asyncio.get_running_loop().time()
        excess = len(self._waiting) + needed - limits.connections
        if excess <= 0:
            return
        crowded = len(self._waiting) + needed - limits.crowd
        # Of many that come at once some have not sent their request yet, or it has not been read yet.
        victims: list[Guest] = []
        for number, (guest, since) in enumerate(self._waiting.items()):
            if len(victims) == excess or (now - since < YOUNG_SECONDS and number >= crowded):
                break
            if not guest.has_sent():
                victims.append(guest)
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

    def asked(self, guest: Guest) -> None:
        """It has sent a complete request."""
        if self._waiting.pop(guest, None) is not None:
            self._answering.add(guest)

    def answered(self, guest: Guest) -> None:
        """It has its answer, and may send another request."""
        if guest in self._answering:
            self._answering.remove(guest)
            self._wait(guest)

    def gone(self, guest: Guest) -> None:
        """It is closed."""
        self._waiting.pop(guest, None)
        self._answering.discard(guest)

    def replaced(self, guest: Guest, by: Guest) -> None:
        """`guest` was let in, and is `by` from now on: a connection that waits as before."""
        if (since := self._waiting.pop(guest, None)) is not None:
            self._waiting[by] = since

    def close(self) -> None:
        """Close all that have asked for nothing, for there will be no more answers but to what was asked."""
        if self._timer is not None:
            self._timer.cancel()
        for guest in [guest for guest in self._waiting if not guest.has_sent()]:
            del self._waiting[guest]
            guest.abort()
