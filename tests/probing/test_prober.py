"""The prober in virtual time, with a double in place of gRPC: when it probes the driver, and the report of each request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from livenessprobe.driver.address import parse_csi_address
from livenessprobe.driver.connection import Dialer
from livenessprobe.driver.identity import Found, Identity, Question, Update
from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    DEADLINE,
    NO_TIME,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.klog import log as klog
from livenessprobe.klog.format import Options, render_text
from livenessprobe.metrics import Metrics
from livenessprobe.probing.prober import STOOD_STILL_SECONDS, Prober
from livenessprobe.probing.schedule import MARGIN
from livenessprobe.probing.standing import Standing
from livenessprobe.settings import command_line
from livenessprobe.settings.layers import overlay
from livenessprobe.settings.load import load
from livenessprobe.settings.model import Settings
from tests.virtual import live, loop

DAY = 86_400.0
REFUSED = unreachable(Reason.REFUSED, "nobody listens", timed_out=True)
BROKEN = rpc_error(Reason.DRIVER_ERROR, "Internal", "disk on fire")
FOREVER = math.inf


class Driver:
    """Stands for an `Identity`: a driver that responds after `seconds`, or times out at the probe's deadline."""

    def __init__(self, seconds: float = 0.0, result: ProbeResult = READY) -> None:
        self.dialer = SimpleNamespace(reuse=0.0)
        self.listens = True
        self.dials_hang = False
        self.seconds = seconds
        self.result = result
        self.script: Callable[[], tuple[float, ProbeResult]] = lambda: (self.seconds, self.result)
        self.socket = (1, 1, 1)
        self.questions: list[Question] = []
        self.began: list[float] = []
        self.ended: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.looks = 0

    @property
    def seconds_given(self) -> list[float]:
        return [question.deadline - began for question, began in zip(self.questions, self.began, strict=True)]

    def is_same_socket(self, found: Found) -> bool:
        self.looks += 1
        return not found.connected or found.socket == self.socket

    async def probe(self, question: Question, update: Update) -> Found:
        self.questions.append(question)
        self.began.append(loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            unreached = question.unreachable or unreachable(Reason.DEADLINE, "hung", timed_out=True)
            while not self.listens:
                unreached = unreached if self.dials_hang else REFUSED
                update(Found(unreached))
                if loop().time() >= min(question.redial_until, question.deadline):
                    return Found(unreached)
                await asyncio.sleep(0.125)
            connected = Found(CALL_TIMED_OUT, connected=True, socket=self.socket)
            update(connected)
            seconds, result = self.script()
            left = question.deadline - loop().time()
            await asyncio.sleep(min(seconds, left))
            return connected._replace(result=result) if seconds <= left else connected
        finally:
            self.in_flight -= 1
            self.ended.append(loop().time())


def make_settings(**values: str) -> Settings:
    given_flags = command_line.parse([f"--{key.replace('_', '-')}={value}" for key, value in values.items()]).values()
    return load(given_flags, {}, platform="linux", merger=overlay).settings


def make(driver: Driver, **values: str) -> Prober:
    return Prober(driver, make_settings(**values), Metrics(0.0))  # type: ignore[arg-type]


def metric(prober: Prober, series: str) -> float:
    lines = prober._metrics.expose().body.decode().splitlines()
    (value,) = (line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} "))
    return float(value)


@contextlib.asynccontextmanager
async def by_itself(prober: Prober) -> AsyncIterator[None]:
    """Runs the schedule of `prober`."""
    task = asyncio.create_task(prober.run())
    yield
    task.cancel()
    await asyncio.wait({task})


def at_once(answer: Coroutine[object, None, Standing]) -> Standing:
    """The standing that `answer` returns without waiting for anything."""
    with pytest.raises(StopIteration) as stopped:
        answer.send(None)
    standing = stopped.value.value
    assert isinstance(standing, Standing)
    return standing


async def timed(answer: Coroutine[object, None, Standing], later: float = 0.0) -> tuple[float, Reason | None]:
    """The seconds that `answer` takes when awaited after `later` seconds, and the reason of a failure, or None."""
    await asyncio.sleep(later)
    began = loop().time()
    standing = await answer
    assert standing.ready.report is not None
    return round(loop().time() - began, 6), standing.ready.report.reason


# --- probing on a schedule


@pytest.mark.parametrize(
    ("interval", "timeout"),
    [
        (10.0, 3.0),
        (10.0, 25.0),  # probes may outlast the interval; then up to two scheduled times are missed
        (60.0, 45.0),
    ],
)
def test_a_day_of_scheduled_probes_begins_each_at_its_time(interval: float, timeout: float) -> None:
    chance = random.Random(interval + timeout)
    lasts = [chance.uniform(0, 2 * interval) for _ in range(int(DAY / interval) + 2)]
    driver = Driver()
    remaining = iter(lasts)
    driver.script = lambda: (next(remaining), READY)

    async def day() -> tuple[float, Prober]:
        began, prober = loop().time(), make(driver, interval=f"{interval}s", probe_timeout=f"{timeout}s")
        async with by_itself(prober):
            await asyncio.sleep(DAY)
        return began, prober

    start, prober = live(day())
    began, ended = driver.began, driver.ended

    assert began[0] == start
    assert driver.most_in_flight == 1
    # The second probe tells the phase; from there on the expected times are exact numbers.
    assert began[1] - began[0] <= interval + min(lasts[0], timeout)
    step, grid, now = Fraction(interval), Fraction(began[1]), Fraction(began[1])
    expected = [start]
    for last in itertools.islice(lasts, 1, None):
        if now >= Fraction(start) + Fraction(DAY):
            break
        expected.append(float(now))
        now = grid + (int((now + Fraction(min(last, timeout)) - grid) / step) + 1) * step
    assert len(began) == len(expected)
    assert began == pytest.approx(expected, abs=1e-6, rel=0)

    for had, moment, end, last in zip(driver.seconds_given, began, ended, lasts, strict=False):
        assert had == pytest.approx(timeout)
        assert end - moment <= min(last, timeout) + 1e-6

    # The probe that the end of the day interrupts has no result.
    done = [last for last, end in zip(lasts, ended, strict=False) if end < start + DAY]
    late = sum(last > timeout for last in done)
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == late
    assert metric(prober, "livenessprobe_shared_probes_total") == 0
    operations = 'csi_sidecar_operations_seconds_count{driver_name="unknown-driver",grpc_status_code="OK",'
    assert metric(prober, operations + 'method_name="/csi.v1.Identity/Probe"}') == len(done) - late


def test_probers_that_start_together_spread_over_the_interval() -> None:
    drivers = [Driver() for _ in range(40)]

    async def minute() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for driver in drivers:
                await stack.enter_async_context(by_itself(make(driver, interval="10s")))
            await asyncio.sleep(60)

    live(minute())
    gaps = sorted(driver.began[1] - driver.began[0] for driver in drivers)
    assert all(0 < gap <= 10 for gap in gaps)
    assert len(set(gaps)) == 40
    # Spread over the interval: by chance one half has fewer than 5 of 40 in two of ten million runs.
    assert 5 <= sum(gap < 5 for gap in gaps) <= 35


@pytest.mark.parametrize("thresholds", [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_flapping_changes_the_report_once_per_long_enough_run(seed: int, thresholds: tuple[int, int]) -> None:
    """The driver fails 30 % of its probes at random."""
    failure, success = thresholds
    chance, signs = random.Random(seed), []
    driver = Driver()

    def flap() -> tuple[float, ProbeResult]:
        signs.append("-" if chance.random() < 0.3 else "+")
        return 0.0, READY if signs[-1] == "+" else BROKEN

    driver.script = flap

    async def hour() -> Prober:
        prober = make(driver, interval="10s", failure_threshold=str(failure), success_threshold=str(success))
        async with by_itself(prober):
            await asyncio.sleep(3600)
        return prober

    prober = live(hour())
    long_enough = [kind for kind, run in itertools.groupby(signs) if len(list(run)) >= (success if kind == "+" else failure)]
    kinds = [kind for kind, _ in itertools.groupby([signs[0], *long_enough])]
    assert len(signs) in (360, 361)
    assert len(kinds) > 3
    for to, sign in (("healthy", "+"), ("unhealthy", "-")):
        assert metric(prober, f'livenessprobe_health_changes_total{{to="{to}"}}') == kinds[1:].count(sign)
    assert prober.standing.ready.stands == (kinds[-1] == "+")
    assert metric(prober, "livenessprobe_healthy") == (kinds[-1] == "+")
    assert metric(prober, "livenessprobe_driver_up") == (signs[-1] == "+")


@pytest.mark.parametrize("failure", [1, 3])
@pytest.mark.parametrize("answers_in", [0.0, 2.5])
def test_a_driver_that_dies_is_reported_within_threshold_times_interval_and_timeout(failure: int, answers_in: float) -> None:
    async def die(after: float) -> float:
        driver = Driver(answers_in)
        prober = make(driver, interval="10s", probe_timeout="3s", failure_threshold=str(failure))
        async with by_itself(prober):
            await asyncio.sleep(3)  # whatever the phase, there has been a good probe
            await asyncio.sleep(after)
            driver.seconds = FOREVER
            died = loop().time()
            while prober.standing.ready.stands:
                await prober.changed.wait()
                prober.changed.clear()
            return loop().time() - died

    async def deaths() -> list[float]:
        return [await die(quarter / 4) for quarter in range(80)]

    assert max(live(deaths())) <= failure * 10 + 3 + 1e-6


# --- the last report


def test_a_fresh_report_is_returned_at_once_without_a_probe() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            await asyncio.sleep(1)
            for result in (READY, BROKEN, NOT_READY):
                driver.result = result
                await asyncio.sleep(10.5)
                seen = (len(driver.questions), driver.looks)
                for _ in range(1000):
                    standing = at_once(prober.check())
                    assert standing is prober.standing
                assert standing.ready.report == result
                assert (len(driver.questions), driver.looks) == seen
        assert metric(prober, "livenessprobe_shared_probes_total") == 0

    live(main())


def test_before_the_first_report_a_request_waits_for_it() -> None:
    async def main() -> None:
        driver = Driver(2)
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            await asyncio.sleep(0.5)
            assert await timed(prober.check()) == (1.5, None)
        assert len(driver.questions) == 1

    live(main())


@pytest.mark.parametrize("result", [READY, BROKEN, NOT_READY])
@pytest.mark.parametrize("before", [READY, BROKEN])
def test_a_report_that_is_too_old_makes_a_request_probe_for_itself(before: ProbeResult, result: ProbeResult) -> None:
    """The process stood still.  The answer is the result of a new probe, not the old report or a complaint about its age."""

    async def main() -> None:
        driver = Driver(0.0, before)
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            await asyncio.sleep(25)
            assert at_once(prober.check()).ready.report == before
            seen, driver.result, driver.seconds = len(driver.questions), result, 0.5
            loop().stall(120)
            assert await timed(prober.check()) == (0.5, result.reason)
            # The probe that was due meanwhile is the same probe, and missed probes are left out.
            assert len(driver.questions) == seen + 1
            assert at_once(prober.check()).ready.report == result
            await asyncio.sleep(100)
        assert len(driver.questions) == seen + 1 + 10
        assert driver.most_in_flight == 1
        on_grid = [began for place, began in enumerate(driver.began) if place not in (0, seen)]
        for began in on_grid:
            assert (began - on_grid[0]) / 10 == pytest.approx(round((began - on_grid[0]) / 10), abs=1e-6)

    live(main())


@pytest.mark.parametrize(("age", "probes"), [(10.0, 0), (13.0 + MARGIN, 0), (13.001 + MARGIN, 1), (1e6, 1)])
def test_a_report_lasts_for_the_interval_the_timeout_and_a_margin(age: float, probes: int) -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s", probe_timeout="3s")
        await prober.check()
        loop().now = prober.standing.at + age
        await prober.check()
        assert len(driver.questions) == 1 + probes

    live(main())


def test_after_a_stall_a_hung_driver_is_a_failure_at_the_timeout() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            await asyncio.sleep(25)
            driver.seconds = FOREVER
            loop().stall(1000)
            assert await timed(prober.check()) == (3.0, Reason.DEADLINE)
        assert driver.most_in_flight == 1

    live(main())


def test_after_a_stall_one_failure_below_the_threshold_keeps_the_report() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s", probe_timeout="3s", failure_threshold="3")
        async with by_itself(prober):
            await asyncio.sleep(25)
            driver.seconds = FOREVER
            loop().stall(1000)
            assert await timed(prober.check()) == (3.0, None)
            assert prober.standing.ready.failures == 1
            await asyncio.sleep(25)
            assert at_once(prober.check()).ready.report == CALL_TIMED_OUT

    live(main())


# --- changed settings


def test_a_changed_interval_starts_a_new_schedule_at_once() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver)
        async with by_itself(prober):
            await asyncio.sleep(100)
            assert driver.questions == []  # 0s: nothing happens by itself

            changed = loop().time()
            prober.adopt(make_settings(interval="10s"))
            await asyncio.sleep(95)
            slow = driver.began[:]
            assert slow[0] == changed
            # Ten or eleven probes, depending on the phase.
            assert [round(later - earlier, 6) for earlier, later in itertools.pairwise(slow[1:])] == [10] * (len(slow) - 2)
            assert len(slow) in (10, 11)

            changed = loop().time()
            prober.adopt(make_settings(interval="1s"))
            await asyncio.sleep(20)
            fast = driver.began[len(slow) :]
            assert fast[0] == changed
            assert [round(later - earlier, 6) for earlier, later in itertools.pairwise(fast[1:])] == [1] * (len(fast) - 2)
            assert len(fast) in (20, 21)

            prober.adopt(make_settings(interval="0s"))
            await asyncio.sleep(1000)
            assert len(driver.questions) == len(slow) + len(fast)

            await prober.check()  # and now a request probes again, though a report is there
            assert len(driver.questions) == len(slow) + len(fast) + 1
        assert driver.most_in_flight == 1

    live(main())


@pytest.mark.parametrize("other", ["1s", "0s", "1h"])
def test_an_interval_changed_during_a_probe_counts_after_it(other: str) -> None:
    async def main() -> None:
        driver = Driver(2.0)
        prober = make(driver, interval="10s")
        async with by_itself(prober):
            began = loop().time()
            await asyncio.sleep(1)
            prober.adopt(make_settings(interval=other))
            await asyncio.sleep(1.5)
            assert driver.ended == [began + 2]
            assert driver.began == ([began] if other == "0s" else [began, began + 2])
        assert driver.most_in_flight == 1

    live(main())


def test_other_settings_do_not_change_the_schedule() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            for second in range(200):
                await asyncio.sleep(1.37)
                prober.adopt(make_settings(interval="10s", probe_timeout=f"{3 + second % 2}s"))
        gaps = [later - earlier for earlier, later in itertools.pairwise(driver.began)]
        assert gaps[1:] == pytest.approx([10.0] * (len(gaps) - 1), abs=1e-6)
        assert gaps[0] <= 10
        assert len(gaps) in (27, 28)  # 274 seconds
        assert {round(seconds, 6) for seconds in driver.seconds_given} == {3, 4}

    live(main())


def test_an_interval_changed_and_changed_back_does_not_change_the_schedule() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s")
        async with by_itself(prober):
            await asyncio.sleep(15)
            prober.adopt(make_settings(interval="1s"))
            prober.adopt(make_settings(interval="10s"))
            await asyncio.sleep(15)
        gaps = [later - earlier for earlier, later in itertools.pairwise(driver.began)]
        assert gaps[1:] == pytest.approx([10.0] * (len(gaps) - 1), abs=1e-6)

    live(main())


def test_changed_thresholds_keep_the_counts() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, failure_threshold="9")

        async def ask(result: ProbeResult) -> bool | None:
            driver.result = result
            return (await prober.check()).ready.stands

        assert await ask(READY) is True
        assert [await ask(BROKEN) for _ in range(4)] == [True] * 4
        prober.adopt(make_settings(failure_threshold="5", success_threshold="3"))
        assert prober.standing.ready.stands is True  # settings alone change no report
        assert prober.standing.ready.failures == 4
        assert await ask(BROKEN) is False
        assert [await ask(READY) for _ in range(2)] == [False, False]
        prober.adopt(make_settings(failure_threshold="5", success_threshold="4"))
        assert await ask(READY) is False
        assert await ask(READY) is True

    live(main())


def test_each_probe_and_each_change_of_settings_is_a_change() -> None:
    async def main() -> None:
        prober = make(Driver())

        def changed() -> bool:
            was_set = prober.changed.is_set()
            prober.changed.clear()
            return was_set

        changed()
        assert not changed()
        await prober.check()
        assert changed()
        prober.adopt(make_settings(failure_threshold="2"))
        assert changed()
        prober.driver_name._named("csi.example.com")
        assert changed()
        assert not changed()

    live(main())


def test_for_how_long_the_driver_is_asked_follows_the_settings_and_what_is_asked_stays() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, probe_timeout="3s", probe_path="/grpc.health.v1.Health/Check", health_service="x")
        await prober.check()
        prober.adopt(make_settings(probe_timeout="9s", unreachable_grace="4s", connection_reuse="7s"))
        assert driver.dialer.reuse == 7
        await prober.check()
        (first, second), began = driver.questions, driver.began
        assert (first.deadline - began[0], first.redial_until - began[0]) == (3, 3)
        assert (second.deadline - began[1], second.redial_until - began[1]) == (9, 4)
        assert {question[2:4] for question in driver.questions} == {("/grpc.health.v1.Health/Check", "x")}

    live(main())


