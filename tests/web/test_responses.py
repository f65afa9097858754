"""The responses of /livez, /readyz and /startupz, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.result import CALL_TIMED_OUT, NOT_READY, READY, ProbeResult, Reason, rpc_error, unreachable
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Thresholds
from livenessprobe.web.responses import REASONS, Check, as_json, as_text, checks, wants_json
from livenessprobe.web.routes import Handler

LIVEZ, READYZ, STARTUPZ = Handler.LIVEZ, Handler.READYZ, Handler.STARTUPZ
BROKEN = rpc_error(Reason.DRIVER_ERROR, "Internal", "disk on fire")
REFUSED = unreachable(Reason.REFUSED, "nobody listens on /csi/csi.sock", timed_out=False)
DEADLINE_TEXT = "deadline: rpc error: code = DeadlineExceeded desc = context deadline exceeded"
NOT_READY_TEXT = "not_ready: driver responded but is not ready"
BROKEN_TEXT = "driver_error: rpc error: code = Internal desc = disk on fire"


def standing(found: Iterable[ProbeResult], thresholds: Thresholds, *, new_driver: bool = False) -> Standing:
    """The standing after these results; with `new_driver` the last result comes from a new driver."""
    *earlier, last = found
    reported = Standing()
    for result in earlier:
        reported = reported.after(result, thresholds, 0.0, seconds=0.25)
    return reported.after(last, thresholds, 0.0, seconds=0.25, new_driver=new_driver)


@pytest.mark.parametrize(
    ("handler", "found", "short", "verbose"),
    [
        (LIVEZ, [READY], "ok", "[+]answers ok\nlivez check passed\n"),
        (READYZ, [READY], "ok", "[+]answers ok\n[+]ready ok\nreadyz check passed\n"),
        (STARTUPZ, [READY], "ok", "[+]has-been-ready ok\nstartupz check passed\n"),
        # The driver's backend is away: the driver lives, and has been ready.
        (LIVEZ, [READY, NOT_READY], "ok", "[+]answers ok\nlivez check passed\n"),
        (LIVEZ, [READY, BROKEN], "ok", "[+]answers ok\nlivez check passed\n"),
        (STARTUPZ, [READY, NOT_READY], "ok", "[+]has-been-ready ok\nstartupz check passed\n"),
        (STARTUPZ, [READY, REFUSED], "ok", "[+]has-been-ready ok\nstartupz check passed\n"),
        # A failure lists the parts even if the request did not ask for them.
        (READYZ, [NOT_READY], f"[+]answers ok\n[-]ready failed: {NOT_READY_TEXT}\nreadyz check failed\n", None),
        (READYZ, [READY, BROKEN], f"[+]answers ok\n[-]ready failed: {BROKEN_TEXT}\nreadyz check failed\n", None),
        (LIVEZ, [CALL_TIMED_OUT], f"[-]answers failed: {DEADLINE_TEXT}\nlivez check failed\n", None),
        (
            READYZ,
            [CALL_TIMED_OUT],
            f"[-]answers failed: {DEADLINE_TEXT}\n[-]ready failed: {DEADLINE_TEXT}\nreadyz check failed\n",
            None,
        ),
        (LIVEZ, [REFUSED], "[-]answers failed: refused: nobody listens on /csi/csi.sock\nlivez check failed\n", None),
        (STARTUPZ, [NOT_READY], f"[-]has-been-ready failed: {NOT_READY_TEXT}\nstartupz check failed\n", None),
        (STARTUPZ, [BROKEN, CALL_TIMED_OUT], f"[-]has-been-ready failed: {DEADLINE_TEXT}\nstartupz check failed\n", None),
    ],
)
def test_the_text_response(handler: Handler, found: list[ProbeResult], short: str, verbose: str | None) -> None:
    shown = checks(handler, standing(found, Thresholds()))

    assert as_text(handler, shown, verbose=False) == short
    assert as_text(handler, shown, verbose=True) == (verbose or short)


@pytest.mark.parametrize(
    ("handler", "found", "thresholds", "short"),
    [
        # Until the threshold is reached the earlier report stays, with its reason.
        (READYZ, [READY, BROKEN, BROKEN], Thresholds(3), "ok"),
        (READYZ, [READY, NOT_READY, NOT_READY, NOT_READY], Thresholds(3), None),
        (LIVEZ, [READY, NOT_READY, NOT_READY, NOT_READY], Thresholds(3), "ok"),
        (LIVEZ, [READY, REFUSED, REFUSED, REFUSED], Thresholds(3), None),
        (READYZ, [BROKEN, READY], Thresholds(1, 2), f"[+]answers ok\n[-]ready failed: {BROKEN_TEXT}\nreadyz check failed\n"),
        (LIVEZ, [CALL_TIMED_OUT, READY], Thresholds(1, 2), f"[-]answers failed: {DEADLINE_TEXT}\nlivez check failed\n"),
        # One success is enough to have been ready, whatever is reported.
        (STARTUPZ, [BROKEN, READY, BROKEN], Thresholds(1, 3), "ok"),
    ],
)
def test_thresholds_decide_the_response(
    handler: Handler, found: list[ProbeResult], thresholds: Thresholds, short: str | None
) -> None:
    said = as_text(handler, checks(handler, standing(found, thresholds)), verbose=False)

    assert said == short or (short is None and said.startswith("[") and said.endswith("check failed\n"))


def test_a_new_driver_with_no_reported_failure_has_not_been_ready_yet() -> None:
    shown = checks(STARTUPZ, standing([READY, NOT_READY], Thresholds(3), new_driver=True))

    assert as_text(STARTUPZ, shown, verbose=False) == "[-]has-been-ready failed: not yet\nstartupz check failed\n"
    assert json.loads(as_json(STARTUPZ, shown, "a.driver")) == {
        "check": "startupz",
        "status": "failed",
        "driver": "a.driver",
        "seconds": 0.25,
        "connected": True,
        "parts": [{"name": "has-been-ready", "ok": False, "reason": None, "message": "not yet"}],
    }


@pytest.mark.parametrize(
    ("handler", "found", "expected"),
    [
        (LIVEZ, READY, {"check": "livez", "status": "ok", "parts": [{"name": "answers", "ok": True}]}),
        (
            READYZ,
            NOT_READY,
            {
                "check": "readyz",
                "status": "failed",
                "parts": [
                    {"name": "answers", "ok": True},
                    {"name": "ready", "ok": False, "reason": "not_ready", "message": "driver responded but is not ready"},
                ],
            },
        ),
        (
            LIVEZ,
            REFUSED,
            {
                "check": "livez",
                "status": "failed",
                "parts": [
                    {"name": "answers", "ok": False, "reason": "refused", "message": "nobody listens on /csi/csi.sock"}
                ],
            },
        ),
        (STARTUPZ, READY, {"check": "startupz", "status": "ok", "parts": [{"name": "has-been-ready", "ok": True}]}),
    ],
)
def test_the_json_response(handler: Handler, found: ProbeResult, expected: dict[str, object]) -> None:
    said = as_json(handler, checks(handler, standing([found], Thresholds())), "a.driver")

    assert json.loads(said) == expected | {"driver": "a.driver", "seconds": 0.25, "connected": found != REFUSED}
    assert said.endswith("}\n")
    assert said.count("\n") == 1


def test_a_message_that_is_not_utf8_is_shown_in_text_and_json() -> None:
    """A driver's message may hold them, as surrogate escapes: text shows blanks, JSON stays ASCII."""
    bad = rpc_error(Reason.DRIVER_ERROR, "Internal", b"caf\xe9\xff".decode(errors="surrogateescape"))
    shown = checks(READYZ, standing([bad], Thresholds()))

    assert b"desc = caf  \n" in as_text(READYZ, shown, verbose=False).encode()
    said = as_json(READYZ, shown, "a.driver")
    assert said.isascii()
    assert json.loads(said)["parts"][1]["message"] == bad.body


