"""The image with little memory and CPU."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tests.e2e import disk, drivers, image, podman
from tests.e2e.containers import HARDENED, PATIENCE, free_port, mounted, wait_for_answer
from tests.e2e.disk import DEFAULT_READ_AHEAD
from tests.e2e.drivers import Driver
from tests.e2e.host import Failed, get, say, wait_for
from tests.e2e.podman import Container


class Case(NamedTuple):
    """One run: the limits, the disk, the requests, and the requirement."""

    memory: int
    """MiB."""
    cpus: str = "0.1"
    read_ahead: int = DEFAULT_READ_AHEAD
    """KiB."""
    scraped: bool = False
    """Two scrapes for three probes, as every 15 s beside a probe every 10 s."""
    p99: float | None = None
    """Milliseconds required of the p99, all responses being correct; None: the run only shows where the limits are."""

    def __str__(self) -> str:
        scraped = ", scraped" if self.scraped else ""
        return f"{self.memory} MiB, {self.cpus} CPU, read-ahead {self.read_ahead} KiB{scraped}"


class Measured(NamedTuple):
    """The result of one run."""

    ready: float
    """Seconds from the start of the container to the first 200."""
    taken: list[float]
    """Milliseconds of each response, ascending."""
    wrong: int
    """Responses that call the healthy driver unhealthy, and scrapes that fail."""
    peak: float
    """MiB, file pages included."""
    anonymous: float
    """MiB."""
    cpu: float
    """Seconds."""

    @property
    def p99(self) -> float:
        return self.taken[-1 - len(self.taken) // 100]


def stage_hardened() -> None:
    """Read-only, no capabilities, no new privileges, 96 MiB, 0.1 CPU, a cold page cache."""
    with drivers.example() as driver:
        for folder in podman.folders_of(image.ready()):
            disk.drop_pages(folder)
        found = measure(Case(96), driver, image.IMAGE, (), (), 100, 0.2)
    say(f"200 after {found.ready:.1f} s, slowest {found.taken[-1]:.0f} ms, {found.wrong} wrong")
    if found.ready > 10:
        raise Failed(f"the first 200 came after {found.ready:.1f} s; upstream's example probe begins after 10 s")
    if found.taken[-1] > 250 or found.wrong:
        raise Failed(f"a response took {found.taken[-1]:.0f} ms with 0.1 CPU, or was wrong")


LIMITS = (
    *(Case(128, "1", p99=250), Case(96, "0.05", p99=250), Case(64, "0.05", p99=250), Case(96, "0.02")),
    *(Case(memory) for memory in (48, 40, 36, 32, 28, 24)),
    *(Case(memory, scraped=True) for memory in (48, 40, 36, 32, 28)),
    *(Case(memory, read_ahead=512) for memory in (40, 32)),
    *(Case(memory, read_ahead=4096) for memory in (48, 40)),
    *(Case(memory, read_ahead=8192) for memory in (64, 48)),
)
HOUR = (
    *(Case(32, scraped=True, p99=100), Case(36, scraped=True, p99=50), Case(28, p99=50)),
    *(Case(40, read_ahead=4096, p99=1000), Case(48, read_ahead=8192, p99=1000)),
)


CHECK = ("check", "--csi-address=/csi/csi.sock", "--http-endpoint={address}")
COMMANDS = (CHECK, ("check", "--url=http://{address}"), ("status", "--http-endpoint={address}"), ("doctor", *CHECK[1:]))
EXECS = tuple(Case(memory, "0.5", scraped=scraped) for memory in (32, 36, 40, 48) for scraped in (False, True))


class Executed(NamedTuple):
    """The result of one command that was executed again and again beside the sidecar."""

    codes: Counter[int]
    """The commands' exit codes."""
    said: str
    """The last line of the last command that failed."""
    taken: list[float]
    """Seconds of each command, ascending."""
    killed: int
    """Processes of the container that the kernel killed for its memory limit."""
    wrong: int
    """Responses meanwhile that call the healthy driver unhealthy, and scrapes that fail."""
    asked: int
    """How many there were."""


def stage_limits() -> None:
    """100 probes with more and with less memory and CPU, on disks with a known read-ahead; and commands beside the sidecar."""
    _table(LIMITS, 100, 0.2)
    _exec_table(EXECS, 50)