# --- a probe for each request


def test_without_an_interval_each_request_probes() -> None:
    async def main() -> None:
        driver = Driver(0.1)
        prober = make(driver)
        async with by_itself(prober):
            for asked in range(1, 21):
                driver.result = READY if asked % 2 else BROKEN
                assert await timed(prober.check()) == (0.1, driver.result.reason)
                assert len(driver.questions) == asked

    live(main())


def test_ended_probes_use_no_memory() -> None:
    """Otherwise a sidecar would grow over months."""
    prober = make(Driver())

    async def asked() -> None:
        for _ in range(3):
            await prober.check()
        await asyncio.sleep(0)
        assert not prober._flights

    live(asked())


def test_parallel_requests_share_one_probe() -> None:
    async def main() -> None:
        driver = Driver(1.0)
        prober = make(driver)
        answers = await asyncio.gather(*(timed(prober.check(), later / 10) for later in range(10)))
        assert answers == [(round(1 - later / 10, 6), None) for later in range(10)]
        assert len(driver.questions) == 1
        assert metric(prober, "livenessprobe_shared_probes_total") == 9

    live(main())


def test_a_caller_that_joins_a_hung_probe_has_its_own_timeout() -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="3s")
        answers = await asyncio.gather(timed(prober.check()), timed(prober.check(), 2))
        assert answers == [(3.0, Reason.DEADLINE), (3.0, Reason.DEADLINE)]
        assert driver.seconds_given == [3, 3]
        assert driver.most_in_flight == 1

    live(main())


