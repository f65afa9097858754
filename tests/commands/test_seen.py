"""What a command understands of a sidecar's answers, and that no answer of another program confuses it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.commands.seen import Change, NotASidecar, Probe, Seen, look, read_flags, read_page, read_report
from livenessprobe.commands.sidecar import Answer, parse_url
from tests.support import FakeDriver, Start

PAGE = {
    "kind": "Statusz",
    "metadata": {"name": "livenessprobe"},
    "uptimeSeconds": 7,
    "report": {"healthy": False, "reason": "refused", "sentence": "nobody", "since": "T", "failures": 2},
    "driver": {"name": "a.csi"},
    "timing": {"probeTimeout": 3.0},
    "findings": ["look"],
    "probes": [{"started": "S", "seconds": 0.5, "reason": ""}],
    "changes": [{"at": "T", "reason": "refused", "sentence": "nobody", "driver": "a.csi", "lasted": 1}],
}
SEEN = Seen(
    healthy=False,
    reason="refused",
    sentence="nobody",
    driver="a.csi",
    has_page=True,
    since="T",
    failures=2,
    timeout=3.0,
    up=7.0,
    findings=("look",),
    probes=(Probe("S", 0.5, ""),),
    changes=(Change("T", "refused", "nobody", "a.csi"),),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def page(**changes: object) -> Answer:
    return Answer(200, "", json.dumps(PAGE | changes))


def test_the_page_tells_all() -> None:
    assert read_page(page()) == SEEN


@given(st.sampled_from([*PAGE]), VALUES)
def test_a_page_of_another_form_is_none_or_is_read(field: str, value: object) -> None:
    assert read_page(page(**{field: value})) is None or read_page(page(**{field: value}))


@given(st.binary() | VALUES.map(json.dumps).map(str.encode), st.integers(100, 599), st.text(max_size=20))
def test_no_answer_of_another_program_confuses(body: bytes, status: int, reason: str) -> None:
    answer = Answer(status, reason, body.decode(errors="replace"))

    assert read_page(answer) is None
    assert read_flags(answer) == {}
    if not reason:
        with pytest.raises(NotASidecar, match=f"status {status}"):
            read_report(answer)
    else:
        assert read_report(answer).healthy == (status == 200)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (Answer(200, "healthy", '{"driver": "a", "parts": [{"ok": true}]}'), Seen(True, "", "ok", "a")),
        (
            Answer(500, "refused", '{"driver": "a", "parts": [{"ok": false, "message": "b\\nc"}]}'),
            Seen(False, "refused", "b c", "a"),
        ),
        (Answer(500, "refused", "b\nc"), Seen(False, "refused", "b c", "")),
        (Answer(500, "other", "b"), Seen(False, "protocol_error", "b", "")),
    ],
)
def test_the_report_of_a_sidecar_without_pages(answer: Answer, seen: Seen) -> None:
    assert read_report(answer) == seen


def test_a_sidecar_tells_what_is_expected(driver: FakeDriver, sidecar: Start) -> None:
    """The contract between `/statusz`, `/flagz` and the commands that read them."""
    process = sidecar("--probe-timeout=2s")
    process.await_name()
    process.get()

    seen = look(parse_url(f"http://127.0.0.1:{process.port}")[0], 10, flags=True)

    assert (seen.healthy, seen.driver, seen.timeout, seen.has_page) == (True, "fake.csi.test", 2.0, True)
    assert len(seen.probes) == len(seen.changes) == 1
    assert seen.flags["probe-timeout"] == "2s"