def stage_hour() -> None:
    """As many probes as a kubelet makes in an hour, each with a connection of its own, with little memory and CPU."""
    _table(HOUR, 360, 0.5)


def _exec_table(cases: Sequence[Case], times: int) -> None:
    """Execute each of COMMANDS `times` times beside a sidecar in each of `cases`, and fail if the kernel kills a process."""
    rows, missed = [], []
    with _on_disk() as (here, options, entrypoint), drivers.example() as driver:
        for case in cases:
            for command in COMMANDS:
                here.forget(case.read_ahead)
                words = " ".join(command)
                try:
                    with _sidecar(case, driver, str(here.root), options, entrypoint) as (url, container):
                        found = _execute(case, url, container, command, times)
                except Failed as failed:
                    rows.append(f"| {_limits(case)} | `{words}` | {str(failed).splitlines()[0]} | | | | |")
                    missed.append(f"{case}, {words}: {failed}")
                else:
                    rows.append(f"| {_limits(case)} | `{words}` | {_execution(found)} |")
                    if found.killed or found.wrong:
                        missed.append(f"{case}, {words}: {found.killed} killed, {found.wrong} wrong")
                say(rows[-1])
    say(f"{datetime.now(UTC):%Y-%m-%d}, each command {times} times beside a sidecar that is asked each second:")
    print("\n".join([EXEC_HEAD, *rows]), flush=True)
    if missed:
        raise Failed("\n".join(missed))


def _execute(case: Case, url: str, container: Container, command: Sequence[str], times: int) -> Executed:
    """Execute `command` again and again while the sidecar is asked by a kubelet and, if it is scraped, by Prometheus."""
    wait_for("200", lambda: wait_for_answer(url, container) == 200, PATIENCE, 0.05)
    paths = ("/healthz", "/metrics") if case.scraped else ("/healthz",)
    asked, wrong, end = 0, 0, threading.Event()

    def ask() -> None:
        nonlocal asked, wrong
        while not end.wait(1):
            asked += len(paths)
            wrong += sum(get(url + path)[0] != 200 for path in paths)

    for path in paths:
        get(url + path)
    asking = threading.Thread(target=ask)
    asking.start()
    codes, said, taken = Counter[int](), "", []
    try:
        for _ in range(times):
            started = time.monotonic()
            words = (each.format(address=url.removeprefix("http://")) for each in command)
            code, output = container.execute("/livenessprobe", *words)
            taken.append(time.monotonic() - started)
            codes[code] += 1
            said = output.strip().rpartition("\n")[2] if code else said
            if not container.running:
                raise Failed(f"the sidecar was killed by execution {len(taken)}\n{container.log()[-2000:]}")
        return Executed(codes, said, sorted(taken), _oom_kills(container), wrong, asked)
    finally:
        end.set()
        asking.join()


def _table(cases: Sequence[Case], requests: int, pause: float) -> None:
    """Measure all `cases`, print them as a table, and fail if a requirement is missed."""
    rows, missed = [], []
    with _on_disk() as (here, options, entrypoint), drivers.example() as driver:
        for case in cases:
            here.forget(case.read_ahead)
            try:
                found = measure(case, driver, str(here.root), options, entrypoint, requests, pause)
            except Failed as failed:
                rows.append(f"| {_limits(case)} | {str(failed).splitlines()[0]} | | | | | | | |")
                if case.p99 is not None:
                    missed.append(f"{case}: {failed}")
            else:
                rows.append(f"| {_limits(case)} | {_figures(found)} |")
                if case.p99 is not None and (found.wrong or found.p99 > case.p99):
                    missed.append(f"{case}: {found.wrong} wrong, p99 {found.p99:.0f} ms, required {case.p99:g}")
            say(rows[-1])
    say(f"{datetime.now(UTC):%Y-%m-%d}, {requests} probes, one each {pause:g} s:")
    print("\n".join([HEAD, *rows]), flush=True)
    if missed:
        raise Failed("\n".join(missed))


@contextmanager
def _on_disk() -> Iterator[tuple[disk.Disk, tuple[str, ...], Sequence[str]]]:
    """A disk with the image's files, podman's options to run them as the image would be run, and the image's entry point."""
    with disk.holding(image.ready()) as here:
        config = json.loads(podman.podman("image", "inspect", "--format", "{{json .Config}}", image.IMAGE))
        yield here, ("--rootfs", *(f"--env={each}" for each in config["Env"])), config["Entrypoint"]