@pytest.mark.parametrize("handler", [LIVEZ, READYZ, STARTUPZ])
@given(st.lists(st.sampled_from([None, *Reason]), min_size=1, max_size=8), st.text(max_size=20), st.data())
def test_text_and_json_agree(handler: Handler, reasons: list[Reason | None], body: str, data: st.DataObject) -> None:
    thresholds = data.draw(st.builds(Thresholds, st.integers(1, 3), st.integers(1, 3)))
    reported = standing([ProbeResult(reason, body) for reason in reasons], thresholds, new_driver=data.draw(st.booleans()))
    shown = checks(handler, reported)
    good = {LIVEZ: reported.alive.stands, READYZ: reported.alive.stands and reported.ready.stands}.get(
        handler, reported.started
    )

    said = json.loads(as_json(handler, shown, "a.driver"))
    assert (said["status"] == "ok") == good == (as_text(handler, shown, verbose=False) == "ok")
    verbose = as_text(handler, shown, verbose=True)
    assert verbose.endswith(f"\n{said['check']} check {'passed' if good else 'failed'}\n")
    for part in said["parts"]:
        assert f"[{'+' if part['ok'] else '-'}]{part['name']} " in verbose
        flat = "".join(
            each if each.isprintable() else " " for each in body
        )  # without this a message could look like a line of its own
        assert part["ok"] or part["reason"] is None or f"failed: {part['reason']}: {flat}\n" in verbose
    as_json(handler, shown, "a.driver").encode()


