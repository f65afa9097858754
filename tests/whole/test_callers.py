"""Clients of the whole process: hang-ups, and a kubelet whose timeout is shorter than the probe timeout."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from tests.support import FakeDriver, Sidecar, eventually

Start = Callable[..., Sidecar]

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


def test_hang_ups_of_others_shorten_no_request(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=15s")
    process.await_name()
    driver.delay = 5
    for _ in range(3):
        hang_up(process, 1.1)

    answer = process.get(timeout=10, User_Agent=KUBELET)

    assert (answer.status, answer.body) == (200, "ok")


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
