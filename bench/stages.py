"""The run: each stage measures all programs in turn, and notes a sample for each round."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.figures import Samples, imports, memory, percentile
from bench.load import Order
from bench.programs import Caller, Running, once, one_shots, servers
from tests.support import driver_process

T = TypeVar("T")

LOADS = {"kubelet": 0, "keepalive_1": 1, "keepalive_16": 16, "keepalive_64": 64}
"""Connections that are kept open, by name of the load."""
PACE = 2.0
"""Seconds between requests: more than --connection-reuse, so that each request dials."""
SETTLE = 0.5
"""Seconds from the first 200 until memory is read."""
QUIET = 3.0
"""Seconds from the last request until a program counts as idle; by then no connection to the driver is left."""

ACCOUNTED = 0.01
"""Seconds after which the kernel has accounted a thread's CPU time; it does so at its ticks, and when the thread waits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Durations and repetitions."""

    starts: int
    start_requests: int
    bursts: int
    burst_seconds: float
    paced: int
    idle: tuple[float, ...]
    """Seconds of each measurement of idle programs; multiples of the interval of the program that probes on a schedule."""
    growth: int


FULL = Plan(5, start_requests=1500, bursts=7, burst_seconds=0.8, paced=30, idle=(10.0, 10.0), growth=100_000)
BRIEF = Plan(1, start_requests=300, bursts=2, burst_seconds=0.25, paced=3, idle=(3.0,), growth=3_000)


def say(what: str) -> None:
    """Print progress to standard error."""
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


def rotated(programs: Mapping[str, T], number: int) -> list[tuple[str, T]]:
    """The programs in their order, with another one first in each round."""
    items = list(programs.items())
    start = number % len(items)
    return items[start:] + items[:start]


