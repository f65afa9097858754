"""A scripted driver in virtual time, and a prober that probes it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace

import pytest

from livenessprobe.driver.identity import Found, Question, Update
from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.metrics import Metrics
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.standing import Standing
from livenessprobe.process.starvation import Counters, Usage
from tests.values import make_settings
from tests.virtual import loop

REFUSED = unreachable(Reason.REFUSED, "nobody listens", timed_out=True)
BROKEN = rpc_error(Reason.DRIVER_ERROR, "Internal", "disk on fire")
FOREVER = math.inf


class Driver:
    """Stands for an `Identity`: a driver that responds after `seconds`, or times out at the probe's deadline."""

    def __init__(self, seconds: float = 0.0, result: ProbeResult = READY) -> None:
        self.dialer = SimpleNamespace(reuse=0.0)
        self.listens = True
        self.dials_hang = False
        self.seconds = seconds
        self.result = result
        self.script: Callable[[], tuple[float, ProbeResult]] = lambda: (self.seconds, self.result)
        self.socket = (1, 1, 1)
        self.questions: list[Question] = []
        self.began: list[float] = []
        self.ended: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.looks = 0

    @property
    def seconds_given(self) -> list[float]:
        return [question.deadline - began for question, began in zip(self.questions, self.began, strict=True)]

    def is_same_socket(self, found: Found) -> bool:
        self.looks += 1
        return not found.connected or found.socket == self.socket

    async def probe(self, question: Question, update: Update) -> Found:
        self.questions.append(question)
        self.began.append(loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            unreached = question.unreachable or unreachable(Reason.DEADLINE, "hung", timed_out=True)
            while not self.listens:
                unreached = unreached if self.dials_hang else REFUSED
                update(Found(unreached))
                if loop().time() >= min(question.redial_until, question.deadline):
                    return Found(unreached)
                await asyncio.sleep(0.125)
            connected = Found(CALL_TIMED_OUT, connected=True, socket=self.socket)
            update(connected)
            seconds, result = self.script()
            left = question.deadline - loop().time()
            await asyncio.sleep(min(seconds, left))
            return connected._replace(result=result) if seconds <= left else connected
        finally:
            self.in_flight -= 1
            self.ended.append(loop().time())


class ScriptedCounters(Counters):
    """Counters of a process that is held back for a share of the time from `since` on."""

    def __init__(
        self, *, throttled: float = 0.0, faults: bool = False, since: float = 0.0, pressure: int | None = None
    ) -> None:
        self.throttled, self.faults, self.since, self.pressure = throttled, faults, since, pressure
        self.began = loop().time()

    def read(self) -> Usage:
        passed = max(0.0, loop().time() - self.began - self.since)
        return Usage(passed * self.throttled, int(passed * 1000) if self.faults else 0)

    def read_all(self) -> Usage:
        return self.read()

    def memory_pressure(self) -> int | None:
        return self.pressure


def make(driver: Driver, counters: Counters | None = None, **values: str) -> Prober:
    return Prober(driver, make_settings(**values), Metrics(0.0), counters)  # type: ignore[arg-type]


def metric(prober: Prober, series: str) -> float:
    lines = prober._metrics.expose().body.decode().splitlines()
    (value,) = (line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} "))
    return float(value)


@contextlib.asynccontextmanager
async def by_itself(prober: Prober) -> AsyncIterator[None]:
    """Runs the schedule of `prober`."""
    task = asyncio.create_task(prober.run())
    yield
    task.cancel()
    await asyncio.wait({task})


def at_once(answer: Coroutine[object, None, Standing]) -> Standing:
    """The standing that `answer` returns without waiting for anything."""
    with pytest.raises(StopIteration) as stopped:
        answer.send(None)
    standing = stopped.value.value
    assert isinstance(standing, Standing)
    return standing


async def timed(answer: Coroutine[object, None, Standing], later: float = 0.0) -> tuple[float, Reason | None]:
    """The seconds that `answer` takes when awaited after `later` seconds, and the reason of a failure, or None."""
    await asyncio.sleep(later)
    began = loop().time()
    standing = await answer
    assert standing.ready.report is not None
    return round(loop().time() - began, 6), standing.ready.report.reason
