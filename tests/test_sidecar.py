"""The whole process over real sockets, as a kubelet, a driver and an operator see it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.conformance.raw_driver import RawDriver
from tests.support import ROOT, FakeDriver, Relay, Sidecar, driver_process, eventually, never_reading, raw, request

Start = Callable[..., Sidecar]


def keep_alive(process: Sidecar) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=5))


def test_parallel_requests_share_one_probe_and_one_connection(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    relay = Relay(str(folder / "relay.sock"), driver.path)
    process = sidecar(f"--csi-address={folder}/relay.sock")
    process.await_name()
    eventually(lambda: relay.open == 0)
    before, driver.delay = relay.total, 2.0

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: process.get(), range(200)))

    assert {(answer.status, answer.body) for answer in answers} == {(200, "ok")}
    assert driver.most_in_flight == 1
    assert relay.total - before == driver.probes
    assert driver.probes <= 2  # a second probe only for callers that came after the first had ended
    assert process.metric("livenessprobe_shared_probes_total") >= 198
    relay.close()


def test_a_connection_serves_for_at_most_a_second(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """10 000 requests in a row dial at most once a second."""
    relay = Relay(str(folder / "relay.sock"), driver.path)
    process = sidecar(f"--csi-address={folder}/relay.sock")
    process.await_name()
    before, started = relay.total, time.monotonic()

    with keep_alive(process) as connection:
        statuses = {request(connection, "/healthz", "GET", {}).status for _ in range(10_000)}

    assert statuses == {200}
    assert driver.probes == 10_000
    assert relay.total - before <= time.monotonic() - started + 1
    relay.close()


def test_at_a_kubelets_pace_each_probe_dials_and_no_connection_stays_open(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    relay = Relay(str(folder / "relay.sock"), driver.path)
    process = sidecar(f"--csi-address={folder}/relay.sock")
    process.await_name()
    eventually(lambda: relay.open == 0)
    before = relay.total

    for probes in range(1, 4):
        assert process.get().status == 200
        eventually(lambda: relay.open == 0, 2.0)
        assert relay.total - before == probes
    relay.close()


def test_reuse_of_zero_gives_each_probe_its_own_connection(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    relay = Relay(str(folder / "relay.sock"), driver.path)
    process = sidecar(f"--csi-address={folder}/relay.sock", "--connection-reuse=0s")
    process.await_name()
    eventually(lambda: relay.open == 0)
    before = relay.total

    for _ in range(10):
        assert process.get().status == 200

    assert relay.total - before == 10
    relay.close()


def test_with_a_grace_of_zero_a_killed_driver_fails_at_once_with_the_reason(socket_path: str, sidecar: Start) -> None:
    process = sidecar("--unreachable-grace=0s")
    with driver_process(socket_path) as driver:
        eventually(lambda: process.get().status == 200)
        driver.kill()
        driver.wait()

        answers = [process.get() for _ in range(5)]

    assert {(answer.status, answer.reason) for answer in answers} == {(500, "refused")}
    assert answers[0].body == f"nobody listens on {socket_path}: the driver is down or starting"
    assert min(answer.seconds for answer in answers) < 0.1


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
    assert min(took) < 0.25


def test_by_default_an_unreachable_driver_is_reported_at_the_timeout(sidecar: Start, socket_path: str) -> None:
    """As patient as upstream, so that the kubelet does not kill a driver that starts late any sooner."""
    process = sidecar("--probe-timeout=1s")

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "socket_missing")
    assert answer.body == f"{socket_path} does not exist: the driver is not running, or its folder is not mounted here"
    assert 0.95 < answer.seconds < 5
    process.await_log('"Failed to establish connection to CSI driver" err="context deadline exceeded"')
    assert (
        process.metric(
            'csi_sidecar_operations_seconds_count{driver_name="unknown-driver",grpc_status_code="Unavailable",'
            'method_name="/csi.v1.Identity/Probe"}'
        )
        == 1
    )
    assert process.metric('livenessprobe_probe_failures_total{reason="socket_missing"}') == 1
    assert process.metric("livenessprobe_driver_up") == 0


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
    """In 20 restarts the next request is a 200 each time."""
    process = sidecar()
    for _ in range(20):
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
        assert 0.9 < answer.seconds < 2.5  # not the 3 s of the default
        driver.send_signal(signal.SIGCONT)
        assert process.get().status == 200


def test_a_removed_socket_is_noticed_by_the_next_request(driver: FakeDriver, sidecar: Start) -> None:
    """Upstream issue 68: a live connection does not hide that the socket is gone."""
    process = sidecar("--unreachable-grace=0s")
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
        assert 2.9 < second.result().seconds < 5
        assert second.result().status == 500


def test_a_late_caller_has_its_own_timeout_with_a_driver_that_closes_connections(socket_path: str, sidecar: Start) -> None:
    """The driver comes back after the first caller's timeout and before the second's."""
    process = sidecar("--probe-timeout=2s")
    with socket.socket(socket.AF_UNIX) as closing:
        closing.bind(socket_path)
        closing.listen()
        threading.Thread(target=_accept_and_close, args=(closing,), daemon=True).start()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(process.get)
            time.sleep(1.5)
            second = pool.submit(process.get)
            assert (first.result().status, first.result().reason) == (500, "protocol_error")
            closing.shutdown(socket.SHUT_RDWR)
            os.unlink(socket_path)
            with FakeDriver(socket_path):
                assert second.result().status == 200


def _accept_and_close(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_late_caller_gets_the_response_of_a_driver_that_recovers(driver: FakeDriver, sidecar: Start) -> None:
    """The second Probe lasts long enough for its last caller; several late callers do not shorten it."""
    process = sidecar("--probe-timeout=6s")
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(process.get)]
        for _ in range(9):
            time.sleep(0.5)
            answers.append(pool.submit(process.get))
        driver.hang, driver.delay = False, 3.0  # slower than the time that most callers have left, faster than the timeout

        last = answers[-1].result()

    assert (last.status, last.body) == (200, "ok")


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
    assert driver.probes == 2
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
        process = sidecar("--probe-timeout=27s")

        answer = process.get()

    assert (answer.status, answer.reason) == (500, "deadline")
    assert 26.8 < answer.seconds < 32


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
        ({"rst": 7}, "protocol_error"),
        ({"body_hex": "", "end_without_trailers": True}, "protocol_error"),
        ({"body_hex": "00" * (4 << 20)}, "protocol_error"),
        (
            {"trailers_only": [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "x")]},
            "protocol_error",
        ),
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
    driver.stop()


def test_a_path_that_is_no_stream_socket_has_a_reason(socket_path: str, folder: Path, sidecar: Start) -> None:
    process = sidecar("--unreachable-grace=0s")
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
    ("greeting", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "answers in HTTP/1, not gRPC"),
        (b"garbage garbage garbage\n" * 3, "does not speak gRPC"),
        (b"", "closes every connection without a word of gRPC"),
    ],
)
def test_a_server_that_does_not_speak_grpc_is_a_protocol_error(
    socket_path: str, sidecar: Start, greeting: bytes, sentence: str
) -> None:
    process = sidecar("--unreachable-grace=0s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(greeting)
                    if greeting:
                        connection.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        answer = process.get()
        listener.shutdown(socket.SHUT_RDWR)
    assert (answer.status, answer.reason) == (500, "protocol_error")
    assert sentence in answer.body


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a socket of another user needs root to make")
def test_a_socket_without_permission_has_a_reason(driver: FakeDriver, sidecar: Start) -> None:
    """As in a container that runs as root without capabilities, next to a driver of another user."""
    os.chmod(driver.path, 0o600)
    os.chown(driver.path, 65534, 65534)
    process = sidecar("--unreachable-grace=0s", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "permission_denied")
    assert answer.body == f"{driver.path}: permission denied: run as the driver's user or as root"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_a_mounted_socket_file_is_reported_as_stale(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """`docker run -v …/csi.sock:/csi/csi.sock` mounts the file, so a restarted driver's new socket is never seen."""
    mount = 'touch "$1" && mount --bind "$0" "$1" && shift && exec "$@"'
    target = str(folder / "mounted socket")
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("unshare --mount is not permitted here")
    process = sidecar(
        f"--csi-address={target}",
        "--unreachable-grace=0s",
        prefix=("unshare", "-m", "sh", "-c", mount, driver.path, target),
    )
    assert process.get().status == 200
    driver.stop()
    driver.start()

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "stale_mount")
    assert "mount the folder, not the file" in answer.body


