"""How long a kubelet waits before it hangs up: what teaches it, what unlearns it, and to whom it applies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.probing.patience import CALLERS_MAX, GIVE_UPS, NEAR, QUIET, SHORTEST, Patience

KUBELET = ("10.0.0.1", "kube-probe/1.33")


def taught(*waits: float, caller: tuple[str, str] = KUBELET, now: float = 0.0) -> Patience:
    """What is known after `caller` has hung up after such waits."""
    patience = Patience()
    for waited in waits:
        patience.hung_up(caller, waited, now)
    return patience


@pytest.mark.parametrize(
    ("waits", "learnt", "answered_within"),
    [
        # Fewer than three teach nothing.
        ((), None, None),
        ((3.0,), None, None),
        ((3.0, 3.0), None, None),
        # Then the longest of them counts, less a tenth, or 0.2s if that is more.
        ((3.0, 3.0, 3.0), 3.0, 2.7),
        ((3.0, 3.01, 2.99), 3.01, 2.709),
        ((1.5, 1.5, 1.5), 1.5, 1.3),
        ((2.0, 2.0, 2.0), 2.0, 1.8),
        ((10.0, 10.0, 10.0), 10.0, 9.0),
        # Sooner than the caller was seen to wait somebody else hangs up.
        ((60.0, 1.0, 1.0), None, None),
        # Never less than a second, which is the least that a kubelet waits.
        ((1.0, 1.0, 1.0), 1.0, 1.0),
        ((1.1, 1.1, 1.1), 1.1, 1.0),
        ((0.9, 0.9, 0.9), 0.9, 1.0),  # a second, by a clock that is a little off
        # Sooner than that nothing of a kubelet's hangs up.
        ((0.5, 0.5, 0.5), None, None),
        ((3.0, 0.1, 3.0), None, None),
        ((3.0, 0.1, 3.0, 0.1, 3.0), 3.0, 2.7),
        ((9.0, 3.0, 3.0, 3.0), None, None),
        # A longer wait begins anew.
        ((3.0, 3.0, 3.0, 5.0), None, None),
        ((3.0, 3.0, 3.0, 5.0, 3.0, 3.0, 3.0), None, None),
        ((3.0, 3.0, 3.0, 5.0, 5.0, 5.0), 5.0, 4.5),
        # A little less is no foreign wait, and the last three count.
        ((3.0, 3.0, 3.0, 2.9, 2.9, 2.9), 2.9, 2.61),
        ((3.0, 3.0, 3.0, 3.0 - NEAR, 3.0 - NEAR, 3.0 - NEAR), 2.7, 2.43),
        ((3.0 - NEAR, 3.0, 3.0), 3.0, 2.7),
    ],
)
def test_what_hang_ups_teach(waits: tuple[float, ...], learnt: float | None, answered_within: float | None) -> None:
    patience = taught(*waits)

    assert patience.learnt(KUBELET, 0.0) == learnt
    assert patience.of(KUBELET, 0.0) == (None if answered_within is None else pytest.approx(answered_within))
    assert patience.shortest(0.0) == (learnt or 0.0)


@pytest.mark.parametrize(
    "agent", ["", "curl/8.0", "Go-http-client/1.1", "Kube-Probe/1.33", " kube-probe/1.33", "x kube-probe/1", "kube-probe"]
)
def test_who_does_not_call_itself_a_kubelet_teaches_nothing(agent: str) -> None:
    caller = ("10.0.0.1", agent)
    patience = taught(*[3.0] * 10, caller=caller)

    assert patience.of(caller, 0.0) is None
    assert patience.of(KUBELET, 0.0) is None
    assert patience.shortest(0.0) == 0.0


@pytest.mark.parametrize(
    "other", [("10.0.0.2", KUBELET[1]), (KUBELET[0], "kube-probe/1.32"), (KUBELET[0], "curl/8.0"), ("", "")]
)
def test_what_is_learnt_counts_for_that_caller_alone(other: tuple[str, str]) -> None:
    patience = taught(3.0, 3.0, 3.0)
    patience.hung_up(other, 2.0, 0.0)

    assert patience.of(other, 0.0) is None
    assert patience.of(KUBELET, 0.0) == pytest.approx(2.7)


def test_two_callers_do_not_add_up() -> None:
    patience = taught(3.0, 3.0)
    patience.hung_up(("10.0.0.2", KUBELET[1]), 3.0, 0.0)

    assert patience.of(KUBELET, 0.0) is None


@pytest.mark.parametrize(("waited", "learnt"), [(0.0, 3.0), (2.7, 3.0), (3.0, 3.0), (3.001, None), (10.0, None)])
def test_a_single_request_that_waited_longer_unlearns_it(waited: float, learnt: float | None) -> None:
    """Someone shared the kubelet's address and agent, or its timeout was raised."""
    patience = taught(3.0, 3.0, 3.0)
    patience.answered(KUBELET, waited, 1.0)

    assert patience.learnt(KUBELET, 1.0) == learnt