def test_a_ready_driver_also_answers() -> None:
    """So in a run of equal results the first part of /readyz never contradicts the second."""
    for reason in [None, *Reason]:
        answers, ready = checks(READYZ, standing([ProbeResult(reason)], Thresholds()))
        assert (answers.name, ready.name) == ("answers", "ready")
        assert answers.good or not ready.good


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("", False),
        ("*/*", False),  # curl and the kubelet
        ("text/plain", False),
        ("application/json", True),
        ("Application/JSON", True),
        (" application/json ", True),
        ("application/json; charset=utf-8", True),
        ("application/json;q=0.9", True),
        ("application/json, */*", True),
        ("application/json,text/plain", True),
        ("text/plain, application/json", False),
        ("*/*, application/json", False),
        ("text/*, application/json", False),
        # Media types other than text/plain and application/json are ignored.
        ("text/html, application/json", True),
        ("application/xml, text/plain", False),
        ("application/*", False),
        ("application/jsonx", False),
        ("application/problem+json", False),
        ("json", False),
        (",,;,", False),
        (",application/json", True),
        ("application/json" * 1000, False),
    ],
)
def test_json_is_sent_if_accept_names_it_before_text(accept: str, json_wanted: bool) -> None:
    assert wants_json(accept) is json_wanted


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["application/json", "text/plain", ";q=1", ",", " ", "*/*"])).map("".join)
)
def test_any_accept_header_is_understood(accept: str) -> None:
    assert wants_json(accept) in (True, False)


def test_a_part_shows_the_last_result_of_its_kind() -> None:
    newest = rpc_error(Reason.DRIVER_ERROR, "Internal", "second")
    answers, ready = checks(READYZ, standing([READY, BROKEN, newest], Thresholds(2)))

    assert answers == Check("answers", True, newest, 0.25)
    assert ready == Check("ready", False, newest, 0.25)


OF_GO = {413: "Request Entity Too Large", 431: "Request Header Fields Too Large", 505: "HTTP Version Not Supported"}


@pytest.mark.parametrize("status", REASONS)
def test_reason_phrases_are_those_of_python_or_go(status: int) -> None:
    assert REASONS[status].decode() == OF_GO.get(status, HTTPStatus(status).phrase)
