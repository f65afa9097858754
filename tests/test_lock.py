"""requirements.lock holds what pyproject.toml asks for, each file by its hash."""

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


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_each_dependency_is_locked_at_a_version_that_is_allowed(wanted: Requirement) -> None:
    versions = [
        next(iter(locked.specifier)).version for locked, _ in LOCKED if canonicalize_name(locked.name) == wanted.name
    ]

    assert versions
    assert all(wanted.specifier.contains(version) for version in versions)


def test_each_locked_package_has_one_version_and_hashes() -> None:
    for locked, block in LOCKED:
        assert [each.operator for each in locked.specifier] == ["=="], locked
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), locked
