"""
Replays the recorded behaviour of the Go program.

A vector must hold as recorded, unless overruled.json names it.  Then the expectation there must hold instead, and the
recorded one must not: an exemption that is no longer needed is an error.
"""

from __future__ import annotations

import functools

import pytest

from tests.conformance.checks import problems
from tests.conformance.harness import can_be_pid_1, needs_default_port, run
from tests.conformance.observation import Observation
from tests.conformance.ports import has_ipv6
from tests.conformance.vectors import Expectation, Vector, load_exemptions, load_vectors

VECTORS = {vector.id: vector for vector in load_vectors()}
OVERRULED, UNATTAINABLE = load_exemptions()
EXEMPT = OVERRULED | UNATTAINABLE
ROWS_OF_THE_TABLE = range(1, 24)
TRIES = 3
"""The machine may be at fault in some failures.  A fault of the sidecar makes a vector fail in each try."""

pid_1_is_possible = functools.cache(can_be_pid_1)
ipv6_is_possible = functools.cache(has_ipv6)


def expected_of(vector: Vector) -> Expectation:
    exemption = EXEMPT.get(vector.id)
    return vector.expectation if exemption is None else exemption.still


def machine_may_be_at_fault(vector: Vector, expected: Expectation, seen: Observation) -> bool:
    """Whether a slow machine can have made it fail, or another process that took the port after it was found free."""
    exemption = EXEMPT.get(vector.id)
    timed = expected.timed or (exemption is not None and exemption.timed)
    return timed or ("address already in use" in seen.stderr and not vector.setup.get("busy_ports"))


def as_parameter(vector: Vector) -> object:
    """
    Vectors that use the default port run in one worker under --dist loadgroup, so that none waits for it.

    With any other distribution the claims in ports.py keep them apart.
    """
    marks = [pytest.mark.xdist_group("default-port")] if needs_default_port(vector, expected_of(vector)) else []
    return pytest.param(vector, id=vector.id, marks=marks)


@pytest.mark.parametrize("vector", [as_parameter(vector) for vector in VECTORS.values()])
def test_vector(vector: Vector) -> None:
    if vector.setup.get("pid1") and not pid_1_is_possible():
        pytest.skip("unshare --pid is not permitted here")
    if any(step.get("request", {}).get("host") == "::1" for step in vector.steps) and not ipv6_is_possible():
        pytest.skip("there is no IPv6 here")
    exemption = EXEMPT.get(vector.id)
    expected = expected_of(vector)

    for _ in range(TRIES):
        seen = run(vector, expected, exemption.until_stderr if exemption else None)
        found = problems(expected, seen)
        if not found or not machine_may_be_at_fault(vector, expected, seen):
            break

    if found:
        pytest.fail("\n".join([f"{vector.title} ({vector.level})", *found]), pytrace=False)
    if exemption is not None and not exemption.flaky_original:
        assert problems(vector.expectation, seen), "holds as recorded; remove it from overruled.json"


def test_each_exemption_names_a_vector_and_another_expectation() -> None:
    assert EXEMPT.keys() <= VECTORS.keys()
    assert [name for name, exemption in EXEMPT.items() if not exemption.still] == []


def test_each_exemption_has_rows_of_the_table_of_differences_or_a_reason() -> None:
    assert not OVERRULED.keys() & UNATTAINABLE.keys()
    for exemption in OVERRULED.values():
        assert exemption.rows
        assert set(exemption.rows) <= set(ROWS_OF_THE_TABLE)
        assert list(exemption.rows) == sorted(set(exemption.rows))
        assert not exemption.reason
    for exemption in UNATTAINABLE.values():
        assert exemption.reason.endswith(".")
        assert not exemption.rows


def test_all_406_vectors_have_different_names() -> None:
    assert len(VECTORS) == len(load_vectors()) == 406
    assert {vector.level for vector in VECTORS.values()} == {"must", "should", "may"}
