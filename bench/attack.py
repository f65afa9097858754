"""
Whether a good client is served well while others hold connections open and send garbage, and the cost in memory.

    python -m bench.attack [SECONDS]

Two attacks of SECONDS each: with the default settings, where the sidecar keeps only some hundreds of the slow
connections and closes the others again and again; and with a bound above all slow connections.  Prints latencies of the
good client without and with the attack.  Exits with 1, and a sentence for each fault, if the client or the sidecar has
suffered.  Below about 20 seconds the first moment, when all connections arrive at once, decides the p99.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import socket
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from tests.support import Sidecar, driver_process

SLOW_CONNECTIONS = 1000
HOLDS_ALL = "--http-max-connections=1200"
"""More than the slow connections, since the garbage and the good client have connections too."""
GARBAGE_PER_SECOND = 2000
EVERY = 0.05
P99_MS = 100
GROWTH_MIB = 8
BACK_SECONDS = 10.0
"""Seconds that connections and tasks of the attack may stay open after it."""
GARBAGE = (
    b"\0\xff" * 50 + b"\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"A" * 20_000,
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
)


def hold(port: int, held: Synchronized[int]) -> None:
    """Hold incomplete requests open, with a header line each second; `held` is the number of open ones."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients: list[socket.socket] = []
    while True:
        started = time.monotonic()
        while len(clients) < SLOW_CONNECTIONS and time.monotonic() - started < 1:
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), 2)
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
                client.setblocking(False)
                clients.append(client)
        for client in list(clients):
            if not still_open(client):
                clients.remove(client)
                client.close()
        held.value = len(clients)
        time.sleep(max(0.0, 1 - (time.monotonic() - started)))


def still_open(client: socket.socket) -> bool:
    """Whether one more line can be sent, and no response has come."""
    try:
        client.sendall(b"X: y\r\n")
        client.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def throw(port: int, thrown: Synchronized[int]) -> None:
    """Send garbage, each piece on a new connection, GARBAGE_PER_SECOND pieces a second."""
    started = time.monotonic()
    for number in range(1 << 62):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
            client.sendall(random.choice(GARBAGE))  # noqa: S311  no cryptography
        thrown.value = number + 1
        time.sleep(max(0.0, number / GARBAGE_PER_SECOND - (time.monotonic() - started)))


def ask(sidecar: Sidecar, seconds: float) -> tuple[list[float], int]:
    """Sorted latencies in seconds, and the number of responses other than 200."""
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
    """Resident memory in MiB."""
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def left_open(sidecar: Sidecar) -> dict[str, int]:
    """The counts that must return to their values from before the attack."""
    descriptors = len(os.listdir(f"/proc/{sidecar.process.pid}/fd"))
    return {"descriptors": descriptors, "livenessprobe_tasks": int(sidecar.metric("livenessprobe_tasks"))}


def left_in_the_end(sidecar: Sidecar, before: dict[str, int]) -> dict[str, int]:
    """The counts, once they are at most `before` or BACK_SECONDS have passed."""
    end = time.monotonic() + BACK_SECONDS
    while True:
        after = left_open(sidecar)
        if all(after[what] <= before[what] for what in before) or time.monotonic() > end:
            return after
        time.sleep(0.1)


def percentiles(latencies: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
    return p50, p99


def attack(seconds: float, *more: str) -> list[str]:
    """One run of a sidecar with `more` flags; prints a table and a line of JSON.  Returns a sentence for each fault."""
    with tempfile.TemporaryDirectory() as folder, driver_process(f"{folder}/csi.sock"):
        sidecar = Sidecar((f"--csi-address={folder}/csi.sock", *more))
        thrown, held = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0)
        attackers = [
            multiprocessing.Process(target=hold, args=(sidecar.port, held), daemon=True),
            multiprocessing.Process(target=throw, args=(sidecar.port, thrown), daemon=True),
        ]
        try:
            quiet, bad_quiet = ask(sidecar, seconds / 4)
            before, memory = left_open(sidecar), rss(sidecar)
            for attacker in attackers:
                attacker.start()
            attacked, bad = ask(sidecar, seconds)
            grown, holding = rss(sidecar) - memory, held.value
            for attacker in attackers:
                attacker.kill()
                attacker.join()
            after = left_in_the_end(sidecar, before)
        finally:
            sidecar.kill()
    print(" ".join(more) or "by default")
    for name, latencies, failures in (("quiet", quiet, bad_quiet), ("attacked", attacked, bad)):
        p50, p99 = percentiles(latencies)
        print(f"{name:9} {len(latencies):5} requests, {failures} failed, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms")
    rate = thrown.value / seconds
    print(
        f"{holding} slow connections; garbage {rate:.0f}/s; memory {memory:.1f} {grown:+.1f} MiB; {before} before, {after} after"
    )
    figures = {"failed": bad, "p99_ms": p99, "held": holding, "garbage_per_s": rate, "rss_growth_mib": grown}
    print(json.dumps(figures))
    faults = [f"{what} were {before[what]} before and are {after[what]}." for what in before if after[what] > before[what]]
    if bad + bad_quiet:
        faults.append(f"{bad + bad_quiet} requests of the good client failed.")
    if p99 >= P99_MS:
        faults.append(f"p99 was {p99:.1f} ms, not below {P99_MS}.")
    if grown >= GROWTH_MIB:
        faults.append(f"Memory grew by {grown:.1f} MiB, not less than {GROWTH_MIB}.")
    if more and holding < SLOW_CONNECTIONS:
        faults.append(f"Only {holding} of {SLOW_CONNECTIONS} slow connections were open.")
    return faults


def main(seconds: float) -> int:
    """The exit code: 0, or 1 if there was a fault."""
    faults = [*attack(seconds), *attack(seconds, HOLDS_ALL)]
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
