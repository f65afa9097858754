"""
What it costs to start: the sidecar until its first 200, and `livenessprobe check`, beside what importing the stack costs.

Rounds take turns, each in fresh processes, beside the example driver; figures are medians.  CPU time is that of all threads.

    python bench/start.py [ROUNDS]
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIVENESSPROBE = [sys.executable, "-m", "livenessprobe"]
STACK = "import grpc.aio, google.protobuf, hypercorn.asyncio, quart, dynaconf, prometheus_client"

Cost = tuple[float, float]
"""CPU and wall, seconds."""


@contextlib.contextmanager
def driver(path: str) -> Iterator[None]:
    """The example driver at `path`."""
    command = [sys.executable, "-m", "livenessprobe.example_driver", path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101  it was asked for
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def run(command: list[str]) -> Cost:
    """The cost of a process that ends by itself with success."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def first_200(path: str) -> Cost:
    """The cost of a sidecar until it has answered 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    command = [*LIVENESSPROBE, f"--csi-address={path}", f"--http-endpoint=127.0.0.1:{port}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not _answers(port):
            time.sleep(0.002)
        return _cpu_seconds(process.pid), time.monotonic() - started
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main(rounds: int) -> None:
    """Print medians as a table, and as one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path, health = os.path.join(folder, "csi.sock"), os.path.join(folder, "health")
        cases: dict[str, Callable[[], Cost]] = {
            "interpreter": lambda: run([sys.executable, "-c", "pass"]),
            "import of the stack": lambda: run([sys.executable, "-c", STACK]),
            "sidecar, to its first 200": lambda: first_200(path),
            "check of the driver": lambda: run([*LIVENESSPROBE, "check", f"--csi-address={path}"]),
            "check of a health file": lambda: run([*LIVENESSPROBE, "check", f"--health-file={health}"]),
        }
        seen: dict[str, list[Cost]] = {name: [] for name in cases}
        with driver(path):
            fresh = {"driver": "bench", "time": "now", "uptime": time.monotonic(), "lasts": 86_400}
            Path(health).write_text(json.dumps(fresh), encoding="utf-8")
            for number in range(rounds + 1):
                for name, case in cases.items():
                    cost = case()
                    if number:  # the first round pays for compiling
                        seen[name].append(cost)
    medians = {name: tuple(map(statistics.median, zip(*costs, strict=True))) for name, costs in seen.items()}
    whole = medians["sidecar, to its first 200"][0]
    print(f"Python {sys.version.split()[0]}, medians of {rounds} rounds        CPU s   wall s   CPU of the sidecar's start")
    for name, (cpu, wall) in medians.items():
        print(f"{name:44} {cpu:10.3f} {wall:8.3f} {cpu / whole:8.0%}")
    print(json.dumps({"python": sys.version.split()[0], "rounds": rounds, "cpu_wall_seconds": medians}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
