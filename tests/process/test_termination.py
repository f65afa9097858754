"""What one line of the termination message holds, and that it is left once."""

from __future__ import annotations

from pathlib import Path

import pytest

from livenessprobe.process import termination
from livenessprobe.process.termination import MESSAGE_MAX


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "log"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def no_message_is_expected_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "_message", termination._Message())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(termination.time, "monotonic", lambda: 10_000.0)
    return 10_000.0


@pytest.mark.parametrize(
    ("cause", "state", "age", "why", "line"),
    [
        ("stopped", "", 0, "", "stopped"),
        ("stopped", "driver healthy", 192.4, "", "stopped, driver healthy for 3m12s"),
        ("stopped", "driver unhealthy", 12, "refused: no", "stopped, driver unhealthy for 12s: refused: no"),
        (
            "failed: refused: no",
            "driver unhealthy",
            4000,
            "refused: no",
            "failed: refused: no, driver unhealthy for 1h6m40s",
        ),
        ("two\nlines\x1b\u202e", "", 0, "", "two lines  "),
    ],
)
def test_the_line(cause: str, state: str, age: float, why: str, line: str, file: Path, now: float) -> None:
    termination.expect(str(file))
    termination.report(state, now - age, why)

    assert termination.leave(cause) == ""

    assert file.read_text() == f"{line}\n"


@pytest.mark.parametrize("character", ["x", "€", "\udcff", "\n", "\U0001f600"])
def test_a_long_cause_leaves_place_for_the_last_change(character: str, file: Path, now: float) -> None:
    termination.expect(str(file))
    termination.report("driver unhealthy", now, "driver_error: " + character * 512)

    termination.leave(character * 70_000)

    text = file.read_bytes()
    assert len(text) <= MESSAGE_MAX
    assert b", driver unhealthy for 0s: driver_error: " in text
    assert text.decode().count("\n") == 1


def test_the_first_cause_is_kept(file: Path) -> None:
    termination.expect(str(file))

    assert [termination.leave(cause) for cause in ("first", "second")] == ["", ""]

    assert file.read_text() == "first\n"


def test_a_process_that_does_not_expect_a_message_leaves_none(file: Path) -> None:
    termination.use(str(file))

    assert termination.leave("stopped") == ""

    assert file.read_text() == ""


def test_a_file_that_cannot_be_written_is_an_error_with_its_path(folder: Path) -> None:
    termination.expect(str(folder))

    assert termination.leave("stopped") == f"{folder}: Is a directory"


def test_a_missing_file_is_not_created_and_only_the_default_one_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    termination.expect(f"{folder}/x")
    assert termination.leave("stopped") == f"{folder}/x: No such file or directory"
    monkeypatch.setattr(termination, "DEFAULT_PATH", f"{folder}/x")
    termination.expect(f"{folder}/x")

    assert termination.leave("stopped") == ""
    assert [*folder.iterdir()] == []
