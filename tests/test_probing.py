"""The whole process: probing on a schedule, thresholds, probed methods, paths, the health file, and exit on failure."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import queue
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import grpc
import pytest

from livenessprobe.csi import grpc_health_pb2
from tests.support import ROOT, FakeDriver, Sidecar, driver_process, eventually, request

Start = Callable[..., Sidecar]

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
NEVER = "--interval=1000h"
"""Probes on a schedule, but within a test only the first probe."""
AT_ONCE = "--unreachable-grace=0s"
DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


def keep_alive(process: Sidecar) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=20))


@cache
def config(*arguments: str, **environ: str) -> dict[str, object]:
    """The settings in force of a sidecar that is started with these arguments and variables."""
    done = subprocess.run(
        [sys.executable, "-m", "livenessprobe", "config", *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return {key: row["value"] for key, row in json.loads(done.stdout)["settings"].items()}


# --- on a schedule


def test_with_an_interval_requests_do_not_probe_and_do_not_wait(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(NEVER)
    eventually(lambda: process.metric("livenessprobe_driver_up") == 1)
    driver.hang = True

    with keep_alive(process) as connection:
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
        with keep_alive(process) as connection:
            eventually(lambda: request(connection, "/healthz", "GET", {}).status == 200)
            process.process.send_signal(signal.SIGSTOP)
            connection.request("GET", "/healthz")
            if dies:
                driver.kill()
                driver.wait()
            time.sleep(4)
            process.process.send_signal(signal.SIGCONT)

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
    with keep_alive(process) as connection:
        eventually(lambda: request(connection, "/healthz", "GET", {}).status == 200)
        if interval == "0s":
            connection.request("GET", "/healthz")
        eventually(lambda: driver.in_flight == 1)
        process.process.send_signal(signal.SIGSTOP)
        if interval != "0s":
            connection.request("GET", "/healthz")
        time.sleep(2.5)
        process.process.send_signal(signal.SIGCONT)

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


# --- thresholds

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
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def obey() -> None:
        driver.ready = orders.get(timeout=30) == "+"

    driver.on_probe = obey
    given = [argument for argument in thresholds if not argument.startswith("--interval")]
    process = sidecar(*given, "--interval=100ms", "--probe-timeout=20s", f"--health-file={folder}/health")
    answers = ""
    for number, state in enumerate(states, 1):
        eventually(lambda number=number: driver.probes == number)
        orders.put(state)
        eventually(lambda number=number: driver.probes == number + 1)  # by now the previous result has been noted
        answers += _sign(process)
    driver.on_probe = lambda: None
    orders.put("+")
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


# --- probed methods


def _health_service(**statuses: int) -> Callable[[bytes], bytes]:
    """gRPC's health check of a server with these services; `server` is the status of the server as a whole."""

    def check(request: bytes) -> bytes:
        service = grpc_health_pb2.HealthCheckRequest.FromString(request).service or "server"
        return grpc_health_pb2.HealthCheckResponse(status=statuses[service]).SerializeToString()

    return check


UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