def test_it_takes_three_hang_ups_again_once_it_was_unlearnt() -> None:
    patience = taught(3.0, 3.0, 3.0)
    patience.answered(KUBELET, 5.0, 1.0)
    for expected in (None, None, 5.2):
        patience.hung_up(KUBELET, 3.0, 2.0)  # somebody else's
        patience.hung_up(KUBELET, 5.2, 2.0)
        assert patience.learnt(KUBELET, 2.0) == expected


@pytest.mark.parametrize("waited", [0.95, 4.0])
@pytest.mark.parametrize("at", range(0, 3 * int(QUIET), 100))
def test_a_wait_counts_for_a_while_whenever_it_was(at: int, waited: float) -> None:
    """Also when a longer one before it is forgotten."""
    patience = Patience()
    patience.answered(KUBELET, 5.0, 0.0)
    for now in range(10, at, 10):
        patience.answered(KUBELET, 0.05, float(now))
    patience.answered(KUBELET, waited, float(at))
    for now in range(at + 10, at + int(QUIET), 10):
        patience.answered(KUBELET, 0.05, float(now))
    for _ in range(GIVE_UPS):
        patience.hung_up(KUBELET, waited - 0.05, at + QUIET - 1)

    assert patience.learnt(KUBELET, at + QUIET - 1) is None


def test_a_second_is_learnt_when_all_longer_waits_are_forgotten() -> None:
    patience = Patience()
    patience.answered(KUBELET, 5.0, 0.0)
    for now in range(10, 2 * int(QUIET) + 20, 10):
        patience.answered(KUBELET, 0.05, float(now))
    for _ in range(GIVE_UPS):
        patience.hung_up(KUBELET, 0.9, 2 * QUIET + 20)

    assert patience.learnt(KUBELET, 2 * QUIET + 20) == 0.9


def test_hang_ups_may_be_far_between() -> None:
    """A driver that is slow now and then; the kubelet comes all the time."""
    patience = taught(3.0, 3.0)
    for now in range(10, int(QUIET) + 10, 10):
        patience.answered(KUBELET, 0.05, float(now))
    patience.hung_up(KUBELET, 3.0, QUIET + 5)

    assert patience.learnt(KUBELET, QUIET + 5) == 3.0


@pytest.mark.parametrize("answered", [True, False])
def test_a_long_wait_that_nothing_confirms_is_forgotten(answered: bool) -> None:
    """As when the process was stopped while somebody waited."""
    patience = Patience()
    if answered:
        patience.answered(KUBELET, 60.0, 0.0)
    else:
        patience.hung_up(KUBELET, 60.0, 0.0)
    for now in range(10, int(2 * QUIET) + 100, 10):
        patience.hung_up(KUBELET, 3.0, float(now))
        assert now > QUIET or patience.learnt(KUBELET, now) is None

    assert patience.learnt(KUBELET, now) == 3.0


def test_what_is_learnt_does_not_age_while_the_caller_comes() -> None:
    """It is answered in time, so it never shows again how long it would have waited."""
    patience = taught(3.0, 3.0, 3.0)
    for now in range(10, int(5 * QUIET), 10):
        patience.answered(KUBELET, 2.7, float(now), hurried=True)
        patience.hung_up(KUBELET, 1.0, float(now))

    assert patience.learnt(KUBELET, now) == 3.0


def test_the_longer_wait_of_another_caller_unlearns_nothing() -> None:
    patience = taught(3.0, 3.0, 3.0)
    patience.answered(("10.0.0.2", KUBELET[1]), 100.0, 1.0)
    patience.answered((KUBELET[0], "curl/8.0"), 100.0, 1.0)

    assert patience.learnt(KUBELET, 1.0) == 3.0


@pytest.mark.parametrize(("quiet", "learnt"), [(QUIET, 3.0), (QUIET + 0.1, None), (1e9, None)])
def test_a_caller_that_is_quiet_is_forgotten(quiet: float, learnt: float | None) -> None:
    assert taught(3.0, 3.0, 3.0).learnt(KUBELET, quiet) == learnt
    assert taught(3.0, 3.0, 3.0).shortest(quiet) == (learnt or 0.0)


@pytest.mark.parametrize("waited", [0.05, 2.7])
def test_a_caller_that_is_answered_is_not_forgotten(waited: float) -> None:
    patience = taught(3.0, 3.0, 3.0)
    for now in range(0, 10_000, 500):
        patience.answered(KUBELET, waited, float(now))
        assert patience.learnt(KUBELET, now + QUIET) == 3.0


