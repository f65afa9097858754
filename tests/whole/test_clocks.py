"""The whole process on a machine whose wall clock is set."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import FakeDriver, Start, command, eventually, injected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="unix sockets in Python")

WALL = """
import os, sys, time
real = time.time
def wall():
    # gRPC adds a timeout to it and compares the sum with a clock that is out of reach here.
    if sys._getframe(1).f_globals["__name__"].startswith("grpc"):
        return real()
    return real() + float(open({file!r}).read())
time.time = wall
"""
DAY = 86_400.0


class Wall:
    """The wall clock of processes with this environment; the test can set it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "wall"
        self.set(0.0)
        self.environ = injected(folder, WALL.format(file=str(self._file)))

    def set(self, ahead: float) -> None:
        """Set the clock to this many seconds ahead of the real time."""
        new = self._file.with_suffix(".new")
        new.write_text(str(ahead))
        new.rename(self._file)


@pytest.fixture
def wall(folder: Path) -> Wall:
    return Wall(folder)


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_a_changed_wall_clock_changes_no_response(
    ahead: float, driver: FakeDriver, folder: Path, sidecar: Start, wall: Wall
) -> None:
    """On request and on schedule, with a health file and without.  Only timestamps follow the clock."""
    file, config = folder / "health", folder / "settings.toml"
    config.write_text('interval = "200ms"\nprobe_timeout = "2s"\n')
    process = sidecar(f"--health-file={file}", f"--config={config}", "--config-poll-interval=200ms", environ=wall.environ)
    process.await_name()
    eventually(lambda: file.exists() and driver.name in file.read_text())
    wall.set(ahead)
    before, first = driver.probes, file.read_text()
    eventually(lambda: driver.probes > before + 3 and file.read_text() != first)

    def is_off(seconds: float) -> bool:
        return abs(seconds - time.time() - ahead) < 60

    answers = [process.get() for _ in range(3)]
    assert [(answer.status, answer.seconds < 5) for answer in answers] == [(200, True)] * 3
    assert is_off(datetime.fromisoformat(json.loads(file.read_text())["time"]).timestamp())
    assert command("check", f"--health-file={file}").code == 0
    assert is_off(process.metric("livenessprobe_last_success_timestamp_seconds"))
    assert process.metric("livenessprobe_last_probe_duration_seconds") < 2
    assert abs(process.metric("process_start_time_seconds") - time.time()) < 60
    # The settings file is still polled.
    config.write_text('interval = "0s"\nprobe_timeout = "2s"\n')
    process.await_log('"Setting changed" key="interval"')
    assert process.get().status == 200
    driver.stop()
    assert process.get().reason == "socket_missing"
    eventually(lambda: not file.exists())
    process.await_log("CSI driver is unhealthy")


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_a_changed_wall_clock_does_not_change_when_a_health_file_expires(
    ahead: float, driver: FakeDriver, folder: Path, sidecar: Start, wall: Wall
) -> None:
    """A file that is not renewed counts for 1.7 s here, by the machine's uptime and not by the wall clock."""
    file = folder / "health"
    process = sidecar(f"--health-file={file}", "--interval=200ms", "--probe-timeout=500ms", environ=wall.environ)
    eventually(file.exists)
    wall.set(ahead)
    assert command("check", f"--health-file={file}", **wall.environ).code == 0
    process.kill()
    time.sleep(1.8)
    assert command("check", f"--health-file={file}", **wall.environ).code == 4


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_what_is_known_of_a_kubelets_patience_survives_a_clock_that_is_set(
    ahead: float, driver: FakeDriver, sidecar: Start, wall: Wall
) -> None:
    process = sidecar("--probe-timeout=20s", environ=wall.environ)
    driver.hang = True
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            process.get(timeout=1.3, User_Agent="kube-probe/1.30")
        eventually(lambda: process.metric("livenessprobe_kubelet_patience_seconds") > 1.2)
        wall.set(ahead)

    assert 1.2 < process.metric("livenessprobe_kubelet_patience_seconds") < 2