def test_grpcs_health_check_is_understood(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(f"--probe-path={HEALTH_CHECK}")
    assert process.get().reason == "unimplemented"
    for status, expected in {
        SERVING: (200, "ok", None),
        NOT_SERVING: (500, "driver responded but is not ready", "not_ready"),
        UNKNOWN: (500, "driver responded but is not ready", "not_ready"),
        SERVICE_UNKNOWN: (500, "driver responded but is not ready", "not_ready"),
    }.items():
        driver.methods = {HEALTH_CHECK: _health_service(server=status)}
        answer = process.get()
        assert (answer.status, answer.body, answer.reason) == expected
    driver.status = (grpc.StatusCode.NOT_FOUND, "unknown service")
    answer = process.get()
    assert (answer.body, answer.reason) == ("rpc error: code = NotFound desc = unknown service", "driver_error")
    driver.status, driver.methods = None, {HEALTH_CHECK: lambda _: b"\xff"}
    assert process.get().reason == "protocol_error"


def test_grpcs_health_check_is_asked_about_the_configured_service(driver: FakeDriver, sidecar: Start) -> None:
    driver.methods = {HEALTH_CHECK: _health_service(server=NOT_SERVING, volumes=SERVING)}
    assert sidecar(f"--probe-path={HEALTH_CHECK}", "--health-service=volumes").get().status == 200


@pytest.mark.parametrize("method", ["/csi.v1.Node/NodeGetInfo", "/longhorn.v1.Engine/Ping"])
def test_any_other_method_is_healthy_if_it_succeeds(driver: FakeDriver, sidecar: Start, method: str) -> None:
    requests = []
    driver.methods = {method: lambda request: requests.append(request) or b"\xff no protobuf"}
    process = sidecar(f"--probe-path={method}")
    csi = method.startswith("/csi.")
    if csi:
        process.await_name()

    assert process.get().status == 200
    driver.status = (grpc.StatusCode.FAILED_PRECONDITION, "no")
    answer = process.get()

    assert (answer.status, answer.reason) == (500, "driver_error")
    assert answer.body == "rpc error: code = FailedPrecondition desc = no"
    assert requests == [b""]
    assert (driver.names_asked > 0) == csi  # other services may have no GetPluginInfo
    name = driver.name if csi else "unknown-driver"
    for code in ("OK", "FailedPrecondition"):
        labels = f'driver_name="{name}",grpc_status_code="{code}",method_name="{method}"'
        assert process.metric(f"csi_sidecar_operations_seconds_count{{{labels}}}") == 1


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("/csi.v1.Controller/CreateVolume", "CreateVolume may change a volume"),
        ("/csi.v1.Node/NodeUnpublishVolume", "NodeUnpublishVolume may change a volume"),
        ("Probe", "it is no gRPC method; write one such as /csi.v1.Identity/Probe"),
    ],
)
def test_a_method_that_may_change_a_volume_is_refused(
    driver: FakeDriver, sidecar: Start, method: str, sentence: str
) -> None:
    driver.methods = {method: lambda _: b""}
    by_flag = sidecar(f"--probe-path={method}", await_http=False)
    by_variable = sidecar(environ={"LIVENESS_PROBE_PATH": method}, await_http=False)
    assert (by_flag.wait(), by_variable.wait()) == (1, 1)
    for process in (by_flag, by_variable):
        assert sentence in process.log()
        assert "Traceback" not in process.log()
    assert driver.probes == 0


