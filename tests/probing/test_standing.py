"""What a probe found, in upstream's words and as a reason; and what a run of probes adds up to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    DEADLINE,
    MESSAGE_MAX,
    NO_TIME,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.probing.standing import Health, Standing
from livenessprobe.settings.model import Thresholds


def test_the_reasons_never_change() -> None:
    """They are header values and metric labels that alerts are written for."""
    assert [reason.value for reason in Reason] == [
        "socket_missing",
        "not_a_socket",
        "permission_denied",
        "stale_mount",
        "refused",
        "unresolved",
        "unreachable",
        "deadline",
        "protocol_error",
        "connection_lost",
        "unimplemented",
        "driver_error",
        "not_ready",
        "internal",
    ]


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_can_stand_in_a_header_and_a_label(reason: Reason) -> None:
    assert reason.value.replace("_", "").isalpha()
    assert reason.value.isascii()
    assert reason.value.islower()


def test_ready_is_what_upstream_says() -> None:
    assert READY == ProbeResult(None, "ok", "Health check succeeded", None, "OK")
    assert READY.ready


def test_not_ready_is_ok_to_grpc() -> None:
    """The call succeeded: upstream counts it as OK and logs no `err`."""
    sentence = "driver responded but is not ready"

    assert NOT_READY == ProbeResult(Reason.NOT_READY, sentence, "Driver responded but is not ready", None, "OK")
    assert not NOT_READY.ready


def test_a_timeout_of_zero_is_a_connection_that_was_not_made() -> None:
    record = "Failed to establish connection to CSI driver"

    assert NO_TIME == ProbeResult(
        Reason.DEADLINE, "context deadline exceeded", record, "context deadline exceeded", "DeadlineExceeded"
    )


def test_a_driver_that_hangs_is_a_call_that_timed_out() -> None:
    text = "rpc error: code = DeadlineExceeded desc = context deadline exceeded"

    assert CALL_TIMED_OUT == ProbeResult(Reason.DEADLINE, text, "Health check failed", text, "DeadlineExceeded")


@pytest.mark.parametrize(
    ("code", "description", "text"),
    [
        ("Internal", "disk on fire", "rpc error: code = Internal desc = disk on fire"),
        ("Unavailable", "", "rpc error: code = Unavailable desc = "),  # the blank is kept
        ("Unknown", "l1\nl2", "rpc error: code = Unknown desc = l1\nl2"),
        ("Internal", "bad\udcff", "rpc error: code = Internal desc = bad\udcff"),
    ],
)
def test_a_failed_call_has_grpc_gos_words(code: str, description: str, text: str) -> None:
    result = rpc_error(Reason.DRIVER_ERROR, code, description)

    assert result == ProbeResult(Reason.DRIVER_ERROR, text, "Health check failed", text, code)
    assert not result.ready


@pytest.mark.parametrize(
    ("length", "passed_on"),
    [(MESSAGE_MAX, "m" * MESSAGE_MAX), (MESSAGE_MAX + 1, "m" * MESSAGE_MAX + "… (cut)")],
    ids=["the most", "too long"],
)
def test_a_message_that_goes_on_for_ever_is_cut(length: int, passed_on: str) -> None:
    result = rpc_error(Reason.DRIVER_ERROR, "Internal", "m" * length)

    assert result.body == result.err == f"rpc error: code = Internal desc = {passed_on}"


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.SOCKET_MISSING, "Unavailable"), (Reason.REFUSED, "Unavailable"), (Reason.DEADLINE, "DeadlineExceeded")],
)
@pytest.mark.parametrize(("timed_out", "err"), [(True, DEADLINE), (False, "no socket at /csi/csi.sock")])
def test_an_unreachable_driver_has_a_sentence(reason: Reason, code: str, timed_out: bool, err: str) -> None:
    """The body says why; the record is upstream's where the whole timeout was spent, as upstream always does."""
    sentence = "no socket at /csi/csi.sock"
    record = "Failed to establish connection to CSI driver"

    assert unreachable(reason, sentence, timed_out=timed_out) == ProbeResult(reason, sentence, record, err, code)


@pytest.mark.parametrize("reason", Reason)
def test_any_reason_means_not_ready(reason: Reason) -> None:
    assert not ProbeResult(reason).ready


# --- a run of probes


def results(signs: str) -> list[ProbeResult]:
    """`+` for a good one, anything else for a failure; each told from the others by its body."""
    return [ProbeResult(None if sign == "+" else Reason.DEADLINE, str(place)) for place, sign in enumerate(signs)]


def healths(signs: str, thresholds: Iterable[Thresholds]) -> list[Health]:
    """The health after each result."""
    health, found = Health(), []
    for result, each in zip(results(signs), thresholds, strict=False):
        health = health.after(result, each, good=result.ready)
        found.append(health)
    return found


def reported(signs: str, failure: int, success: int) -> str:
    """What is reported after each result."""
    found = healths(signs, itertools.repeat(Thresholds(failure, success)))
    return "".join("+" if health.stands else "-" for health in found)


