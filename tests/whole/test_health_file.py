"""The health file that the whole process writes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import FakeDriver, Start, command, eventually


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

    assert process.stop() == 0
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
    check = functools.partial(command, "check", f"--health-file={file}")
    process.kill()

    fresh = check()
    eventually(lambda: check().code == 4)
    expired = check()

    assert (fresh.code, fresh.out) == (0, f"healthy: {driver.name} by {file}\n")
    assert "has expired" in expired.out
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
    assert process.stop() == 0
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
        process.signal(signal.SIGTERM if number else signal.SIGINT)
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert os.listdir(folder) == ["csi.sock"]