def test_a_settings_file_with_a_method_that_may_change_a_volume_is_ignored(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    method = "/csi.v1.Controller/DeleteVolume"
    driver.methods = {method: lambda _: pytest.fail("asked")}
    file = folder / "settings.toml"
    file.write_text("v = 0\n")
    process = sidecar(f"--config={file}")
    process.write(file, f'probe_path = "{method}"\n')
    process.await_log("DeleteVolume may change a volume")
    assert process.get().status == 200


# --- paths

PATHS = ("/healthz", "/livez", "/readyz", "/startupz")


def _statuses(process: Sidecar) -> list[int]:
    return [process.get(path).status for path in PATHS]


def test_each_path_has_its_own_status_in_each_state(socket_path: str, sidecar: Start) -> None:
    process = sidecar(AT_ONCE, "--probe-timeout=500ms")
    driver = FakeDriver(socket_path)
    assert _statuses(process) == [500, 500, 500, 500]  # no driver yet
    driver.ready = False
    driver.start()
    assert _statuses(process) == [500, 200, 500, 500]
    driver.status = (grpc.StatusCode.INTERNAL, "backend gone")
    assert _statuses(process) == [500, 200, 500, 500]
    driver.ready, driver.status = None, None
    assert _statuses(process) == [200, 200, 200, 200]
    driver.ready = False
    assert _statuses(process) == [500, 200, 500, 200]
    driver.hang = True
    assert _statuses(process) == [500, 500, 500, 200]
    driver.stop()
    assert _statuses(process) == [500, 500, 500, 200]
    driver.hang = False
    driver.start()
    assert _statuses(process) == [500, 200, 500, 500]  # a new socket is a new driver, which has not been ready yet
    driver.ready = True
    assert _statuses(process) == [200, 200, 200, 200]
    driver.stop()


def test_all_paths_follow_schedule_and_thresholds(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(NEVER)
    eventually(lambda: process.metric("livenessprobe_driver_up") == 1)
    assert _statuses(process) == [200] * 4
    assert driver.probes == 1
    process = sidecar("--failure-threshold=2")
    assert process.get("/readyz").status == 200
    driver.ready = False
    assert [process.get("/readyz").status for _ in range(2)] == [200, 500]


def test_the_paths_list_their_parts(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    driver.ready = False

    readyz = process.get("/readyz")

    assert readyz.body == (
        "[+]answers ok\n[-]ready failed: not_ready: driver responded but is not ready\nreadyz check failed\n"
    )
    assert readyz.reason == "not_ready"
    assert readyz.headers["content-type"] == "text/plain; charset=utf-8"
    assert process.get("/livez").body == "ok"
    assert process.get("/livez?verbose").body == "[+]answers ok\nlivez check passed\n"
    assert process.get("/startupz").body == (
        "[-]has-been-ready failed: not_ready: driver responded but is not ready\nstartupz check failed\n"
    )
    driver.ready = True
    assert process.get("/readyz").body == "ok"
    assert process.get("/readyz").reason is None
    assert process.get("/readyz?verbose").body == "[+]answers ok\n[+]ready ok\nreadyz check passed\n"
    assert process.get("/startupz?verbose=1").body == "[+]has-been-ready ok\nstartupz check passed\n"


def test_the_paths_answer_in_json_too(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    driver.ready = False

    answer = process.get("/readyz", Accept="application/json")

    assert (answer.status, answer.headers["content-type"], answer.reason) == (500, "application/json", "not_ready")
    failed = {"name": "ready", "ok": False, "reason": "not_ready", "message": "driver responded but is not ready"}
    told = json.loads(answer.body)
    assert told == {
        "check": "readyz",
        "status": "failed",
        "driver": told["driver"],
        "seconds": told["seconds"],
        "connected": True,
        "parts": [{"name": "answers", "ok": True}, failed],
    }
    answer = process.get("/livez?verbose", Accept="application/json, */*")
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
    assert process.get("/livez", Accept="text/plain, application/json").body == "ok"


def test_every_response_about_health_has_a_word_for_it(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    paths = ("/healthz", "/livez", "/readyz", "/startupz")
    words: Callable[[], list[str]] = lambda: [process.get(path).headers["x-livenessprobe-reason"] for path in paths]  # noqa: E731
    assert words() == ["healthy"] * 4
    assert process.get(method="HEAD").headers["x-livenessprobe-reason"] == "healthy"
    driver.ready = False
    assert words() == ["not_ready", "healthy", "not_ready", "healthy"]
    driver.stop()
    told = json.loads(process.get("/livez", Accept="application/json").body)
    assert (told["driver"], told["connected"], told["seconds"] >= 2.9) == ("fake.csi.test", False, True)
    assert "x-livenessprobe-reason" not in process.get("/metrics").headers


@pytest.mark.parametrize("ready", [True, False])
def test_healthz_ignores_query_and_accept(driver: FakeDriver, sidecar: Start, ready: bool) -> None:
    driver.ready = ready
    process = sidecar()
    plain = process.get()
    for other in (process.get("/healthz?verbose"), process.get(Accept="application/json")):
        assert (other.status, other.body) == (plain.status, plain.body)
        assert {**other.headers, "date": ""} == {**plain.headers, "date": ""}


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_without_the_body(driver: FakeDriver, sidecar: Start, path: str) -> None:
    driver.ready = False
    process = sidecar()
    whole, head = process.get(path), process.get(path, "HEAD")
    assert head.body == ""
    assert (head.status, head.reason, head.headers["content-length"]) == (
        whole.status,
        whole.reason,
        whole.headers["content-length"],
    )


def test_metrics_path_wins_over_our_own_paths(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--metrics-path=/livez")
    assert process.get("/livez").body.startswith("# HELP ")
    assert process.get("/readyz").body == "ok"


# --- the health file


def test_the_health_file_exists_while_the_driver_is_healthy(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    file = folder / "health"
    process = sidecar(f"--health-file={file}", "--interval=200ms", "--probe-timeout=2s")
    process.await_name()
    eventually(lambda: file.exists() and json.loads(file.read_text())["driver"] == driver.name)

    text = file.read_text()

    content = json.loads(text)
    assert text.count("\n") == 1 and text.endswith("}\n")
    assert sorted(content) == ["driver", "expires", "lasts", "time", "uptime"]
    assert content["lasts"] == pytest.approx(3.2)
    assert abs(content["uptime"] - time.monotonic()) < 5
    assert file.stat().st_mode & 0o777 == 0o644
    for healthy in (False, True, False):
        driver.ready = healthy
        eventually(lambda healthy=healthy: file.exists() == healthy)
    driver.ready = True
    eventually(file.exists)

    process.process.send_signal(signal.SIGTERM)

    assert process.wait() == 0
    assert os.listdir(folder) == ["csi.sock"]


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_readers_never_see_half_a_health_file(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """After its creation the file is only ever replaced by a complete one."""
    file = folder / "health"
    sidecar(f"--health-file={file}", "--interval=100ms")
    eventually(file.exists)
    with _watched(folder) as events:
        first = file.stat().st_ino
        eventually(lambda: driver.probes >= 8 and file.stat().st_ino != first)
        seen = {(kind, name) for kind, name in events() if name == "health"}
    assert seen == {("moved to", "health")}


KINDS = {0x2: "modified", 0x80: "moved to", 0x100: "created", 0x200: "deleted"}
"""The events of inotify(7) that concern readers."""


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """The events in `folder` from now on, by kind and file name."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(folder), sum(KINDS)) >= 0

    def events() -> list[tuple[str, str]]:
        data, found = os.read(descriptor, 1 << 20), []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append((KINDS[mask], data[16 : 16 + length].rstrip(b"\0").decode()))
            data = data[16 + length :]
        return found

    try:
        yield events
    finally:
        os.close(descriptor)


def test_the_health_file_follows_requests_and_thresholds(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    file = folder / "health"
    process = sidecar(f"--health-file={file}", "--failure-threshold=2")
    process.await_name()
    assert not file.exists()  # no request yet
    process.get()
    eventually(file.exists)
    assert json.loads(file.read_text())["lasts"] == 60
    driver.ready = False
    process.get()
    eventually(lambda: process.metric("livenessprobe_driver_up") == 0)
    assert file.exists()
    process.get()
    eventually(lambda: not file.exists())


def test_an_older_health_file_is_removed_before_the_first_probe_ends(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    file = folder / "health"
    file.write_text("healthy, says an earlier process\n")
    driver.hang = True
    sidecar(f"--health-file={file}", "--interval=10s", "--probe-timeout=30s")
    eventually(lambda: driver.in_flight == 1)
    assert not file.exists()


def test_check_notices_a_killed_sidecar_and_cat_does_not(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    file = folder / "health"
    process = sidecar(f"--health-file={file}", "--interval=200ms", "--probe-timeout=2s")  # so the file counts for 3.2 s
    process.await_name()
    eventually(lambda: file.exists() and driver.name in file.read_text())
    check = [sys.executable, "-m", "livenessprobe", "check", f"--health-file={file}"]
    process.kill()

    fresh = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    eventually(lambda: subprocess.run(check, cwd=ROOT, capture_output=True).returncode == 4)
    expired = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)

    assert (fresh.returncode, fresh.stdout) == (0, f"healthy: {driver.name} by {file}\n")
    assert "has expired" in expired.stdout
    assert subprocess.run(["cat", file], stdout=subprocess.DEVNULL).returncode == 0


def test_a_health_file_that_cannot_be_written_does_not_stop_probing(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    process = sidecar(f"--health-file={folder}/none/health", "--interval=100ms")
    eventually(lambda: driver.probes >= 5)
    assert process.get().status == 200
    records = [line for line in process.log().splitlines() if "Health file cannot be updated" in line]
    assert len(records) == 1  # not one for each probe
    assert "none/health cannot be written: No such file or directory" in records[0]
    os.mkdir(folder / "none")
    eventually((folder / "none" / "health").exists)


@pytest.mark.parametrize("what", ["socket", "folder", "link"])
def test_only_a_plain_file_is_used_as_health_file(driver: FakeDriver, folder: Path, sidecar: Start, what: str) -> None:
    path = folder / "thing"
    if what == "socket":
        path = Path(driver.path)
    elif what == "folder":
        path.mkdir()
    else:
        (folder / "target").write_text("precious")
        path.symlink_to(folder / "target")
    before = path.lstat()
    process = sidecar(f"--health-file={path}", "--interval=100ms")
    eventually(lambda: driver.probes >= 3)
    assert process.get().status == 200
    process.await_log("exists and is not a regular file; choose another path")
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert what != "link" or (folder / "target").read_text() == "precious"


@pytest.mark.parametrize("moment", range(2))
def test_no_health_file_is_left_whenever_the_process_is_ended(
    driver: FakeDriver, folder: Path, sidecar: Start, moment: int
) -> None:
    """Three at a time, each ended at another point between two writes."""
    files = [folder / f"health {number}" for number in range(3)]
    processes = [sidecar(f"--health-file={file}", "--interval=100ms", await_http=False) for file in files]
    for number, (process, file) in enumerate(zip(processes, files, strict=True)):
        eventually(file.exists, 20)
        time.sleep((moment * 3 + number) * 0.0083)
        process.process.send_signal(signal.SIGTERM if number else signal.SIGINT)
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert os.listdir(folder) == ["csi.sock"]


# --- exit on failure


@pytest.mark.parametrize("mode", ["interval", "request"])
def test_the_process_exits_after_failure_threshold_failures(
    driver: FakeDriver, folder: Path, sidecar: Start, mode: str
) -> None:
    log, file = folder / "log", folder / "health"
    arguments = ("--interval=500ms",) if mode == "interval" else ()
    process = sidecar(
        "--exit-on-failure", "--failure-threshold=2", f"--termination-log={log}", f"--health-file={file}", *arguments
    )
    if mode == "request":
        process.get()
    eventually(lambda: file.exists() and process.metric("livenessprobe_driver_up") == 1)
    driver.ready, before = False, driver.probes
    if mode == "request":
        assert [process.get().status for _ in range(2)] == [200, 500]  # the last request still gets its response

    assert process.wait() == 3

    assert driver.probes - before == 2
    assert log.read_text() == (
        f"CSI driver at unix://{driver.path} failed 2 probes in a row: not_ready: driver responded but is not ready\n"
    )
    assert not file.exists()
    assert 'exiting as --exit-on-failure says" failures=2 reason="not_ready"' in process.log()


def test_the_failure_threshold_counts_from_the_first_probe(folder: Path, sidecar: Start) -> None:
    """A driver may start later than its sidecar; its first failures must not end the sidecar at once."""
    there = DEFAULT_TERMINATION_LOG.exists()
    process = sidecar("--exit-on-failure", "--failure-threshold=3", "--interval=300ms", "--probe-timeout=200ms")
    assert process.wait(20) == 3
    assert process.log().count('"Failed to establish connection to CSI driver"') == 3
    assert 'failures=3 reason="socket_missing"' in process.log()
    assert "Termination log" not in process.log()
    assert DEFAULT_TERMINATION_LOG.exists() == there  # only the kubelet makes this file


@pytest.mark.parametrize("start", ["", "x"])
def test_a_termination_message_is_not_longer_than_the_kubelet_reads(
    driver: FakeDriver, folder: Path, sidecar: Start, start: str
) -> None:
    driver.status = (grpc.StatusCode.INTERNAL, start + "€" * 10_000)
    process = sidecar("--exit-on-failure", "--interval=100ms", f"--termination-log={folder}/log")
    assert process.wait() == 3
    message = (folder / "log").read_bytes()
    assert 4000 < len(message) <= 4096
    assert message.decode().startswith(
        f"CSI driver at unix://{driver.path} failed 1 probes in a row: driver_error: rpc error: "
    )


def test_a_termination_log_that_cannot_be_written_changes_no_exit_code(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    driver.ready = False
    process = sidecar("--exit-on-failure", "--interval=100ms", f"--termination-log={folder}")
    assert process.wait() == 3
    assert "Termination log cannot be written" in process.log()


def test_failures_below_the_threshold_do_not_end_the_process(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    process = sidecar("--exit-on-failure", "--failure-threshold=3", "--interval=100ms", f"--termination-log={folder}/log")

    def flap() -> None:
        driver.ready = driver.probes % 3 == 0

    driver.on_probe = flap
    eventually(lambda: driver.probes >= 12)
    assert process.process.poll() is None

    process.process.send_signal(signal.SIGTERM)

    assert process.wait() == 0
    assert not (folder / "log").exists()


def test_without_the_flag_no_failure_ends_the_process(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    driver.ready = False
    process = sidecar("--interval=100ms", f"--termination-log={folder}/log")
    eventually(lambda: driver.probes >= 5)
    assert process.get().status == 500
    assert not (folder / "log").exists()


# --- Longhorn's image

DOCUMENTED = {
    "flags": (["--interval=10s", "--timeout=3s", "--probe-path=/csi.v1.Identity/Probe"], {}),
    "flags with retries": (["--interval=10s", "--timeout=3s", "--retries=3", "--probe-path=/csi.v1.Identity/Probe"], {}),
    "variables": (
        [],
        {
            "LIVENESS_PROBE_INTERVAL": "10s",
            "LIVENESS_PROBE_TIMEOUT": "3s",
            "LIVENESS_PROBE_PATH": "/csi.v1.Identity/Probe",
            "LIVENESS_PROBE_RETRIES": "3",
        },
    ),
}
"""`--endpoint` or CSI_ENDPOINT is added, and names the test's socket."""


@pytest.fixture
def tmp_health() -> Iterator[Path]:
    """/tmp/health; a lock keeps other test runs on this machine away."""
    path = Path("/tmp/health")
    with open("/tmp/health of livenessprobe's tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.unlink(missing_ok=True)
        yield path
        path.unlink(missing_ok=True)


def _longhorn(way: str, socket_path: str, **quicker: str) -> tuple[list[str], dict[str, str]]:
    """The documented settings in one of their forms, with other times if given."""
    arguments, environ = DOCUMENTED[way]
    if environ:
        environ = {name: quicker.get(name.rpartition("_")[2].lower(), text) for name, text in environ.items()}
        return [], environ | {"CSI_ENDPOINT": f"unix://{socket_path}"}
    given = [argument.partition("=") for argument in arguments]
    return [
        f"--endpoint=unix://{socket_path}",
        *(f"{name}={quicker.get(name.removeprefix('--'), text)}" for name, _, text in given),
    ], {}


def _cat(path: Path) -> int:
    return subprocess.run(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_documented_lists_run_as_written(driver: FakeDriver, tmp_health: Path, way: str) -> None:
    arguments, environ = _longhorn(way, driver.path)
    process = Sidecar(tuple(arguments), environ)
    try:
        eventually(lambda: _cat(tmp_health) == 0)
        assert process.get().status == 200
        assert driver.probes == 1  # a scheduled probe; the request makes none
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert _cat(tmp_health) == 1
    finally:
        process.kill()


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_retries_are_counted_before_the_file_is_removed(driver: FakeDriver, folder: Path, way: str) -> None:
    file = folder / "health"
    orders: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def obey() -> None:
        driver.ready = orders.get(timeout=30)

    driver.on_probe = obey
    arguments, environ = _longhorn(way, driver.path, interval="200ms", timeout="20s")
    process = Sidecar((*arguments, f"--health-file={file}"), environ)
    try:
        there = []
        for number, ready in enumerate([True, False, False, False, True], 1):
            eventually(lambda number=number: driver.probes == number)
            orders.put(ready)
            eventually(lambda number=number: driver.probes == number + 1)
            if number in (1, 4, 5):
                eventually(lambda number=number: (_cat(file) == 0) == (number != 4))
            there.append(_cat(file) == 0)
        driver.on_probe = lambda: None
        orders.put(True)
        assert there == [True, True, True, False, True]
    finally:
        process.kill()


def test_longhorns_defaults_are_those_it_documents() -> None:
    keys = ("csi_address", "interval", "probe_timeout", "failure_threshold", "health_file", "probe_path")
    documented = {
        "csi_address": "unix:///csi/csi.sock",
        "interval": "10s",
        "probe_timeout": "3s",
        "failure_threshold": 3,
        "health_file": "/tmp/health",
        "probe_path": "/csi.v1.Identity/Probe",
    }
    for settings in (config("--retries=3"), config("--timeout=3s"), config(LIVENESS_PROBE_INTERVAL="10s")):
        assert {key: settings[key] for key in keys} == documented


def test_csi_endpoint_alone_changes_the_address_and_nothing_else(driver: FakeDriver) -> None:
    plain, settings = config(), config(CSI_ENDPOINT=f"unix://{driver.path}")
    changed = {key: value for key, value in settings.items() if value != plain[key]}
    assert changed == {"csi_address": f"unix://{driver.path}"}


def test_the_interval_alone_changes_the_interval_and_nothing_else(folder: Path) -> None:
    (folder / "settings.toml").write_text('interval = "10s"\n')
    plain = config()
    for settings in (
        config("--interval=10s"),
        config(LIVENESSPROBE_INTERVAL="10s"),
        config(f"--config={folder}/settings.toml"),
    ):
        changed = {key: value for key, value in settings.items() if value != plain[key] and key != "config"}
        assert changed == {"interval": "10s"}
