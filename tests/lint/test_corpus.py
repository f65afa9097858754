"""
Real deployments, written as manifests and judged.

Their specs are not part of the project; LINT_DEPLOYMENTS names the file.  tests/data/lint_expected.json has the ids of findings that
were judged by hand, by the id of the case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from livenessprobe.lint.judge import Judgement, Options, judge
from livenessprobe.lint.reading import Read, parse
from tests.lint.corpus import BROKEN, VARIABLE, manifest, specs, works
from tests.support import ROOT

SPECS = specs()
pytestmark = pytest.mark.skipif(not SPECS, reason=f"{VARIABLE} names no file: real deployments are NOT judged")
EXPECTED: dict[str, list[str]] = json.loads((ROOT / "tests" / "data" / "lint_expected.json").read_text(encoding="utf-8"))


def judged(name: str, *, as_ours: bool = False) -> Judgement:
    return judged_spec(SPECS[name], as_ours=as_ours)


def judged_spec(spec: Mapping[str, Any], *, as_ours: bool = False) -> Judgement:
    found = Read([], [], [], {})
    parse(yaml.safe_dump(manifest(spec), sort_keys=False).encode(), f"{spec['id']}.yaml", found)
    assert found.unusable == []
    return judge(found, Options(as_ours=as_ours))


@pytest.mark.parametrize("name", SPECS or ["none"])
def test_every_spec_has_its_sidecar(name: str) -> None:
    assert len(judged(name).reports) == 1


@pytest.mark.parametrize("name", EXPECTED)
def test_the_findings_are_those_judged_by_hand(name: str) -> None:
    assert sorted({each.id for each in judged(name).findings}) == EXPECTED[name]


def test_specs_that_work_have_no_error() -> None:
    sound = [name for name, spec in SPECS.items() if works(spec)]
    errors = {name: [each for each in judged(name).findings if each.severity == "error"] for name in sound}

    print(f"\n{len(sound)} specs work: {' '.join(sound)}")
    assert len(sound) > 20
    assert {name: found for name, found in errors.items() if found} == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_spec_that_its_traps_do_not_accuse_has_an_error(name: str) -> None:
    assert [each.id for each in judged(name).findings if each.severity == "error"] == ["LP104"]


def test_a_broken_spec_has_no_error_with_the_line_that_upstream_removed() -> None:
    spec = json.loads(json.dumps(SPECS["D071"]))
    (probe,) = spec["driver_probes"]
    probe["httpGet"]["host"] = "localhost"

    assert [each for each in judged_spec(spec).findings if each.severity == "error"] == []
    assert [each for each in judged("D075").findings if each.severity == "error"] == []


def test_after_the_swap_specs_that_work_have_no_error_but_those_of_memory() -> None:
    sound = [name for name, spec in SPECS.items() if works(spec)]
    errors = {each.id for name in sound for each in judged(name, as_ours=True).findings if each.severity == "error"}

    assert errors <= {"LP401"}
