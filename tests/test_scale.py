"""The number of threads on a machine with many CPUs: the whole process."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc, CPUs faked by a mount")

MANY = """
cpus=/sys/devices/system/cpu
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=755 tmpfs $cpus
for each in $(seq 0 63); do mkdir $cpus/cpu$each; done
for each in online possible present; do echo 0-63 >$cpus/$each; done
exec "$@"
"""
"""libc reports 64 CPUs; the process still runs on the real ones."""

OF_GRPC = {"event_engine", "lifeguard", "grpc_global_tim"}
"""Names of gRPC's threads; the poller thread of grpc.aio has no name of its own."""


@pytest.fixture
def many() -> tuple[str, ...]:
    """The command prefix that runs a command on such a machine."""
    prefix = ("unshare", "--mount", "sh", "-e", "-c", MANY, "sh")
    tried = subprocess.run([*prefix, "getconf", "_NPROCESSORS_CONF"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this test has to mount over the list of CPUs, and may not: {tried.stderr.strip()}")
    assert tried.stdout == "64\n"
    return prefix


def use(process: Sidecar) -> None:
    """Do everything that uses threads, many times, and for longer than gRPC takes to start more threads."""
    end = time.monotonic() + 3
    with ThreadPoolExecutor(16) as clients:
        while time.monotonic() < end:
            assert {answer.status for answer in clients.map(lambda _: process.get(), range(200))} == {200}
            process.sighup()
            process.get("/metrics")


def test_the_number_of_threads_is_bounded_on_64_cpus(
    driver: FakeDriver, folder: Path, sidecar: Start, many: tuple[str, ...]
) -> None:
    """
    gRPC then has 16 workers, starts another one when all of them are busy, and has 3 threads that watch the workers.

    The sidecar has 6 threads of its own, whatever the number of CPUs.
    """
    (folder / "settings.toml").write_text('probe_timeout = "5s"\n')
    files = (f"--config={folder}/settings.toml", f"--health-file={folder}/health")
    process = sidecar(*files, "--automaxprocs", "--connection-reuse=0s", prefix=many, environ={"GOMAXPROCS": "64"})
    process.await_name()

    use(process)

    names = process.threads()
    assert 10 < sum(name in OF_GRPC for name in names) <= 21, names
    # A thread names itself; before that it has the program's name.
    eventually(lambda: sum(name not in OF_GRPC for name in process.threads()) <= 7)
