"""
A long run: hundreds of thousands of probes with faults mixed in, after which the process must hold no more than before.

    python -m tests.soak [PROBES [PARTS [VIEWS]]]

A quarter of the probes have a connection each, as at a kubelet's pace.  The figures after the first of ten parts (20
000 of 200 000 probes) are compared with those at the end: of descriptors, threads, tasks and series there may be no more
(the look at the sidecar's wiring is a task that ends after two minutes), resident memory may grow by 2 MiB, and gRPC's pool
by three threads.

Then a sidecar of its own shows its pages VIEWS times in all formats, which may add 0.3 MiB of anonymous memory.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from livenessprobe.probing.history import PROBES_MAX
from tests.support import Sidecar, driver_process, eventually, process_status, raw, request

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: soak\r\n\r\n"
MEMORY_MAY_GROW = 2048
"""KiB of resident memory."""
SETTLE_SECONDS = 3.0
POOL = "event_engine"
"""The name of the threads in gRPC's pool, which has at least four."""
POOL_MAY_GROW = 3
"""
The pool starts another thread when all are busy, and may keep it.  A thread lost by each fault would be two in each
part.
"""
DEFAULTS = ("200000", "10", "10000")
VIEWS_MAY_ADD = 307
"""KiB of anonymous memory."""
FORMATS = (
    "text/plain",
    "text/html",
    "application/json",
    "application/json;g=config.k8s.io;v=v1alpha1;as=Statusz",
    "application/json;g=config.k8s.io;v=v1alpha1;as=Flagz",
)
PAGES = ("/statusz", "/flagz", "/")
GARBAGE = (
    b"\0\xff" * 40 + b"\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """The resources that a sidecar holds, after `probes` probes."""

    probes: int
    rss: int
    descriptors: int
    threads: int
    """Without gRPC's pool."""
    tasks: int
    series: int
    pool: int
    """Threads in gRPC's pool."""


class Soak:
    """One sidecar, its driver and its settings file."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/csi.sock"
        self.file = Path(folder) / "settings.toml"
        self.reuse("1s")
        self.sidecar = Sidecar(
            (
                f"--csi-address={self.path}",
                f"--config={self.file}",
                "--config-poll-interval=0s",
                "--probe-timeout=2s",
                "--automaxprocs",
            ),
            {"GOMAXPROCS": "1"},  # one executor thread for files, which then exists from the start
        )
        assert self.sidecar.get().status == 500  # the signal handlers are installed now; there is no driver yet
        assert self.sidecar.get("/metrics").status == 200  # modules that the first such request imports stay loaded
        self.probes = 0
        self.unexpected: list[str] = []

    def reuse(self, seconds: str) -> None:
        self.file.write_text(f'connection_reuse = "{seconds}"\nunreachable_grace = "0s"\n', encoding="utf-8")

    def change_reuse(self, seconds: str) -> None:
        self.reuse(seconds)
        self.sidecar.process.send_signal(signal.SIGHUP)
        self.sidecar.await_log(
            f'"Setting changed" key="connection_reuse" old="{"1s" if seconds == "0s" else "0s"}" new="{seconds}"'
        )
        time.sleep(0.5)

    def ask(self, count: int, expected: bytes = b" 200 ") -> None:
        """Send `count` requests on one connection, and note each status that is not `expected`."""
        with socket.create_connection(("127.0.0.1", self.sidecar.port), 30) as client, client.makefile("rb") as answers:
            for _ in range(count):
                client.sendall(REQUEST)
                status = answers.readline()
                length = 0
                while (header := answers.readline()).strip():
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = answers.read(length)
                self.probes += 1
                if expected not in status:
                    self.unexpected.append(f"probe {self.probes}: {status!r} {body[:300]!r}")

    def round(self, count: int) -> None:
        """`count` probes of a ready driver, then one fault of each kind."""
        with driver_process(self.path) as driver:
            assert driver.stdin is not None

            def order(text: str) -> None:
                driver.stdin.write(f"{text}\n")
                driver.stdin.flush()
                time.sleep(0.05)

            eventually(lambda: self.sidecar.get().status == 200)
            self.ask(count)
            order("not-ready")
            self.ask(20, b" 500 ")
            order("ready")
            for garbage in GARBAGE:
                raw(self.sidecar.port, garbage, 1)
            leaver = socket.create_connection(("127.0.0.1", self.sidecar.port))
            leaver.sendall(REQUEST)
            leaver.close()
            driver.send_signal(signal.SIGSTOP)
            self.ask(1, b" 500 ")
            driver.send_signal(signal.SIGCONT)
        self.ask(20, b" 500 ")
        os.path.exists(self.path) and os.unlink(self.path)
        self.ask(5, b" 500 ")

    def _descriptors(self) -> int:
        time.sleep(0.1)  # a descriptor may be closing
        return len(os.listdir(f"/proc/{self.sidecar.process.pid}/fd"))

    def figures(self) -> Figures:
        time.sleep(SETTLE_SECONDS)  # connections to the driver are closed after a second
        process = f"/proc/{self.sidecar.process.pid}"
        status = dict(line.split(":", 1) for line in Path(f"{process}/status").read_text().splitlines())
        metrics = self.sidecar.get("/metrics").body
        threads = self.sidecar.threads()
        return Figures(
            self.probes,
            int(status["VmRSS"].split()[0]),
            min(self._descriptors() for _ in range(20)),
            sum(name != POOL for name in threads),
            int(self.sidecar.metric("livenessprobe_tasks")),
            sum(not line.startswith("#") for line in metrics.splitlines()),
            threads.count(POOL),
        )


def views(count: int) -> list[int]:
    """Anonymous memory in KiB, from the state in which each page was shown once in each format: after each tenth of `count` views."""
    with tempfile.TemporaryDirectory() as folder, driver_process(f"{folder}/csi.sock"):
        sidecar = Sidecar((f"--csi-address={folder}/csi.sock",))
        try:
            sidecar.await_name()
            for _ in range(PROBES_MAX):  # from then on no page gets longer
                assert sidecar.get().status == 200
            show(sidecar, len(PAGES) * len(FORMATS))
            found = [anonymous(sidecar)]
            for _ in range(10):
                show(sidecar, count // 10)
                found.append(anonymous(sidecar))
            return found
        finally:
            sidecar.kill()


def show(sidecar: Sidecar, count: int) -> None:
    """View pages `count` times, each time another page or another format."""
    with sidecar.keep_alive() as connection:
        for page, accept in itertools.islice(itertools.cycle(itertools.product(PAGES, FORMATS)), count):
            assert request(connection, page, "GET", {"Accept": accept}).status == 200


def anonymous(sidecar: Sidecar) -> int:
    time.sleep(SETTLE_SECONDS)
    return int(process_status(sidecar.process.pid, "RssAnon"))


def main(probes: int, parts: int, pages: int) -> int:
    """The exit code: 0 if nothing has grown, else 1."""
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(folder)
        seen: list[Figures] = []
        size = probes // parts
        try:
            for part in range(parts):
                started, before = time.monotonic(), soak.probes
                own = size // 4
                soak.change_reuse("0s")
                soak.round(own)
                soak.change_reuse("1s")
                soak.round(size - own)
                rate = (soak.probes - before) / (time.monotonic() - started)
                seen.append(soak.figures())
                print(f"{part + 1:2}/{parts} {rate:6.0f} probes/s  {seen[-1]}", flush=True)
        finally:
            soak.sidecar.kill()
    first, last = seen[0], seen[-1]
    per = 100_000 / max(1, last.probes - first.probes)
    slopes = ", ".join(
        f"{name} {(getattr(last, name) - getattr(first, name)) * per:+.1f}{unit}"
        for name, unit in (
            ("rss", " KiB"),
            ("descriptors", ""),
            ("threads", ""),
            ("tasks", ""),
            ("series", ""),
            ("pool", ""),
        )
    )
    faults = [
        f"{name} {getattr(first, name)} -> {getattr(last, name)}"
        for name in ("descriptors", "threads", "tasks", "series")
        if getattr(first, name) < getattr(last, name)
    ]
    if last.rss - first.rss > MEMORY_MAY_GROW:
        faults.append(f"rss {first.rss} -> {last.rss} KiB")
    if last.pool - first.pool > POOL_MAY_GROW:
        faults.append(f"gRPC's pool {first.pool} -> {last.pool} threads")
    faults += soak.unexpected[:5]
    seen_views = views(pages)
    if (added := seen_views[-1] - seen_views[0]) > VIEWS_MAY_ADD:
        faults.append(f"{pages} views of pages added {added} KiB of anonymous memory")
    print(f"{pages} views of pages: anonymous memory {seen_views} KiB, {added:+} KiB")
    print(f"rss {last.rss - first.rss:+} KiB since the first part; unexpected responses: {len(soak.unexpected)}")
    print(f"in 100 000 probes: {slopes}")
    print(json.dumps({"figures": [asdict(figures) for figures in seen], "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]])))
