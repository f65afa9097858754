"""Clients of the whole process: hang-ups, and a kubelet whose timeout is shorter than the probe timeout."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.raw_driver import RawDriver
from tests.support import FakeDriver, Relay, Sidecar, Start, eventually

KUBELET = "kube-probe/1.30"


def hang_up(process: Sidecar, after: float, agent: str = KUBELET, path: str = "/healthz") -> None:
    """Ask, and hang up; the driver must be slower than that."""
    before = process.metric("livenessprobe_callers_gone_total")
    with contextlib.suppress(TimeoutError):
        process.get(path, timeout=after, User_Agent=agent)
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == before + 1)


def test_a_kubelet_that_hangs_up_before_the_probe_timeout_is_named_in_one_record(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=15s")
    process.await_name()
    driver.delay = 10
    hang_up(process, 1.1, agent="curl/8.0")
    hang_up(process, 0.3)
    assert process.metric("livenessprobe_kubelet_patience_seconds") == 0
    hang_up(process, 1.3)
    hang_up(process, 1.2)
    hang_up(process, 1.6, path="/readyz")

    assert 1.2 < process.metric("livenessprobe_kubelet_patience_seconds") < 1.6
    records = [line.partition("] ")[2] for line in process.log().splitlines() if "The kubelet hung up" in line]
    assert len(records) == 1
    assert 'waited="1.' in records[0]
    assert 'probeTimeout="15s" advice="set timeoutSeconds of the liveness probe above --probe-timeout"' in records[0]


def test_parallel_requests_share_one_probe_and_one_connection(driver: FakeDriver, relay: Relay, behind_relay: Start) -> None:
    process = behind_relay()
    before, driver.delay = relay.total, 2.0

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: process.get(), range(200)))

    assert {(answer.status, answer.body) for answer in answers} == {(200, "ok")}
    assert driver.most_in_flight == 1
    assert relay.total - before == driver.probes
    assert driver.probes <= 2  # a second probe only for callers that came after the first had ended
    assert process.metric("livenessprobe_shared_probes_total") >= 198


def test_a_caller_that_joins_a_hung_probe_has_its_own_timeout(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(process.get)
        time.sleep(2.8)
        second = pool.submit(process.get)

        assert (first.result().status, first.result().reason) == (500, "deadline")
        assert first.result().body == "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        assert second.result().seconds > 2.9
        # On a machine that stands still for a moment, the sidecar probes again.
        assert second.result().seconds < 5 or "This sidecar was held back" in process.log()
        assert second.result().status == 500


def test_a_late_caller_has_its_own_timeout_with_a_driver_that_closes_connections(socket_path: str, sidecar: Start) -> None:
    """The driver comes back after the first caller's timeout and before the second's."""
    process = sidecar("--probe-timeout=2s")
    closing = RawDriver({"listen": f"unix:{socket_path}", "wire": "accept_close"})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(process.get)
        time.sleep(1.5)
        second = pool.submit(process.get)
        assert (first.result().status, first.result().reason) == (500, "protocol_error")
        closing.stop()
        with FakeDriver(socket_path):
            assert second.result().status == 200


def test_an_abandoned_probe_is_joined_and_counts(driver: FakeDriver, sidecar: Start) -> None:
    """A driver that loses one Probe has failed once; the caller that waits has time for another Probe."""
    process = sidecar("--probe-timeout=3s")
    process.await_name()
    driver.hang = True
    with pytest.raises(TimeoutError):
        process.get(timeout=1)
    driver.hang = False

    answer = process.get()

    assert (answer.status, answer.body) == (200, "ok")
    assert 1.5 < answer.seconds < 3
    assert driver.probes == 3  # after a call without a response the next is read as a stream first
    assert process.metric('livenessprobe_probe_failures_total{reason="deadline"}') == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_caller_does_not_join_a_probe_of_a_socket_that_is_gone(
    driver: FakeDriver, folder: Path, sidecar: Start, replaced: bool
) -> None:
    process = sidecar("--unreachable-grace=0s")
    process.await_name()
    driver.delay = 1.5
    with ThreadPoolExecutor(1) as pool, FakeDriver(str(folder / "new.sock")) as new:
        new.ready = False
        before = pool.submit(process.get)
        eventually(lambda: driver.in_flight == 1)
        if replaced:
            os.rename(folder / "new.sock", driver.path)
        else:
            os.unlink(driver.path)

        after = process.get()

        assert (after.status, after.reason) == (500, "not_ready" if replaced else "socket_missing")
        assert before.result().status == 200


def test_a_caller_that_hangs_up_does_not_end_the_probe_of_others(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.delay = 1.0
    with socket.create_connection(("127.0.0.1", process.port)) as impatient:
        impatient.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.30\r\n\r\n")
        eventually(lambda: driver.in_flight == 1)
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(process.get)
            time.sleep(0.2)
            impatient.close()

            assert patient.result().status == 200
    assert driver.probes == 1
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == 1)
    assert "\nE" not in process.log()


def test_a_connection_that_is_reset_at_once_makes_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--connection-reuse=0s")
    process.await_name()
    before = driver.probes
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", process.port), 10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
    assert process.get().status == 200
    assert driver.probes - before <= 11  # a request may be read before the reset arrives


@pytest.mark.parametrize("arguments", [(), ("--interval=1s",)])
def test_a_hung_driver_is_reported_however_impatient_its_callers_are(
    driver: FakeDriver, sidecar: Start, arguments: tuple[str, ...]
) -> None:
    process = sidecar("--probe-timeout=1s", *arguments)
    process.await_name()
    assert process.get().status == 200
    driver.hang = True

    began = time.monotonic()
    while time.monotonic() < began + 6:
        with contextlib.suppress(TimeoutError):
            process.get(timeout=0.3, User_Agent=KUBELET)
        time.sleep(0.05)

    figures = process.figures()
    assert (figures["livenessprobe_driver_up"], figures["livenessprobe_healthy"]) == (0, 0)
    assert 3 <= figures['livenessprobe_probe_failures_total{reason="deadline"}'] <= 6
    assert driver.most_in_flight <= 2  # the driver notices the end of a call a little late
    assert '"CSI driver is unhealthy"' in process.log()