def test_a_late_caller_gets_the_response_to_the_second_probe() -> None:
    async def main() -> None:
        driver = Driver()
        script = iter([FOREVER, 1.5])
        driver.script = lambda: (next(script), READY)
        prober = make(driver, probe_timeout="3s")
        answers = await asyncio.gather(*(timed(prober.check(), later) for later in range(3)))
        assert answers == [(3.0, Reason.DEADLINE), (3.0, Reason.DEADLINE), (2.5, None)]

    live(main())


# --- callers that hang up


async def impatient(prober: Prober, patience: float, pause: float, seconds: float) -> None:
    """For so many `seconds` callers come one after another, each of which hangs up after its `patience`."""
    end = loop().time() + seconds
    while loop().time() < end:
        caller = asyncio.create_task(prober.check())
        await asyncio.wait({caller}, timeout=patience)
        caller.cancel()
        await asyncio.sleep(pause)


@pytest.mark.parametrize("patience", [0.0, 0.125, 0.5, 1.0, 2.0, 2.9375, 3.0])
@pytest.mark.parametrize("pause", [0.0, 0.0625, 1.0])
@pytest.mark.parametrize("interval", ["0s", "5s"])
def test_a_hung_driver_fails_once_in_each_probe_timeout_however_impatient_its_callers_are(
    patience: float, pause: float, interval: str
) -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="3s", interval=interval)
        async with by_itself(prober):
            began = loop().time()
            await impatient(prober, patience, max(pause, 0.03125), 60)
            passed = loop().time() - began
        failures = metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}')
        period = 3.0 if interval == "0s" else 5.0
        assert passed / (period + pause) - 2 <= failures <= passed / 3
        assert driver.most_in_flight == 1
        assert all(given == pytest.approx(3) for given in driver.seconds_given if given > 0.5)
        assert (metric(prober, "livenessprobe_driver_up"), metric(prober, "livenessprobe_healthy")) == (0, 0)

    live(main())


