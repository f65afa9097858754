"""What is reported after a run of probes, and whether the driver is alive, ready and started."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.result import NOT_READY, READY, ProbeResult, Reason
from livenessprobe.probing.standing import Health, Standing
from livenessprobe.settings.model import Thresholds

# --- a run of probes


def results(signs: str) -> list[ProbeResult]:
    """`+` is a success, any other sign a failure; the body is the result's index."""
    return [ProbeResult(None if sign == "+" else Reason.DEADLINE, str(place)) for place, sign in enumerate(signs)]


def healths(signs: str, thresholds: Iterable[Thresholds]) -> list[Health]:
    """The health after each result."""
    health, found = Health(), []
    for result, each in zip(results(signs), thresholds, strict=False):
        health = health.after(result, each, good=result.ready)
        found.append(health)
    return found


def reported(signs: str, failure: int, success: int) -> str:
    """The report after each result."""
    found = healths(signs, itertools.repeat(Thresholds(failure, success)))
    return "".join("+" if health.stands else "-" for health in found)


@pytest.mark.parametrize(("ours", "kubelets", "probes"), [(1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 5), (2, 4, 5)])
def test_the_thresholds_of_sidecar_and_kubelet_come_on_top_of_each_other(ours: int, kubelets: int, probes: int) -> None:
    """As docs/probing.md has it: the kubelet applies the same rule to what is reported."""
    signs = f"+{'-' * 20}"

    assert reported(reported(signs, ours, 1), kubelets, 1).index("-") == probes


def by_runs(signs: str, failure: int, success: int) -> str:
    """
    The report after the last of `signs`, computed from runs and not step by step.

    It is the kind of the last run that reached the threshold of its kind; before any such run, the kind of the first
    result.
    """
    stands = signs[0]
    for kind, run in itertools.groupby(signs):
        if len(list(run)) >= (success if kind == "+" else failure):
            stands = kind
    return stands


@pytest.mark.parametrize(
    ("signs", "failure", "success", "expected"),
    [
        ("+--+---", 1, 1, "+--+---"),
        ("+--+---", 2, 1, "++-++--"),
        ("+--+---", 3, 1, "++++++-"),
        ("+--+---", 4, 1, "+++++++"),
        ("+---++-++", 3, 2, "+++--++++"),
        ("+---+-++", 3, 2, "+++----+"),
        ("+---+---+---++", 3, 2, "+++----------+"),
        # The first result is reported at once, success or failure.
        ("-", 3, 3, "-"),
        ("+", 3, 3, "+"),
        ("--", 3, 3, "--"),
        ("-+++", 3, 3, "---+"),
        ("-++-+++", 3, 3, "------+"),
        ("+-", 3, 3, "++"),
        # An interrupted run begins anew, however often.
        ("+--+--+--+--", 3, 1, "++++++++++++"),
        ("-+-+-+-+-+", 1, 2, "----------"),
        ("-+-+-+-+-+", 1, 1, "-+-+-+-+-+"),
        # A run longer than the threshold changes nothing.
        ("+-----+++++-----", 2, 3, "++------++++----"),
    ],
)
def test_the_report_after_each_result(signs: str, failure: int, success: int, expected: str) -> None:
    assert reported(signs, failure, success) == expected


SIGNS = st.text("+-", min_size=1, max_size=40)
THRESHOLDS = st.builds(Thresholds, st.integers(1, 6), st.integers(1, 6))


@given(SIGNS, st.integers(1, 6), st.integers(1, 6))
def test_the_report_is_the_kind_of_the_last_run_that_was_long_enough(signs: str, failure: int, success: int) -> None:
    expected = "".join(by_runs(signs[:end], failure, success) for end in range(1, len(signs) + 1))

    assert reported(signs, failure, success) == expected


@pytest.mark.parametrize("failure", range(1, 4))
@pytest.mark.parametrize("success", range(1, 4))
def test_all_runs_of_ten_probes_are_reported_by_that_rule(failure: int, success: int) -> None:
    for signs in map("".join, itertools.product("+-", repeat=10)):
        assert reported(signs, failure, success)[-1] == by_runs(signs, failure, success), signs


@given(SIGNS)
def test_with_thresholds_of_one_every_result_is_the_report(signs: str) -> None:
    for health, result in zip(healths(signs, itertools.repeat(Thresholds())), results(signs), strict=True):
        assert health.report == result
        assert health.stands == result.ready


@given(st.lists(st.tuples(st.sampled_from("+-"), THRESHOLDS), min_size=1, max_size=40))
def test_the_report_changes_when_the_threshold_of_that_moment_is_reached(steps: list[tuple[str, Thresholds]]) -> None:
    """Thresholds may change at any time; earlier results still count."""
    signs = "".join(sign for sign, _ in steps)
    found = healths(signs, [thresholds for _, thresholds in steps])

    for place in range(1, len(steps)):
        before, now, (sign, thresholds) = found[place - 1], found[place], steps[place]
        needed = thresholds.success if sign == "+" else thresholds.failure
        long_enough = place + 1 >= needed and signs[place + 1 - needed : place + 1] == sign * needed
        was = "+" if before.stands else "-"
        assert ("+" if now.stands else "-") == (sign if long_enough else was)


@given(st.lists(st.tuples(st.sampled_from("+-"), THRESHOLDS), min_size=1, max_size=40))
def test_the_report_is_the_newest_result_of_the_kind_that_stands(steps: list[tuple[str, Thresholds]]) -> None:
    signs = "".join(sign for sign, _ in steps)
    made = results(signs)

    for place, health in enumerate(healths(signs, [thresholds for _, thresholds in steps])):
        assert health.report == [result for result in made[: place + 1] if result.ready == health.stands][-1]


