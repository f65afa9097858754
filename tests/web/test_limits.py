"""The bound on the connections of one listener: room for more, and which connection gives way."""

from __future__ import annotations

import asyncio

import pytest

from livenessprobe.metrics import Metrics
from livenessprobe.web.limits import Connections, Limits
from tests.virtual import virtual


class Client:
    """A connection that says whether bytes of its client were read, and whether there are more."""

    def __init__(self, *, read: bool = False, unread: bool = False) -> None:
        self.read = read
        self.unread = unread
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def was_read(self) -> bool:
        return self.read

    def has_unread(self) -> bool:
        return self.unread

    def has_unsent(self) -> bool:
        return False


def bounded(most: int) -> Connections:
    return Connections(Limits(most, 1000, 60.0), Metrics())


@pytest.mark.parametrize(
    ("waiting", "unread", "served", "coming", "room"),
    [
        (0, 0, 0, 0, 4),
        (3, 0, 0, 0, 4),
        (8, 0, 0, 0, 4),  # each newcomer replaces a waiting connection
        (0, 0, 8, 0, 0),  # requests in progress stay
        (0, 8, 0, 0, 0),  # unread bytes may be complete requests
        (0, 0, 6, 0, 2),
        (3, 0, 5, 0, 3),
        (1, 2, 5, 0, 1),
        (0, 0, 0, 6, 2),
        (2, 0, 0, 6, 2),
        (8, 0, 0, 6, 2),  # the 6 that are coming will replace 6 of the 8
        (0, 0, 0, 8, 0),
    ],
)
@virtual
async def test_room(waiting: int, unread: int, served: int, coming: int, room: int) -> None:
    connections = bounded(8)
    for each in [Client() for _ in range(waiting)] + [Client(unread=True) for _ in range(unread)]:
        connections.waits(each)
    for each in [Client() for _ in range(served)]:
        connections.waits(each)
        connections.is_served(each)
    await asyncio.sleep(1)
    assert connections.room(coming, 4) == room


@virtual
async def test_a_client_that_has_just_connected_may_send_its_request() -> None:
    connections = bounded(2)
    for each in (Client(), Client()):
        connections.opened(each)
    assert connections.room(0, 4) == 0
    await asyncio.sleep(1)
    assert connections.room(0, 4) == 2


@virtual
async def test_who_has_begun_a_request_gives_way_at_once() -> None:
    connections = bounded(2)
    silent, slow, new = Client(), Client(read=True), Client()
    connections.opened(silent)
    connections.opened(slow)
    assert connections.room(0, 4) == 1
    connections.opened(new)
    assert (silent.aborted, slow.aborted) == (False, True)


@virtual
async def test_the_longest_waiting_without_unread_bytes_gives_way() -> None:
    connections = bounded(4)
    served, unread, first, second, new = clients = [Client(), Client(unread=True), Client(), Client(), Client()]
    for each in (served, unread, first, second):
        connections.opened(each)
    connections.is_served(served)
    await asyncio.sleep(1)
    assert connections.room(0, 1) == 1
    connections.opened(new)
    assert [each.aborted for each in clients] == [False, False, True, False, False]


async def test_idle_connections_are_closed_after_their_time() -> None:
    connections = Connections(Limits(4, 1000, 0.0), Metrics())
    idle, served = Client(), Client()
    connections.opened(served)
    connections.is_served(served)
    connections.opened(idle)
    async with asyncio.timeout(5):
        while not idle.aborted:
            await asyncio.sleep(0)
    assert not served.aborted
