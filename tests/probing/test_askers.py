"""Clients that ask for health: how much is kept of each, which makes place, and when a kubelet will restart the driver."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.probing.askers import AGENT_MAX, ASKERS_MAX, FORGET_SECONDS, PATH_MAX, Asker, Askers, Restart, place_of

KUBELET = ("10.0.0.1", "kube-probe/1.33", "/healthz")
CURL = ("127.0.0.1", "curl/8.0", "/healthz")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("", "unix socket"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("::ffff:10.1.2.3", "private"),
        ("fd00::1", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("8.8.8.8", "public"),
        ("2600::1", "public"),
        ("no address", "unknown"),
    ],
)
def test_addresses_have_classes(address: str, place: str) -> None:
    assert place_of(address) == place


def test_what_is_kept_of_an_asker() -> None:
    askers = Askers()
    for at, wait, good in ((0.0, 0.25, True), (10.0, 3.0, False), (20.0, 3.0, False)):
        askers.came(KUBELET, at).answered(wait, good=good)

    (asker,) = askers.known.values()
    assert (asker.place, asker.agent, asker.path) == ("private", "kube-probe/1.33", "/healthz")
    assert (asker.requests, asker.first, asker.last, asker.period) == (3, 0.0, 20.0, 10.0)
    assert (asker.failed, asker.hang_ups, asker.longest, asker.left) == (2, 0, 3.0, False)


def test_a_good_response_ends_the_failures() -> None:
    asker = Askers().came(KUBELET, 0.0)
    asker.hung_up(1.0)
    asker.answered(3.0, good=False)
    assert asker.failed == 2

    asker.answered(0.1, good=True)

    assert (asker.failed, asker.hang_ups) == (0, 1)


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        ([(1.0, True)], (1.0, True)),
        ([(1.0, True), (0.5, False)], (1.0, True)),
        ([(1.0, True), (2.0, False)], (2.0, False)),
        ([(2.0, False), (1.0, True)], (2.0, False)),
        ([(1.0, False), (1.0, True)], (1.0, True)),
    ],
)
def test_the_longest_wait_is_a_timeout_if_it_ended_with_a_hang_up(
    ends: list[tuple[float, bool]], kept: tuple[float, bool]
) -> None:
    asker = Asker("private", "a", "/healthz", 0.0, 0.0)
    for seconds, left in ends:
        if left:
            asker.hung_up(seconds)
        else:
            asker.answered(seconds, good=True)

    assert (asker.longest, asker.left) == kept


def test_the_period_follows_the_pauses_slowly() -> None:
    askers = Askers()
    for at in (0.0, 10.0, 30.0):
        asker = askers.came(KUBELET, at)

    assert asker.period == pytest.approx(13.0)


def test_an_asker_is_a_class_of_address_an_agent_and_a_path() -> None:
    askers = Askers()
    one = askers.came(("10.0.0.1", "a" * AGENT_MAX, "/" * PATH_MAX), 0.0)

    assert askers.came(("10.9.9.9", "a" * AGENT_MAX + "b" * 9000, "/" * PATH_MAX + "x" * 9000), 1.0) is one
    assert askers.came(("8.8.8.8", "a" * AGENT_MAX, "/" * PATH_MAX), 1.0) is not one
    assert askers.came(("10.0.0.1", "b", "/" * PATH_MAX), 1.0) is not one
    assert askers.came(("10.0.0.1", "a" * AGENT_MAX, "/readyz"), 1.0) is not one
    assert max(len(text) for key in askers.known for text in key) == AGENT_MAX


def test_clients_that_choose_a_new_agent_each_time_do_not_drop_the_kubelet() -> None:
    askers = Askers()
    for at in range(100):
        kubelet = askers.came(KUBELET, float(at))
        for number in range(50):
            askers.came(("10.0.0.9", f"{at}-{number}", "/healthz"), float(at))

    assert kubelet.requests == 100
    assert len(askers.known) == ASKERS_MAX
    assert sum(asker.requests for asker in askers.known.values()) + askers.dropped_requests == 100 * 51


def test_an_asker_that_was_not_seen_for_long_is_dropped_first() -> None:
    askers = Askers()
    for at in range(1000):
        askers.came(KUBELET, float(at))
    for number in range(ASKERS_MAX - 1):
        askers.came(("10.0.0.9", str(number), "/healthz"), 999.0 + FORGET_SECONDS)
    askers.came(CURL, 999.0 + FORGET_SECONDS)
    assert ("private", *KUBELET[1:]) in askers.known

    askers.came(("127.0.0.1", "other", "/healthz"), 999.1 + FORGET_SECONDS)

    assert ("private", *KUBELET[1:]) not in askers.known


@pytest.mark.parametrize(
    ("ends", "now", "restart"),
    [
        ("", 0.0, None),
        ("+", 5.0, Restart(0, 0.0, None)),
        ("++", 15.0, Restart(0, 10.0, None)),
        ("-", 5.0, Restart(1, 0.0, None)),
        ("+-", 15.0, Restart(1, 10.0, 15.0)),
        ("+--", 25.0, Restart(2, 10.0, 5.0)),
        ("+---", 35.0, Restart(3, 10.0, 0.0)),
        ("+--------", 85.0, Restart(8, 10.0, 0.0)),
        ("+--", 60.0, Restart(2, 10.0, 0.0)),
    ],
)
def test_a_kubelet_restarts_the_driver_after_three_failures(ends: str, now: float, restart: Restart | None) -> None:
    askers = Askers()
    for number, end in enumerate(ends):
        askers.came(KUBELET, number * 10.0).answered(0.1, good=end == "+")

    assert askers.restart(now) == restart


def test_the_kubelet_with_most_failures_counts_and_readiness_restarts_nothing() -> None:
    askers = Askers()
    for at in (0.0, 10.0):
        askers.came(KUBELET, at).answered(0.1, good=True)
        askers.came((*KUBELET[:2], "/livez"), at).answered(0.1, good=False)
        askers.came((*KUBELET[:2], "/readyz"), at).answered(0.1, good=False)
        askers.came((*KUBELET[:2], "/readyz"), at).answered(0.1, good=False)
        askers.came(CURL, at).hung_up(0.1)

    assert askers.restart(10.0) == Restart(2, 10.0, 10.0)


@given(st.lists(st.tuples(st.sampled_from(["", "10.0.0.1", "8.8.8.8"]), st.text(max_size=3), st.floats(0, 1e6))))
def test_the_number_of_askers_is_bounded(requests: list[tuple[str, str, float]]) -> None:
    askers, now = Askers(), 0.0
    for address, agent, pause in requests:
        now += pause
        askers.came((address, agent, "/healthz"), now)

    assert len(askers.known) <= ASKERS_MAX
    assert sum(asker.requests for asker in askers.known.values()) + askers.dropped_requests == len(requests)