class Bench:
    """One run: its plan and programs, and the samples."""

    def __init__(self, plan: Plan, python: list[str], peer: list[str], folder: str) -> None:
        self.plan = plan
        self.python = python
        self.sock = f"{folder}/csi.sock"
        self.servers = servers(python, peer)
        self.samples: Samples = {}
        self.imports: dict[str, float] = {}
        self.busiest = 0.0
        """The largest share of a burst for which the load generator itself was busy."""
        self._health = Path(folder) / "health"

    def note(self, figure: str, program: str, value: float) -> None:
        """Add a sample."""
        self.samples.setdefault(figure, {}).setdefault(program, []).append(value)

    def load(self, caller: Caller, program: Running, order: Order) -> dict[str, Any]:
        """Run `order`, and return its report."""
        report = caller.obey(program, order)
        self.busiest = max(self.busiest, report["busy"])
        return report

    def starts(self, caller: Caller) -> None:
        """
        Costs of each program from its start on, with only the driver beside it: PSS divides memory among the processes
        that share it.
        """
        self._health.write_text(json.dumps({"driver": "bench", "time": "now", "uptime": time.monotonic(), "lasts": 86_400}))
        enders = one_shots(self.python, self.sock, self._health)
        for name, command in enders.items():
            once(name, command)  # so that no round pays for compiling
        for number in range(self.plan.starts):
            say(f"starts and memory, round {number + 1} of {self.plan.starts}")
            for name, command in rotated(self.servers | enders, number):
                if name in enders:
                    self._run(name, command)
                else:
                    self._serve(name, command, caller)

    def _run(self, name: str, command: list[str]) -> None:
        """Measure a program that ends by itself."""
        ended = once(name, command)
        if name == "settings-again":  # this program measures its own time
            self.note("reload_cpu", name, 1000 * float(ended.output))
            return
        self.note("start_cpu", name, ended.cpu)
        self.note("start_wall", name, ended.wall)
        if name == "floor-import":
            self._note_memory("idle", name, memory(ended.output))

    def _serve(self, name: str, command: list[str], caller: Caller) -> None:
        """Measure a server's start, and its memory before and after some load."""
        with Running(name, command, self.sock) as program:
            cpu, wall = program.first_200()
            time.sleep(SETTLE)
            self._note_memory("idle", name, program.memory())
            self.load(caller, program, Order(program.port, 16, requests=self.plan.start_requests))
            self._note_memory("loaded", name, program.memory())
        self.note("start_cpu", name, cpu)
        self.note("start_wall", name, wall)

    def _note_memory(self, when: str, program: str, kinds: Mapping[str, float]) -> None:
        for kind, value in kinds.items():
            self.note(f"{when}_{kind}", program, value)

    def warm_up(self) -> None:
        """Start each program once: shows that all of them work, and leaves their modules compiled."""
        for name, command in self.servers.items():
            say(f"trying {name}")
            with Running(name, command, self.sock) as program:
                program.first_200()

    def import_times(self) -> None:
        """
        The modules that the sidecar imports until its first 200; the quickest of some starts, since noise only adds
        time.
        """
        say("imports")
        command = [*self.python, "-X", "importtime", *self.servers["sidecar"][len(self.python) :]]
        seen = []
        for _ in range(self.plan.starts):
            with Running("sidecar -X importtime", command, self.sock) as program:
                program.first_200()
                seen.append(imports(program.output()))
        self.imports = min(seen, key=lambda modules: sum(modules.values()))

    def beside_each_other(self, caller: Caller) -> None:
        """
        Measure all programs while all of them run: idle, with a request now and then, and in bursts one after the
        other.
        """
        with contextlib.ExitStack() as stack:
            programs = {
                name: stack.enter_context(Running(name, command, self.sock)) for name, command in self.servers.items()
            }
            for program in programs.values():
                program.first_200()
            self.idle(programs)
            self.paced(caller, programs)
            self.bursts(caller, programs)

    def idle(self, programs: Mapping[str, Running]) -> None:
        """CPU and wake-ups of programs that get no requests."""
        time.sleep(QUIET)
        for seconds in self.plan.idle:
            say(f"idle for {seconds:g} s")
            before = {name: (program.cpu(), program.wakeups()) for name, program in programs.items()}
            time.sleep(seconds)
            for name, program in programs.items():
                cpu, wakeups = before[name]
                self.note("idle_cpu", name, 1000 * (program.cpu() - cpu) / seconds)
                # The counts of ended threads are lost.
                self.note("idle_wakeups", name, max(0, program.wakeups() - wakeups) / seconds)

    def paced(self, caller: Caller, programs: Mapping[str, Running]) -> None:
        """A request every PACE seconds for each program, at different times."""
        say(f"{self.plan.paced} requests, one every {PACE:g} s")
        started = time.monotonic()
        spent = {name: program.cpu() for name, program in programs.items()}
        for number in range(self.plan.paced):
            for place, (name, program) in enumerate(programs.items()):
                moment = started + PACE * (number + place / len(programs))
                time.sleep(max(0.0, moment - time.monotonic()))
                report = self.load(caller, program, Order(program.port, requests=1))
                time.sleep(ACCOUNTED)
                before, spent[name] = spent[name], program.cpu()
                if number:  # before the first request the time is not PACE long
                    self.note("paced_latency", name, 1000 * report["latencies"][0])
                    self.note("paced_cpu", name, 1000 * (spent[name] - before))

    def bursts(self, caller: Caller, programs: Mapping[str, Running]) -> None:
        """Every load on every program in turn."""
        for number in range(self.plan.bursts):
            say(f"bursts, round {number + 1} of {self.plan.bursts}")
            for load, connections in LOADS.items():
                for name, program in rotated(programs, number):
                    cpu = program.cpu()
                    report = self.load(caller, program, Order(program.port, connections, self.plan.burst_seconds))
                    time.sleep(ACCOUNTED)
                    cpu, latencies = program.cpu() - cpu, report["latencies"]
                    self.note(f"{load}_p50", name, 1000 * percentile(latencies, 0.5))
                    self.note(f"{load}_p99", name, 1000 * percentile(latencies, 0.99))
                    self.note(f"{load}_rate", name, len(latencies) / report["seconds"])
                    self.note(f"{load}_cpu", name, 1000 * cpu / len(latencies))

    def growth(self, caller: Caller) -> None:
        """The growth of the sidecar's memory by many requests, from its idle state."""
        say(f"{self.plan.growth} requests to the sidecar")
        with Running("sidecar", self.servers["sidecar"], self.sock) as program:
            program.first_200()
            time.sleep(SETTLE)
            before = program.memory()
            self.load(caller, program, Order(program.port, 16, requests=self.plan.growth))
            after = program.memory()
        for kind in ("rss", "anonymous"):
            self.note(f"growth_{kind}", "sidecar", after[kind] - before[kind])

    def run(self) -> None:
        """All stages."""
        with driver_process(self.sock), Caller() as caller:
            self.warm_up()
            self.import_times()
            self.starts(caller)
            self.beside_each_other(caller)
            self.growth(caller)