def test_an_abandoned_probe_goes_on_and_is_joined() -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="30s")
        callers = [asyncio.create_task(prober.check()) for _ in range(3)]
        await asyncio.sleep(1)
        for caller in callers:
            caller.cancel()
        await asyncio.sleep(9)
        assert driver.in_flight == 1
        driver.seconds = 0.5
        # The driver lost the first call; this caller has time for another.
        assert await timed(prober.check()) == (20.5, None)
        assert len(driver.questions) == 2
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1

    live(main())


def test_the_result_of_an_abandoned_probe_counts() -> None:
    """A kubelet that hangs up before the probe timeout must not hide that the driver hangs."""

    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="3s")
        caller = asyncio.create_task(prober.check())
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.sleep(3)
        assert prober.standing.result == CALL_TIMED_OUT
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1

    live(main())


def test_a_replaced_socket_makes_a_second_probe_and_cancels_the_first_if_it_has_no_caller() -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="30s")
        for number in range(5):
            driver.socket = (1, number, 1)
            caller = asyncio.create_task(prober.check())
            await asyncio.sleep(0.1)
            caller.cancel()
            await asyncio.sleep(0.1)
            assert driver.in_flight == 1
        assert len(driver.questions) == 5
        assert prober.standing == Standing()  # nothing has ended yet
        await asyncio.sleep(30)
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1

    live(main())