def test_a_caller_that_comes_back_after_quiet_begins_anew() -> None:
    """Nobody has looked at it in between, so that nothing has been cleared away yet."""
    patience = taught(3.0, 3.0, 3.0)
    patience.answered(KUBELET, 0.1, QUIET + 1)
    assert patience.learnt(KUBELET, QUIET + 1) is None

    patience = taught(3.0, 3.0)
    patience.hung_up(KUBELET, 3.0, QUIET + 1)
    assert patience.learnt(KUBELET, QUIET + 1) is None


def test_the_gauge_shows_the_least_patience_of_all() -> None:
    patience = Patience()
    for host, waited in (("a", 5.0), ("b", 2.0), ("c", 9.0)):
        for _ in range(GIVE_UPS):
            patience.hung_up((host, KUBELET[1]), waited, 0.0)
    patience.hung_up(("d", KUBELET[1]), 1.0, 0.0)

    assert patience.shortest(0.0) == 2.0


def test_ten_thousand_callers_are_not_remembered() -> None:
    """Whoever reaches the port chooses its agent."""
    patience = Patience()
    for number in range(10_000):
        for _ in range(10):
            patience.hung_up(("10.0.0.1", f"kube-probe/{number}"), 3.0, number / 1000)
        patience.answered(("10.0.0.1", f"curl/{number}"), 3.0, number / 1000)

    assert len(patience._callers) == CALLERS_MAX
    assert all(len(seen.hang_ups) == GIVE_UPS for seen in patience._callers.values())
    # Those who came last are known, and a kubelet that keeps coming is among them.
    assert patience.learnt(("10.0.0.1", "kube-probe/9999"), 10.0) == 3.0
    assert patience.learnt(("10.0.0.1", "kube-probe/0"), 10.0) is None


def test_a_kubelet_that_keeps_coming_outlives_a_crowd() -> None:
    patience = taught(3.0, 3.0, 3.0)
    for number in range(1000):
        patience.answered(KUBELET, 2.7, float(number))
        patience.hung_up(("10.0.0.1", f"kube-probe/{number}"), 3.0, number + 0.5)

    assert patience.learnt(KUBELET, 1000.0) == 3.0


CALLERS = st.sampled_from([KUBELET, ("10.0.0.2", KUBELET[1]), (KUBELET[0], "kube-probe/1.32"), (KUBELET[0], "curl/8.0")])
STEPS = st.lists(
    st.tuples(CALLERS, st.booleans(), st.floats(0, 20), st.floats(0, QUIET * 1.2) | st.floats(0, 20)), max_size=40
)


@given(STEPS)
def test_what_is_learnt_was_seen_and_nobody_waited_longer_lately(
    steps: list[tuple[tuple[str, str], bool, float, float]],
) -> None:
    patience, now = Patience(), 0.0
    hung_up: dict[tuple[str, str], list[float]] = {}
    for caller, hangs_up, waited, later in steps:
        now += later
        if hangs_up:
            patience.hung_up(caller, waited, now)
            hung_up.setdefault(caller, []).append(waited)
        else:
            patience.answered(caller, waited, now)
        known = patience.learnt(caller, now)
        within = patience.of(caller, now)
        assert (within is None) == (known is None)
        if known is not None and within is not None:
            assert caller[1].startswith("kube-probe/")
            assert known in hung_up[caller]
            assert len(hung_up[caller]) >= 3
            assert waited <= known or (hangs_up and waited < 0.9)
            assert SHORTEST <= within <= max(SHORTEST, known - 0.2)
            assert within >= known * 0.7 - 0.2  # the margin is a small one
        shortest = patience.shortest(now)
        assert shortest == 0 or any(shortest in waits for waits in hung_up.values())


@given(STEPS)
def test_nobody_is_answered_sooner_than_it_was_lately_seen_to_wait(
    steps: list[tuple[tuple[str, str], bool, float, float]],
) -> None:
    """Whoever shares its name, and whatever came before."""
    patience, now = Patience(), 0.0
    waits: dict[tuple[str, str], list[tuple[float, float]]] = {}
    seen: dict[tuple[str, str], float] = {}
    for caller, hangs_up, waited, later in steps:
        now += later
        if now - seen.get(caller, now) > QUIET:
            waits.pop(caller, None)
        (patience.hung_up if hangs_up else patience.answered)(caller, waited, now)
        if caller[1].startswith("kube-probe/") and (waited >= 0.9 or (caller in waits and not hangs_up)):
            waits.setdefault(caller, []).append((now, waited - NEAR if hangs_up else waited))
            seen[caller] = now
        longest = max((wait for at, wait in waits.get(caller, []) if now - at < QUIET), default=0.0)
        learnt = patience.learnt(caller, now)
        assert learnt is None or learnt >= longest
