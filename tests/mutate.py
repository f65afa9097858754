"""
Finds small faults in pure modules that no test notices.

    python -m tests.mutate [MODULE...]

MODULE is for example probing.standing.  mutmut plants one fault after another (a mutant each), and runs the tests of the mutant's
module, for example tests/probing/test_standing.py and any tests/probing/test_standing_*.py.  tests/survivors.txt explains
for each mutant that no test notices why it makes no difference.  A mutant without an explanation fails the run, and so does an
explanation whose mutant is noticed or does not exist.  pyproject.toml has the modules, tests/conftest.py selects their tests.
"""

from __future__ import annotations

import functools
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


def main(modules: list[str]) -> int:
    shutil.rmtree("mutants", ignore_errors=True)  # otherwise results from before a change of a test would stay
    for module in modules:
        # With a pattern mutmut first runs all tests by name, and a name that pytest cannot find looks like a failed test.
        environment = {**os.environ, "MUTATED_MODULE": module}
        subprocess.run([MUTMUT, "run", f"livenessprobe.{module}.*"], check=True, env=environment)

    found = results(modules)
    show(found)
    survived = {diff(name) for name, status in found.items() if status not in NOTICED}
    explained = {fault for fault in explanations() if module_of(fault) in modules}
    for fault in sorted(survived - explained):
        print(f"\nNo test of its module notices this fault, and {SURVIVORS} does not explain it:\n\n{fault}")
    for fault in sorted(explained - survived):
        print(f"\nA test notices this fault now, or it does not exist any more; remove it from {SURVIVORS}:\n\n{fault}")
    return int(survived != explained)


@functools.cache
def all_modules() -> list[str]:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    files = project["tool"]["mutmut"]["only_mutate"]
    return [file.removeprefix("livenessprobe/").removesuffix(".py").replace("/", ".") for file in files]


def results(modules: list[str]) -> dict[str, str]:
    """The result of each mutant in `modules`, by mutmut's name for the mutant."""
    lines = mutmut("results", "--all=true").splitlines()
    found = dict(line.strip().split(": ") for line in lines)
    return {name: status for name, status in found.items() if module_of(place(name)) in modules}


def show(found: dict[str, str]) -> None:
    """Print for each module how many mutants make a test fail, make one hang, and survive."""
    counts = Counter((module, status) for name, status in found.items() for module in (module_of(place(name)), "in all"))
    print(f"\n{'module':25}{'mutants':>9}{'failed':>9}{'hung':>9}{'survived':>9}")
    for module in sorted({module for module, _ in counts}, key=lambda module: (module == "in all", module)):
        total = sum(count for (each, _), count in counts.items() if each == module)
        failed, hung = (counts[module, status] for status in NOTICED)
        print(f"{module:25}{total:9}{failed:9}{hung:9}{total - failed - hung:9}")


def diff(name: str) -> str:
    """The mutant's place and changed lines; unlike mutmut's numbers these stay when other lines change."""
    lines = mutmut("show", name).splitlines()
    changed = [f"{line[0]} {line[1:].strip()}" for line in lines if re.match(r"[-+](?![-+]{2} )", line)]
    return "\n".join([place(name), *changed])


def place(name: str) -> str:
    """The place of a mutant, such as `gotext.parse_uint` or `probing.prober.Prober.check`, from mutmut's name for it."""
    match = re.fullmatch(r"livenessprobe\.(.+)\.x(?:_|ǁ(.+)ǁ)(.+)__mutmut_\d+", name)
    assert match is not None, name
    return ".".join(filter(None, match.groups()))


def module_of(fault: str) -> str:
    """The module of a mutant's place: its name up to a class or function."""
    return next(module for module in all_modules() if fault.startswith(f"{module}."))


def explanations() -> dict[str, str]:
    """The reason for each survivor: paragraphs as `diff` writes them, each with the reason in one more line."""
    paragraphs = SURVIVORS.read_text(encoding="utf-8").strip().split("\n\n")
    parted = [paragraph.rpartition("\n") for paragraph in paragraphs]
    assert all(reason[:2] not in ("- ", "+ ") for _, _, reason in parted), f"a reason is missing in {SURVIVORS}"
    return {fault: reason for fault, _, reason in parted}


def mutmut(*arguments: str) -> str:
    return subprocess.run([MUTMUT, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or all_modules()))
