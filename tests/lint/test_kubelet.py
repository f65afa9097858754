"""The kubelet's arithmetic, by tables and by the simulation of its prober."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from livenessprobe.lint.kubelet import (
    AT_ONCE,
    Failing,
    Range,
    TimeToKill,
    Timing,
    grace_period,
    on_schedule,
    time_to_kill,
    time_to_start,
)
from tests.lint.simulation import Answer, Worker, killed_at

NEVER = 10_000.0


def driver(fault: float, healthy: float, fails_after: float) -> object:
    """Responses of a driver that has the fault from then on; a probe in flight meets the fault too."""

    def ask(at: float) -> Answer:
        return (healthy, True) if at + healthy <= fault else (fails_after, False)

    return ask


def simulated(timing: Timing, *, fault: float, fails_after: float, healthy: float = 0.0, phase: float = 0.0) -> float | None:
    worker = Worker("liveness", timing.period, timing.timeout, timing.failure, timing.initial_delay)
    return killed_at([worker], driver(fault, healthy, fails_after), 0.0, [phase], NEVER)


TIMINGS = st.builds(
    Timing,
    initial_delay=st.integers(0, 12),
    period=st.integers(1, 12),
    timeout=st.integers(1, 15),
    failure=st.integers(1, 6),
)
STEPS = st.integers(0, 160).map(lambda step: step / 8)
"""Seconds with exact sums."""


@given(TIMINGS, STEPS, STEPS, st.integers(0, 800), STEPS)
def test_a_liveness_probe_kills_within_the_range(
    timing: Timing, takes: float, healthy: float, after: int, phase: float
) -> None:
    """Whatever the phase of the ticker; if no probe is in flight at the fault, not before `least`."""
    found = time_to_kill(timing, Failing(Range(takes, takes)), 30)
    shown = min(takes, timing.timeout)
    healthy = min(healthy, shown, timing.timeout - 1 / 8)
    fault = timing.initial_delay + timing.period + 20 + after / 8

    at = simulated(timing, fault=fault, fails_after=takes, healthy=healthy, phase=phase)

    assert at is not None
    assert found.in_flight <= at - fault <= found.most
    if healthy == 0.0:  # then no probe is in flight
        assert found.least <= at - fault


@pytest.mark.parametrize(
    ("timing", "takes"),
    [
        (Timing(period=10, timeout=5, failure=3), 3.0),
        (Timing(period=2, timeout=3, failure=5), 3.0),
        (Timing(failure=1), 1.0),
    ],
)
def test_the_range_is_no_wider_than_it_must_be(timing: Timing, takes: float) -> None:
    found = time_to_kill(timing, Failing(Range(takes, takes)), 30)
    faults = [40 + step / 8 for step in range(8 * 2 * timing.period)]

    seen = [simulated(timing, fault=fault, fails_after=takes, healthy=0.0) - fault for fault in faults]
    in_flight = [simulated(timing, fault=fault, fails_after=takes, healthy=takes - 1 / 8) - fault for fault in faults]

    assert found.least <= min(seen) <= found.least + 1 / 8
    assert found.most - 1 / 8 - max(0.0, takes - timing.period) <= max(seen) <= found.most
    assert found.in_flight <= min(in_flight) <= found.in_flight + 1 / 4


@given(TIMINGS, st.integers(1, 4), STEPS)
def test_failures_that_the_sidecar_hides_come_on_top(timing: Timing, threshold: int, takes: float) -> None:
    """--failure-threshold without an interval: its first failed probes are answered with success."""
    assume(takes < timing.timeout)
    found = time_to_kill(timing, Failing(Range(takes, takes), hidden=(threshold - 1, threshold - 1)), 30)
    failures = itertools.count(1)
    fault = 60.0

    def ask(at: float) -> Answer:
        return (0.0, True) if at <= fault else (takes, next(failures) < threshold)

    worker = Worker("liveness", timing.period, timing.timeout, timing.failure, timing.initial_delay)
    at = killed_at([worker], ask, 0.0, [0.0], NEVER)

    assert at is not None
    assert found.in_flight <= at - fault <= found.most


@given(TIMINGS, STEPS.filter(lambda takes: takes >= 1), st.integers(1, 4), STEPS.filter(bool), st.integers(0, 159))
def test_a_sidecar_with_an_interval_adds_its_lag(
    timing: Timing, takes: float, threshold: int, interval: float, after: int
) -> None:
    """The sidecar probes at multiples of the interval, skips those it misses, and reports the last result at once."""
    lag = on_schedule(interval, threshold, takes)
    found = time_to_kill(timing, Failing(AT_ONCE, lag), 30)
    fault = 100 + after / 8
    start = next(number * interval for number in itertools.count() if number * interval >= fault)
    reported = fault
    for _ in range(threshold):
        reported = start + takes
        start = next(n * interval for n in itertools.count(int(start / interval) + 1) if n * interval >= reported)

    worker = Worker("liveness", timing.period, timing.timeout, timing.failure, timing.initial_delay)
    at = killed_at([worker], lambda now: (0.0, now <= reported), 0.0, [0.0], NEVER)

    assert lag.least <= reported - fault <= lag.most
    assert at is not None
    assert found.in_flight <= at - fault <= found.most


@given(TIMINGS, STEPS, st.integers(0, 80), STEPS)
def test_a_driver_that_never_starts_is_killed_within_the_range(
    timing: Timing, takes: float, container: int, phase: float
) -> None:
    found = time_to_start(timing, Range(takes, takes))
    begins = 12 + container / 8
    startup = Worker("startup", timing.period, timing.timeout, timing.failure, timing.initial_delay)
    liveness = Worker("liveness", 1, 1, 1)

    at = killed_at([startup, liveness], lambda _: (takes, False), begins, [phase % timing.period, 0.0], NEVER)

    assert at is not None
    assert found.least <= at - begins <= found.most


@given(TIMINGS, STEPS)
def test_a_driver_that_is_up_within_the_least_time_is_not_killed(timing: Timing, takes: float) -> None:
    """Probes that begin after that time find it; the last one of the startup probe begins `takes` before the least time."""
    shown = min(takes, timing.timeout)
    up = time_to_start(timing, Range(takes, takes)).least - shown
    worker = Worker("startup", timing.period, timing.timeout, timing.failure, timing.initial_delay)

    assert killed_at([worker], lambda now: (takes, False) if now - 12 < up else (0.0, True), 12.0, [0.0], 200.0) is None


def test_readiness_never_kills_and_other_probes_wait_for_the_startup_probe() -> None:
    asked: list[float] = []

    def ask(at: float) -> Answer:
        asked.append(at)
        return 0.0, at >= 30

    readiness = Worker("readiness", 1, 1, 1)
    startup = Worker("startup", 10, 1, 10)

    assert killed_at([startup, readiness], ask, 0.0, [0.0, 0.5], 60.0) is None
    assert [at for at in asked if at < 30] == [0.0, 10.0, 20.0]
    assert readiness.result is True


def test_after_the_startup_probe_a_hung_driver_is_killed_by_the_liveness_probe() -> None:
    startup, liveness = Worker("startup", 5, 5, 36), Worker("liveness", 10, 5, 5)

    at = killed_at([startup, liveness], lambda now: (0.0, True) if now < 33 else (3.0, False), 0.0, [0.0, 0.0], NEVER)

    found = time_to_kill(Timing(period=10, timeout=5, failure=5), Failing(Range(3, 3)), 30)
    assert at == 83.0
    assert found == TimeToKill(in_flight=40, least=43, most=53, gone=83)
    assert found.in_flight <= at - 33 <= found.most


@pytest.mark.parametrize(
    ("probe", "pod", "pre_stop", "most"),
    [
        (None, 30, False, 30),
        (5, 30, False, 5),
        (0, 30, False, 2),
        (None, 0, False, 2),
        (None, 30, True, 32),
        (1, 30, True, 3),
    ],
)
def test_the_process_is_gone_after_the_grace_period_at_most(probe: int | None, pod: int, pre_stop: bool, most: int) -> None:
    assert grace_period(Timing(grace=probe), pod, pre_stop=pre_stop) == most


def test_a_kubelet_that_gives_up_first_counts_its_own_timeout() -> None:
    """Upstream's example: every 2 s, 3 s each, five failures, while the sidecar waits for 10 s."""
    found = time_to_kill(Timing(period=2, timeout=3, failure=5), Failing(Range(10, 10)), 30)

    assert found == TimeToKill(in_flight=12, least=15, most=18, gone=48)
