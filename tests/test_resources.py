"""The whole process on a machine that runs out of descriptors, disk, CPU or threads, or whose clock changes."""

from __future__ import annotations

import contextlib
import errno
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

from livenessprobe.driver import connection
from livenessprobe.driver.address import parse_csi_address
from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.result import Reason
from livenessprobe.probing import health_file
from livenessprobe.probing.health_file import HealthFileError
from tests.support import ROOT, Answer, FakeDriver, Sidecar, Start, command, driver_process, eventually, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's descriptors, mounts and control groups")

FRESH = "--connection-reuse=0s"
"""Each probe dials."""
AT_ONCE = "--unreachable-grace=0s"
SHORT = "--probe-timeout=500ms"
NO_DESCRIPTORS = "livenessprobe has too few file descriptors left to connect to {}: Too many open files"


@contextlib.contextmanager
def caller(process: Sidecar) -> Iterator[Callable[..., Answer]]:
    """Sends requests over one connection, which is opened before the resource runs out."""
    with process.keep_alive() as connection:
        get = lambda path="/healthz": request(connection, path, "GET", {})
        get()
        yield get


def records(process: Sidecar, text: str) -> list[str]:
    return [line for line in process.log().splitlines() if text in line]


# --- descriptors


@contextlib.contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """The process can open no new descriptors; it keeps the open ones."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_driver_without_descriptors_counts_as_hung_until_it_has_some(socket_path: str, sidecar: Start) -> None:
    """Such a driver cannot accept, so connections wait in its queue."""
    with driver_process(socket_path) as driver:
        process = sidecar(SHORT, FRESH)
        process.await_name()
        assert process.get().status == 200
        with no_descriptors(driver.pid):
            answer = process.get()
            assert (answer.status, answer.reason) == (500, "deadline")
            assert answer.body.startswith(f"the driver at unix://{socket_path} accepts connections but does not speak gRPC")
            assert answer.seconds < 5
        eventually(lambda: process.get().status == 200)


def test_without_descriptors_of_its_own_the_reason_is_internal_and_it_goes_on(driver: FakeDriver, sidecar: Start) -> None:
    """Without the sidecar's own check gRPC would end the process with SIGABRT."""
    process = sidecar(FRESH, AT_ONCE)
    process.await_name()
    with caller(process) as get:
        assert get().status == 200
        with no_descriptors(process.process.pid):
            answer = get()
            assert (answer.status, answer.reason) == (500, "internal")
            assert answer.body == NO_DESCRIPTORS.format(driver.path)
            assert get("/livez").status == 500
        assert get().status == 200
    assert process.metric('livenessprobe_probe_failures_total{reason="internal"}') == 2
    assert process.process.poll() is None


def test_a_short_lack_of_descriptors_is_no_failure(driver: FakeDriver, sidecar: Start) -> None:
    """The sidecar dials again within the grace."""
    process = sidecar(FRESH, "--probe-timeout=20s")
    process.await_name()
    with caller(process) as get, ThreadPoolExecutor(1) as pool:
        with no_descriptors(process.process.pid):
            answer = pool.submit(get)
            time.sleep(0.5)
            assert not answer.done()

        assert answer.result().status == 200


