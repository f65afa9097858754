"""The prober with an interval: when it probes, how long a report lasts, and what changed settings do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from fractions import Fraction

import pytest

from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
)
from livenessprobe.probing.schedule import MARGIN
from tests.probing.scripted import BROKEN, FOREVER, Driver, at_once, by_itself, make, metric, timed
from tests.values import make_settings
from tests.virtual import loop, virtual

DAY = 86_400.0


@pytest.mark.parametrize(
    ("interval", "timeout"),
    [
        (10.0, 3.0),
        (10.0, 25.0),  # probes may outlast the interval; then up to two scheduled times are missed
        (60.0, 45.0),
    ],
)
@virtual
async def test_a_day_of_scheduled_probes_begins_each_at_its_time(interval: float, timeout: float) -> None:
    chance = random.Random(interval + timeout)
    lasts = [chance.uniform(0, 2 * interval) for _ in range(int(DAY / interval) + 2)]
    driver = Driver()
    remaining = iter(lasts)
    driver.script = lambda: (next(remaining), READY)

    start, prober = loop().time(), make(driver, interval=f"{interval}s", probe_timeout=f"{timeout}s")
    async with by_itself(prober):
        await asyncio.sleep(DAY)
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


@virtual
async def test_probers_that_start_together_spread_over_the_interval() -> None:
    drivers = [Driver() for _ in range(40)]

    async with contextlib.AsyncExitStack() as stack:
        for driver in drivers:
            await stack.enter_async_context(by_itself(make(driver, interval="10s")))
        await asyncio.sleep(60)
    gaps = sorted(driver.began[1] - driver.began[0] for driver in drivers)
    assert all(0 < gap <= 10 for gap in gaps)
    assert len(set(gaps)) == 40
    # Spread over the interval: by chance one half has fewer than 5 of 40 in two of ten million runs.
    assert 5 <= sum(gap < 5 for gap in gaps) <= 35


@pytest.mark.parametrize("thresholds", [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("seed", range(3))
@virtual
async def test_an_hour_of_flapping_changes_the_report_once_per_long_enough_run(
    seed: int, thresholds: tuple[int, int]
) -> None:
    """The driver fails 30 % of its probes at random."""
    failure, success = thresholds
    chance, signs = random.Random(seed), []
    driver = Driver()

    def flap() -> tuple[float, ProbeResult]:
        signs.append("-" if chance.random() < 0.3 else "+")
        return 0.0, READY if signs[-1] == "+" else BROKEN

    driver.script = flap

    prober = make(driver, interval="10s", failure_threshold=str(failure), success_threshold=str(success))
    async with by_itself(prober):
        await asyncio.sleep(3600)
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
@virtual
async def test_a_driver_that_dies_is_reported_within_threshold_times_interval_and_timeout(
    failure: int, answers_in: float
) -> None:
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

    assert max([await die(quarter / 4) for quarter in range(80)]) <= failure * 10 + 3 + 1e-6


@virtual
async def test_a_fresh_report_is_returned_at_once_without_a_probe() -> None:
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


@virtual
async def test_before_the_first_report_a_request_waits_for_it() -> None:
    driver = Driver(2)
    prober = make(driver, interval="10s", probe_timeout="3s")
    async with by_itself(prober):
        await asyncio.sleep(0.5)
        assert await timed(prober.check()) == (1.5, None)
    assert len(driver.questions) == 1


@pytest.mark.parametrize("result", [READY, BROKEN, NOT_READY])
@pytest.mark.parametrize("before", [READY, BROKEN])
@virtual
async def test_a_report_that_is_too_old_makes_a_request_probe_for_itself(before: ProbeResult, result: ProbeResult) -> None:
    """The process stood still.  The request gets the result of a new probe."""
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


@pytest.mark.parametrize(("age", "probes"), [(10.0, 0), (13.0 + MARGIN, 0), (13.001 + MARGIN, 1), (1e6, 1)])
@virtual
async def test_a_report_lasts_for_the_interval_the_timeout_and_a_margin(age: float, probes: int) -> None:
    driver = Driver()
    prober = make(driver, interval="10s", probe_timeout="3s")
    await prober.check()
    loop().now = prober.standing.at + age
    await prober.check()
    assert len(driver.questions) == 1 + probes


@virtual
async def test_after_a_stall_a_hung_driver_is_a_failure_at_the_timeout() -> None:
    driver = Driver()
    prober = make(driver, interval="10s", probe_timeout="3s")
    async with by_itself(prober):
        await asyncio.sleep(25)
        driver.seconds = FOREVER
        loop().stall(1000)
        assert await timed(prober.check()) == (3.0, Reason.DEADLINE)
    assert driver.most_in_flight == 1


@virtual
async def test_after_a_stall_one_failure_below_the_threshold_keeps_the_report() -> None:
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


@virtual
async def test_a_changed_interval_starts_a_new_schedule_at_once() -> None:
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


@pytest.mark.parametrize("other", ["1s", "0s", "1h"])
@virtual
async def test_an_interval_changed_during_a_probe_counts_after_it(other: str) -> None:
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


@virtual
async def test_other_settings_do_not_change_the_schedule() -> None:
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


@virtual
async def test_an_interval_changed_and_changed_back_does_not_change_the_schedule() -> None:
    driver = Driver()
    prober = make(driver, interval="10s")
    async with by_itself(prober):
        await asyncio.sleep(15)
        prober.adopt(make_settings(interval="1s"))
        prober.adopt(make_settings(interval="10s"))
        await asyncio.sleep(15)
    gaps = [later - earlier for earlier, later in itertools.pairwise(driver.began)]
    assert gaps[1:] == pytest.approx([10.0] * (len(gaps) - 1), abs=1e-6)


@virtual
async def test_changed_thresholds_keep_the_counts() -> None:
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


@virtual
async def test_each_probe_and_each_change_of_settings_is_a_change() -> None:
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


@virtual
async def test_for_how_long_the_driver_is_asked_follows_the_settings_and_what_is_asked_stays() -> None:
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