def test_a_third_probe_takes_the_place_of_the_oldest_whose_callers_join_it() -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="30s")
        callers = []
        for number in range(4):
            driver.socket, driver.seconds = (1, number, 1), FOREVER if number < 3 else 1.0
            callers.append(asyncio.create_task(timed(prober.check())))
            await asyncio.sleep(1)
            assert driver.in_flight <= 2
        # The first caller joined the third probe, the second caller the fourth; the third probe still hangs.
        hung = (30.0, Reason.DEADLINE)
        assert [await caller for caller in callers] == [hung, (3.0, None), hung, (1.0, None)]
        assert len(driver.questions) == 4
        assert prober.standing.result == READY  # the late result of a driver that is gone does not count

    live(main())


def test_a_request_that_hangs_up_does_not_end_a_scheduled_probe() -> None:
    async def main() -> None:
        driver = Driver(2.0)
        prober = make(driver, interval="10s", probe_timeout="3s")
        async with by_itself(prober):
            began = loop().time()
            caller = asyncio.create_task(prober.check())
            await asyncio.sleep(1)
            caller.cancel()
            await asyncio.sleep(1.5)
            assert prober.standing.ready.report == READY
            assert driver.ended == [began + 2]

    live(main())


@pytest.mark.parametrize("interval", ["0s", "10s"])
@pytest.mark.parametrize("timeout", ["0s", "-1s"])
def test_with_a_timeout_of_zero_the_driver_is_not_probed(interval: str, timeout: str) -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval=interval, probe_timeout=timeout)
        async with by_itself(prober):
            assert await timed(prober.check()) == (0.0, Reason.DEADLINE)
            await asyncio.sleep(100)
            assert at_once(prober.check()).ready.report == NO_TIME
            assert driver.questions == []
            assert metric(prober, "livenessprobe_last_probe_duration_seconds") == 0
            prober.adopt(make_settings(interval=interval, probe_timeout="3s"))
            await asyncio.sleep(10)
            assert (await prober.check()).ready.report == READY

    live(main())


def test_a_driver_with_a_new_socket_has_not_started_until_it_is_ready() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver)
        assert (await prober.check()).started is True
        driver.result = NOT_READY
        assert (await prober.check()).started is True
        driver.socket = (1, 2, 2)
        assert (await prober.check()).started is False
        driver.result = READY
        assert (await prober.check()).started is True

    live(main())


