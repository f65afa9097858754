"""Drivers in every state and with every fault: what the whole process reports, how soon it notices, how often it dials."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from livenessprobe.driver.result import MESSAGE_MAX
from tests.conformance.raw_driver import RawDriver
from tests.support import FakeDriver, Relay, Start, driver_process, eventually, free_port, request
from tests.support.names import AT_ONCE, FRESH


def test_a_connection_serves_for_at_most_a_second(driver: FakeDriver, relay: Relay, behind_relay: Start) -> None:
    """3 000 requests in a row dial at most once a second."""
    process = behind_relay()
    before, started = relay.total, time.monotonic()

    with process.keep_alive() as connection:
        statuses = {request(connection, "/healthz", "GET", {}).status for _ in range(3_000)}

    assert statuses == {200}
    assert driver.probes == 3_000
    assert relay.total - before <= time.monotonic() - started + 1


def test_at_a_kubelets_pace_each_probe_dials_and_no_connection_stays_open(
    driver: FakeDriver, relay: Relay, behind_relay: Start
) -> None:
    process = behind_relay()
    before = relay.total

    for probes in range(1, 4):
        assert process.get().status == 200
        eventually(lambda: relay.open == 0, 2.0)
        assert relay.total - before == probes


def test_reuse_of_zero_gives_each_probe_its_own_connection(driver: FakeDriver, relay: Relay, behind_relay: Start) -> None:
    process = behind_relay(FRESH)
    before = relay.total

    for _ in range(10):
        assert process.get().status == 200

    assert relay.total - before == 10


def test_with_a_grace_of_zero_a_killed_driver_fails_at_once_with_the_reason(socket_path: str, sidecar: Start) -> None:
    process = sidecar(AT_ONCE)
    with driver_process(socket_path) as driver:
        eventually(lambda: process.get().status == 200)
        driver.kill()
        driver.wait()

        answers = [process.get() for _ in range(5)]

    assert {(answer.status, answer.reason) for answer in answers} == {(500, "refused")}
    assert answers[0].body == f"nobody listens on {socket_path}: the driver is down or starting"
    assert min(answer.seconds for answer in answers) < 1  # the default grace is 3 s


@pytest.mark.parametrize("away", [0.3, 1.2])
def test_a_driver_that_starts_during_a_probe_is_reported_at_once(socket_path: str, sidecar: Start, away: float) -> None:
    """The sidecar does not wait for gRPC's back-off."""
    took = []
    for _ in range(3):  # the best of three counts, since a shared machine may be slow for a moment
        process, driver = sidecar(), FakeDriver(socket_path)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(lambda: (process.get(), time.monotonic()))
            time.sleep(away)
            driver.start()
            back = time.monotonic()
            answer, answered = asked.result()
        driver.stop()
        assert (answer.status, answer.body) == (200, "ok")
        took.append(answered - back)
    assert min(took) < 0.7  # gRPC's back-off begins with 0.8 s or more


def test_by_default_an_unreachable_driver_is_reported_at_the_timeout(sidecar: Start, socket_path: str) -> None:
    """As patient as upstream, so that the kubelet does not kill a driver that starts late any sooner."""
    process = sidecar("--probe-timeout=1s")

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "socket_missing")
    assert answer.body == f"{socket_path} does not exist: the driver is not running, or its folder is not mounted here"
    assert 0.95 < answer.seconds < 5
    process.await_log(
        '"Failed to establish connection to CSI driver" err="context deadline exceeded" '
        f'reason="socket_missing" detail="{answer.body}"'
    )
    assert (
        process.metric(
            'csi_sidecar_operations_seconds_count{driver_name="unknown-driver",grpc_status_code="Unavailable",'
            'method_name="/csi.v1.Identity/Probe"}'
        )
        == 1
    )
    assert process.metric('livenessprobe_probe_failures_total{reason="socket_missing"}') == 1
    assert process.metric("livenessprobe_driver_up") == 0


def test_metrics_name_the_driver_and_the_reason_of_the_last_failure(socket_path: str, sidecar: Start) -> None:
    """While it is missing, hung, ready and not ready, and after it has come back under another name."""

    def told() -> tuple[list[str], list[str]]:
        ones = [series for series, value in process.figures().items() if value == 1]
        names, reasons = (
            [series.split('"')[1] for series in ones if series.startswith(f"{family}{{")]
            for family in ("livenessprobe_driver_info", "livenessprobe_unhealthy_reason")
        )
        return names, reasons

    process = sidecar(AT_ONCE, "--probe-timeout=500ms")
    assert told() == (["unknown-driver"], [])
    process.get()
    assert told() == (["unknown-driver"], ["socket_missing"])
    with FakeDriver(socket_path, "first.csi.test") as driver:
        process.get()
        eventually(lambda: told() == (["first.csi.test"], []))
        driver.hang = True
        process.get()
        assert told() == (["first.csi.test"], ["deadline"])
        driver.hang, driver.ready = False, False
        process.get()
        assert told() == (["first.csi.test"], ["not_ready"])
    process.get()
    assert told() == (["first.csi.test"], ["socket_missing"])
    with FakeDriver(socket_path, "second.csi.test"):
        process.get()
        eventually(lambda: told() == (["second.csi.test"], []))


