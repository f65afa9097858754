"""requirements.lock has one allowed version of each dependency in pyproject.toml, with hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

BLOCKS = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "\n"))
LOCKED = [(Requirement(block.split("\n")[0].strip()), block) for block in BLOCKS]
WANTED = [
    Requirement(line)
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
]


PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")


def counts_on(python: str, requirement: Requirement) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_each_dependency_is_locked_at_one_version_that_is_allowed(wanted: Requirement, python: str) -> None:
    if not counts_on(python, wanted):
        return

    versions = [
        next(iter(locked.specifier)).version
        for locked, _ in LOCKED
        if canonicalize_name(locked.name) == wanted.name and counts_on(python, locked)
    ]

    assert len(versions) == 1
    assert wanted.specifier.contains(versions[0])


def test_on_python_3_15_dynaconf_is_locked_below_3_3() -> None:
    """Dynaconf from 3.3 on excludes Python 3.15, and a lock for all versions of Python does not notice that."""
    (locked,) = [
        locked for locked, _ in LOCKED if canonicalize_name(locked.name) == "dynaconf" and counts_on("3.15", locked)
    ]

    assert next(iter(locked.specifier)).version.startswith("3.2.")


def test_each_locked_package_has_one_version_and_hashes() -> None:
    for locked, block in LOCKED:
        assert [each.operator for each in locked.specifier] == ["=="], locked
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), locked
