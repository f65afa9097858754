"""A machine that has run out of something, whose clock jumps, or that lacks what others have: the whole process."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from livenessprobe import connection
from livenessprobe.connection import NotConnected
from livenessprobe.endpoint import parse_csi_address
from livenessprobe.health import Reason
from tests.support import ROOT, Answer, FakeDriver, Sidecar, driver_process, eventually, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors, mounts and groups of control are Linux's")

Start = Callable[..., Sidecar]

FRESH = "--connection-reuse=0s"
"""Each probe dials."""
AT_ONCE = "--unreachable-grace=0s"
LITTLE = "--probe-timeout=500ms"
NO_DESCRIPTORS = "livenessprobe has too few file descriptors left to connect to {}: Too many open files"


class Caller:
    """Asks over one connection, which is there before anything runs out."""

    def __init__(self, process: Sidecar) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
        self._connection.connect()

    def __enter__(self) -> Caller:
        self.get()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str = "/healthz") -> Answer:
        return request(self._connection, path, "GET", {})


def run_check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "livenessprobe", "check", f"--health-file={file}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def records(process: Sidecar, text: str) -> list[str]:
    return [line for line in process.log().splitlines() if text in line]


# --- descriptors


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """The process gets no new ones; what it has, it keeps."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_driver_without_descriptors_is_hung_until_it_has_some(socket_path: str, sidecar: Start) -> None:
    """It cannot accept, so connections wait in its queue."""
    with driver_process(socket_path) as driver:
        process = sidecar(LITTLE, FRESH)
        process.await_name()
        assert process.get().status == 200
        with no_descriptors(driver.pid):
            answer = process.get()
            assert (answer.status, answer.reason) == (500, "deadline")
            assert answer.body.startswith(f"the driver at unix://{socket_path} accepts connections but does not speak gRPC")
            assert answer.seconds < 3
        eventually(lambda: process.get().status == 200)


def test_without_descriptors_of_its_own_it_blames_itself_and_goes_on(driver: FakeDriver, sidecar: Start) -> None:
    """gRPC would end the process with SIGABRT."""
    process = sidecar(FRESH, AT_ONCE)
    process.await_name()
    with Caller(process) as caller:
        assert caller.get().status == 200
        with no_descriptors(process.process.pid):
            answer = caller.get()
            assert (answer.status, answer.reason) == (500, "internal")
            assert answer.body == NO_DESCRIPTORS.format(driver.path)
            assert caller.get("/livez").status == 500
        assert caller.get().status == 200
    assert process.metric('livenessprobe_probe_failures_total{reason="internal"}') == 2
    assert process.process.poll() is None


def test_a_short_want_of_descriptors_is_no_failure(driver: FakeDriver, sidecar: Start) -> None:
    """It is dialled again within the grace."""
    process = sidecar(FRESH, "--probe-timeout=20s")
    process.await_name()
    with Caller(process) as caller, ThreadPoolExecutor(1) as pool:
        with no_descriptors(process.process.pid):
            answer = pool.submit(caller.get)
            time.sleep(0.5)
            assert not answer.done()

        assert answer.result().status == 200


def test_who_comes_while_there_are_no_descriptors_is_answered_later(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    with ThreadPoolExecutor(3) as pool:
        with no_descriptors(process.process.pid):
            answers = [pool.submit(process.get) for _ in range(3)]
            process.await_log("out of system resource")
            assert not any(answer.done() for answer in answers)

        assert {answer.result().status for answer in answers} == {200}
    # At most ten equal records a minute, and the rest as one.
    assert len(records(process, "out of system resource")) <= 11


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_nodes_descriptors_and_ones_own_are_told_apart(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def pipe() -> tuple[int, int]:
        if len(taken) == connection.DESCRIPTORS - 2:
            raise OSError(number, os.strerror(number))
        taken.extend(pair := real())
        return pair

    real = os.pipe
    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(NotConnected) as refused:
        connection._refuse_without_descriptors(parse_csi_address("/csi/csi.sock", "linux"))

    assert refused.value.reason is Reason.INTERNAL
    assert refused.value.sentence.endswith(f"left to connect to /csi/csi.sock: {os.strerror(number)}")
    for descriptor in taken:  # all are given back
        with pytest.raises(OSError):
            os.fstat(descriptor)


# --- a driver that does not accept


def test_a_full_queue_of_a_hung_driver_is_told_in_a_sentence(socket_path: str, sidecar: Start) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(socket_path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(socket_path)
        process = sidecar(AT_ONCE)

        answer = process.get()

        assert (answer.status, answer.reason) == (500, "unreachable")
        assert answer.body == (
            f"the driver at {socket_path} does not accept connections, and its queue of them is full: "
            "it is hung, stopped or overloaded"
        )


def test_a_stopped_driver_fills_its_queue_and_recovers(socket_path: str, sidecar: Start) -> None:
    """Each probe leaves a connection behind, until there is no room for more."""
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with driver_process(socket_path) as driver:
        process = sidecar(AT_ONCE, LITTLE)
        process.await_name()
        driver.send_signal(signal.SIGSTOP)
        assert process.get().reason == "deadline"
        with contextlib.ExitStack() as waiting:
            with contextlib.suppress(BlockingIOError):
                for _ in range(somaxconn + 2):
                    client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    client.setblocking(False)
                    client.connect(socket_path)
            assert process.get().reason == "unreachable"
        driver.send_signal(signal.SIGCONT)
        eventually(lambda: process.get().status == 200)


# --- disks


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own with room for 16 pages."""
    path = folder / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"this test has to mount a small disk, and may not: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_a_full_disk_takes_no_health_file_from_a_healthy_driver(driver: FakeDriver, disk: Path, sidecar: Start) -> None:
    """The room of the old file is enough for the new one."""
    file = disk / "health"
    sidecar(f"--health-file={file}", "--interval=100ms")
    eventually(file.exists)
    fill(disk)
    before = driver.probes
    eventually(lambda: driver.probes > before + 10)

    assert run_check(file).returncode == 0
    driver.ready = False
    eventually(lambda: not file.exists())  # there is always room to remove something
    assert run_check(file).returncode == 4


def test_a_full_disk_stops_no_probe_and_is_told_once(driver: FakeDriver, disk: Path, sidecar: Start) -> None:
    """There is no health file then, however healthy the driver: it could not be kept up to date."""
    file = disk / "health"
    filler = fill(disk)
    # Files are tried again after a minute; here sooner, or the test would take one.
    (disk.parent / "sitecustomize.py").write_text("from livenessprobe.klogfiles import LogFiles\nLogFiles.RETRY_SECONDS = 1\n")
    process = sidecar(
        f"--health-file={file}",
        "--interval=100ms",
        "--logtostderr=false",
        f"--log_file={disk}/log",
        "--v=5",
        environ={"PYTHONPATH": f"{disk.parent}:{ROOT}"},
    )
    eventually(lambda: driver.probes > 15)

    assert process.get().status == 200
    assert not file.exists()
    assert len(records(process, "cannot write log file: [Errno 28] No space left on device; trying again in 1s")) <= 10
    assert len(records(process, f"health file {file} cannot be written: No space left on device")) == 1
    filler.unlink()
    eventually(file.exists)
    eventually(lambda: (disk / "log").exists() and "Sending probe request" in (disk / "log").read_text())
