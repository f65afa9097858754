"""The image while its own limits hold it back: it must not blame a healthy driver, and must still tell of a hung one."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.e2e import disk, drivers, image, podman
from tests.e2e.containers import HARDENED, PATIENCE, free_port, mounted, wait_for_answer
from tests.e2e.drivers import Driver
from tests.e2e.host import Failed, say, wait_for
from tests.e2e.podman import Container

PROBE_TIMEOUT = 1.0
PERIOD = 1.0
"""Seconds of the CPU quota's period while the sidecar is held back."""
QUOTA = 0.005
MEMORY = (96, 32)
"""MiB, before and while the sidecar is held back."""
SECONDS = 10.0
TRIES = 200
HUNG = 10
"""How often the driver is stopped as the sidecar begins to be held back."""


class Answers(NamedTuple):
    """The answers of a sidecar that was held back."""

    right: int
    wrong: list[str]
    """Responses that call the healthy driver unhealthy."""
    gone: int
    """Requests without a response in their time."""

    def __str__(self) -> str:
        return f"{self.right} right, {len(self.wrong)} wrong, {self.gone} without a response in time"


def stage_starved() -> None:
    """A CPU quota of 5 ms a second and a lower memory limit for 10 s at a time.  E2E_PEER is a program to compare with."""
    config = json.loads(podman.podman("image", "inspect", "--format", "{{json .Config}}", image.ready()))
    environment = tuple(f"--env={each}" for each in config["Env"])
    peer = os.environ.get("E2E_PEER")
    missed = []
    with disk.holding(image.ready()) as here, drivers.example() as driver:
        found = _answers(here, driver, config["Entrypoint"], environment, 2 * PROBE_TIMEOUT)
        say(f"callers with twice the probe timeout: {found}")
        if found.wrong:
            missed.append(f"{len(found.wrong)} responses call a healthy driver unhealthy, the first: {found.wrong[0]}")
        if found.right < TRIES // 4:
            missed.append(f"only {found.right} of {TRIES} requests had a response in time: this shows nothing")
        hung = _seconds_until_told(here, driver, config["Entrypoint"], environment)
        say(f"a hung driver is told after {', '.join(f'{each:.2f}' for each in hung)} s")
        if hung[-1] > 2 * PROBE_TIMEOUT + PERIOD:  # the response too may have to wait for the quota's next period
            missed.append(f"a hung driver was told after {hung[-1]:.2f} s")
        found = _answers(here, driver, config["Entrypoint"], environment, PROBE_TIMEOUT)
        say(f"callers with just the probe timeout: {found}")
        if peer:
            shutil.copy(peer, here.root / "peer")
            found = _answers(here, driver, ["/peer"], (), PROBE_TIMEOUT)
            say(f"{Path(peer).name}, callers with just the probe timeout: {found}")
    if missed:
        raise Failed("\n".join(missed))


@contextmanager
def _sidecar(
    here: disk.Disk, driver: Driver, entrypoint: Sequence[str], options: tuple[str, ...]
) -> Iterator[tuple[str, Container]]:
    here.forget(disk.DEFAULT_READ_AHEAD)
    port = free_port()
    limits = (*HARDENED, f"--memory={MEMORY[0]}m", f"--memory-swap={MEMORY[0]}m", "--cpus=1")
    arguments = ("--csi-address=/csi/csi.sock", f"--health-port={port}", f"--probe-timeout={PROBE_TIMEOUT:g}s")
    everything = (*limits, mounted(driver), *options, "--rootfs")
    with Container(str(here.root), *entrypoint, *arguments, options=everything) as container:
        url = f"http://127.0.0.1:{port}"
        wait_for("200", lambda: wait_for_answer(url, container) == 200, PATIENCE, 0.05)
        yield url, container


def _answers(
    here: disk.Disk, driver: Driver, entrypoint: Sequence[str], options: tuple[str, ...], patience: float
) -> Answers:
    """The answers to TRIES requests of callers that wait for `patience` seconds, one after the other."""
    right, wrong, gone = 0, [], 0
    with _sidecar(here, driver, entrypoint, options) as (url, container):
        while right + len(wrong) + gone < TRIES:
            with held_back(container, here):
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    status, body = ask(url, patience)
                    right += status == 200
                    gone += status == 0
                    wrong += [body] if status not in (0, 200) else []
            wait_for("200", lambda: ask(url, 5)[0] == 200, PATIENCE, 0.05)
        repeated = container.log().count("This sidecar was held back")
        say(f"{repeated} probes were made again")
    return Answers(right, wrong, gone)


def _seconds_until_told(here: disk.Disk, driver: Driver, entrypoint: Sequence[str], options: tuple[str, ...]) -> list[float]:
    """Ascending seconds until a 500, of a driver that is stopped as the sidecar begins to be held back."""
    seconds = []
    with _sidecar(here, driver, entrypoint, options) as (url, container):
        for _ in range(HUNG):
            with held_back(container, here):
                driver.signal(signal.SIGSTOP)
                started = time.monotonic()
                try:
                    status, body = ask(url, 30)
                finally:
                    driver.signal(signal.SIGCONT)
                seconds.append(time.monotonic() - started)
                if status != 500:
                    raise Failed(f"a stopped driver was answered with {status} {body!r}")
            wait_for("200", lambda: ask(url, 5)[0] == 200, PATIENCE, 0.05)
    return sorted(seconds)


def ask(url: str, patience: float) -> tuple[int, str]:
    """Status and body of /healthz; 0 if there is no response within `patience` seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    connection.close()
    return 0, ""


@contextmanager
def held_back(container: Container, here: disk.Disk) -> Iterator[None]:
    """Lower the limits of `container`, and have the kernel forget what it can of its files."""
    folders = container.group()
    _limit_memory(folders["memory"], MEMORY[1] << 20)
    for path in here.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    _limit_cpu(folders["cpu"], QUOTA)
    try:
        yield
    finally:
        _limit_cpu(folders["cpu"], 1.0)
        _limit_memory(folders["memory"], MEMORY[0] << 20)


def _limit_cpu(folder: Path, cpus: float) -> None:
    period, quota = round(PERIOD * 1e6), round(PERIOD * cpus * 1e6)
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text(f"{quota} {period}")
        return
    (folder / "cpu.cfs_quota_us").write_text("-1")  # no pair of old and new values may be above the parent's
    (folder / "cpu.cfs_period_us").write_text(str(period))
    (folder / "cpu.cfs_quota_us").write_text(str(quota))


def _limit_memory(folder: Path, limit: int) -> None:
    """The limit with swap is the greater one at all times; the kernel may need several tries to get below a lower limit."""
    files = ("memory.max",) if (folder / "memory.max").exists() else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    present = [folder / name for name in files if (folder / name).exists()]
    for path in reversed(present) if limit > (MEMORY[1] << 20) else present:
        for _ in range(20):
            with suppress(OSError):
                path.write_text(str(limit))
                break
            time.sleep(0.05)
        else:
            raise Failed(f"{path} cannot be set to {limit}")
