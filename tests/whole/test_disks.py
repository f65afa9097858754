"""The whole process on a machine whose disk is full, hangs or cannot be written, or that lacks /proc and time zones."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from livenessprobe.probing import health_file
from livenessprobe.probing.health_file import HealthFileError
from tests.support import FakeDriver, Start, command, eventually, injected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts of Linux")


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 pages."""
    path = folder / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this test has to mount a small disk, and may not: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk with one file."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_on_a_full_disk_a_new_health_file_takes_the_space_of_the_old_one(disk: Path) -> None:
    file = disk / "health"
    health_file.write(str(file), "d", 60.0)
    filler = fill(disk)
    for driver in "abc":
        health_file.write(str(file), driver, 60.0)
        assert health_file.read(str(file)) == driver
    file.unlink()
    with filler.open("ab") as more, contextlib.suppress(OSError):
        more.write(b"x" * 4096)

    with pytest.raises(HealthFileError, match="cannot be written: No space left on device$"):
        health_file.write(str(file), "d", 60.0)

    assert sorted(os.listdir(disk)) == ["filler"]  # no half-written file either


def test_a_full_disk_does_not_remove_the_health_file_of_a_healthy_driver(
    driver: FakeDriver, disk: Path, sidecar: Start
) -> None:
    file = disk / "health"
    sidecar(f"--health-file={file}", "--interval=100ms")
    eventually(file.exists)
    fill(disk)
    before = driver.probes
    eventually(lambda: driver.probes > before + 10)

    assert command("check", f"--health-file={file}").code == 0
    driver.ready = False
    eventually(lambda: not file.exists())  # removing a file needs no space
    assert command("check", f"--health-file={file}").code == 4


def test_a_full_disk_stops_no_probe_and_is_logged_once(driver: FakeDriver, disk: Path, sidecar: Start) -> None:
    """On a full disk there is no health file, even for a healthy driver: it could not be kept up to date."""
    file = disk / "health"
    filler = fill(disk)
    # Log files are tried again after a minute; here after a second, to keep the test short.
    sooner = injected(disk.parent, "from livenessprobe.klog.files import LogFiles\nLogFiles.RETRY_SECONDS = 1\n")
    process = sidecar(
        f"--health-file={file}",
        "--interval=100ms",
        "--logtostderr=false",
        f"--log_file={disk}/log",
        "--v=5",
        environ=sooner,
    )
    eventually(lambda: driver.probes > 15)

    assert process.get().status == 200
    assert not file.exists()
    assert len(process.lines("cannot write log file: [Errno 28] No space left on device; trying again in 1s")) <= 10
    assert len(process.lines(f"health file {file} cannot be written: No space left on device")) == 1
    filler.unlink()
    eventually(file.exists)
    eventually(lambda: (disk / "log").exists() and "Sending probe request" in (disk / "log").read_text())


HANGS = """
import os, time

replace = os.replace

def hang(old, new):
    if os.path.exists({hung!r}):
        time.sleep(1000)
    replace(old, new)

os.replace = hang
"""


def test_a_hung_disk_delays_only_the_health_file(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """On one CPU as well: the number of executor threads must not shrink to one."""
    hung, settings = folder / "hung", folder / "settings.toml"
    settings.write_text('interval = "100ms"\nconfig_poll_interval = "100ms"\n')
    process = sidecar(
        f"--health-file={folder}/health",
        f"--config={settings}",
        environ=injected(folder, HANGS.format(hung=str(hung))),
        prefix=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))),
    )
    eventually((folder / "health").exists)
    hung.touch()
    probes = driver.probes
    eventually(lambda: driver.probes > probes + 10)

    assert process.get().status == 200
    assert process.get("/metrics", timeout=5).status == 200
    settings.write_text('interval = "200ms"\n')
    process.await_log('"Setting changed" key="interval" old="100ms" new="200ms"')
    process.signal(signal.SIGTERM)
    assert process.wait(5) == 0


BARE = """
mount --make-rprivate /
for each in / /tmp /var/tmp /dev/shm; do
  if [ -d "$each" ] && [ ! -L "$each" ]; then mount --bind "$each" "$each"; mount -o remount,bind,ro "$each"; fi
done
for each in /proc /usr/share/zoneinfo; do
  if [ -d "$each" ]; then mount -t tmpfs -o ro,size=4k tmpfs "$each"; fi
done
if [ -f /etc/localtime ] && [ ! -L /etc/localtime ]; then mount --bind /dev/null /etc/localtime; fi
exec "$@"
"""
"""Nothing is writable, /proc is empty, and no time zone is known, not even that of /etc/localtime."""


@pytest.fixture
def bare() -> tuple[str, ...]:
    """The command prefix that runs a command on such a machine."""
    prefix = ("unshare", "--mount", "sh", "-e", "-c", BARE, "sh")
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this test has to mount over a part of the machine, and may not: {tried.stderr.strip()}")
    return prefix


def test_it_runs_without_a_writable_disk_proc_and_time_zones(
    driver: FakeDriver, folder: Path, sidecar: Start, bare: tuple[str, ...]
) -> None:
    process = sidecar("--logtostderr=false", "--v=5", f"--health-file={folder}/health", prefix=bare)
    before = time.time()

    assert process.get().status == 200
    driver.ready = False
    assert process.get().reason == "not_ready"
    driver.ready = True
    # Without /proc the start time is the time of the first call.
    assert abs(process.metric("process_start_time_seconds") - before) < 60
    process.await_log(f"health file {folder}/health cannot be written: Read-only file system")
    process.await_log("No usable temporary directory found")
    assert process.metric("livenessprobe_log_records_dropped") == 0
    assert process.stop() == 0


def test_a_check_needs_no_writable_disk_and_no_proc(driver: FakeDriver, bare: tuple[str, ...]) -> None:
    done = command("check", f"--csi-address={driver.path}", prefix=bare)

    assert (done.code, done.out, done.err) == (0, "healthy: ok\n", "")


@pytest.mark.parametrize("zone", [None, "Nowhere/None", ":/none", "\x01"])
def test_without_a_time_zone_the_log_is_in_utc(
    zone: str | None, driver: FakeDriver, sidecar: Start, bare: tuple[str, ...]
) -> None:
    """As in klog."""
    process = sidecar(prefix=bare, environ={} if zone is None else {"TZ": zone})
    process.await_name()

    first = re.match(r"I(\d{4} \d\d:\d\d:\d\d)\.\d{6} ", process.log())

    now = datetime.now(UTC)
    logged = datetime.strptime(f"{now.year}{first[1]}", "%Y%m%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs(now - logged) < timedelta(minutes=5)
