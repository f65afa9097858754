"""The whole process beside a file system that hangs, and a look at the socket that never returns where FUSE is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from livenessprobe.driver.address import CSIAddress, parse_csi_address
from livenessprobe.driver.connection import Dialer
from livenessprobe.driver.identity import Identity, Question
from livenessprobe.driver.result import Reason
from livenessprobe.driver.socket_file import SocketIdentity, look
from tests.support import COMMAND, ROOT, FakeDriver, Start, command, eventually
from tests.support.fuse import hung_mount

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FUSE and mountinfo are of Linux")

ERROR = '"Failed to establish connection to CSI driver" err="context deadline exceeded"'


@pytest.fixture
def mounted(folder: Path) -> Iterator[Path]:
    """A folder in which every look hangs."""
    place = folder / "hung"
    place.mkdir()
    with hung_mount(place):
        yield place


def test_a_hung_file_system_under_the_socket_is_a_500_at_the_timeout(mounted: Path, sidecar: Start) -> None:
    process = sidecar(f"--csi-address={mounted}/csi.sock", "--probe-timeout=500ms")

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "hung_mount")
    assert answer.body.startswith(f"{mounted}/csi.sock cannot be looked at: its file system does not respond")
    assert 0.45 < answer.seconds < 1.5
    process.await_log(ERROR)
    began = time.monotonic()
    assert process.metric('livenessprobe_probe_failures_total{reason="hung_mount"}') == 1
    assert process.get("/livez").seconds < 1.5
    assert time.monotonic() - began < 3


def test_at_most_one_thread_hangs_and_no_connection_is_dialled(mounted: Path, sidecar: Start) -> None:
    process = sidecar(f"--csi-address={mounted}/csi.sock", "--probe-timeout=200ms", "--unreachable-grace=0s")
    assert process.get().reason == "hung_mount"
    before = len(process.threads())
    assert {process.get().reason for _ in range(5)} == {"hung_mount"}
    assert len(process.threads()) <= before  # a thread that has loaded Quart may have ended
    assert process.metric("livenessprobe_driver_connections_total") == 0


def test_sigterm_ends_a_sidecar_beside_a_hung_file_system(mounted: Path, sidecar: Start) -> None:
    process = sidecar(f"--csi-address={mounted}/csi.sock", "--probe-timeout=200ms")
    assert process.get().status == 500
    process.signal(signal.SIGTERM)
    assert process.process.wait(5) == 0


def test_a_file_system_that_begins_to_hang_is_noticed_and_so_is_its_end(folder: Path, sidecar: Start) -> None:
    """It is mounted over the driver's folder while connections are kept and looks were made in place."""
    place = folder / "csi"
    place.mkdir()
    with FakeDriver(f"{place}/csi.sock") as driver:
        process = sidecar(f"--csi-address={driver.path}", "--probe-timeout=500ms")
        process.await_name()
        assert [process.get().status for _ in range(3)] == [200] * 3
        with hung_mount(place):
            assert [process.get().reason for _ in range(2)] == ["hung_mount"] * 2
        eventually(lambda: process.get().status == 200)


def test_requests_that_come_during_a_hung_look_share_it(mounted: Path, sidecar: Start) -> None:
    process = sidecar(f"--csi-address={mounted}/csi.sock", "--probe-timeout=1s")
    answers: list[tuple[int, str | None]] = []

    def ask() -> None:
        answer = process.get()
        answers.append((answer.status, answer.reason))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert answers == [(500, "hung_mount")] * 20


