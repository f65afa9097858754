"""A kubelet that hangs up before the probe timeout is answered in time, and nobody else can shorten what it is given."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import Answer, FakeDriver, Sidecar, eventually, request

Start = Callable[..., Sidecar]

KUBELET = "kube-probe/1.30"
ADVICE = "The kubelet hung up before the probe timeout"


def ask(
    process: Sidecar, patience: float, agent: str = KUBELET, path: str = "/healthz", source: str = "127.0.0.1"
) -> Answer | None:
    """What a caller is told that hangs up after `patience` seconds; None if that is nothing."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", process.port, timeout=patience, source_address=(source, 0))
    ) as connection:
        try:
            return request(connection, path, "GET", {"User-Agent": agent})
        except TimeoutError:
            return None


def hang_up(process: Sidecar, times: int, patience: float, **caller: str) -> None:
    """As `ask`, so often and at the same time, with a driver that is slower than that."""
    before = process.metric("livenessprobe_callers_gone_total")
    with ThreadPoolExecutor(times) as pool:
        assert list(pool.map(lambda _: ask(process, patience, **caller), range(times))) == [None] * times
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == before + times)


def start(sidecar: Start, switched: str, *arguments: str) -> Sidecar:
    on = ("--answer-before-hangup",) if switched == "on" else ()
    process = sidecar("--probe-timeout=15s", *on, *arguments)
    process.await_name()
    return process


def test_after_three_that_gave_up_every_kubelet_is_told_the_reason(driver: FakeDriver, sidecar: Start) -> None:
    """200 tries with the kubelet's timeoutSeconds of 3 on a driver that takes 10 s."""
    process = start(sidecar, "on")
    driver.delay = 10
    assert process.metric("livenessprobe_kubelet_patience_seconds") == 0
    hang_up(process, 3, 3)
    assert 2.9 < process.metric("livenessprobe_kubelet_patience_seconds") < 4

    for _ in range(3):  # a shared machine may stand still for longer than an answer comes before its time
        gone = process.metric("livenessprobe_callers_gone_total")
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: ask(process, 3), range(200)))
        if None not in answers:
            break

    assert None not in answers
    assert all(answer.body for answer in answers)
    told = [(answer.status, answer.reason) for answer in answers]
    # Those who ask while the Probe is about to end, 10 s after it began, are told that the driver is ready.
    assert set(told) <= {(500, "deadline"), (200, None)}
    assert told.count((500, "deadline")) >= 100
    assert process.metric("livenessprobe_callers_gone_total") == gone
    eventually(lambda: process.log().count(ADVICE) == 1)


@pytest.mark.parametrize("switched", ["on", "off"])
def test_one_record_names_both_times_and_off_is_off(driver: FakeDriver, sidecar: Start, switched: str) -> None:
    process = start(sidecar, switched)
    driver.delay = 10
    hang_up(process, 2, 0.3, agent="curl/8.0")
    assert ADVICE not in process.log()

    hang_up(process, 1, 1.2)
    hang_up(process, 3, 1.3)

    if switched == "off":
        hang_up(process, 6, 1.3)
    records = [line.partition("] ")[2] for line in process.log().splitlines() if ADVICE in line]
    assert len(records) == 1
    assert 'waited="1.' in records[0]
    assert 'probeTimeout="15s" advice="set timeoutSeconds of the liveness probe above --probe-timeout"' in records[0]


def test_a_kubelet_that_waits_long_enough_is_not_hurried(driver: FakeDriver, sidecar: Start) -> None:
    process = start(sidecar, "on", "--probe-timeout=1s")
    driver.hang = True
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(process, 5), range(4)))
    assert {(answer.status, answer.reason) for answer in answers} == {(500, "deadline")}
    assert process.metric("livenessprobe_kubelet_patience_seconds") == 0
    assert ADVICE not in process.log()


def test_no_neighbour_makes_a_slow_driver_an_unhealthy_one(driver: FakeDriver, sidecar: Start) -> None:
    process = start(sidecar, "on")
    driver.delay = 2
    neighbours: list[dict[str, str]] = [
        {"agent": "curl/8.0"},
        {"agent": f"not {KUBELET}"},
        {"agent": "kube-probe/1.29"},
        {"source": "127.0.0.2"},
        {"path": "/readyz"},  # the kubelet itself, for another probe of the pod with a timeout of its own
    ]
    with ThreadPoolExecutor(20) as pool:
        given_up = list(pool.map(lambda number: ask(process, 1.1, **neighbours[number % 5]), range(20)))
    assert given_up == [None] * 20
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == 20)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, process, 10), pool.submit(ask, process, 10, "curl/8.0")]  # only kubelets are hurried

    for answer in answers:
        assert (answer.result().status, answer.result().body) == (200, "ok")
        assert answer.result().seconds > 1.5


def test_nor_does_one_that_cannot_be_told_from_a_kubelet_known_to_wait_longer(driver: FakeDriver, sidecar: Start) -> None:
    process = start(sidecar, "on")
    driver.delay = 1.5
    assert ask(process, 10).status == 200
    hang_up(process, 6, 1.1)
    assert process.metric("livenessprobe_kubelet_patience_seconds") == 0
    assert ask(process, 10).status == 200


def test_nor_one_that_comes_among_the_hang_ups_of_the_kubelet(driver: FakeDriver, sidecar: Start) -> None:
    """The kubelet waits 2 s, for a driver that has been slower and is healthy again, at 1.3 s."""
    process = start(sidecar, "on")
    driver.delay = 10
    hang_up(process, 1, 2)
    hang_up(process, 6, 1)
    hang_up(process, 2, 2)
    assert process.metric("livenessprobe_kubelet_patience_seconds") > 1.9
    driver.delay = 1.3
    hang_up(process, 6, 1)

    answer = ask(process, 2)

    assert answer is not None
    assert (answer.status, answer.body) == (200, "ok")


def test_one_answer_to_a_longer_wait_unlearns_a_shorter_one(driver: FakeDriver, sidecar: Start) -> None:
    """Three hung up while the kubelet's own request was under way: so they were not the kubelet."""
    process = start(sidecar, "on")
    driver.delay = 2
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(ask, process, 10)
        hang_up(process, 3, 1.1)
        assert process.metric("livenessprobe_kubelet_patience_seconds") > 1
        assert patient.result().status == 200
    assert process.metric("livenessprobe_kubelet_patience_seconds") == 0
    assert ask(process, 10).status == 200


def test_who_is_not_hurried_keeps_the_whole_timeout_beside_one_who_is(driver: FakeDriver, sidecar: Start) -> None:
    process = start(sidecar, "on")
    driver.delay = 10
    hang_up(process, 3, 1.5)
    driver.delay = 2
    with ThreadPoolExecutor(2) as pool:
        hurried = pool.submit(ask, process, 10)  # it would wait, but has not been seen to
        time.sleep(0.3)
        patient = pool.submit(ask, process, 14, "curl/8.0")
        assert hurried.result().status == 500  # as it waited less than the 2 s that the driver takes
        assert patient.result().status == 200
