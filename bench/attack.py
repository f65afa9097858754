"""
How a well-behaved caller fares while others hold connections open and throw garbage, and what that costs in memory.

    python -m bench.attack [SECONDS]

Prints latencies of the well-behaved caller without and with the attack, in the same run.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path

from tests.support import Sidecar, driver_process

SLOW_CONNECTIONS = 1000
GARBAGE_PER_SECOND = 2000
EVERY = 0.05
GARBAGE = (
    b"\0\xff" * 50 + b"\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"A" * 20_000,
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
)


def hold(port: int) -> None:
    """Keep many requests incomplete, a header line each second."""
    clients: list[socket.socket] = []
    while True:
        started = time.monotonic()
        while len(clients) < SLOW_CONNECTIONS and time.monotonic() - started < 1:
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), 2)
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
                clients.append(client)
        for client in list(clients):
            try:
                client.sendall(b"X: y\r\n")
            except OSError:
                clients.remove(client)
                client.close()
        time.sleep(max(0.0, 1 - (time.monotonic() - started)))


def throw(port: int, thrown: multiprocessing.sharedctypes.Synchronized[int]) -> None:
    """Send garbage on connections of its own, so many a second."""
    started = time.monotonic()
    for number in range(1 << 62):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
            client.sendall(random.choice(GARBAGE))  # noqa: S311  any will do
        thrown.value = number + 1
        time.sleep(max(0.0, number / GARBAGE_PER_SECOND - (time.monotonic() - started)))


def ask(sidecar: Sidecar, seconds: float) -> tuple[list[float], int]:
    """Latencies, sorted, and how many answers were not 200."""
    end, latencies, bad = time.monotonic() + seconds, [], 0
    while (started := time.monotonic()) < end:
        try:
            bad += sidecar.get(timeout=5).status != 200
        except OSError:
            bad += 1
        latencies.append(time.monotonic() - started)
        time.sleep(EVERY)
    return sorted(latencies), bad


def rss(sidecar: Sidecar) -> float:
    """MiB."""
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def descriptors(sidecar: Sidecar) -> int:
    """Open ones."""
    return len(os.listdir(f"/proc/{sidecar.process.pid}/fd"))


def main(seconds: float) -> None:
    """Print a table, and one line of JSON."""
    with tempfile.TemporaryDirectory() as folder, driver_process(f"{folder}/csi.sock"):
        sidecar = Sidecar((f"--csi-address={folder}/csi.sock",))
        thrown = multiprocessing.Value("q", 0)
        attackers = [
            multiprocessing.Process(target=hold, args=(sidecar.port,), daemon=True),
            multiprocessing.Process(target=throw, args=(sidecar.port, thrown), daemon=True),
        ]
        try:
            quiet, bad_quiet = ask(sidecar, seconds / 4)
            before, memory = descriptors(sidecar), rss(sidecar)
            for attacker in attackers:
                attacker.start()
            attacked, bad = ask(sidecar, seconds)
            grown = rss(sidecar) - memory
            for attacker in attackers:
                attacker.kill()
                attacker.join()
            time.sleep(2)
            after = descriptors(sidecar)
        finally:
            sidecar.kill()
    for name, latencies, failures in (("quiet", quiet, bad_quiet), ("attacked", attacked, bad)):
        p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
        print(f"{name:9} {len(latencies):5} requests, {failures} failed, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms")
    rate = thrown.value / seconds
    print(f"garbage {rate:.0f}/s; memory {memory:.1f} {grown:+.1f} MiB; descriptors {before} before, {after} after")
    figures = {
        "failed": bad,
        "p99_ms": attacked[int(len(attacked) * 0.99)] * 1000,
        "garbage_per_s": rate,
        "rss_growth_mib": grown,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