def test_a_late_result_of_a_replaced_driver_reaches_its_callers_and_does_not_count() -> None:
    async def main() -> None:
        driver = Driver(2.0, BROKEN)
        prober = make(driver)
        early = asyncio.create_task(prober.check())
        await asyncio.sleep(1)
        driver.socket, driver.seconds, driver.result = (1, 2, 2), 0.5, READY
        assert await timed(prober.check()) == (0.5, None)
        told = await early
        assert (told.ready.report, told.at) == (BROKEN, loop().time())
        assert prober.standing.ready.report == READY
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="driver_error"}') == 1
        operations = 'csi_sidecar_operations_seconds_sum{driver_name="unknown-driver",grpc_status_code="Internal",'
        assert metric(prober, operations + 'method_name="/csi.v1.Identity/Probe"}') == 2

    live(main())


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), MemoryError(), RecursionError("deep")])
def test_an_internal_error_is_a_result(error: Exception) -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver, interval="10s")

        def fault() -> tuple[float, ProbeResult]:
            raise error

        driver.script = fault
        async with by_itself(prober):
            assert await timed(prober.check()) == (0.0, Reason.INTERNAL)
            await asyncio.sleep(100)
        assert len(driver.questions) in (10, 11)  # and probing goes on

    live(main())


# --- a driver that cannot be reached


@pytest.mark.parametrize(("grace", "looks"), [(0.0, 1), (1.0, 13), (3.0, 38)])
def test_a_missing_socket_is_looked_for_every_80_ms(tmp_path: Path, grace: float, looks: int) -> None:
    async def main() -> list[float]:
        seen = []
        dialer = Dialer(parse_csi_address(str(tmp_path / "csi.sock"), "linux"), lambda: None)
        look, began = dialer.look_at_socket, loop().time()

        def watched() -> None:
            seen.append(loop().time() - began)
            assert len(seen) < 100  # without a pause the virtual clock would stand still
            look()

        dialer.look_at_socket = watched
        found = await Identity(dialer).probe(Question(began + 10, began + grace))
        assert found.result.reason is Reason.SOCKET_MISSING
        assert loop().time() - began == pytest.approx(grace)
        return seen

    assert live(main()) == pytest.approx([0.08 * number for number in range(looks)])


@pytest.mark.parametrize(
    ("grace", "callers", "answers", "probes"),
    [
        ("3s", [0], [(3.0, Reason.REFUSED)], 1),
        ("0s", [0], [(0.0, Reason.REFUSED)], 1),
        ("1s", [0], [(1.0, Reason.REFUSED)], 1),
        # A caller that joins late has its own grace, and dials for the rest of it.
        ("1s", [0, 0.5], [(1.0, Reason.REFUSED), (1.0, Reason.REFUSED)], 2),
        ("3s", [0, 2], [(3.0, Reason.REFUSED), (3.0, Reason.REFUSED)], 2),
    ],
)
def test_an_unreachable_driver_is_dialled_for_as_long_as_each_caller_has_grace(
    grace: str, callers: list[float], answers: list[tuple[float, Reason | None]], probes: int
) -> None:
    driver = Driver()
    driver.listens = False

    assert asked(driver, callers, probe_timeout="3s", unreachable_grace=grace) == answers
    assert len(driver.questions) == probes


def test_a_driver_that_starts_within_the_grace_is_reported_at_once() -> None:
    async def main() -> None:
        driver = Driver()
        driver.listens = False
        prober = make(driver, probe_timeout="3s", unreachable_grace="2s")
        asking = [asyncio.create_task(timed(prober.check(), later)) for later in (0.0, 1.5)]
        await asyncio.sleep(2.5)
        driver.listens = True
        assert [await each for each in asking] == [(2.0, Reason.REFUSED), (1.0, None)]

    live(main())


def test_the_reason_of_an_earlier_probe_is_kept_if_the_next_finds_none() -> None:
    async def main() -> None:
        driver = Driver()
        driver.listens = False
        prober = make(driver, probe_timeout="3s")
        asking = [asyncio.create_task(timed(prober.check(), later)) for later in (0.0, 0.75)]
        await asyncio.sleep(2.99)
        driver.dials_hang = True
        assert [await each for each in asking] == [(3.0, Reason.REFUSED), (3.0, Reason.REFUSED)]
        assert len(driver.questions) == 2

    live(main())


def test_a_late_callers_rest_of_time_is_no_second_failure() -> None:
    """A caller that joins at the end of a probe has too little time left to find anything out."""

    async def main() -> None:
        driver = Driver()
        prober = make(driver, probe_timeout="3s", failure_threshold="2")
        await prober.check()
        driver.listens = False
        answers = await asyncio.gather(timed(prober.check()), timed(prober.check(), 0.25))
        assert answers == [(3.0, None), (3.0, None)]
        assert prober.standing.ready.failures == 1
        assert len(driver.questions) == 3
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="refused"}') == 1
        await asyncio.sleep(1)
        assert await timed(prober.check()) == (3.0, Reason.REFUSED)

    live(main())


HANGS, AWAY = (FOREVER, READY), None


