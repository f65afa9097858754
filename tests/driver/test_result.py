"""What one probe found: the reasons, and the words of each result."""

from __future__ import annotations

import re

import pytest

from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    DEADLINE,
    MESSAGE_MAX,
    NO_TIME,
    NOT_READY,
    READY,
    WAYS_OUT,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Thresholds


def test_the_reasons_never_change() -> None:
    """They are header values and metric labels, and users write alerts for them."""
    assert [reason.value for reason in Reason] == [
        "socket_missing",
        "not_a_socket",
        "permission_denied",
        "stale_mount",
        "hung_mount",
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


def test_ready_has_upstreams_words() -> None:
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
        ("Unavailable", "", "rpc error: code = Unavailable desc = "),  # with the blank at the end
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
def test_a_message_above_the_limit_is_cut(length: int, passed_on: str) -> None:
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


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (ProbeResult(), {}),
        (NOT_READY, {"reason": "not_ready", "detail": "driver responded but is not ready"}),
        (NO_TIME, {"reason": "deadline"}),
        (CALL_TIMED_OUT, {"reason": "deadline"}),
        (rpc_error(Reason.DRIVER_ERROR, "Internal", "x"), {"reason": "driver_error"}),
        (unreachable(Reason.REFUSED, "nobody listens", timed_out=True), {"reason": "refused", "detail": "nobody listens"}),
        (unreachable(Reason.REFUSED, "nobody listens", timed_out=False), {"reason": "refused"}),
    ],
)
def test_the_cause_says_what_the_record_does_not(result: ProbeResult, cause: dict[str, str]) -> None:
    assert result.cause == cause


def test_each_reason_has_a_way_out_with_a_command_or_a_setting() -> None:
    """They are quoted in the log, so they hold no quotes; none of them is long."""
    assert [*WAYS_OUT] == [*Reason]
    for way_out in WAYS_OUT.values():
        assert re.search(r"kubectl |--[a-z-]+|runAsUser|mount the folder", way_out)
        assert not re.search(r"[\"\\\n]", way_out)
        assert len(way_out) < 200


@pytest.mark.parametrize("reason", Reason)
def test_any_reason_means_not_ready(reason: Reason) -> None:
    assert not ProbeResult(reason).ready


ANSWERS = {None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED}


@pytest.mark.parametrize("reason", [None, *Reason])
def test_a_driver_that_responds_is_alive(reason: Reason | None) -> None:
    result = ProbeResult(reason)
    standing = Standing().after(result, Thresholds(), 0.0)

    assert result.alive == standing.alive.stands == (reason in ANSWERS)
    assert standing.ready.stands == (reason is None)
    assert standing.alive.report == standing.ready.report == standing.result == result