HEAD = """
| Memory | CPU | Read-ahead | Scrapes | First 200 after | p50 | p99 | Slowest | Wrong | Most memory, file pages included | Anonymous | CPU in all |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


EXEC_HEAD = """
| Memory | CPU | Read-ahead | Scrapes | Command | Exit codes | Median | Slowest | Killed for memory | Wrong answers of the sidecar | The last failure |
|---|---|---|---|---|---|---|---|---|---|---|"""


def _execution(found: Executed) -> str:
    codes = ", ".join(f"{count} × {code}" for code, count in sorted(found.codes.items()))
    return (
        f"{codes} | {found.taken[len(found.taken) // 2]:.2f} s | {found.taken[-1]:.2f} s | "
        f"{found.killed} | {found.wrong} of {found.asked} | {found.said}"
    )


def _limits(case: Case) -> str:
    return f"{case.memory} MiB | {case.cpus} | {case.read_ahead} KiB | {'yes' if case.scraped else 'no'}"


def _figures(found: Measured) -> str:
    p50 = found.taken[len(found.taken) // 2]
    return (
        f"{found.ready:.1f} s | {p50:.1f} ms | {found.p99:.1f} ms | {found.taken[-1]:.0f} ms | "
        f"{found.wrong} of {len(found.taken)} | {found.peak:.1f} MiB | {found.anonymous:.1f} MiB | {found.cpu:.1f} s"
    )


def measure(
    case: Case,
    driver: Driver,
    files: str,
    options: tuple[str, ...],
    entrypoint: Sequence[str],
    requests: int,
    pause: float,
) -> Measured:
    """Probe `requests` times; Failed if no 200 comes at all, or if the sidecar ends.  `files` is an image or a folder."""
    with _sidecar(case, driver, files, options, entrypoint) as (url, container):
        wait_for("200", lambda: wait_for_answer(url, container) == 200, PATIENCE, 0.05)
        ready = time.monotonic() - container.started
        taken, wrong = [], 0
        for number in range(requests):
            started = time.monotonic()
            status, _ = get(f"{url}/healthz")
            taken.append((time.monotonic() - started) * 1000)
            wrong += status != 200
            if case.scraped and number % 3 != 2:
                wrong += get(f"{url}/metrics")[0] != 200
            if wrong > requests // 10:
                raise Failed(f"a healthy driver was reported as unhealthy {wrong} times in {number + 1} probes")
            time.sleep(pause)
        if not container.running:
            raise Failed(f"the sidecar ended:\n{container.log()[-2000:]}")
        return Measured(ready, sorted(taken), wrong, _peak(container), _status(container, "RssAnon"), _cpu(container))


@contextmanager
def _sidecar(
    case: Case, driver: Driver, files: str, options: tuple[str, ...], entrypoint: Sequence[str]
) -> Iterator[tuple[str, Container]]:
    """A sidecar with the limits of `case`, which dials for each probe, and its URL."""
    port = free_port()
    arguments = ("--csi-address=/csi/csi.sock", f"--http-endpoint=127.0.0.1:{port}", "--connection-reuse=0s")
    if not case.scraped:
        arguments = (arguments[0], f"--health-port={port}", arguments[2])  # without metrics, so without Quart
    limits = (*HARDENED, f"--memory={case.memory}m", f"--memory-swap={case.memory}m", f"--cpus={case.cpus}")
    everything = (*limits, mounted(driver), *options)
    with Container(files, *entrypoint, *arguments, options=everything) as container:
        yield f"http://127.0.0.1:{port}", container


def _peak(container: Container) -> float:
    folder = container.group()["memory"]
    files = [folder / name for name in ("memory.max_usage_in_bytes", "memory.peak") if (folder / name).exists()]
    return int(files[0].read_text()) / 2**20


def _oom_kills(container: Container) -> int:
    """Processes of the container that the kernel has killed for its memory limit."""
    folder = container.group()["memory"]
    files = [folder / name for name in ("memory.oom_control", "memory.events") if (folder / name).exists()]
    found = re.search(r"^oom_kill (\d+)$", files[0].read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _status(container: Container, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{container.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _cpu(container: Container) -> float:
    user, system = Path(f"/proc/{container.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
