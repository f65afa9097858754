"""
A simulation of the kubelet's prober, written from Kubernetes' source: pkg/kubelet/prober/worker.go.

It shares no code with `livenessprobe.lint`, whose formulas it checks.  Times are seconds since the worker was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Answer = tuple[float, bool]
"""How long one HTTP request takes, and whether its status is 200."""


@dataclass
class Ticker:
    """Go's time.Ticker: a channel that keeps one tick; a tick that finds it full is dropped."""

    period: float
    start: float
    taken: float = -1.0
    """The time of the last tick that was sent into the channel and received."""
    _next: int = 1

    def wait(self, now: float) -> float:
        """When the receiver that begins to wait at `now` has its tick."""
        due = self.start + self._next * self.period
        if due > now:  # the channel is empty: wait
            self._next += 1
            return due
        # One tick has been waiting since `due`; those after it, up to now, were dropped.
        self._next = math.floor((now - self.start) / self.period) + 1
        return now


@dataclass
class Worker:
    """One probe of one container."""

    kind: str
    period: int
    timeout: int
    failure: int
    initial_delay: int = 0
    success: int = 1
    ask: Callable[[float], Answer] | None = None
    """Answers the requests of this worker, if they differ from those of the others."""
    result: bool | None = field(init=False, default=None)
    """What the results manager holds."""
    _last: bool | None = None
    _run: int = 0

    def __post_init__(self) -> None:
        self.result = {"liveness": True, "readiness": False, "startup": None}[self.kind]

    def has_ended(self, ok: bool) -> bool:
        """Take the result of one probe; whether the container must now be killed."""
        self._run = self._run + 1 if self._last == ok else 1
        self._last = ok
        if self._run < (self.success if ok else self.failure):
            return False
        self.result = ok
        return not ok and self.kind != "readiness"


def killed_at(
    workers: list[Worker], ask: Callable[[float], Answer], container: float, phases: list[float], until: float
) -> float | None:
    """
    When the kubelet decides to kill the container, or None if it does not before `until`.

    `ask(at)` answers a request that is sent at that time.  The container starts at `container`.  The ticker of each worker starts
    at its phase: the workers of a pod are made before its containers run, and wait a random part of the period if the kubelet
    itself has just started.
    """
    started_at = math.floor(container)  # statuses have whole seconds (status_manager.go, normalizeStatus)
    tickers = [Ticker(worker.period, phase) for worker, phase in zip(workers, phases, strict=True)]
    times = list(phases)  # a worker probes before it waits for its first tick
    startup = next((worker for worker in workers if worker.kind == "startup"), None)
    while True:
        index = min(range(len(workers)), key=lambda each: times[each])
        worker, now = workers[index], times[index]
        if now >= until:
            return None
        ended = now
        if now >= container and int(now - started_at) >= worker.initial_delay and _probes(worker, startup):
            takes, ok = (worker.ask or ask)(now)
            ended = now + min(takes, worker.timeout)
            if ended > until:
                return None
            if worker.has_ended(ok and takes < worker.timeout):
                return ended
        times[index] = tickers[index].wait(ended)


def _probes(worker: Worker, startup: Worker | None) -> bool:
    """A startup probe until it has succeeded, the other probes from then on."""
    started = startup is None or startup.result is True
    return not started if worker.kind == "startup" else started