def test_sigterm_finishes_open_requests_and_exits_0(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.delay = 1.0
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(process.get)
        eventually(lambda: driver.in_flight == 1)
        process.process.send_signal(signal.SIGTERM)

        assert open_request.result().status == 200
    assert process.wait() == 0


def test_sigterm_waits_at_most_for_the_probe_timeout(driver: FakeDriver, sidecar: Start) -> None:
    """At the end the request gets a 500 for the hung driver, and the connection of a client that does not read is cut."""
    process = sidecar("--probe-timeout=2s")
    process.await_name()
    driver.hang = True
    with never_reading(process, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000), ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(process.get)
        eventually(lambda: driver.in_flight == 1)
        told = time.monotonic()
        process.process.send_signal(signal.SIGTERM)

        answer = open_request.result()
        assert (answer.status, answer.reason) == (500, "deadline")
        assert process.wait(20) == 0
        assert 1 < time.monotonic() - told < 10
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_sidecar_stops_at_once_even_with_open_connections(
    driver: FakeDriver, sidecar: Start, number: signal.Signals
) -> None:
    process = sidecar()
    with keep_alive(process) as idle, socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        request(idle, "/healthz", "GET", {})
        unfinished.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        process.process.send_signal(number)
        assert process.wait(3) == 0
    assert "Traceback" not in process.log()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_connection_is_closed_when_its_client_closes_it(driver: FakeDriver, sidecar: Start) -> None:
    """Idle connections may stay for 75 s; a closed one must not, or a script with curl would use up the bound."""
    process = sidecar()
    process.await_name()
    before = _sockets(process.process.pid)
    for _ in range(30):
        assert process.get().status == 200
    with socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        unfinished.sendall(b"GET /healthz HTTP/1.1\r\nHo")

    eventually(lambda: _sockets(process.process.pid) <= before)


def _sockets(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("milliseconds", [60, 90, 120, 160, 200, 300])
def test_sigterm_ends_the_process_during_its_start(socket_path: str, sidecar: Start, milliseconds: int) -> None:
    """As soon as Python itself has started; before that the interpreter handles signals."""
    process = sidecar(await_http=False)
    eventually(lambda: int(_status(process.process.pid, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1)
    time.sleep(milliseconds / 1000)
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.log() == "" or "Traceback" not in process.log()


def test_handlers_are_installed_before_any_large_import() -> None:
    code = "import sys; from livenessprobe import __main__; from livenessprobe.process import signals; print(sorted({'asyncio', 'json', 'tomllib', 'grpc'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
    )


def test_sighup_does_not_end_the_process(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    process.process.send_signal(signal.SIGHUP)
    process.await_log("SIGHUP")
    assert process.get().status == 200


def test_a_failed_start_removes_an_older_health_file(sidecar: Start, folder: Path) -> None:
    file = folder / "health"
    file.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = sidecar(f"--http-endpoint=127.0.0.1:{taken.getsockname()[1]}", f"--health-file={file}", await_http=False)
        assert process.wait() == 1
    assert not file.exists()


def test_sigquit_shows_all_stacks_and_ends_the_process_even_if_it_was_ignored(driver: FakeDriver, sidecar: Start) -> None:
    """A shell starts background processes with SIGQUIT ignored."""
    process = sidecar(prefix=("env", "--ignore-signal=QUIT"))
    process.await_name()

    process.process.send_signal(signal.SIGQUIT)

    assert process.wait() == 2
    assert process.log().count("(most recent call first):") > 1
    assert "SIGQUIT: quit" in process.log()


def test_sigquit_shows_the_stacks_after_handlers_were_set_twice() -> None:
    code = "import os, signal; from livenessprobe.process import signals; signals.install_early(); signals.install_early(); os.kill(os.getpid(), signal.SIGQUIT)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert "(most recent call first):" in done.stderr


@pytest.mark.parametrize("path", ["/healthz", "/livez?verbose", "/nope"])
def test_connect_is_answered_as_any_other_method(driver: FakeDriver, sidecar: Start, path: str) -> None:
    """With the body, though after a 2xx to CONNECT the bytes are no longer HTTP."""
    process = sidecar()
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(f"CONNECT {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 " if path == "/nope" else b"HTTP/1.1 200 OK")
    assert body.decode() == process.get(path).body
    assert "Error in ASGI" not in process.log()


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


def test_a_taken_port_exits_with_1_and_names_the_port(sidecar: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = sidecar(f"--http-endpoint=127.0.0.1:{port}", await_http=False)
        assert process.wait() == 1
    assert process.log().endswith(
        f'"Failed to start http server" err="listen tcp 127.0.0.1:{port}: bind: address already in use"\n'
    )


def test_health_on_a_unix_socket(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    path = folder / "health.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    process = sidecar(f"--http-endpoint=unix://{path}")
    process.await_log("ServeMux listening")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")


def test_a_full_stderr_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    """Upstream blocks after 117 requests."""
    reader, writer = os.pipe()
    process = sidecar("-v=10", stderr=writer)
    with keep_alive(process) as connection:
        statuses = {request(connection, "/healthz", "GET", {}).status for _ in range(1500)}
    assert statuses == {200}
    assert process.metric("livenessprobe_log_records_dropped") > 0
    process.process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    os.close(reader)
    os.close(writer)


def test_a_stderr_without_reader_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = sidecar("-v=5", stderr=writer)
    assert {process.get().status for _ in range(5)} == {200}
    os.close(writer)


def test_a_closed_stderr_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(await_http=False)
    process.kill()
    command = [
        sys.executable,
        "-m",
        "livenessprobe",
        f"--csi-address={driver.path}",
        f"--http-endpoint=127.0.0.1:{process.port}",
    ]
    closed = subprocess.Popen(["sh", "-c", 'exec "$@" 2>&- 1>&- 0<&-', "sh", *command], cwd=ROOT)
    try:

        def answers() -> bool:
            try:
                return process.get().status == 200
            except OSError:
                return False

        eventually(answers, 20)
        descriptors = os.listdir(f"/proc/{closed.pid}/fd")
        assert all(os.readlink(f"/proc/{closed.pid}/fd/{n}") == "/dev/null" for n in descriptors if n in ("0", "1", "2"))
    finally:
        closed.kill()
        closed.wait()


def test_equal_errors_are_folded_and_recovery_has_one_record(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.ready = False
    for _ in range(25):
        assert process.get().status == 500
    driver.ready = True
    assert process.get().status == 200
    process.await_log("CSI driver is healthy again")
    process.process.send_signal(signal.SIGTERM)
    process.wait()

    lines = [line.partition("] ")[2] for line in process.log().splitlines()]
    assert lines.count('"Driver responded but is not ready"') == 10
    assert lines.count('"Driver responded but is not ready" repeated=15') == 1
    assert sum(line.startswith('"CSI driver is unhealthy"') for line in lines) == 1
    assert sum(line.startswith('"CSI driver is healthy again"') for line in lines) == 1


def test_arguments_after_a_positional_are_named(driver: FakeDriver, sidecar: Start) -> None:
    """`--automaxprocs false` ends the flags at `false`."""
    process = sidecar(
        f"--http-endpoint=127.0.0.1:{_free()}", "--automaxprocs", "false", "--probe-timeout=1s", await_http=False
    )
    process.await_log('unread="false --probe-timeout=1s"')


def _free() -> int:
    from tests.support import free_port

    return free_port()


def test_old_log_files_are_written(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """With klog's flags from before v2.12."""
    process = sidecar(
        "--logtostderr=false", f"--log_file={folder}/probe.log", "--stderrthreshold=FATAL", "--connection-timeout=3s"
    )
    eventually(lambda: (folder / "probe.log").exists() and "CSI driver name" in (folder / "probe.log").read_text())
    lines = (folder / "probe.log").read_text().splitlines()
    assert lines[0].startswith("Log file created at: ")
    assert any('option connection-timeout=\\"3s\\" is deprecated' in line for line in lines)
    assert process.log() == ""


def test_a_fifo_as_log_file_stops_neither_probes_nor_stderr(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    os.mkfifo(folder / "fifo")
    process = sidecar("--logtostderr=false", "--alsologtostderr", f"--log_file={folder}/fifo")
    process.await_name()
    process.await_log("cannot write log file")
    assert process.get().status == 200


@pytest.mark.parametrize(
    "line",
    [
        'http_endpoint = "127.0.0.1:99999"',
        'http_endpoint = "no.such.host.invalid:1"',
        'http_endpoint = "127.0.0.1:no-such-port"',
        'http_endpoint = "127.0.0.1:ht\\u0000tp"',
        'http_endpoint = "unix:///tmp/a\\u0000b"',
        'log_file = "/tmp/a\\u0000b"',
        'metrics_address = "127.0.0.1:99999"',
    ],
)
def test_a_bad_line_in_the_settings_file_does_not_stop_the_process(folder: Path, sidecar: Start, line: str) -> None:
    (folder / "settings.toml").write_text(f"{line}\n")
    process = sidecar(f"--health-port={_free()}", f"--config={folder}/settings.toml", await_http=False)
    process.await_log("ServeMux listening")
    process.await_log("Settings file ignored")
    assert "Traceback" not in process.log()


def test_version_to_a_full_disk_exits_with_1_without_a_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "livenessprobe", "--version"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_request_bodies_are_not_kept(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=10s")
    process.await_name()
    assert process.get().status == 200
    driver.hang = True
    before = _resident(process.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            client.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 15900000\r\n\r\n" + b"x" * 15_000_000)
        assert _resident(process.process.pid) - before < 30_000


def _resident(pid: int) -> int:
    return int(_status(pid, "VmRSS"))


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
def test_upgrades_are_ignored(driver: FakeDriver, sidecar: Start, upgrade: bytes) -> None:
    """This rests on the one private attribute of Hypercorn that is used."""
    process = sidecar()
    answer = raw(process.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n", 1)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", b"417 Expectation Failed"),
    ],
)
def test_anything_but_plain_http1_is_refused_and_closed(
    driver: FakeDriver, sidecar: Start, data: bytes, status: bytes
) -> None:
    process = sidecar()
    started = time.monotonic()
    assert raw(process.port, data, 10).startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert time.monotonic() - started < 5  # the server hung up


def test_headers_over_16_kib_are_refused(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    answer = raw(process.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 1)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_proxies_are_never_used(driver: FakeDriver, sidecar: Start) -> None:
    driver.stop()
    port = _free()
    with FakeDriver(f"127.0.0.1:{port}"):
        proxies = {name: "http://127.0.0.1:1" for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY")}
        process = sidecar(f"--csi-address=tcp://localhost:{port}", environ=proxies)
        assert process.get().status == 200


def test_malformed_requests_cause_no_traceback_and_no_hang(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: \xff;q=\r\nAccept-Encoding: gzip;q=\xff\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
        b"\r\n\r\n\r\n",
        b"\x00" * 100,
    ):
        raw(process.port, data, 0.3)
        assert process.get().status == 200, data
    assert "Traceback" not in process.log()
    assert "Error" not in process.log(), process.log()


@pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")
def test_as_pid_1_sigterm_ends_the_process_at_any_time(socket_path: str, sidecar: Start) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("unshare --pid is not permitted here")
    for wait_for_listening in (False, True):
        process = sidecar(await_http=False)
        process.kill()
        command = [
            sys.executable,
            "-m",
            "livenessprobe",
            f"--csi-address={socket_path}",
            f"--http-endpoint=127.0.0.1:{process.port}",
        ]
        parent = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *command], cwd=ROOT, stderr=subprocess.PIPE)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        eventually(lambda: children.read_text().strip())
        child = int(children.read_text())
        # The kernel drops signals for a PID 1 without a handler, so wait until Python has installed one.
        eventually(lambda: int(_status(child, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1)
        if wait_for_listening:
            assert parent.stderr is not None
            assert b"ServeMux listening" in parent.stderr.readline()
        os.kill(child, signal.SIGTERM)
        assert parent.wait(10) == 0
        parent.communicate()


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
