"""Repeated error records: the first ones are written, then a summary with the number of the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from livenessprobe.klog.folding import FOLD_AFTER, FOLD_SECONDS, RepeatFilter
from livenessprobe.klog.format import Options, Record, render_text

CALLER = ("/src/k/main.go", 11)


def error(message: str, err: object | None, *pairs: tuple[str, object]) -> Record:
    return Record("E", 0, message, pairs, err, CALLER)


def text(record: Record) -> str:
    return render_text(record, Options(skip_headers=True))


def put(
    repeats: RepeatFilter, times: int, now: float = 0.0, make: Callable[[], Record] = lambda: error("m", "e")
) -> list[bool]:
    return [repeats.should_write(make(), now) for _ in range(times)]


def test_ten_equal_records_are_written_and_the_others_folded() -> None:
    assert FOLD_AFTER == 10
    assert put(RepeatFilter(), 13) == [True] * 10 + [False] * 3


def test_records_that_are_not_folded_use_no_memory() -> None:
    """A driver's messages may be long, and different each time."""
    repeats = RepeatFilter()
    records = [error("m", f"e{number}") for number in range(RepeatFilter.KEYS)]
    references = [sys.getrefcount(record) for record in records]

    assert [repeats.should_write(record, 0.0) for record in records] == [True] * RepeatFilter.KEYS
    assert [sys.getrefcount(record) for record in records] == references


def test_the_end_of_the_window_yields_one_record_with_the_count() -> None:
    repeats = RepeatFilter()
    put(repeats, 17, make=lambda: error("m", "e", ("k", "v")))

    assert repeats.close_windows(FOLD_SECONDS - 0.001) == []
    (summary,) = repeats.close_windows(FOLD_SECONDS)
    assert text(summary) == '"m" err="e" k="v" repeated=7'
    assert (summary.severity, summary.level, summary.caller) == ("E", 0, CALLER)
    assert repeats.close_windows(FOLD_SECONDS * 2) == []


def test_a_summary_has_the_time_at_which_it_is_written() -> None:
    """The record is a year old here; the summary is written now."""
    repeats = RepeatFilter()
    put(repeats, 11, make=lambda: Record("E", 0, "m", (), None, CALLER, time.time() - 31_536_000))

    assert abs(repeats.close_windows(FOLD_SECONDS)[0].wall - time.time()) < 60


def test_a_window_with_few_records_ends_without_a_summary() -> None:
    repeats = RepeatFilter()
    put(repeats, FOLD_AFTER)

    assert repeats.close_windows(FOLD_SECONDS) == []
    assert repeats.next_end() is None


def test_after_the_window_a_record_is_written_again() -> None:
    repeats = RepeatFilter()
    put(repeats, 30)
    repeats.close_windows(FOLD_SECONDS)

    assert put(repeats, 12, FOLD_SECONDS + 1) == [True] * 10 + [False] * 2


def test_the_window_begins_with_the_first_record() -> None:
    """Records that keep coming do not delay the summary."""
    repeats = RepeatFilter()
    for second in range(59):
        put(repeats, 1, float(second))

    assert [text(record) for record in repeats.close_windows(FOLD_SECONDS)] == ['"m" err="e" repeated=49']


@pytest.mark.parametrize(
    "other",
    [error("n", "e"), error("m", "f"), error("m", None), error("m", "e", ("k", 1)), Record("W", 0, "m", (), "e", CALLER)],
    ids=["message", "err", "no err", "pair", "severity"],
)
def test_records_that_differ_are_counted_apart(other: Record) -> None:
    repeats = RepeatFilter()
    put(repeats, 20)

    assert repeats.should_write(other, 1.0)


def test_records_that_differ_in_place_or_time_are_equal() -> None:
    repeats = RepeatFilter()
    put(repeats, FOLD_AFTER)

    assert not repeats.should_write(Record("E", 0, "m", (), "e", ("/other.py", 1), 0.0), 1.0)


def test_each_window_ends_at_its_own_time() -> None:
    repeats = RepeatFilter()
    put(repeats, 11, 0.0)
    put(repeats, 12, 30.0, lambda: error("n", "e"))

    assert repeats.next_end() == 60.0
    assert [record.message for record in repeats.close_windows(60.0)] == ["m"]
    assert repeats.next_end() == 90.0
    assert [record.message for record in repeats.close_windows(90.0)] == ["n"]


def test_the_number_of_remembered_records_is_bounded() -> None:
    """Errors that differ each time, for example by a port number, neither use unbounded memory nor get lost."""
    repeats = RepeatFilter()
    for number in range(RepeatFilter.KEYS):
        put(repeats, 11, make=lambda: error(str(number), None))

    assert put(repeats, 50, make=lambda: error("one more", None)) == [True] * 50
    assert put(repeats, 1, make=lambda: error("0", None)) == [False]
    assert len(repeats.close_windows(FOLD_SECONDS)) == RepeatFilter.KEYS
    assert put(repeats, 11, make=lambda: error("one more", None)) == [True] * 10 + [False]
