"""Equal error records within a minute become one record with a count."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from livenessprobe.klog.folding import FOLD_AFTER, FOLD_SECONDS, Folder
from livenessprobe.klog.format import Record, render_text
from tests.klog.test_format import BARE, CALLER, error


def offer(folder: Folder, times: int, now: float = 0.0, make: Callable[[], Record] = lambda: error("m", "e")) -> list[bool]:
    return [folder.offer(make(), now) for _ in range(times)]


def test_ten_equal_records_are_written_and_the_others_folded() -> None:
    assert FOLD_AFTER == 10
    assert offer(Folder(), 13) == [True] * 10 + [False] * 3


def test_records_that_are_not_folded_use_no_memory() -> None:
    """A driver's messages may be long, and different each time."""
    folder = Folder()
    records = [error("m", f"e{number}") for number in range(Folder.KEYS)]
    references = [sys.getrefcount(record) for record in records]

    assert [folder.offer(record, 0.0) for record in records] == [True] * Folder.KEYS
    assert [sys.getrefcount(record) for record in records] == references


def test_the_end_of_the_window_yields_one_record_with_the_count() -> None:
    folder = Folder()
    offer(folder, 17, make=lambda: error("m", "e", ("k", "v")))

    assert folder.due(FOLD_SECONDS - 0.001) == []
    (folded,) = folder.due(FOLD_SECONDS)
    assert render_text(folded, BARE) == '"m" err="e" k="v" repeated=7'
    assert (folded.severity, folded.level, folded.caller) == ("E", 0, CALLER)
    assert folder.due(FOLD_SECONDS * 2) == []


def test_a_summary_has_the_time_at_which_it_is_written() -> None:
    """The record is a year old here; the summary is written now."""
    folder = Folder()
    offer(folder, 11, make=lambda: Record("E", 0, "m", (), None, CALLER, time.time() - 31_536_000))

    assert abs(folder.due(FOLD_SECONDS)[0].wall - time.time()) < 60


def test_a_window_with_few_records_ends_without_a_summary() -> None:
    folder = Folder()
    offer(folder, FOLD_AFTER)

    assert folder.due(FOLD_SECONDS) == []
    assert folder.next_due() is None


def test_after_the_window_a_record_is_written_again() -> None:
    folder = Folder()
    offer(folder, 30)
    folder.due(FOLD_SECONDS)

    assert offer(folder, 12, FOLD_SECONDS + 1) == [True] * 10 + [False] * 2


def test_the_window_begins_with_the_first_record() -> None:
    """Records that keep coming do not delay the summary."""
    folder = Folder()
    for second in range(59):
        offer(folder, 1, float(second))

    assert [render_text(record, BARE) for record in folder.due(FOLD_SECONDS)] == ['"m" err="e" repeated=49']


@pytest.mark.parametrize(
    "other",
    [error("n", "e"), error("m", "f"), error("m", None), error("m", "e", ("k", 1)), Record("W", 0, "m", (), "e", CALLER)],
    ids=["message", "err", "no err", "pair", "severity"],
)
def test_records_that_differ_are_counted_apart(other: Record) -> None:
    folder = Folder()
    offer(folder, 20)

    assert folder.offer(other, 1.0)


def test_records_that_differ_in_place_or_time_are_equal() -> None:
    folder = Folder()
    offer(folder, FOLD_AFTER)

    assert not folder.offer(Record("E", 0, "m", (), "e", ("/other.py", 1), 0.0), 1.0)


def test_each_window_ends_at_its_own_time() -> None:
    folder = Folder()
    offer(folder, 11, 0.0)
    offer(folder, 12, 30.0, lambda: error("n", "e"))

    assert folder.next_due() == 0.0
    assert [record.message for record in folder.due(60.0)] == ["m"]
    assert folder.next_due() == 30.0
    assert [record.message for record in folder.due(90.0)] == ["n"]


def test_the_number_of_remembered_records_is_bounded() -> None:
    """Errors that differ each time, for example by a port number, neither use unbounded memory nor get lost."""
    folder = Folder()
    for number in range(Folder.KEYS):
        offer(folder, 11, make=lambda: error(str(number), None))

    assert offer(folder, 50, make=lambda: error("one more", None)) == [True] * 50
    assert offer(folder, 1, make=lambda: error("0", None)) == [False]
    assert len(folder.due(FOLD_SECONDS)) == Folder.KEYS
    assert offer(folder, 11, make=lambda: error("one more", None)) == [True] * 10 + [False]
