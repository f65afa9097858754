"""A probe that ran out of time while the sidecar itself was held back is made again, once."""

from __future__ import annotations

import asyncio

import pytest

from livenessprobe.driver.result import Reason
from tests.probing.scripted import BROKEN, FOREVER, Driver, ScriptedCounters, make, metric, timed
from tests.virtual import loop, virtual

CPU = 'livenessprobe_repeated_probes_total{cause="cpu_limit"}'
DISK = 'livenessprobe_repeated_probes_total{cause="disk"}'


async def stalling(share: float) -> None:
    """Let the process stand still for that share of each 0.4 s."""
    while True:
        await asyncio.sleep(0.4 * (1 - share))
        loop().stall(0.4 * share)


@pytest.mark.parametrize(("throttled", "again"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.95, 1), (3.0, 1)])
@virtual
async def test_a_cpu_limit_that_took_half_of_the_time(throttled: float, again: int, logged: list[str]) -> None:
    driver = Driver()
    script = iter([FOREVER, 0.25])
    driver.script = lambda: (next(script), driver.result)
    prober = make(driver, ScriptedCounters(throttled=throttled), probe_timeout="2s")
    assert await timed(prober.check()) == ((2.25, None) if again else (2.0, Reason.DEADLINE))
    assert metric(prober, CPU) == again
    assert prober.history.repeated_total == again
    said = [line for line in logged if "held back" in line]
    lost = {0.5: "1s", 0.95: "1.9s", 3.0: "2s"}.get(throttled)
    detail = f"the CPU limit held the sidecar back for {lost} of 2s"
    advice = "raise resources.limits.cpu of the sidecar, or remove it"
    record = f'W "This sidecar was held back while the probe ran; probing again" detail="{detail}" advice="{advice}"'
    assert said == [record] * again


@pytest.mark.parametrize(("faults", "share", "again"), [(True, 0.9, 1), (False, 0.9, 0), (True, 0.3, 0)])
@virtual
async def test_a_disk_that_took_half_of_the_time(faults: bool, share: float, again: int, logged: list[str]) -> None:
    driver = Driver()
    script = iter([FOREVER, 0.0])
    driver.script = lambda: (next(script), driver.result)
    prober = make(driver, ScriptedCounters(faults=faults, pressure=61), probe_timeout="2s")
    stalls = asyncio.create_task(stalling(share))
    took, reason = await timed(prober.check())
    stalls.cancel()
    assert reason == (None if again else Reason.DEADLINE)
    assert took < 3
    assert metric(prober, DISK) == again
    assert sum("waited for its disk" in line and "at a memory pressure of 61 %" in line for line in logged) == again


@virtual
async def test_the_second_result_counts_whatever_the_cause() -> None:
    """A hung driver is reported within twice the timeout, also by a sidecar that is always held back."""
    driver = Driver(FOREVER)
    prober = make(driver, ScriptedCounters(throttled=1.0), probe_timeout="2s")
    for _ in range(3):
        assert await timed(prober.check()) == (4.0, Reason.DEADLINE)
    assert len(driver.questions) == 6
    assert metric(prober, CPU) == 3
    assert [probe.reason for probe in prober.history.probes] == [Reason.DEADLINE] * 3


@virtual
async def test_a_driver_that_hangs_as_the_sidecar_begins_to_be_held_back_is_reported_within_twice_the_timeout() -> None:
    driver = Driver(0.1)
    prober = make(driver, ScriptedCounters(throttled=0.99, since=1.0), probe_timeout="3s")
    assert await timed(prober.check()) == (0.1, None)
    await asyncio.sleep(0.9)
    driver.seconds = FOREVER
    took, reason = await timed(prober.check())
    assert (took <= 6, reason) == (True, Reason.DEADLINE)


@virtual
async def test_callers_that_join_a_probe_that_is_made_again_are_not_failed_by_the_first_time() -> None:
    driver = Driver()
    script = iter([FOREVER, 1.5, 0.0])
    driver.script = lambda: (next(script), driver.result)
    prober = make(driver, ScriptedCounters(throttled=1.0), probe_timeout="2s")
    answers = await asyncio.gather(*(timed(prober.check(), later) for later in (0.0, 0.5, 1.75, 2.25, 3.25)))
    assert answers == [(3.5, None), (3.0, None), (1.75, None), (1.25, None), (0.25, None)]
    assert len(driver.questions) == 2


@virtual
async def test_a_definite_answer_counts_however_late_it_is() -> None:
    driver = Driver(1.75)
    driver.result = BROKEN
    prober = make(driver, ScriptedCounters(throttled=1.0), probe_timeout="2s")
    assert await timed(prober.check()) == (1.75, BROKEN.reason)
    assert len(driver.questions) == 1
    assert metric(prober, CPU) == 0
