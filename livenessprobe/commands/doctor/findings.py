"""What the doctor prints: one line for each finding, or JSON.  Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from livenessprobe.gotext import printable

LINE_MAX = 4096
"""Characters of a line: texts of drivers and sidecars may be long."""


class Mark(Enum):
    """How a check has ended; the values are those of JSON."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be made."""
    WARNING = "warning"
    """It works, and may not be what is meant."""
    ERROR = "error"


_SIGNS = {Mark.OK: "[+]", Mark.UNKNOWN: "[?]", Mark.WARNING: "[!]", Mark.ERROR: "[-]"}


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    """Its name, one word."""
    mark: Mark
    what: str
    """What was found, as a sentence."""
    way_out: str = ""
    """What to do; empty if there is nothing to do."""
    page: str = ""
    """Where the documentation says more."""


def render_text(findings: Sequence[Finding]) -> str:
    """A line for each finding, and a last one with their number."""
    return "\n".join([*map(_line, findings), _summary(findings)])


def _line(finding: Finding) -> str:
    way_out = f"; to do: {finding.way_out}" if finding.way_out else ""
    page = f" ({finding.page})" if finding.page else ""
    words = f"{_SIGNS[finding.mark]} {finding.check}: {finding.what}{way_out}{page}".split()
    return printable(" ".join(words), LINE_MAX)


def _summary(findings: Sequence[Finding]) -> str:
    numbers = {mark: sum(each.mark is mark for each in findings) for mark in (Mark.ERROR, Mark.WARNING)}
    if not any(numbers.values()):
        return "nothing wrong was found"
    return ", ".join(f"{number} {mark.value}{'' if number == 1 else 's'}" for mark, number in numbers.items())


def render_json(findings: Sequence[Finding]) -> str:
    """One object: whether all is well, the number of findings of each mark, and the findings."""
    return json.dumps(
        {
            "ok": not has_errors(findings),
            "counts": {mark.value: sum(each.mark is mark for each in findings) for mark in Mark},
            "findings": [{**each._asdict(), "mark": each.mark.value} for each in findings],
        },
        indent=2,
    )


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether anything is wrong; warnings do not count."""
    return any(each.mark is Mark.ERROR for each in findings)
