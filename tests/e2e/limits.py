"""The image with little memory and CPU."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from tests.e2e import drivers, image, podman
from tests.e2e.containers import HARDENED, PATIENCE, free_port, mounted, wait_for_answer
from tests.e2e.host import Failed, get, say, wait_for
from tests.e2e.podman import Container


def limited(memory: str, cpus: str) -> tuple[str, ...]:
    return (*HARDENED, f"--memory={memory}", f"--memory-swap={memory}", f"--cpus={cpus}")


def stage_hardened() -> None:
    """Read-only, no capabilities, no new privileges, 96 MiB, 0.1 CPU, a cold page cache."""
    ready, slow = _measure("96m", "0.1")
    if ready > 10:
        raise Failed(f"the first 200 came after {ready:.1f} s; upstream's example probe begins after 10 s")
    if slow > 250:
        raise Failed(f"a response took {slow:.0f} ms with 0.1 CPU")


ENOUGH = (("128m", "1"), ("96m", "0.05"), ("64m", "0.1"), ("64m", "0.05"))
TOO_LITTLE = (("96m", "0.02"), ("56m", "0.1"), ("48m", "0.1"))
"""Nothing is required of these; they only show where the limits are."""


def stage_limits() -> None:
    """The same with more and with less memory and CPU."""
    for memory, cpus in ENOUGH:
        _measure(memory, cpus)
    for memory, cpus in TOO_LITTLE:
        try:
            _measure(memory, cpus)
        except Failed as failed:
            say(f"{memory}, {cpus} CPU: {failed}")


def stage_hour() -> None:
    """As many probes as a kubelet makes in an hour, each with a connection of its own, with little memory and CPU."""
    for memory, cpus in (("64m", "0.1"), ("48m", "0.1"), ("40m", "0.1"), ("32m", "0.1")):
        try:
            _measure(memory, cpus, 360, 0.5, "--connection-reuse=0s")
        except Failed as failed:
            if memory == "64m":
                raise
            say(f"{memory}, {cpus} CPU: {failed}")


def _measure(memory: str, cpus: str, requests: int = 100, pause: float = 0.2, *more: str) -> tuple[float, float]:
    """Seconds to the first 200, and milliseconds of the slowest response."""
    port = free_port()
    arguments = ("--csi-address=/csi/csi.sock", f"--http-endpoint=127.0.0.1:{port}", *more)
    url = f"http://127.0.0.1:{port}"
    with drivers.example() as driver:
        forget_pages(image.ready())
        with Container(image.IMAGE, *arguments, options=(*limited(memory, cpus), mounted(driver))) as container:
            wait_for("200", lambda: wait_for_answer(url, container) == 200, PATIENCE, 0.05)
            ready = time.monotonic() - container.started
            taken = []
            for _ in range(requests):
                started = time.monotonic()
                status, body = get(f"{url}/healthz")
                taken.append((time.monotonic() - started) * 1000)
                if status != 200:
                    raise Failed(f"{memory}, {cpus} CPU: a healthy driver got {status}: {body}")
                time.sleep(pause)
            taken.sort()
            peak, used = _memory(container), _status(container, "RssAnon")
            say(
                f"{memory}, {cpus} CPU: 200 after {ready:.1f} s; p50 {taken[requests // 2]:.1f} ms, p99 {taken[-1 - requests // 100]:.1f} ms, "
                f"slowest {taken[-1]:.1f} ms; at most {peak:.1f} MiB with file pages, {used:.1f} MiB anonymous; "
                f"CPU {_cpu(container):.2f} s, {requests} requests included"
            )
            return ready, taken[-1]


def forget_pages(name: str) -> None:
    """Drop the image's files from the page cache, so that the next container pays for reading them."""
    folders = podman.podman(
        "image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}", name
    )
    os.sync()
    for folder in folders.split(":"):
        for path in Path(folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def _memory(container: Container) -> float:
    folder = container.group()["memory"]
    files = [folder / name for name in ("memory.max_usage_in_bytes", "memory.peak") if (folder / name).exists()]
    return int(files[0].read_text()) / 2**20


def _status(container: Container, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{container.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _cpu(container: Container) -> float:
    user, system = Path(f"/proc/{container.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