def test_check_beside_a_hung_file_system_has_the_reason_and_heeds_sigterm(mounted: Path) -> None:
    check = [*COMMAND, "check", f"--csi-address={mounted}/csi.sock"]
    done = subprocess.run([*check, "--probe-timeout=300ms"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.partition(":")[0]) == (2, "hung_mount")

    with subprocess.Popen([*check, "--probe-timeout=1h"], cwd=ROOT, env={**os.environ}) as waiting:
        time.sleep(1)
        assert waiting.poll() is None
        waiting.terminate()
        assert waiting.wait(5) == 128 + signal.SIGTERM


# --- other files


def test_a_start_waits_5_s_for_a_hung_settings_file_and_heeds_sigterm(
    driver: FakeDriver, mounted: Path, sidecar: Start
) -> None:
    process = sidecar(f"--config={mounted}/settings.toml", await_http=False)
    time.sleep(1.5)
    assert process.process.poll() is None
    process.signal(signal.SIGTERM)
    assert process.process.wait(3) == 0

    process = sidecar(f"--config={mounted}/settings.toml")
    assert process.get().status == 200
    process.await_log(f"settings file {mounted}/settings.toml: its file system does not respond")
    process.signal(signal.SIGTERM)
    assert process.process.wait(5) == 0


def test_a_hung_health_file_delays_neither_start_nor_probes_nor_the_end(
    driver: FakeDriver, mounted: Path, sidecar: Start
) -> None:
    process = sidecar(f"--health-file={mounted}/health")
    process.await_log(f"health file {mounted}/health: its file system does not respond")
    before = [process.get().status for _ in range(5)], len(process.threads())
    assert before[0] == [200] * 5
    assert [process.get().status for _ in range(5)] == [200] * 5
    assert len(process.threads()) <= before[1]
    process.signal(signal.SIGTERM)
    assert process.process.wait(5) == 0


def test_a_hung_termination_log_delays_exit_on_failure_by_a_second(mounted: Path, sidecar: Start) -> None:
    process = sidecar("--exit-on-failure", f"--termination-log={mounted}/log", "--probe-timeout=200ms")
    process.get()
    assert process.process.wait(5) == 3
    process.await_log(f'"Termination log cannot be written" err="{mounted}/log: its file system does not respond"')


def test_hung_log_files_stop_no_probe_and_not_the_end(driver: FakeDriver, mounted: Path, sidecar: Start) -> None:
    process = sidecar("--logtostderr=false", f"--log_file={mounted}/log")
    assert [process.get().status for _ in range(5)] == [200] * 5
    process.signal(signal.SIGTERM)
    assert process.process.wait(5) == 0


def test_check_of_a_hung_health_file_ends_at_the_timeout(mounted: Path) -> None:
    done = command("check", f"--health-file={mounted}/health", "--probe-timeout=300ms")
    assert done.code == 4
    assert done.out == f"hung_mount: {mounted}/health cannot be read: its file system does not respond\n"


# --- the same without FUSE: the look is a parameter


class HungLook:
    """A look that never returns while `hangs`, and counts."""

    def __init__(self) -> None:
        self.hangs = True
        self.looks = 0
        self._released = threading.Event()

    def __call__(self, address: CSIAddress) -> SocketIdentity | None:
        self.looks += 1
        if self.hangs:
            self._released.wait()
        return look(address)

    def release(self) -> None:
        self.hangs = False
        self._released.set()


def test_a_look_that_never_returns_is_a_reason_and_keeps_grpc_from_dialling(driver: FakeDriver) -> None:
    asyncio.run(_ask_while_looks_hang(driver))


async def _ask_while_looks_hang(driver: FakeDriver) -> None:
    loop, hung, dials = asyncio.get_running_loop(), HungLook(), list[int]()
    dialer = Dialer(parse_csi_address(driver.path, "linux"), lambda: dials.append(1), hung)
    identity = Identity(dialer)
    for grace in (0.0, 0.2, 0.0):
        began = loop.time()
        found = await identity.probe(Question(began + 0.2, began + grace))
        assert (found.result.reason, found.connected) == (Reason.HUNG_MOUNT, False)
        assert 0.19 < loop.time() - began < 1
    assert (hung.looks, dials) == (1, [])

    hung.release()
    now = loop.time()
    found = await identity.probe(Question(now + 5, now + 5))
    assert found.result.reason is None
    assert len(dials) == 1
    await dialer.close()