def test_a_driver_that_refuses_is_dialled_ten_times_a_second(socket_path: str, sidecar: Start) -> None:
    """The probe path is no method of CSI, so the sidecar does not ask for the name, and only probes dial."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(socket_path)
        process = sidecar("--probe-timeout=10s", "--unreachable-grace=1s", "--probe-path=/a.B/C")
        before = process.metric("livenessprobe_driver_connections_total")

        assert process.get().reason == "refused"

        dials = process.metric("livenessprobe_driver_connections_total") - before
    assert 5 <= dials <= 13


def test_a_kubelet_with_upstreams_example_settings_does_not_kill_a_driver_that_starts_after_20_s(
    socket_path: str, sidecar: Start
) -> None:
    """initialDelaySeconds 10, timeoutSeconds 3, periodSeconds 2, failureThreshold 5 (upstream's README)."""
    started = time.monotonic()
    process = sidecar()
    driver = FakeDriver(socket_path)
    timer = threading.Timer(20 - (time.monotonic() - started), driver.start)
    timer.start()
    failures = 0
    time.sleep(max(0, started + 10 - time.monotonic()))
    next_tick = time.monotonic()
    while time.monotonic() < started + 24:
        try:
            healthy = process.get(timeout=3).status == 200
        except OSError:
            healthy = False
        failures = 0 if healthy else failures + 1
        assert failures < 5, f"killed after {time.monotonic() - started:.1f}s"
        # The kubelet's ticker drops the ticks that it is late for.
        next_tick = max(next_tick + 2, time.monotonic())
        time.sleep(max(0, next_tick - time.monotonic()))
    timer.join()
    assert failures == 0
    driver.stop()


def test_a_restarted_driver_is_healthy_at_the_next_request(socket_path: str, sidecar: Start) -> None:
    """In 10 restarts the next request is a 200 each time."""
    process = sidecar()
    for _ in range(10):
        with driver_process(socket_path) as driver:
            answers = [process.get(), process.get()]
            assert [answer.status for answer in answers] == [200, 200], answers
            driver.kill()
            driver.wait()


def test_a_stopped_driver_fails_at_the_timeout_and_recovers(socket_path: str, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=1s")
    with driver_process(socket_path) as driver:
        eventually(lambda: process.get().status == 200)
        driver.send_signal(signal.SIGSTOP)

        answer = process.get()

        assert (answer.status, answer.reason) == (500, "deadline")
        assert 0.9 < answer.seconds < 2.9  # not the 3 s of the default
        driver.send_signal(signal.SIGCONT)
        assert process.get().status == 200


def test_a_removed_socket_is_noticed_by_the_next_request(driver: FakeDriver, sidecar: Start) -> None:
    """Upstream issue 68: a live connection does not hide that the socket is gone."""
    process = sidecar(AT_ONCE)
    assert process.get().status == 200
    os.unlink(driver.path)

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "socket_missing")


def test_a_replaced_socket_is_noticed_by_the_next_request(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    process = sidecar()
    assert process.get().status == 200
    with FakeDriver(str(folder / "new.sock"), name="new.csi.test") as new:
        new.ready = False
        os.rename(folder / "new.sock", driver.path)

        assert process.get().body == "driver responded but is not ready"
        process.await_log('"CSI driver name" driver="new.csi.test"')


def test_a_hung_dial_is_repeated_when_the_socket_is_replaced(socket_path: str, folder: Path, sidecar: Start) -> None:
    """A stopped driver still holds the old socket when a new driver puts its own in place."""
    process = sidecar("--probe-timeout=10s")
    with socket.socket(socket.AF_UNIX) as stopped, ThreadPoolExecutor(1) as pool:
        stopped.bind(socket_path)
        stopped.listen()
        answer = pool.submit(process.get)
        with stopped.accept()[0], FakeDriver(str(folder / "new.sock")):
            os.rename(folder / "new.sock", socket_path)
            assert answer.result(5).status == 200


def test_a_call_refused_on_a_reused_connection_is_repeated(socket_path: str, sidecar: Start) -> None:
    """REFUSED_STREAM on a reused connection says that the driver did not process the call."""
    driver = RawDriver({"listen": f"unix:{socket_path}", "calls_per_connection": 1})
    process = sidecar()
    process.await_name()
    assert {process.get().status for _ in range(20)} == {200}
    assert len(driver.seen().calls) > 21  # some were refused
    driver.stop()


def test_a_timeout_above_20_s_counts_for_a_silent_server(socket_path: str, sidecar: Start) -> None:
    """gRPC on its own would give up connecting after 20 s."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(socket_path)
        silent.listen()
        process = sidecar("--probe-timeout=22s")

        answer = process.get()

    assert (answer.status, answer.reason) == (500, "deadline")
    assert 21.8 < answer.seconds < 30


def test_health_is_served_before_the_driver_exists_and_never_waits_for_its_name(driver: FakeDriver, sidecar: Start) -> None:
    """A driver that does not tell its name is still probed, and the process goes on."""
    driver.name_status = (grpc.StatusCode.INTERNAL, "no name today")
    process = sidecar()

    assert process.get().status == 200
    process.await_log('"Failed to get CSI driver name" err="rpc error: code = Internal desc = no name today"')
    assert (
        process.metric(
            'csi_sidecar_operations_seconds_count{driver_name="unknown-driver",grpc_status_code="OK",'
            'method_name="/csi.v1.Identity/Probe"}'
        )
        >= 1
    )
    driver.name_status = None
    process.await_log('"CSI driver name" driver="fake.csi.test"')
    assert process.log().startswith("I") and "ServeMux listening" in process.log().splitlines()[0]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ((grpc.StatusCode.UNIMPLEMENTED, "no"), "unimplemented"),
        ((grpc.StatusCode.UNAVAILABLE, "backend gone"), "driver_error"),
        ((grpc.StatusCode.PERMISSION_DENIED, "no"), "driver_error"),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, "mine"), "driver_error"),
    ],
)
def test_a_drivers_error_is_in_the_body_and_has_a_reason(
    driver: FakeDriver, sidecar: Start, status: tuple[grpc.StatusCode, str], reason: str
) -> None:
    driver.status = status
    process = sidecar()

    answer = process.get()

    code = status[0].name.title().replace("_", "")
    assert (answer.status, answer.reason) == (500, reason)
    assert answer.body == f"rpc error: code = {code} desc = {status[1]}"
    assert process.metric(f'livenessprobe_probe_failures_total{{reason="{reason}"}}') == 1


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"rst": 2}, "protocol_error"),
        ({"body_hex": "", "end_without_trailers": True}, "protocol_error"),
        ({"body_hex": "00" * (4 << 20)}, "protocol_error"),
        # A response that is too large only after it is decompressed counts the same.
        (
            {"headers": [("grpc-encoding", "gzip")], "flag": 1, "body_hex": gzip.compress(bytes(6 << 20)).hex()},
            "protocol_error",
        ),
        (
            {"trailers_only": [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "x")]},
            "protocol_error",
        ),
        ({"rst": 7}, "connection_lost"),
        ({"close": True}, "connection_lost"),
        ({"ready": True, "close_after_data": True}, "connection_lost"),
    ],
)
def test_a_status_made_by_grpc_is_not_a_driver_error(
    socket_path: str, sidecar: Start, behaviour: dict[str, object], reason: str
) -> None:
    driver = RawDriver({"listen": f"unix:{socket_path}", "probe": behaviour})
    process = sidecar("--probe-timeout=5s")

    answer = process.get()

    assert (answer.status, answer.reason) == (500, reason)
    process.await_log('"CSI driver is unhealthy"')
    errors = [line for line in process.log().splitlines() if line.startswith("E") and "Failed to get CSI" not in line]
    assert errors != []
    assert [line for line in errors if f' reason="{reason}"' not in line] == []
    driver.stop()


def test_a_path_that_is_no_stream_socket_has_a_reason(socket_path: str, folder: Path, sidecar: Start) -> None:
    process = sidecar(AT_ONCE)
    Path(socket_path).touch()
    assert process.get().reason == "not_a_socket"
    os.unlink(socket_path)
    os.mkdir(socket_path)
    assert process.get().body == f"{socket_path} is a folder, not a socket: the driver listens elsewhere"
    os.rmdir(socket_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(socket_path)
        assert process.get().reason == "not_a_socket"


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [
        ("http1", "answers in HTTP/1, not gRPC"),
        ("garbage", "does not speak gRPC"),
        ("accept_close", "closes every connection without a word of gRPC"),
    ],
)
def test_a_server_that_does_not_speak_grpc_is_a_protocol_error(
    socket_path: str, sidecar: Start, wire: str, sentence: str
) -> None:
    driver = RawDriver({"listen": f"unix:{socket_path}", "wire": wire})

    answer = sidecar(AT_ONCE).get()

    driver.stop()
    assert (answer.status, answer.reason) == (500, "protocol_error")
    assert sentence in answer.body


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a socket of another user needs root to make")
def test_a_socket_without_permission_has_a_reason(driver: FakeDriver, sidecar: Start) -> None:
    """As in a container that runs as root without capabilities, next to a driver of another user."""
    os.chmod(driver.path, 0o600)
    os.chown(driver.path, 65534, 65534)
    process = sidecar(AT_ONCE, prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "permission_denied")
    advice = "this process is root without the capability DAC_OVERRIDE: add it, or run as the driver's user"
    assert answer.body == f"{driver.path}: permission denied: {advice}"


def test_a_socket_beside_the_missing_one_is_named(folder: Path, sidecar: Start) -> None:
    with FakeDriver(f"{folder}/csi-nfs.sock"):
        answer = sidecar(AT_ONCE, f"--csi-address={folder}/csi.sock").get()

    missing = f"{folder}/csi.sock does not exist: the driver is not running, or its folder is not mounted here"
    assert (answer.status, answer.reason) == (500, "socket_missing")
    assert answer.body == f"{missing}; beside it is the socket {folder}/csi-nfs.sock"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_a_mounted_socket_file_is_reported_as_stale(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """`docker run -v …/csi.sock:/csi/csi.sock` mounts the file, so a restarted driver's new socket is never seen."""
    mount = 'touch "$1" && mount --bind "$0" "$1" && shift && exec "$@"'
    target = str(folder / "mounted socket")
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("unshare --mount is not permitted here")
    process = sidecar(f"--csi-address={target}", AT_ONCE, prefix=("unshare", "-m", "sh", "-c", mount, driver.path, target))
    assert process.get().status == 200
    driver.stop()
    driver.start()

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "stale_mount")
    assert "mount the folder, not the file" in answer.body


def test_proxies_are_never_used(driver: FakeDriver, sidecar: Start) -> None:
    driver.stop()
    port = free_port()
    with FakeDriver(f"127.0.0.1:{port}"):
        proxies = {name: "http://127.0.0.1:1" for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY")}
        process = sidecar(f"--csi-address=tcp://localhost:{port}", environ=proxies)
        assert process.get().status == 200


@pytest.mark.parametrize("name", ["n" * 10_000, "n\x1b[31m" * 2000, "n\n\x1b[31m" * 2000])
def test_a_name_of_10_kb_is_cut_in_log_and_label(driver: FakeDriver, sidecar: Start, name: str) -> None:
    driver.name = name
    process = sidecar()
    process.await_name()

    assert process.get().status == 200
    assert len(process.log()) < 4000
    assert max(map(len, process.get("/metrics").body.splitlines())) < 400


def test_a_message_of_300_kb_is_cut(driver: FakeDriver, sidecar: Start) -> None:
    driver.status = (grpc.StatusCode.INTERNAL, "m" * 300_000)
    process = sidecar()

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "driver_error")
    assert answer.body.endswith("mmm… (cut)".encode().decode("latin-1")) or answer.body.endswith("mmm… (cut)")
    assert MESSAGE_MAX < len(answer.body) < MESSAGE_MAX + 200


@pytest.mark.parametrize(
    ("behaviour", "flags", "reason"),
    [
        ({"wire": "accept_close"}, (AT_ONCE, FRESH), "protocol_error"),
        ({"probe": {"ready": None, "goaway_then_answer": 0}}, (), None),
    ],
    ids=["at once", "after its response"],
)
def test_a_driver_that_closes_every_connection_is_dialled_at_a_limited_rate(
    socket_path: str, sidecar: Start, behaviour: dict[str, object], flags: tuple[str, ...], reason: str | None
) -> None:
    driver = RawDriver({"listen": f"unix:{socket_path}", **behaviour})
    process = sidecar(*flags)
    driver.reset()
    began = time.monotonic()

    with ThreadPoolExecutor(8) as pool:
        reasons = {answer.reason for answer in pool.map(lambda _: process.get(), range(200))}

    assert reasons == {reason}
    # Dials are at least 50 ms apart; the name request and the probes share that limit.
    assert driver.seen().connections < 25 * (time.monotonic() - began) + 2
    driver.stop()


def test_a_driver_without_a_name_is_asked_at_most_8_times_in_5_s(driver: FakeDriver, sidecar: Start) -> None:
    """However many probes reach it, and although its socket file changes all the time."""
    driver.name_status = grpc.StatusCode.UNIMPLEMENTED, "no"
    process = sidecar()
    eventually(lambda: driver.names_asked > 0)
    began, mode = time.monotonic(), 0
    while time.monotonic() < began + 5:
        mode ^= 0o111
        os.chmod(driver.path, 0o666 | mode)
        assert process.get().status == 200
    assert driver.names_asked <= 8
    assert driver.probes > 20

    driver.name_status = None
    given = time.monotonic()
    process.await_name()
    assert time.monotonic() - given < 1.1
