"""HTTP clients that ask for health: what is learnt of a kubelet's timeout, and what is counted and logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from livenessprobe.metrics import Metrics
from livenessprobe.probing.callers import CLIENTS_MAX, FORGET_SECONDS, Caller, Callers, Client, KubeletTimeouts
from livenessprobe.probing.standing import Standing

KUBELET = ("10.0.0.1", "kube-probe/1.33", "/healthz")
OTHER_PATH = ("10.0.0.1", "kube-probe/1.33", "/readyz")
OTHER_NODE = ("10.0.0.2", "kube-probe/1.33", "/healthz")
CURL = ("10.0.0.1", "curl/8.0", "/healthz")
NO_KUBELET = ("10.0.0.1", "not kube-probe/1.33", "/healthz")


def waits(*seen: tuple[Client, float, str]) -> KubeletTimeouts:
    """The estimates at time 0, after these clients waited these seconds, and then `left` or had their `response`."""
    timeouts = KubeletTimeouts()
    for client, seconds, end in seen:
        timeouts.saw(client, seconds, 0.0, hung_up=end == "left")
    return timeouts


@pytest.mark.parametrize(
    ("seen", "shortest"),
    [
        ([], 0.0),
        ([(KUBELET, 3.0, "response")], 0.0),
        ([(KUBELET, 3.0, "left")], 3.0),
        ([(KUBELET, 0.9, "left")], 0.9),  # a second, by a clock that is a little off
        # A kubelet that stops, or restarts, hangs up at any time.
        ([(KUBELET, 0.89, "left")], 0.0),
        ([(KUBELET, 1.5, "left"), (KUBELET, 3.0, "left")], 3.0),
        ([(KUBELET, 3.0, "left"), (KUBELET, 1.5, "left")], 3.0),
        # It has waited longer before or after that.
        ([(KUBELET, 3.0, "response"), (KUBELET, 1.5, "left")], 0.0),
        ([(KUBELET, 1.5, "left"), (KUBELET, 3.0, "response")], 0.0),
        ([(KUBELET, 3.0, "left"), (KUBELET, 0.01, "response"), (KUBELET, 2.0, "response")], 3.0),
        # Each client has a timeout of its own, and the shortest counts.
        ([(KUBELET, 3.0, "left"), (OTHER_PATH, 2.0, "left"), (OTHER_NODE, 5.0, "left")], 2.0),
        ([(KUBELET, 3.0, "left"), (OTHER_PATH, 9.0, "response")], 3.0),
        # Other clients hang up when they like.
        ([(CURL, 2.0, "left"), (NO_KUBELET, 2.0, "left")], 0.0),
    ],
)
def test_the_longest_wait_of_a_kubelet_that_ended_in_a_hang_up_is_its_timeout(
    seen: list[tuple[Client, float, str]], shortest: float
) -> None:
    assert waits(*seen).shortest(0.0) == shortest


def test_a_client_is_forgotten_that_does_not_wait_any_more() -> None:
    timeouts = waits((KUBELET, 3.0, "left"))
    timeouts.saw(OTHER_NODE, 5.0, 100.0, hung_up=True)
    timeouts.saw(KUBELET, 0.01, 200.0, hung_up=False)

    assert [timeouts.shortest(now) for now in (FORGET_SECONDS, FORGET_SECONDS + 0.1)] == [3.0, 5.0]
    assert timeouts.shortest(FORGET_SECONDS + 100.1) == 0.0
    timeouts.saw(KUBELET, 2.0, 2000.0, hung_up=True)
    assert timeouts.shortest(2000.0) == 2.0


def test_a_bounded_number_of_clients_is_remembered() -> None:
    """Every client chooses its own user agent."""
    timeouts = waits((KUBELET, 3.0, "left"))
    for number in range(1000):
        timeouts.saw(("10.0.0.9", f"kube-probe/{number}", "/healthz"), 4.0, number / 1000, hung_up=True)
        timeouts.saw(KUBELET, 3.0 - number / 1000, number / 1000, hung_up=True)

    assert len(timeouts._longest) == CLIENTS_MAX
    assert timeouts.shortest(1.0) == 3.0
    for number in range(CLIENTS_MAX):
        timeouts.saw(("10.0.0.8", f"kube-probe/{number}", "/healthz"), 4.0, 1.0, hung_up=True)
    assert timeouts.shortest(1.0) == 4.0


class Watched:
    """`Callers` with a clock that is set by hand, in front of a prober with a probe timeout of 5 s."""

    def __init__(self, logged: list[str]) -> None:
        self.now, self.records = 0.0, logged
        self.metrics = Metrics(0.0)
        self.done = asyncio.Event()
        prober = SimpleNamespace(check=self._answer, settings=SimpleNamespace(probe_timeout=5.0))
        self.callers = Callers(prober, self.metrics, lambda: self.now)  # type: ignore[arg-type]

    async def _answer(self) -> Standing:
        await self.done.wait()
        return Standing()

    async def ask(self, client: Client, seconds: float, *, hangs_up: bool, lasts: float = 0.0, told: bool = True) -> None:
        """A request that lasts for `seconds`, and `lasts` longer than its client; whether that is `told` at once, or later."""
        self.done.clear()
        hang_up: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        asking = asyncio.create_task(self.callers.check(Caller(client, hang_up)))
        await asyncio.sleep(0)
        self.now += seconds
        left = self.now
        if hangs_up and told:
            hang_up.set_result(left)
        self.now += lasts
        self.done.set()
        await asking
        if hangs_up and not told:
            hang_up.set_result(left)
        await asyncio.sleep(0)

    def seen(self) -> tuple[float, float, int]:
        """Clients that hung up, the shortest timeout of a kubelet, and the number of records."""
        text = self.metrics.expose().body.decode()
        value: Callable[[str], float] = lambda name: float(text.partition(f"\n{name} ")[2].partition("\n")[0])  # noqa: E731
        return (
            value("livenessprobe_callers_gone_total"),
            value("livenessprobe_kubelet_patience_seconds"),
            len(self.records),
        )


async def test_hang_ups_are_counted_and_one_record_names_both_timeouts(logged: list[str]) -> None:
    watched = Watched(logged)
    await watched.ask(KUBELET, 4.0, hangs_up=False)
    assert watched.seen() == (0, 0, 0)
    await watched.ask(CURL, 0.25, hangs_up=True)
    await watched.ask(KUBELET, 0.25, hangs_up=True)
    assert watched.seen() == (2, 0, 0)
    # The response was late, because the process did not run.
    await watched.ask(OTHER_NODE, 6.125, hangs_up=True)
    assert watched.seen() == (3, 0, 0)
    await watched.ask(OTHER_PATH, 1.25, hangs_up=True)
    assert watched.seen() == (4, 1.25, 1)
    await watched.ask(("10.0.0.3", *OTHER_NODE[1:]), 1.0, hangs_up=True)
    assert watched.seen() == (5, 1.0, 1)
    (record,) = logged
    assert 'waited="1.2s" probeTimeout="5s" advice="set timeoutSeconds of the liveness probe above' in record


@pytest.mark.parametrize("told", [True, False])
async def test_the_wait_of_a_client_that_hung_up_ends_at_the_hang_up(logged: list[str], told: bool) -> None:
    """Whether the client has hung up may be known only after the response."""
    watched = Watched(logged)
    await watched.ask(CURL, 1.25, hangs_up=True, lasts=3.0, told=told)
    assert watched.seen() == (1, 0, 0)
    await watched.ask(KUBELET, 1.25, hangs_up=True, lasts=3.0)
    assert watched.seen() == (2, 1.25, 1)


async def test_a_request_that_began_after_its_client_hung_up_waited_for_no_time(logged: list[str]) -> None:
    watched = Watched(logged)
    watched.now = 5.0
    hang_up: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    hang_up.set_result(3.0)
    watched.done.set()
    await watched.callers.check(Caller(KUBELET, hang_up))
    await asyncio.sleep(0)
    assert watched.seen() == (1, 0, 0)