@pytest.mark.parametrize(
    ("timeout", "later", "rest", "failures"),
    [
        # The time left is less than half a second, and less than half the timeout.
        (3.0, 0.25, HANGS, 1),
        # Else the second probe has the whole timeout.
        (3.0, 0.5, HANGS, 2),
        (3.0, 0.75, HANGS, 2),
        (0.5, 0.1875, HANGS, 1),
        (0.5, 0.25, HANGS, 2),
        (3.0, 0.25, AWAY, 1),
        (3.0, 0.5, AWAY, 2),
        # A response counts, however soon it comes.
        (3.0, 0.25, (0.0, BROKEN), 2),
        (3.0, 0.25, (0.0, READY), 0),
    ],
)
def test_a_timeout_is_counted_once(
    timeout: float, later: float, rest: tuple[float, ProbeResult] | None, failures: int
) -> None:
    """`rest` is the driver's behaviour in the time that a late caller has left when the hung probe ends."""

    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout=f"{timeout}s")
        asking = [asyncio.create_task(prober.check()), asyncio.create_task(timed(prober.check(), later))]
        await asyncio.sleep(timeout - 0.01)
        if rest is None:
            driver.listens = False
        else:
            driver.seconds, driver.result = rest
        await asyncio.wait(asking)
        await asyncio.sleep(timeout)
        assert prober.standing.ready.failures == failures
        assert len(driver.questions) == 2

    live(main())


def test_the_name_is_asked_for_again_when_the_driver_has_been_away() -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver)
        wanted = prober.driver_name._wanted
        prober.driver_name._named_socket = driver.socket

        async def asks_for_the_name(result: ProbeResult = READY, *, listens: bool = True) -> bool:
            wanted.clear()
            driver.result, driver.listens = result, listens
            await prober.check()
            return wanted.is_set()

        assert not await asks_for_the_name()
        assert not await asks_for_the_name(BROKEN)
        assert not await asks_for_the_name(listens=False)
        assert await asks_for_the_name()
        assert not await asks_for_the_name()
        assert not await asks_for_the_name(rpc_error(Reason.CONNECTION_LOST, "Unavailable", "Socket closed"))
        assert await asks_for_the_name(NOT_READY)
        assert not await asks_for_the_name()
        driver.socket = (1, 2, 2)
        assert await asks_for_the_name()

    live(main())


