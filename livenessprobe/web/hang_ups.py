"""
Tells which clients hung up before their response.

A reset is a hang-up.  A client that closes its side of the connection (FIN) may still read, as some load balancers do, so its
request goes on.  Most have hung up nevertheless.  The system tells so at once on a unix socket; over TCP only after the
response, which a closed client answers with a reset.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Sequence

from livenessprobe.probing.askers import KUBELET

RESET_SECONDS = 0.1
"""How long after a response a reset may take to arrive."""
_KUBELET = KUBELET.encode()
"""A kubelet closes its connection only as a whole."""


class HangUps:
    """The hang-ups on one connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.fin: float | None = None
        """When the client closed its side; the loop's time."""
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        """Of the last request."""
        self._suspected: list[asyncio.Future[float]] = []
        """A future for each request without a response; after a FIN also for requests that have had a response."""

    def begin(self, headers: Sequence[tuple[bytes, bytes]]) -> asyncio.Future[float]:
        """A request begins, with `headers` in lower case.  The result gets the time of a hang-up, if there is one."""
        self._headers = headers
        hang_up: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._suspected.append(hang_up)
        if self.fin is not None:
            self._look()
        return hang_up

    def closed_its_side(self) -> None:
        """The client has sent a FIN."""
        self.fin = asyncio.get_running_loop().time()
        if self._suspected:
            self._look()

    def answered(self) -> None:
        """The response to the last request is written."""
        if self.fin is None:
            self._suspected.clear()

    def lost(self, error: Exception | None) -> None:
        """The connection is gone, by an `error` or by us."""
        if self._suspected and (error is not None or pending(self._transport) & _ERROR):
            self._hung_up()

    def close(self) -> None:
        """Close the connection after a response: where there may have been a hang-up, once a reset had the time to arrive."""
        if not self._suspected:
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # a reset has arrived already
            self._transport.abort()
        else:
            asyncio.get_running_loop().call_later(RESET_SECONDS, self._transport.close)

    def is_broken(self) -> bool:
        """Whether the client, which has closed its side, does not read either."""
        return self.fin is not None and bool(pending(self._transport) & (_ERROR | _CLOSED))

    def _look(self) -> None:
        agents = (value for name, value in self._headers if name == b"user-agent")
        if any(agent.startswith(_KUBELET) for agent in agents) or self.is_broken():
            self._hung_up()

    def _hung_up(self) -> None:
        at = asyncio.get_running_loop().time() if self.fin is None else self.fin
        for each in self._suspected:
            each.set_result(at)
        self._suspected.clear()


if sys.platform == "win32":
    _ERROR = _CLOSED = 2

    def pending(transport: asyncio.Transport) -> int:
        """1 if there are bytes to read; a hang-up after a FIN shows only by a write that fails."""
        try:
            return len(select.select([transport.get_extra_info("socket")], [], [], 0)[0])
        except (OSError, ValueError):
            return 0  # closed

else:
    _ERROR, _CLOSED = select.POLLERR, select.POLLHUP

    def pending(transport: asyncio.Transport) -> int:
        """The events of poll(2): whether there are bytes to read, or the client does not read."""
        poll = select.poll()  # select.select knows descriptors up to 1023 only
        try:
            poll.register(transport.get_extra_info("socket"), select.POLLIN)
            return sum(events for _, events in poll.poll(0))
        except (OSError, ValueError):
            return 0  # closed