def by_runs(signs: str, failure: int, success: int) -> str:
    """
    What is to be reported after the last of `signs`, told from the runs in them and not step by step.

    It is the kind of the last run that was as long as its kind's threshold; before any such run, that of the first result.
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
        # The first result is reported at once, of either kind.
        ("-", 3, 3, "-"),
        ("+", 3, 3, "+"),
        ("--", 3, 3, "--"),
        ("-+++", 3, 3, "---+"),
        ("-++-+++", 3, 3, "------+"),
        ("+-", 3, 3, "++"),
        # Runs that are interrupted begin anew, however often.
        ("+--+--+--+--", 3, 1, "++++++++++++"),
        ("-+-+-+-+-+", 1, 2, "----------"),
        ("-+-+-+-+-+", 1, 1, "-+-+-+-+-+"),
        # Longer runs than needed change nothing.
        ("+-----+++++-----", 2, 3, "++------++++----"),
    ],
)
def test_what_is_reported(signs: str, failure: int, success: int, expected: str) -> None:
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
def test_the_report_turns_only_after_as_many_equal_results_as_the_threshold_says_then(
    steps: list[tuple[str, Thresholds]],
) -> None:
    """Thresholds may change at any time; what was counted before still counts."""
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
def test_failures_are_those_at_the_end(signs: str, thresholds: Thresholds) -> None:
    assert Health().failures == 0
    for place, health in enumerate(healths(signs, itertools.repeat(thresholds))):
        seen = signs[: place + 1]
        assert health.failures == len(seen) - len(seen.rstrip("-"))


@pytest.mark.parametrize(
    ("signs", "failure", "expected"),
    [
        ("+---", [9, 9, 9, 2], "+++-"),  # what was counted under the higher threshold is enough at once
        ("+--+--", [9, 9, 9, 9, 9, 2], "+++++-"),
        ("+--+-", [9, 9, 9, 9, 2], "+++++"),
        ("+---", [3, 3, 3, 4], "++++"),
        ("+----", [3, 3, 3, 4, 4], "++++-"),
        ("+---", [3, 3, 2, 9], "++--"),  # what is reported is not taken back
    ],
)
def test_a_threshold_that_changes_counts_from_the_next_result_on(signs: str, failure: list[int], expected: str) -> None:
    found = healths(signs, map(Thresholds, failure))

    assert "".join("+" if health.stands else "-" for health in found) == expected


def test_a_health_is_never_changed() -> None:
    before = Health().after(READY, Thresholds(), good=True)
    before.after(NOT_READY, Thresholds(), good=False)

    assert before == Health(good=True, run=1, report=READY, stands=True)


# --- everything that is reported of a driver


ANSWERS = {None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED}


@pytest.mark.parametrize("reason", [None, *Reason])
def test_a_driver_is_alive_that_answers_in_whatever_way(reason: Reason | None) -> None:
    result = ProbeResult(reason)
    standing = Standing().after(result, Thresholds(), 0.0)

    assert result.alive == standing.alive.stands == (reason in ANSWERS)
    assert standing.ready.stands == (reason is None)
    assert standing.alive.report == standing.ready.report == standing.result == result


@pytest.mark.parametrize(
    ("reasons", "thresholds", "alive", "ready", "started"),
    [
        ([None], Thresholds(), True, True, True),
        ([Reason.NOT_READY], Thresholds(), True, False, False),
        ([Reason.REFUSED], Thresholds(), False, False, False),
        ([Reason.NOT_READY, None, Reason.REFUSED], Thresholds(), False, False, True),
        # A backend that is away: for the driver's life nothing counts but that it answers.
        ([None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.NOT_READY], Thresholds(3), True, False, True),
        ([None, Reason.NOT_READY, Reason.DEADLINE, Reason.DEADLINE], Thresholds(3), True, False, True),
        ([None, Reason.NOT_READY, Reason.DEADLINE, Reason.NOT_READY, Reason.DEADLINE], Thresholds(2), True, False, True),
        ([None, Reason.DEADLINE, Reason.DEADLINE, Reason.DEADLINE], Thresholds(3), False, False, True),
        # One success suffices to have been started, whatever it takes to be reported.
        ([Reason.REFUSED, None], Thresholds(1, 3), False, False, True),
        ([Reason.REFUSED, Reason.NOT_READY, Reason.NOT_READY], Thresholds(1, 2), True, False, False),
    ],
)
def test_life_readiness_and_start_are_three_questions(
    reasons: list[Reason | None], thresholds: Thresholds, alive: bool, ready: bool, started: bool
) -> None:
    standing = Standing()
    for reason in reasons:
        standing = standing.after(ProbeResult(reason), thresholds, 0.0)

    assert (standing.alive.stands, standing.ready.stands, standing.started) == (alive, ready, started)


def test_a_new_driver_has_yet_to_be_ready_once() -> None:
    """The counts go on: the report does not distinguish failures of the old driver from failures of the new one."""
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
def test_who_was_ready_since_it_came_has_started(steps: list[tuple[bool, bool]]) -> None:
    standing = Standing()
    for ready, new_driver in steps:
        standing = standing.after(READY if ready else NOT_READY, Thresholds(2, 2), 0.0, new_driver=new_driver)

    came = max((place for place, (_, new_driver) in enumerate(steps) if new_driver), default=0)
    assert standing.started == any(ready for ready, _ in steps[came:])


@pytest.mark.parametrize(("now", "fresh"), [(100.0, True), (100.5, True), (114.0, True), (114.001, False), (1e9, False)])
def test_a_report_is_fresh_until_it_is_older_than_it_lasts(now: float, fresh: bool) -> None:
    assert Standing().after(NOT_READY, Thresholds(), 100.0).is_fresh(now, 14.0) is fresh


def test_what_was_never_found_is_not_fresh() -> None:
    assert not Standing().is_fresh(0.0, 1e9)


def test_a_result_that_changes_no_report_makes_it_fresh_again() -> None:
    standing = Standing().after(READY, Thresholds(3), 100.0).after(NOT_READY, Thresholds(3), 110.0)

    assert standing.ready.report is READY
    assert standing.result is NOT_READY
    assert standing.is_fresh(114.0, 5.0)