# --- what is logged


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every record as "SEVERITY message", without time, process and source; nothing is folded."""
    bare, lines = Options(skip_headers=True), list[str]()
    monkeypatch.setattr(klog._sink, "put", lambda record: lines.append(f"{record.severity} {render_text(record, bare)}"))
    return lines


def test_each_failure_and_each_change_of_the_report_is_logged(logged: list[str]) -> None:
    async def main() -> None:
        driver = Driver()
        prober = make(driver)
        prober.driver_name.text = "csi.example.com"
        for later, result in (
            (0.0, READY),
            (10.0, BROKEN),
            (10.0, BROKEN),
            (10.0, NOT_READY),
            (41.2501, READY),
            (10.0, READY),
            (10.0, NOT_READY),
            (0.5, READY),
        ):
            await asyncio.sleep(later)
            driver.result = result
            await prober.check()

    live(main())
    broken = "rpc error: code = Internal desc = disk on fire"
    not_ready = [
        'E "Driver responded but is not ready"',
        'W "CSI driver is unhealthy" driver="csi.example.com" reason="not_ready" detail="driver responded but is not ready"',
    ]
    assert logged == [
        f'E "Health check failed" err="{broken}"',
        f'W "CSI driver is unhealthy" driver="csi.example.com" reason="driver_error" detail="{broken}"',
        f'E "Health check failed" err="{broken}"',
        *not_ready,
        'I "CSI driver is healthy again" driver="csi.example.com" unhealthyFor="1m1.25s"',
        *not_ready,
        'I "CSI driver is healthy again" driver="csi.example.com" unhealthyFor="500ms"',
    ]


@pytest.mark.parametrize(("verbosity", "said"), [(4, []), (5, ['I "Health check succeeded"'])])
def test_success_is_logged_at_verbosity_5(verbosity: int, said: list[str], logged: list[str]) -> None:
    klog.configure(Options(v=verbosity))
    try:
        live(make_and_check(Driver()))
    finally:
        klog.configure(Options())

    assert logged == said


async def make_and_check(driver: Driver) -> Standing:
    return await make(driver).check()


def test_an_internal_error_is_logged_and_returned(logged: list[str]) -> None:
    driver = Driver()
    driver.script = lambda: (1 / 0, READY)
    result = live(make_and_check(driver)).result

    fault = "ZeroDivisionError('division by zero')"
    assert result == ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {fault}", "Health check failed", fault)
    assert logged[:2] == [
        f'E "Probe failed inside the sidecar" err="{fault}"',
        f'E "Health check failed" err="{fault}"',
    ]


@pytest.mark.parametrize(
    ("stalled", "again"), [(0.0, False), (STOOD_STILL_SECONDS, False), (STOOD_STILL_SECONDS + 0.5, True), (100.0, True)]
)
def test_a_probe_during_which_the_process_stood_still_is_repeated(stalled: float, again: bool, logged: list[str]) -> None:
    """The driver may have responded in time while the process could not read it."""

    async def main() -> tuple[float, Reason | None]:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="3s")
        asking = asyncio.create_task(timed(prober.check()))
        await asyncio.sleep(1)
        driver.seconds = 0.25
        loop().stall(2 + stalled)
        took, reason = await asking
        assert len(driver.questions) == 1 + again
        assert [question.deadline - loop().time() for question in driver.questions[1:]] == [2.75] * again
        assert metric(prober, "livenessprobe_last_probe_duration_seconds") == (0.25 if again else 3 + stalled)
        return took, reason

    took = 3 + stalled + (0.25 if again else 0)
    assert live(main()) == (round(took, 6), None if again else Reason.DEADLINE)
    note = [line for line in logged if "did not run" in line]
    late = "750ms" if stalled < 2 else "1m40s"
    assert note == [f'I "This process did not run while the probe did; probing again" late="{late}"'] * again


@pytest.mark.parametrize(("stalled", "answer", "probes"), [(3.0, (3.0, Reason.DEADLINE), 0), (5.0, (5.25, None), 1)])
def test_a_probe_whose_deadline_has_passed_is_not_sent(
    stalled: float, answer: tuple[float, Reason | None], probes: int
) -> None:
    async def main() -> None:
        driver = Driver(0.25)
        prober = make(driver, probe_timeout="3s")
        asking = asyncio.create_task(timed(prober.check()))
        for _ in range(2):
            await asyncio.sleep(0)
        loop().stall(stalled)
        assert await asking == answer
        assert len(driver.questions) == probes

    live(main())


# --- callers with different deadlines


def asked(driver: Driver, callers: Iterable[float], **values: str) -> list[tuple[float, Reason | None]]:
    """The times and reasons that callers get, each of which comes so many seconds `later`."""

    async def main() -> list[tuple[float, Reason | None]]:
        prober = make(driver, **values)
        return await asyncio.gather(*(timed(prober.check(), later) for later in callers))

    return live(main())


TIMED_OUT = Reason.DEADLINE


@hypothesis_settings(max_examples=150)
@given(st.floats(0, 11.9), st.lists(st.floats(0, 30), min_size=1, max_size=12))
def test_no_neighbour_makes_a_driver_fail_that_answers_within_the_timeout(seconds: float, callers: list[float]) -> None:
    driver = Driver(seconds)

    for took, reason in asked(driver, callers, probe_timeout="12s"):
        assert reason is None
        assert took <= seconds + 1e-6
    assert driver.most_in_flight == 1


@pytest.mark.parametrize(
    ("seconds", "lowered", "answer"),
    [
        (10.0, "3s", (3.0, TIMED_OUT)),
        (FOREVER, "3s", (3.0, TIMED_OUT)),
        (FOREVER, "500ms", (0.5, TIMED_OUT)),
        (3.5, "3s", (2.5, None)),
    ],
)
def test_who_comes_after_the_timeout_was_lowered_is_told_what_has_been_found_so_far(
    seconds: float, lowered: str, answer: tuple[float, Reason | None]
) -> None:
    async def main() -> None:
        driver = Driver(seconds)
        prober = make(driver, probe_timeout="12s")
        early = asyncio.create_task(timed(prober.check()))
        await asyncio.sleep(1)
        prober.adopt(make_settings(probe_timeout=lowered))
        assert await timed(prober.check()) == answer
        assert await early == ((seconds, None) if seconds < 12 else (12.0, TIMED_OUT))
        assert len(driver.questions) == 1
        assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == (seconds > 12)

    live(main())


def test_what_is_told_before_a_probe_ends_counts_for_nobody_else() -> None:
    async def main() -> None:
        driver = Driver(10.0)
        prober = make(driver, probe_timeout="12s")
        early = asyncio.create_task(timed(prober.check()))
        await asyncio.sleep(1)
        prober.adopt(make_settings(probe_timeout="2s"))
        answers = await asyncio.gather(*(timed(prober.check(), later) for later in range(6)))
        assert answers == [(2.0, TIMED_OUT)] * 6
        assert prober.standing == Standing()
        assert await early == (10.0, None)
        assert prober.standing.result == READY

    live(main())


def test_at_the_end_the_longest_of_all_waits_is_waited_for() -> None:
    async def main() -> None:
        driver = Driver(FOREVER)
        prober = make(driver, probe_timeout="12s")
        assert prober.longest_wait() == 12
        caller = asyncio.create_task(prober.check())
        await asyncio.sleep(1)
        prober.adopt(make_settings(probe_timeout="3s"))
        assert prober.longest_wait() == 11
        await asyncio.sleep(10)
        assert prober.longest_wait() == 3  # for a new caller
        caller.cancel()
        prober.adopt(make_settings(probe_timeout="-1s"))
        await asyncio.sleep(0.1)
        assert prober.longest_wait() == 0

    live(main())


async def test_a_caller_is_told_that_nobody_speaks_grpc_here(socket_path: str) -> None:
    """A stopped driver: the system accepts the connection, and no answer comes.  On a real socket, by the real clock."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        settings, metrics = make_settings(csi_address=socket_path, probe_timeout="300ms"), Metrics(0.0)
        dialer = Dialer(settings.csi_address, lambda: None)
        prober = Prober(Identity(dialer), settings, metrics)
        standing = await prober.check()
        await dialer.close()

    assert standing.ready.report is not None
    assert standing.ready.report.reason is Reason.DEADLINE
    assert "accepts connections but does not speak gRPC" in standing.ready.report.body
    assert standing.ready.report.err == DEADLINE
