"""
Finds small faults in pure modules that no test notices.

    python -m tests.mutate [MODULE...]

mutmut plants one fault after another (a mutant each), and runs the tests of the mutant's module.  tests/survivors.txt explains
for each mutant that no test notices why it makes no difference.  A mutant without an explanation fails the run, and so does an
explanation whose mutant is noticed or does not exist.  pyproject.toml has the modules, tests/conftest.py selects their tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

MUTMUT = Path(sys.executable).with_name("mutmut")
SURVIVORS = Path("tests/survivors.txt")
NOTICED = ("killed", "timeout")
"""A mutant that makes a test hang, or take many times as long, counts as noticed too."""


def main(rooms: list[str]) -> int:
    shutil.rmtree("mutants", ignore_errors=True)  # otherwise results from before a change of a test would stay
    for room in rooms:
        # With a pattern mutmut first runs all tests by name, and a name that pytest cannot find looks like a failed test.
        environment = {**os.environ, "MUTATED_ROOM": room}
        subprocess.run([MUTMUT, "run", f"livenessprobe.{room}.*"], check=True, env=environment)

    found = results(rooms)
    show(found)
    survived = {diff(name) for name, status in found.items() if status not in NOTICED}
    explained = {fault for fault in explanations() if fault.partition(".")[0] in rooms}
    for fault in sorted(survived - explained):
        print(f"\nNo test of its module notices this fault, and {SURVIVORS} does not explain it:\n\n{fault}")
    for fault in sorted(explained - survived):
        print(f"\nA test notices this fault now, or it does not exist any more; remove it from {SURVIVORS}:\n\n{fault}")
    return int(survived != explained)


def all_rooms() -> list[str]:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    return [Path(file).stem for file in project["tool"]["mutmut"]["only_mutate"]]


def results(rooms: list[str]) -> dict[str, str]:
    """The result of each mutant in `rooms`, by mutmut's name for the mutant."""
    lines = mutmut("results", "--all=true").splitlines()
    found = dict(line.strip().split(": ") for line in lines)
    return {name: status for name, status in found.items() if place(name).partition(".")[0] in rooms}


def show(found: dict[str, str]) -> None:
    """Print for each module how many mutants make a test fail, make one hang, and survive."""
    counts = Counter((room, status) for name, status in found.items() for room in (place(name).partition(".")[0], "in all"))
    print(f"\n{'module':12}{'mutants':>9}{'failed':>9}{'hung':>9}{'survived':>9}")
    for room in sorted({room for room, _ in counts}, key=lambda room: (room == "in all", room)):
        total = sum(count for (each, _), count in counts.items() if each == room)
        failed, hung = (counts[room, status] for status in NOTICED)
        print(f"{room:12}{total:9}{failed:9}{hung:9}{total - failed - hung:9}")


def diff(name: str) -> str:
    """The mutant's place and changed lines; unlike mutmut's numbers these stay when other lines change."""
    lines = mutmut("show", name).splitlines()
    changed = [f"{line[0]} {line[1:].strip()}" for line in lines if re.match(r"[-+](?![-+]{2} )", line)]
    return "\n".join([place(name), *changed])


def place(name: str) -> str:
    """The place of a mutant, such as `health.rpc_error` or `health.Health.after`, from mutmut's name for it."""
    match = re.fullmatch(r"livenessprobe\.(.+)\.x(?:_|ǁ(.+)ǁ)(.+)__mutmut_\d+", name)
    assert match is not None, name
    return ".".join(filter(None, match.groups()))


def explanations() -> dict[str, str]:
    """The reason for each survivor: paragraphs as `diff` writes them, each with the reason in one more line."""
    paragraphs = SURVIVORS.read_text(encoding="utf-8").strip().split("\n\n")
    parted = [paragraph.rpartition("\n") for paragraph in paragraphs]
    assert all(reason[:2] not in ("- ", "+ ") for _, _, reason in parted), f"a reason is missing in {SURVIVORS}"
    return {fault: reason for fault, _, reason in parted}


def mutmut(*arguments: str) -> str:
    return subprocess.run([MUTMUT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or all_rooms()))