def test_clients_are_answered_once_there_are_descriptors_again(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    with ThreadPoolExecutor(3) as pool:
        with no_descriptors(process.process.pid):
            answers = [pool.submit(process.get) for _ in range(3)]
            process.await_log("Cannot accept a connection; trying again")
            assert not any(answer.done() for answer in answers)

        assert {answer.result().status for answer in answers} == {200}
    # At most ten equal records a minute, the others folded into one.
    assert len(records(process, "out of system resource")) <= 11


def test_a_check_with_too_few_descriptors_fails_with_a_reason(driver: FakeDriver) -> None:
    """gRPC opens descriptors when it is first used, and would end the process with SIGABRT."""
    few = ("sh", "-c", 'ulimit -n 10; exec "$@"', "sh")

    done = command("check", f"--csi-address={driver.path}", prefix=few)

    assert (done.code, done.out) == (2, f"internal: {NO_DESCRIPTORS.format(driver.path)}\n")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_message_tells_whether_the_node_or_the_process_has_no_descriptors(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    for descriptor in taken:  # all of them have been closed
        with pytest.raises(OSError):
            os.fstat(descriptor)


# --- a driver that does not accept


def test_a_full_accept_queue_of_a_hung_driver_has_its_own_message(socket_path: str, sidecar: Start) -> None:
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
    """Each probe leaves a connection in the queue, until it is full."""
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with driver_process(socket_path) as driver:
        process = sidecar(AT_ONCE, SHORT)
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
    (disk.parent / "sitecustomize.py").write_text(
        "from livenessprobe.klog.files import LogFiles\nLogFiles.RETRY_SECONDS = 1\n"
    )
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
    (folder / "sitecustomize.py").write_text(HANGS.format(hung=str(hung)))
    settings.write_text('interval = "100ms"\nconfig_poll_interval = "100ms"\n')
    process = sidecar(
        f"--health-file={folder}/health",
        f"--config={settings}",
        environ={"PYTHONPATH": f"{folder}:{ROOT}"},
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


# --- a machine without a writable disk, /proc and time zones

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


# --- clocks

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
        (folder / "sitecustomize.py").write_text(WALL.format(file=str(self._file)))
        self.environ = {"PYTHONPATH": f"{folder}:{ROOT}"}

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


# --- little CPU, few threads


@contextlib.contextmanager
def group(controller: str, files: dict[str, str]) -> Iterator[Callable[[Sidecar], None]]:
    """
    A control group limited by the first of `files` that exists (cgroup v1 or v2); yields a function that moves a
    sidecar into it.
    """
    root = Path("/sys/fs/cgroup")
    path = (root if (root / "cgroup.controllers").exists() else root / controller) / f"lp-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"this test has to make a control group, and may not: {error}")
    try:
        found = [name for name in files if (path / name).exists()]
        if not found:
            pytest.skip(f"this test has to limit a process, and {path} has none of {', '.join(files)}")
        (path / found[0]).write_text(files[found[0]])
        yield lambda process: (path / "cgroup.procs").write_text(str(process.process.pid)) and None
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        eventually(lambda: not (path / "cgroup.procs").read_text())
        path.rmdir()


TWO_PERCENT = {"cpu.cfs_quota_us": "2000", "cpu.max": "2000 100000"}


def test_with_2_percent_of_a_cpu_each_response_is_correct(driver: FakeDriver, sidecar: Start) -> None:
    """A probe costs some milliseconds of CPU.  The kubelet's own timeout is not tested here."""
    process = sidecar(FRESH, AT_ONCE, "--probe-timeout=5s")
    process.await_name()
    with group("cpu", TWO_PERCENT) as limit:
        limit(process)
        answers = [process.get() for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert max(answer.seconds for answer in answers) < 5
        driver.stop()
        assert process.get().reason == "socket_missing"
        assert process.process.poll() is None


def test_with_2_percent_of_a_cpu_scheduled_probes_are_correct(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(FRESH, "--interval=500ms", "--probe-timeout=2s")
    process.await_name()
    with group("cpu", TWO_PERCENT) as limit:
        limit(process)
        before = driver.probes
        while driver.probes < before + 5:
            assert process.get().status == 200
        assert not records(process, "CSI driver is unhealthy")
        driver.ready = False
        eventually(lambda: process.get().reason == "not_ready")
        assert process.process.poll() is None


def test_it_goes_on_when_no_thread_can_be_started(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """As when a driver in the same pod has used up the limit on threads.  gRPC has its threads since the first dial."""
    file = folder / "health"
    process = sidecar(FRESH, AT_ONCE, f"--health-file={file}")
    process.await_name()
    with group("pids", {"pids.max": "1"}) as limit:
        limit(process)
        answers = [process.get(timeout=5) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        eventually(file.exists)
        driver.ready = False
        assert process.get(timeout=5).reason == "not_ready"
        eventually(lambda: not file.exists())
