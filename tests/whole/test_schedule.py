"""Probes on a schedule and thresholds, in the whole process."""

from __future__ import annotations

import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, Start, driver_process, eventually, request
from tests.support.names import NEVER


def test_with_an_interval_requests_do_not_probe_and_do_not_wait(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(NEVER)
    eventually(lambda: process.metric("livenessprobe_driver_up") == 1)
    driver.hang = True

    with process.keep_alive() as connection:
        seconds = []
        for _ in range(2000):
            answer = request(connection, "/healthz", "GET", {})
            assert (answer.status, answer.body) == (200, "ok")
            seconds.append(answer.seconds)

    assert driver.probes == 1
    assert statistics.median(seconds) < 0.1


def test_scheduled_probes_do_not_drift_however_long_each_takes(driver: FakeDriver, sidecar: Start) -> None:
    driver.delay = 0.07
    sidecar("--interval=200ms")
    eventually(lambda: driver.probes >= 1)

    def drift() -> float:
        """The median distance in seconds of the probes of 3 s from a fixed schedule."""
        began = time.monotonic()
        time.sleep(3)
        times = [moment for moment in driver.times if began <= moment <= began + 3]
        assert 7 <= len(times) <= 16  # a busy machine may miss some; there are never more
        late = lambda origin: statistics.median(abs((moment - origin + 0.1) % 0.2 - 0.1) for moment in times)
        return min(map(late, times))

    # A pause of 200 ms after each probe would drift by 70 ms.  The best of three counts, since machines are busy.
    assert any(drift() < 0.03 for _ in range(3))


def test_a_dead_driver_is_reported_within_the_documented_time(socket_path: str, sidecar: Start) -> None:
    process = sidecar("--interval=400ms", "--probe-timeout=300ms", "--failure-threshold=3")
    with driver_process(socket_path) as driver:
        eventually(lambda: process.get().status == 200)
        driver.kill()
        driver.wait()
        died = time.monotonic()

        eventually(lambda: process.get().status == 500)

        took = time.monotonic() - died
    assert 0.8 < took < 3 * 0.4 + 0.3 + 2  # two gaps between three probes; 2 s for the noise of a shared machine
    assert process.get().reason == "refused"


def test_a_hung_driver_has_one_probe_at_a_time(driver: FakeDriver, sidecar: Start) -> None:
    driver.hang = True
    process = sidecar("--interval=300ms", "--probe-timeout=400ms")

    eventually(lambda: process.get().status == 500 and driver.probes >= 5)

    assert driver.most_in_flight == 1


@pytest.mark.parametrize("dies", [False, True])
def test_the_first_response_after_a_stop_is_that_of_a_fresh_probe(socket_path: str, sidecar: Start, dies: bool) -> None:
    """As when a node sleeps, or a container is paused: the result from before the stop is too old."""
    with driver_process(socket_path) as driver:
        process = sidecar("--interval=300ms", "--probe-timeout=1s")  # so a report lasts 2.3 s
        with process.keep_alive() as connection:
            eventually(lambda: request(connection, "/healthz", "GET", {}).status == 200)
            process.signal(signal.SIGSTOP)
            connection.request("GET", "/healthz")
            if dies:
                driver.kill()
                driver.wait()
            time.sleep(4)
            process.signal(signal.SIGCONT)

            response = connection.getresponse()

            assert (response.status, response.getheader("X-Livenessprobe-Reason")) == (
                (500, "refused") if dies else (200, "healthy")
            )
            if dies:
                process.await_log("CSI driver is unhealthy")  # another thread writes it
            else:
                assert "CSI driver is unhealthy" not in process.log()


@pytest.mark.parametrize("interval", ["0s", "400ms"])
def test_a_stop_in_the_middle_of_a_probe_is_not_counted_as_a_failure(
    driver: FakeDriver, sidecar: Start, interval: str
) -> None:
    """A probe that timed out half a second ago says nothing if the process could not read the response."""
    process = sidecar(f"--interval={interval}", "--probe-timeout=2s")
    driver.delay = 0.3
    with process.keep_alive() as connection:
        eventually(lambda: request(connection, "/healthz", "GET", {}).status == 200)
        if interval == "0s":
            connection.request("GET", "/healthz")
        eventually(lambda: driver.in_flight == 1)
        process.signal(signal.SIGSTOP)
        if interval != "0s":
            connection.request("GET", "/healthz")
        time.sleep(2.5)
        process.signal(signal.SIGCONT)

        response = connection.getresponse()

        assert (response.status, response.read()) == (200, b"ok")
    assert "CSI driver is unhealthy" not in process.log()


def test_scheduled_probes_do_not_change_the_time_of_the_last_request(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--interval=100ms")
    eventually(lambda: process.metric("livenessprobe_driver_up") == 1)
    name = "livenessprobe_last_request_timestamp_seconds"

    assert process.metric(name) == process.metric("process_start_time_seconds")
    for path in ("/healthz", "/livez", "/readyz", "/startupz"):
        before = time.time()
        process.get(path)
        asked = process.metric(name)
        assert before <= asked <= time.time()
    assert process.metric(name) == asked


def test_the_interval_follows_the_settings_file(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    file = folder / "settings.toml"
    file.write_text('interval = "0s"\n')
    process = sidecar(f"--config={file}")
    process.await_name()
    assert driver.probes == 0

    process.write(file, 'interval = "300ms"\n')
    eventually(lambda: driver.probes >= 4)

    process.write(file, 'interval = "0s"\n')
    process.await_log('"Setting changed" key="interval" old="300ms" new="0s"')
    eventually(lambda: driver.in_flight == 0)
    before = driver.probes
    time.sleep(1)
    assert driver.probes == before
    assert [process.get().status for _ in range(3)] == [200] * 3
    assert driver.probes == before + 3


SCRIPTS = pytest.mark.parametrize(
    ("thresholds", "states", "reported"),
    [
        ((), "+-+--++-", "+-+--++-"),
        (("--failure-threshold=3",), "+--+---+-", "++++++-++"),
        (("--retries=3", "--interval=0s"), "+--+---+-", "++++++-++"),
        (("--failure-threshold=3", "--success-threshold=2"), "+--+---+-+-++--", "++++++------+++"),
        (("--failure-threshold=3", "--success-threshold=2"), "-+-++", "----+"),  # the first result is reported at once
    ],
)
"""`states`: `+` is a ready driver, `-` a driver that is not ready.  `reported`: `+` is a 200, `-` a 500."""


def _sign(process: Sidecar) -> str:
    return "+" if process.get().status == 200 else "-"


@SCRIPTS
def test_thresholds_count_the_probes_of_requests(
    driver: FakeDriver, folder: Path, sidecar: Start, thresholds: tuple[str, ...], states: str, reported: str
) -> None:
    process = sidecar(*thresholds, f"--health-file={folder}/health")
    answers = ""
    for state in states:
        driver.ready = state == "+"
        answers += _sign(process)
    assert (answers, driver.probes) == (reported, len(states))


@SCRIPTS
def test_thresholds_count_probes_on_schedule(
    driver: FakeDriver, folder: Path, sidecar: Start, thresholds: tuple[str, ...], states: str, reported: str
) -> None:
    given = [argument for argument in thresholds if not argument.startswith("--interval")]
    answers = ""
    with driver.stepwise() as step:
        process = sidecar(*given, "--interval=100ms", "--probe-timeout=20s", f"--health-file={folder}/health")
        for state in states:
            step(state == "+")  # when the next Probe waits, the result has been noted
            answers += _sign(process)
    assert answers == reported


def test_the_last_result_and_the_report_are_two_metrics(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--failure-threshold=2")
    assert process.get().status == 200
    driver.ready = False

    answer = process.get()

    assert (answer.status, answer.body, answer.reason) == (200, "ok", None)
    assert (process.metric("livenessprobe_driver_up"), process.metric("livenessprobe_healthy")) == (0, 1)
    assert "CSI driver is unhealthy" not in process.log()
    assert process.get().reason == "not_ready"
    assert (process.metric("livenessprobe_driver_up"), process.metric("livenessprobe_healthy")) == (0, 0)
    assert process.metric('livenessprobe_health_changes_total{to="unhealthy"}') == 1


@pytest.mark.parametrize("state", ["hung", "gone"])
def test_parallel_requests_count_as_one_failure(driver: FakeDriver, sidecar: Start, state: str) -> None:
    """Each caller has little time left when the shared probe times out; that rest must not count as another failure."""
    process = sidecar("--failure-threshold=2", "--probe-timeout=1500ms")
    assert process.get().status == 200
    if state == "hung":
        driver.hang = True
        reason, body = "deadline", "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    else:
        driver.stop()
        reason = "socket_missing"
        body = f"{driver.path} does not exist: the driver is not running, or its folder is not mounted here"
    series = f'livenessprobe_probe_failures_total{{reason="{reason}"}}'
    with ThreadPoolExecutor(20) as pool:
        assert {answer.status for answer in pool.map(lambda _: process.get(), range(20))} == {200}
        assert process.metric(series) == 1

        answers = list(pool.map(lambda _: process.get(), range(20)))

    assert {(answer.status, answer.body) for answer in answers} == {(500, body)}
    assert process.metric(series) == 2
