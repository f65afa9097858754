"""The whole process on a machine that runs out of descriptors, CPU or threads, and what it uses of them."""

from __future__ import annotations

import contextlib
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
from pathlib import Path

import pytest

from tests.support import (
    Answer,
    FakeDriver,
    Sidecar,
    Start,
    command,
    driver_process,
    eventually,
    free_port,
    incomplete,
    request,
)
from tests.support.names import AT_ONCE, FRESH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's descriptors, mounts and control groups")

SHORT = "--probe-timeout=500ms"
NO_DESCRIPTORS = "livenessprobe has too few file descriptors left to connect to {}: Too many open files"


@contextlib.contextmanager
def caller(process: Sidecar) -> Iterator[Callable[..., Answer]]:
    """Sends requests over one connection, which is opened before the resource runs out."""
    with process.keep_alive() as connection:
        get = lambda path="/healthz": request(connection, path, "GET", {})
        get()
        yield get


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
    assert len(process.lines("out of system resource")) <= 11


def test_a_check_with_too_few_descriptors_fails_with_a_reason(driver: FakeDriver) -> None:
    """gRPC opens descriptors when it is first used, and would end the process with SIGABRT."""
    few = ("sh", "-c", 'ulimit -n 10; exec "$@"', "sh")

    done = command("check", f"--csi-address={driver.path}", prefix=few)

    assert (done.code, done.out) == (2, f"internal: {NO_DESCRIPTORS.format(driver.path)}\n")


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
        assert not process.lines("CSI driver is unhealthy")
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


def limit_of_descriptors(process: Sidecar) -> tuple[str, ...]:
    """The soft and the hard limit."""
    limits = Path(f"/proc/{process.process.pid}/limits").read_text()
    return re.search(r"Max open files +(\S+) +(\S+)", limits).groups()


def test_few_descriptors_are_enough_for_many_clients(driver: FakeDriver, sidecar: Start) -> None:
    """The bound on connections follows the limit on descriptors, so that a probe always has some."""
    process = sidecar(FRESH, prefix=("sh", "-ec", 'ulimit -n 128; exec "$@"', "sh"))
    clients = []
    for _ in range(200):
        with contextlib.suppress(OSError):
            clients.append(incomplete(process.port))

    answers = [process.get(timeout=5) for _ in range(10)]

    assert limit_of_descriptors(process) == ("128", "128")
    assert {answer.status for answer in answers} == {200}
    assert "out of system resource" not in process.log()
    for client in clients:
        client.close()


def test_the_limit_of_descriptors_is_raised(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(prefix=("sh", "-c", 'ulimit -Sn 40; exec "$@"', "sh"))
    process.await_name()

    soft, hard = limit_of_descriptors(process)
    assert soft == hard != "40"


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


BUDGETS = {False: 245, True: 95}
"""The most modules of other packages than the standard library and livenessprobe, by whether imports are lazy."""
UNUSED = (
    *(
        "quart",
        "werkzeug",
        "flask",
        "jinja2",
        "markupsafe",
        "click",
        "blinker",
        "itsdangerous",
        "aiofiles",
    ),  # needed for /metrics only
    *("rich", "pygments"),  # needed for a terminal only
    *("unittest", "doctest", "pydoc", "sqlite3"),
)
"""Packages that answering /healthz does not need."""
UNUSED_IF_LAZY = (
    *("h2", "hpack", "wsproto", "priority", "email", "_ssl", "_hashlib"),
    *("multiprocessing", "platform", "wsgiref", "http"),
)
"""Packages that are not loaded either if imports are lazy."""


def modules_of(process: Sidecar) -> set[str]:
    """The modules that a process started with PYTHONVERBOSE has imported so far."""
    return set(re.findall(r"^import '?([\w.]+)'? #", process.log(), re.MULTILINE))


@pytest.mark.parametrize(
    "lazy",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif("sys.version_info < (3, 15)", reason="Python before 3.15 has no lazy imports")
        ),
    ],
)
def test_answering_healthz_loads_no_needless_module(lazy: bool, driver: FakeDriver, sidecar: Start) -> None:
    """With --health-port alone: where metrics are served Quart is loaded after the first response."""
    environ = {"PYTHONVERBOSE": "1", "PYTHON_LAZY_IMPORTS": "all" if lazy else "normal"}
    port = free_port()
    process = sidecar(f"--health-port={port}", port=port, environ=environ)
    process.await_name()
    assert process.get().status == 200

    loaded = modules_of(process)
    foreign = [name for name in loaded if name.partition(".")[0] not in {*sys.stdlib_module_names, "livenessprobe"}]
    assert sorted(loaded.intersection(UNUSED + (UNUSED_IF_LAZY if lazy else ()))) == []
    assert 50 < len(foreign) <= BUDGETS[lazy], sorted(foreign)


def test_where_metrics_are_served_quart_is_loaded_after_the_first_health_response(
    driver: FakeDriver, sidecar: Start
) -> None:
    process = sidecar(environ={"PYTHONVERBOSE": "1"})
    process.await_name()
    assert "quart" not in modules_of(process)
    assert process.get().status == 200

    eventually(lambda: "quart.app" in modules_of(process), 20)
    eventually(lambda: "load Quart" not in process.threads(), 20)
    assert process.get("/metrics").status == 200
    assert modules_of(process) & {"click.core", "jinja2.environment", "werkzeug.debug"} == set()


EVERYTHING = ["/healthz", "/livez", "/readyz", "/startupz", "/metrics", "/", "/statusz", "/flagz", "/nowhere", "//metrics"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_no_request_loads_what_has_a_placeholder(method: str, driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    headers = {"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip", "Cookie": "session=x"}

    statuses = {process.get(path, method, **headers).status for path in EVERYTHING for _ in range(2)}

    assert 500 not in statuses
    assert process.lines("costs memory") == []
