"""When scheduled probes run, and how soon a report changes: all in simulated time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.driver.result import CALL_TIMED_OUT, READY
from livenessprobe.probing.schedule import MARGIN, Schedule, report_lasts
from livenessprobe.probing.standing import Health
from livenessprobe.settings.model import Thresholds

HOUR, DAY = 3600.0, 86_400.0


# --- the next moment


@pytest.mark.parametrize(
    ("start", "interval", "phase", "now", "moment"),
    [
        (0.0, 10.0, 0.0, 0.0, 10.0),
        (0.0, 10.0, 0.0, 9.99, 10.0),
        (0.0, 10.0, 0.0, 10.0, 20.0),  # after, not at
        (0.0, 10.0, 0.0, 10.01, 20.0),
        (0.0, 10.0, 0.0, 1234.5, 1240.0),  # missed times are skipped
        (7.0, 10.0, 0.0, 7.0, 17.0),
        (0.0, 10.0, 0.25, 0.0, 7.5),  # the phase shortens only the first gap
        (0.0, 10.0, 0.25, 7.5, 17.5),
        (0.0, 10.0, 0.25, 17.5, 27.5),
        (100.0, 0.1, 0.5, 100.0, 100.05),
        (5.0, 9e9, 0.5, 5.0, 4.5e9 + 5),
    ],
)
def test_the_next_scheduled_time(start: float, interval: float, phase: float, now: float, moment: float) -> None:
    assert Schedule(start, interval, phase).next_after(now) == pytest.approx(moment, rel=1e-12)


# From 100ms, the shortest accepted interval, to the longest duration; uptimes of up to 30 years.
INTERVALS = st.one_of(
    st.sampled_from([0.1, 0.3, 1 / 3, 1.0, 3.0, 10.0, 60.0, 86_400.0, 9.2e9]), st.floats(0.1, 100), st.floats(0.1, 9.2e9)
)
STARTS = st.one_of(st.just(0.0), st.floats(0, 1e5), st.floats(0, 1e9))
PHASES = st.one_of(st.just(0.0), st.floats(0, 1, exclude_max=True))


def rounding(*numbers: float) -> float:
    """The rounding error of a few operations on floats of this size."""
    return 8 * math.ulp(max(map(abs, numbers)))


def off_grid(schedule: Schedule, moment: float) -> float:
    """The distance of `moment` from the nearest time on the schedule, computed without rounding."""
    interval = Fraction(schedule.interval)
    origin = Fraction(schedule.start) - Fraction(schedule.phase) * interval
    return float(abs(Fraction(moment) - (origin + round((Fraction(moment) - origin) / interval) * interval)))


@settings(max_examples=500)
@given(STARTS, INTERVALS, PHASES, st.floats(0, 1e9))
def test_the_next_time_is_on_schedule_and_at_most_an_interval_away(
    start: float, interval: float, phase: float, later: float
) -> None:
    schedule, now = Schedule(start, interval, phase), start + later
    moment = schedule.next_after(now)

    assert moment > now
    assert moment - now <= interval + rounding(now, interval)
    assert off_grid(schedule, moment) <= rounding(moment, start, interval)


@settings(max_examples=300)
@given(STARTS, INTERVALS, PHASES, st.integers(0, 10**6), st.sampled_from([-2, -1, 0, 1, 2]))
def test_scheduled_times_are_an_interval_apart_whatever_the_rounding(
    start: float, interval: float, phase: float, count: int, bits: int
) -> None:
    """From a scheduled time, or from one of the two floats before and after it, the next two times are an interval apart."""
    schedule = Schedule(start, interval, phase)
    now = start + (count - phase + 1) * interval
    for _ in range(abs(bits)):
        now = math.nextafter(now, math.copysign(math.inf, bits))
    first = schedule.next_after(now)
    second = schedule.next_after(first)

    assert second > first > now
    assert abs(second - first - interval) <= rounding(second, interval)


@given(STARTS, INTERVALS, PHASES)
def test_the_phase_shortens_only_the_first_gap(start: float, interval: float, phase: float) -> None:
    schedule = Schedule(start, interval, phase)
    first = schedule.next_after(start)
    off = rounding(first, interval)

    assert first > start
    # A very small phase may be rounded away; then the first gap is a whole interval.
    assert abs(first - start - (1 - phase) * interval) <= off or abs(first - start - interval) <= off
    assert abs(schedule.next_after(first) - first - interval) <= rounding(first + interval)


def test_a_report_lasts_for_interval_timeout_and_margin() -> None:
    assert report_lasts(10.0, 3.0) == 13.0 + MARGIN
    assert report_lasts(10.0, -1.0) == 10.0 + MARGIN  # a timeout below zero counts as zero


@given(INTERVALS.filter(lambda interval: interval < 1e6), st.floats(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_no_report_expires_while_probes_are_on_time(interval: float, timeout: float, one: float, other: float) -> None:
    """Whatever part of the timeout each of two successive probes takes."""
    schedule = Schedule(0.0, interval)
    began = schedule.next_after(0.0)
    came = began + one * timeout
    next_comes = schedule.next_after(came) + other * timeout

    assert next_comes - came <= report_lasts(interval, timeout)


# --- a day


def lived(schedule: Schedule, end: float, lasts: Iterator[float], late: Iterator[float]) -> list[tuple[float, float]]:
    """
    Start and end of each probe: the first at the start, each other at its time, or `late` if the process cannot run
    then.
    """
    probes, now = [], schedule.start
    while now < end:
        probes.append((now, now + next(lasts)))
        now = schedule.next_after(probes[-1][1]) + next(late)
    return probes


@pytest.mark.parametrize("phase", [0.0, 0.125, 0.7, 0.999])
@pytest.mark.parametrize("interval", [0.5, 10.0, 0.1 * 3, 61.0])
def test_a_day_of_quick_probes_misses_none(interval: float, phase: float) -> None:
    chance, start = random.Random(interval + phase), 12_345.678
    schedule = Schedule(start, interval, phase)
    first = (1 - phase) * interval / 2  # within the shorter first gap
    lasts = itertools.chain([first], iter(lambda: chance.uniform(0, interval * 0.99), None))
    probes = lived(schedule, start + DAY, lasts, itertools.repeat(0.0))
    begins = [began for began, _ in probes]

    # Exactly: the times (k - phase) × interval for k = 1, 2, … before the end, and the start.
    whole = math.ceil(Fraction(DAY) / Fraction(interval) + Fraction(phase)) - 1
    assert len(begins) == 1 + whole
    # No drift, not even at the end of the day.
    for place, began in enumerate(begins[1:], 1):
        assert abs(began - (start + (place - phase) * interval)) < 1e-6


@pytest.mark.parametrize(("interval", "seed"), [(10.0, 0), (10.0, 1), (10.0, 2), (3.3, 3)])
def test_a_day_of_slow_probes_and_pauses_has_no_overlap_and_no_drift(interval: float, seed: int) -> None:
    """Probes take up to twice the interval, and one in a hundred begins late, as after SIGSTOP."""
    chance, start = random.Random(seed), chance_start(seed)
    phase = chance.random()
    lasts = [chance.uniform(0, 2 * interval) for _ in range(int(DAY / interval) + 2)]
    pauses = [chance.uniform(0, 20 * interval) if chance.random() < 0.01 else 0.0 for _ in lasts]
    schedule = Schedule(start, interval, phase)
    probes = lived(schedule, start + DAY, iter(lasts), iter(pauses))

    # The same day again, in whole numbers of intervals and exact fractions.
    step, origin = Fraction(interval), Fraction(start) - Fraction(phase) * Fraction(interval)
    now, expected, missed = Fraction(start), [], 0
    for last, pause in zip(map(Fraction, lasts), map(Fraction, pauses), strict=True):
        if now >= Fraction(start) + Fraction(DAY):
            break
        expected.append(now)
        ended = (now + last - origin) / step
        missed += int(ended) - int((now - origin) / step)
        now = origin + (int(ended) + 1) * step + pause
    assert len(probes) == len(expected)
    assert missed > len(probes) / 3  # many times were missed

    for (began, _), exact, pause in zip(probes, expected, [0.0, *pauses], strict=False):
        assert abs(Fraction(began) - exact) < Fraction(1, 10**6)
        assert began == start or off_grid(schedule, began - pause) < 1e-6
    for (_, ended), (began, _) in itertools.pairwise(probes):
        assert began > ended


def chance_start(seed: int) -> float:
    return random.Random(f"start {seed}").uniform(0, 1e7)


# --- a driver that flaps


FAILS = 0.3
PAIRS = [Thresholds(1, 1), Thresholds(2, 1), Thresholds(3, 1), Thresholds(3, 2), Thresholds(4, 3), Thresholds(1, 5)]


def flapping(seed: int, seconds: float, interval: float) -> str:
    """The results of scheduled probes of a driver that fails 30 % of its probes at random."""
    chance = random.Random(seed)
    schedule = Schedule(chance.uniform(0, 1e6), interval, chance.random())
    lasts = iter(lambda: chance.uniform(0, interval / 2), None)
    probes = lived(schedule, schedule.start + seconds, lasts, itertools.repeat(0.0))
    return "".join("-" if chance.random() < FAILS else "+" for _ in probes)


def changes_of_report(signs: str, thresholds: Thresholds) -> int:
    """How often the report changes."""
    health, changes = Health(), 0
    for sign in signs:
        after = health.after(READY if sign == "+" else CALL_TIMED_OUT, thresholds, good=sign == "+")
        changes += health.stands is not None and after.stands != health.stands
        health = after
    return changes


def changes_by_runs(signs: str, thresholds: Thresholds) -> int:
    """
    The same, computed from the runs: a run that reaches its threshold changes the report unless the last such run was
    of its kind.
    """
    enough = {"+": thresholds.success, "-": thresholds.failure}
    kinds = [kind for kind, run in itertools.groupby(signs) if len(list(run)) >= enough[kind]]
    return sum(one != other for one, other in itertools.pairwise([signs[0], *kinds]))


@pytest.mark.parametrize("thresholds", PAIRS)
@pytest.mark.parametrize("seed", range(20))
def test_an_hour_of_flapping_changes_the_report_once_per_long_enough_run(seed: int, thresholds: Thresholds) -> None:
    signs = flapping(seed, HOUR, 10.0)

    assert len(signs) in (360, 361)  # the phase decides about the last one
    assert signs.count("-") / len(signs) == pytest.approx(FAILS, abs=0.12)
    assert changes_of_report(signs, thresholds) == changes_by_runs(signs, thresholds)


@given(st.text("+-", min_size=1, max_size=60), st.builds(Thresholds, st.integers(1, 5), st.integers(1, 5)))
def test_any_results_change_the_report_once_per_long_enough_run(signs: str, thresholds: Thresholds) -> None:
    assert changes_of_report(signs, thresholds) == changes_by_runs(signs, thresholds)


def expected_changes(probes: int, thresholds: Thresholds) -> tuple[float, float]:
    """
    Mean and variance of the changes of the report in `probes` independent probes, each of which fails with probability
    FAILS.

    A Markov chain: its states are the report and the number of latest results of the other kind.  For each state it
    carries the probability and the first two moments of the number of changes so far.
    """
    state = {(True, 0): (1 - FAILS, 0.0, 0.0), (False, 0): (FAILS, 0.0, 0.0)}  # the first result is reported at once
    for _ in range(probes - 1):
        following: dict[tuple[bool, int], tuple[float, float, float]] = {}
        for (stands, run), (chance, once, twice) in state.items():
            for good, weight in ((True, 1 - FAILS), (False, FAILS)):
                count = 0 if good == stands else run + 1
                crosses = count >= (thresholds.success if good else thresholds.failure) and good != stands
                key = (good, 0) if crosses else (stands, count)
                more = (chance, once + chance, twice + 2 * once + chance) if crosses else (chance, once, twice)
                sums = following.get(key, (0.0, 0.0, 0.0))
                following[key] = tuple(old + weight * new for old, new in zip(sums, more, strict=True))  # type: ignore[assignment]
        state = following
    mean = sum(once for _, once, _ in state.values())
    return mean, sum(twice for _, _, twice in state.values()) - mean**2


@pytest.mark.parametrize("thresholds", PAIRS)
def test_the_chain_agrees_with_the_formula_for_runs(thresholds: Thresholds) -> None:
    """
    A run of `n` results that each have probability p takes (p⁻ⁿ - 1) / (1 - p) probes in the mean (Feller).

    So the report changes twice in as many probes as both runs take.  The difference to the chain stays constant: it is
    less than the two changes of a cycle, and comes from the beginning and the end, which are not whole cycles.
    """

    def wait(n: int, p: float) -> float:
        return (p**-n - 1) / (1 - p)

    cycle = wait(thresholds.failure, FAILS) + wait(thresholds.success, 1 - FAILS)
    short, long = (expected_changes(probes, thresholds)[0] for probes in (1000, 2000))
    assert abs(short - 1000 * 2 / cycle) < 2
    assert long - short == pytest.approx(1000 * 2 / cycle, rel=1e-9)


@pytest.mark.parametrize("thresholds", PAIRS)
def test_flapping_changes_the_report_as_often_as_the_chain_predicts(thresholds: Thresholds) -> None:
    """
    The mean of many hours is within five standard errors of the chain's mean.

    By chance it would be outside in fewer than one of a million sets of seeds, and these seeds are fixed.
    """
    hours = 150
    found = [changes_of_report(flapping(seed, HOUR, 10.0)[:360], thresholds) for seed in range(1000, 1000 + hours)]
    mean, variance = expected_changes(360, thresholds)

    assert abs(sum(found) / hours - mean) < 5 * math.sqrt(variance / hours)
    # The bound is tight enough to tell a threshold from the next higher one.
    higher, _ = expected_changes(360, Thresholds(thresholds.failure + 1, thresholds.success))
    assert abs(mean - higher) > 5 * math.sqrt(variance / hours)


# --- a driver that dies


def reported_after(
    schedule: Schedule, timeout: float, failure: int, death: float, answers_in: float, dies_loudly: bool = False
) -> float:
    """
    Seconds from the death of a driver until it is reported.

    Before its death the driver responds to each probe after `answers_in` seconds.  Then each probe times out; or, if it
    `dies_loudly`, the connection breaks, so that the probe in flight and all later ones fail at once.
    """
    health, now = Health(), schedule.start
    while True:
        good = now + answers_in <= death
        if good:
            now += answers_in
        elif dies_loudly:
            now = max(now, death)
        else:
            now += timeout
        health = health.after(READY if good else CALL_TIMED_OUT, Thresholds(failure), good=good)
        if not health.stands:
            return now - death
        now = schedule.next_after(now)


def latest(interval: float, timeout: float, failure: int) -> float:
    """
    The longest time from the death of a driver until it is reported.

    The first probe that fails begins within an interval, and the last one takes the timeout.  Between them are gaps; a
    probe that takes longer than the interval makes the gap as many intervals long as it needs.
    """
    gap = (math.floor((timeout + 1e-6) / interval) + 1) * interval  # a probe that ends at a scheduled time has missed it
    return interval + (failure - 1) * gap + timeout


@pytest.mark.parametrize("failure", [1, 2, 3, 5])
@pytest.mark.parametrize(("interval", "timeout"), [(10.0, 3.0), (10.0, 9.9), (1.0, 0.5), (60.0, 1.0)])
def test_a_dead_driver_is_reported_within_threshold_times_interval_and_timeout(
    interval: float, timeout: float, failure: int
) -> None:
    """At any phase, and at any time of death: before, during and just after each of the first few probes."""
    promised = failure * interval + timeout
    assert latest(interval, timeout, failure) == pytest.approx(promised)
    worst = 0.0
    for phase in (0.0, 0.01, 0.3, 0.5, 0.77, 0.999):
        schedule = Schedule(1000.0, interval, phase)
        moments = [1000.0]
        while len(moments) < 4:
            moments.append(schedule.next_after(moments[-1]))
        for answers_in in (0.0, timeout / 3, timeout):
            ends = [moment + answers_in for moment in moments]
            steps = [moments[0] + step * interval / 20 for step in range(60)]
            for death in [*moments, *ends, *(end + 1e-6 for end in ends), *(end - 1e-6 for end in ends), *steps]:
                if death < schedule.start:
                    continue
                for dies_loudly in (False, True):
                    reported = reported_after(schedule, timeout, failure, death, answers_in, dies_loudly)
                    assert 0 <= reported <= promised + 1e-6
                    worst = max(worst, reported)
    assert worst > promised - 1e-3  # the bound is tight: some deaths take this long


@settings(max_examples=300)
@given(
    st.floats(0.1, 100),
    st.floats(0.01, 3),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 5),
    st.floats(0, 10),
    st.floats(0, 1),
)
def test_a_dead_driver_is_reported_in_time_for_any_settings(
    interval: float, ratio: float, phase: float, failure: int, death: float, speed: float
) -> None:
    """Also with a timeout above the interval, where a probe skips the scheduled times that it overlaps."""
    timeout = ratio * interval
    schedule = Schedule(1000.0, interval, phase)
    reported = reported_after(schedule, timeout, failure, 1000.0 + death * interval, speed * timeout)

    assert 0 <= reported <= latest(interval, timeout, failure) + 1e-6
    assert ratio > 0.9999 or reported <= failure * interval + timeout + 1e-6
