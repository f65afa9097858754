"""Random command lines, read as Go's flag package read them; see tests/data/argv_cases.json."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from livenessprobe.gotext import parse_bool, parse_duration
from livenessprobe.settings.command_line import FlagError, HelpRequested, parse
from tests.support import ROOT

Outcome = dict[str, object]
CASES: list[tuple[list[str], Outcome]] = json.loads((ROOT / "tests/data/argv_cases.json").read_text(encoding="utf-8"))[
    "cases"
]
GOOD = [(argv, seen) for argv, seen in CASES if "error" not in seen and "rest" not in seen]


def outcome(argv: list[str]) -> Outcome:
    """The value of each flag that is given and the arguments behind them, or the error line."""
    try:
        line = parse(argv)
    except HelpRequested:
        return {"error": "help"}
    except FlagError as error:
        return {"error": str(error)}
    seen: Outcome = dict(line.values())
    for name, read in (("probe-timeout", parse_duration), ("v", int), ("automaxprocs", parse_bool)):
        if name in seen:
            seen[name] = str(read(str(seen[name]))).lower()
    return seen | ({"rest": list(line.unread)} if line.unread else {})


@pytest.mark.parametrize(("argv", "seen"), CASES)
def test_a_recorded_command_line_is_read_as_by_go(argv: list[str], seen: Outcome) -> None:
    assert outcome(argv) == seen


@given(st.lists(st.sampled_from(GOOD), max_size=6), st.sampled_from(CASES))
def test_any_command_lines_joined_are_read_as_by_go(
    first: list[tuple[list[str], Outcome]], last: tuple[list[str], Outcome]
) -> None:
    """Later values win; an error hides the values in front of it."""
    argv = [argument for case, _ in first for argument in case] + last[0]
    values: Outcome = {}
    for _, seen in first:
        values |= seen

    assert outcome(argv) == (last[1] if "error" in last[1] else values | last[1])


REFUSED = [(argv, seen) for argv, seen in CASES if seen.get("error") not in (None, "help")]


@given(st.lists(st.sampled_from(GOOD), max_size=4), st.sampled_from(REFUSED), st.lists(st.sampled_from(CASES), max_size=2))
@example(
    first=[],
    refused=(["--probe-timeout=1s", "--http-endpoint"], {"error": "flag needs an argument: -http-endpoint"}),
    behind=[(["-v=1", "--help=T"], {"error": "help"})],
)
def test_behind_a_refused_flag_nothing_is_judged_and_the_error_has_a_way_out(
    first: list[tuple[list[str], Outcome]],
    refused: tuple[list[str], Outcome],
    behind: list[tuple[list[str], Outcome]],
) -> None:
    """The settings in front are those of the same arguments alone, and the way out follows Go's words."""
    front = [argument for case, _ in first for argument in case]
    argv = front + refused[0] + [argument for case, _ in behind for argument in case]
    try:
        parse(argv)
    except FlagError as error:
        # The refused case may have flags of its own in front of the error.
        assert error.before.given[: len(parse(front).given)] == parse(front).given
        if "flag needs an argument" not in str(refused[1]["error"]):  # then the next argument is its value
            assert str(error) == refused[1]["error"]
        assert error.hint.startswith("; ") or "file.go:234" in str(error)
    except HelpRequested:
        assert "flag needs an argument" in str(refused[1]["error"])  # its value came from behind, and then a flag for help
    else:
        assert "flag needs an argument" in str(refused[1]["error"])