@given(SIGNS, THRESHOLDS)
def test_failures_counts_the_run_of_failures_at_the_end(signs: str, thresholds: Thresholds) -> None:
    assert Health().failures == 0
    for place, health in enumerate(healths(signs, itertools.repeat(thresholds))):
        seen = signs[: place + 1]
        assert health.failures == len(seen) - len(seen.rstrip("-"))


@pytest.mark.parametrize(
    ("signs", "failure", "expected"),
    [
        ("+---", [9, 9, 9, 2], "+++-"),  # the results counted under the higher threshold are enough at once
        ("+--+--", [9, 9, 9, 9, 9, 2], "+++++-"),
        ("+--+-", [9, 9, 9, 9, 2], "+++++"),
        ("+---", [3, 3, 3, 4], "++++"),
        ("+----", [3, 3, 3, 4, 4], "++++-"),
        ("+---", [3, 3, 2, 9], "++--"),  # the report does not change back
    ],
)
def test_a_threshold_that_changes_counts_from_the_next_result_on(signs: str, failure: list[int], expected: str) -> None:
    found = healths(signs, map(Thresholds, failure))

    assert "".join("+" if health.stands else "-" for health in found) == expected


def test_a_health_is_immutable() -> None:
    before = Health().after(READY, Thresholds(), good=True)
    before.after(NOT_READY, Thresholds(), good=False)

    assert before == Health(good=True, run=1, report=READY, stands=True)


@pytest.mark.parametrize(
    ("reasons", "thresholds", "alive", "ready", "started"),
    [
        ([None], Thresholds(), True, True, True),
        ([Reason.NOT_READY], Thresholds(), True, False, False),
        ([Reason.REFUSED], Thresholds(), False, False, False),
        ([Reason.NOT_READY, None, Reason.REFUSED], Thresholds(), False, False, True),
        # The driver's backend is away: the driver is alive as long as it responds.
        ([None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.NOT_READY], Thresholds(3), True, False, True),
        ([None, Reason.NOT_READY, Reason.DEADLINE, Reason.DEADLINE], Thresholds(3), True, False, True),
        ([None, Reason.NOT_READY, Reason.DEADLINE, Reason.NOT_READY, Reason.DEADLINE], Thresholds(2), True, False, True),
        ([None, Reason.DEADLINE, Reason.DEADLINE, Reason.DEADLINE], Thresholds(3), False, False, True),
        # One success is enough to count as started, whatever the success threshold.
        ([Reason.REFUSED, None], Thresholds(1, 3), False, False, True),
        ([Reason.REFUSED, Reason.NOT_READY, Reason.NOT_READY], Thresholds(1, 2), True, False, False),
    ],
)
def test_alive_ready_and_started_are_decided_separately(
    reasons: list[Reason | None], thresholds: Thresholds, alive: bool, ready: bool, started: bool
) -> None:
    standing = Standing()
    for reason in reasons:
        standing = standing.after(ProbeResult(reason), thresholds, 0.0)

    assert (standing.alive.stands, standing.ready.stands, standing.started) == (alive, ready, started)
    assert {standing.alive.report, standing.ready.report} <= {ProbeResult(reason) for reason in reasons}


def test_a_new_driver_has_not_started_until_it_is_ready() -> None:
    """The counts go on: a reader of the report does not care whether the old or the new driver fails."""
    thresholds = Thresholds(3)
    old = Standing().after(READY, thresholds, 1.0)

    new = old.after(NOT_READY, thresholds, 2.0, new_driver=True)
    assert (new.started, new.ready.stands, new.ready.failures) == (False, True, 1)
    assert new.after(NOT_READY, thresholds, 3.0).started is False
    assert new.after(READY, thresholds, 3.0).started is True
    assert new.after(READY, thresholds, 3.0).after(NOT_READY, thresholds, 4.0).started is True

    assert old.after(NOT_READY, thresholds, 2.0).started is True
    assert old.after(READY, thresholds, 2.0, new_driver=True).started is True


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_driver_has_started_once_it_was_ready(steps: list[tuple[bool, bool]]) -> None:
    standing = Standing()
    for ready, new_driver in steps:
        standing = standing.after(READY if ready else NOT_READY, Thresholds(2, 2), 0.0, new_driver=new_driver)

    came = max((place for place, (_, new_driver) in enumerate(steps) if new_driver), default=0)
    assert standing.started == any(ready for ready, _ in steps[came:])


@pytest.mark.parametrize(("now", "fresh"), [(100.0, True), (100.5, True), (114.0, True), (114.001, False), (1e9, False)])
def test_a_report_is_fresh_for_the_given_seconds(now: float, fresh: bool) -> None:
    assert Standing().after(NOT_READY, Thresholds(), 100.0).is_fresh(now, 14.0) is fresh


def test_a_standing_without_a_result_is_not_fresh() -> None:
    assert not Standing().is_fresh(0.0, 1e9)


def test_a_result_that_changes_no_report_makes_it_fresh_again() -> None:
    standing = Standing().after(READY, Thresholds(3), 100.0).after(NOT_READY, Thresholds(3), 110.0)

    assert standing.ready.report is READY
    assert standing.result is NOT_READY
    assert standing.is_fresh(114.0, 5.0)
