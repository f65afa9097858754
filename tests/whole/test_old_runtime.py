"""Container runtimes whose seccomp profile answers system calls that are newer than it with EPERM instead of ENOSYS."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT, FakeDriver, Sidecar, eventually, not_on_windows
from tests.support.seccomp import refusing

Start = Callable[..., Sidecar]

pytestmark = not_on_windows("seccomp is Linux's")

TOO_OLD = (
    "can't start new thread: the container runtime is too old: its seccomp profile refuses the system call clone3; "
    "update the runtime (Docker to 20.10.10 or newer), or set the container's seccomp profile to Unconfined"
)
LIMIT = "can't start new thread: the limit of processes and threads is reached, of the pod, its user or the node; raise it"
CASES = [(("clone3",), errno.EPERM, TOO_OLD), (("clone3", "clone"), errno.EAGAIN, LIMIT)]


@pytest.mark.parametrize(("calls", "error", "sentence"), CASES)
def test_without_threads_the_cause_is_one_record(
    calls: tuple[str, ...], error: int, sentence: str, driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    """And no older health file is left."""
    (folder / "health").write_text("{}")
    arguments = (f"--health-file={folder}/health", "--logging-format=json")

    process = sidecar(*arguments, prefix=refusing(*calls, error=error), await_http=False)

    assert process.wait() == 1
    (line,) = process.log().splitlines()
    record = json.loads(line)
    assert (record["msg"], record["err"]) == ("Cannot run without threads", sentence)
    assert not (folder / "health").exists()


@pytest.mark.parametrize(("calls", "error", "sentence"), CASES)
def test_a_check_without_threads_says_the_cause(
    calls: tuple[str, ...], error: int, sentence: str, driver: FakeDriver
) -> None:
    command = [sys.executable, "-m", "livenessprobe", "check", f"--csi-address={driver.path}"]

    done = subprocess.run([*refusing(*calls, error=error), *command], cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout, done.stderr) == (2, f"internal: {sentence}\n", "")


def test_a_refusal_is_told_without_threads(sidecar: Start) -> None:
    """The log is written without its thread then."""
    process = sidecar("--http-endpoint=127.0.0.1:99999", "--automaxprocs", prefix=refusing("clone3"), await_http=False)

    assert process.wait() == 1
    first, second = process.log().splitlines()
    assert '"maxprocs: ' in first
    assert '"Failed to start http server" err="listen tcp: address 99999: invalid port"' in second


def test_the_demo_without_threads_ends(driver: FakeDriver) -> None:
    command = [sys.executable, "-m", "livenessprobe", "demo"]

    done = subprocess.run(
        [*refusing("clone3"), *command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert TOO_OLD in done.stderr


@pytest.mark.parametrize("call", ["prlimit64", "sched_getaffinity"])
def test_limits_that_cannot_be_read_are_not_needed(call: str, driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--automaxprocs", "--connection-reuse=0s", prefix=refusing(call))
    process.await_name()

    assert (process.get().status, process.get("/metrics").status) == (200, 200)
    driver.ready = False
    assert process.get().reason == "not_ready"
    assert "Traceback" not in process.log()
    process.process.terminate()
    eventually(lambda: process.process.poll() == 0)
