"""How the whole process starts and ends: signals, exit codes, a stuck event loop, --exit-on-failure."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support import COMMAND, ROOT, FakeDriver, Start, eventually, never_reading, process_status, request


def test_sigterm_finishes_open_requests_and_exits_0(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.delay = 1.0
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(process.get)
        eventually(lambda: driver.in_flight == 1)
        process.signal(signal.SIGTERM)

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
        process.signal(signal.SIGTERM)

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
    with process.keep_alive() as idle, socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        request(idle, "/healthz", "GET", {})
        unfinished.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        process.signal(number)
        assert process.wait(3) == 0
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("milliseconds", [60, 90, 120, 160, 200, 300])
def test_sigterm_ends_the_process_during_its_start(socket_path: str, sidecar: Start, milliseconds: int) -> None:
    """As soon as Python itself has started; before that the interpreter handles signals."""
    process = sidecar(await_http=False)
    eventually(lambda: int(process_status(process.process.pid, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1)
    time.sleep(milliseconds / 1000)
    assert process.stop() == 0
    assert process.log() == "" or "Traceback" not in process.log()


def test_sigquit_shows_all_stacks_and_ends_the_process_even_if_it_was_ignored(driver: FakeDriver, sidecar: Start) -> None:
    """A shell starts background processes with SIGQUIT ignored."""
    process = sidecar(prefix=("env", "--ignore-signal=QUIT"))
    process.await_name()

    process.signal(signal.SIGQUIT)

    assert process.wait() == 2
    assert process.log().count("(most recent call first):") > 1
    assert "SIGQUIT: quit" in process.log()


@pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")
def test_as_pid_1_sigterm_ends_the_process_at_any_time(socket_path: str, sidecar: Start) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("unshare --pid is not permitted here")
    for wait_for_listening in (False, True):
        process = sidecar(await_http=False)
        process.kill()
        command = [*COMMAND, f"--csi-address={socket_path}", f"--http-endpoint=127.0.0.1:{process.port}"]
        parent = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *command], cwd=ROOT, stderr=subprocess.PIPE)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        eventually(lambda: children.read_text().strip())
        child = int(children.read_text())
        # The kernel drops signals for a PID 1 without a handler, so wait until Python has installed one.
        eventually(lambda: int(process_status(child, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1)
        if wait_for_listening:
            assert parent.stderr is not None
            assert b"ServeMux listening" in parent.stderr.readline()
        os.kill(child, signal.SIGTERM)
        assert parent.wait(10) == 0
        parent.communicate()


DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


@pytest.mark.parametrize("mode", ["interval", "request"])
def test_the_process_exits_after_failure_threshold_failures(
    driver: FakeDriver, folder: Path, sidecar: Start, mode: str
) -> None:
    log, file = folder / "log", folder / "health"
    log.touch()
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
    assert re.fullmatch(
        f"CSI driver at unix://{driver.path} failed 2 probes in a row: not_ready: driver responded but is not ready, "
        "driver unhealthy for [01]s\n",
        log.read_text(),
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
    (folder / "log").touch()
    process = sidecar("--exit-on-failure", "--interval=100ms", f"--termination-log={folder}/log")
    assert process.wait() == 3
    message = (folder / "log").read_bytes()
    assert 3000 < len(message) <= 4096
    assert b", driver unhealthy for " in message
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

    assert process.stop() == 0
    assert not (folder / "log").exists()


def test_without_the_flag_no_failure_ends_the_process(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    driver.ready = False
    process = sidecar("--interval=100ms", f"--termination-log={folder}/log")
    eventually(lambda: driver.probes >= 5)
    assert process.get().status == 500
    assert not (folder / "log").exists()
