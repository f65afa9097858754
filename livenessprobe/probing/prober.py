"""When to ask the driver and what to answer: one Probe in flight for all callers, and probes by themselves if wanted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from livenessprobe.driver.identity import CUT_SHORT_SECONDS, Attempt, Identity
from livenessprobe.driver.result import NO_TIME, ProbeResult, Reason
from livenessprobe.gotext import format_duration
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.driver_name import DriverName
from livenessprobe.probing.schedule import Schedule, report_lasts
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Settings

log = get_logger(__file__)

STOOD_STILL = 0.25
"""Seconds by which a probe that runs out of time is noticed too late for somebody to have been there to read an answer."""


@dataclass(eq=False, slots=True)
class _Caller:
    """What one request may wait for.  Times are the loop's."""

    deadline: float
    """When it must have its response."""
    redial_until: float
    """Until when an unreachable driver is dialled for it."""


@dataclass(slots=True)
class _Flight:
    attempt: Attempt
    task: asyncio.Task[tuple[ProbeResult, Standing]]
    """Its result: what was found, and what is reported from then on."""


class Prober:
    """
    Answers for the driver.

    `noted` is called after each probe and each change of settings; what is reported is in `standing` then.
    """

    def __init__(self, identity: Identity, settings: Settings, metrics: Metrics, noted: Callable[[], object]) -> None:
        self.driver_name = DriverName(identity, settings, metrics, noted)
        self.standing = Standing()
        self._identity = identity
        self._metrics = metrics
        self._noted = noted
        self._adopted = asyncio.Event()
        self._flight: _Flight | None = None
        """The one that new callers join."""
        self._flights: set[asyncio.Task[tuple[ProbeResult, Standing]]] = set()
        self._callers: set[_Caller] = set()
        self._told: Reason | None = None
        self._unready_since = 0.0
        self._away = False
        self._peer: object = None
        self._newest = 0.0
        """When the last probe that counts was begun."""
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by `settings` from now on.  A request in flight keeps those it began with; counts of results are kept."""
        self.settings = self.driver_name.settings = settings
        self._identity.dialer.reuse = settings.connection_reuse
        self._metrics.probe_timeout.set(settings.probe_timeout)
        self._adopted.set()
        self._noted()

    def longest_wait(self) -> float:
        """Seconds until every request has its answer, those that come now included."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self.settings.probe_timeout, *(caller.deadline - now for caller in self._callers))

    # --- answers

    async def check(self) -> Standing:
        """
        What is reported of the driver now.

        With an interval set, that is the result of the last Probe, unless it is too old.  Else a Probe is made within the probe
        timeout, counted from this call.  This call joins a Probe in flight; if that runs out of time before this caller does,
        the next Probe is joined or begun with the remaining time.
        """
        settings = self.settings
        now = asyncio.get_running_loop().time()
        if settings.interval and self.standing.is_fresh(now, report_lasts(settings.interval, settings.probe_timeout)):
            return self.standing
        return await self._probe()

    async def _probe(self) -> Standing:
        settings = self.settings
        now = asyncio.get_running_loop().time()
        if settings.probe_timeout <= 0:
            return self._note(NO_TIME, Attempt(now, now, now), 0.0)
        return await self._ask(_Caller(now + settings.probe_timeout, now + settings.unreachable_grace))

    async def _ask(self, caller: _Caller) -> Standing:
        self._callers.add(caller)
        try:
            return await self._wait(caller)
        finally:
            self._callers.discard(caller)
            if not self._callers:
                self._leave()

    async def _wait(self, caller: _Caller) -> Standing:
        """What is reported to `caller`.  If the Probe runs out of time before `caller` does, another one is begun or joined."""
        loop = asyncio.get_running_loop()
        if self._joinable() is not None:
            self._metrics.shared.inc()
        unreachable = NO_TIME
        while True:
            flight = self._joinable() or self._take_off(unreachable)
            finished = await _until(caller.deadline, flight)
            if finished is None:
                return self._provisional(flight.attempt, caller)
            result, standing = finished
            if loop.time() >= caller.deadline or not _ran_out_of_time(result, flight.attempt, caller):
                return standing
            if not flight.attempt.connected:
                unreachable = result

    def _joinable(self) -> _Flight | None:
        """The Probe in flight, unless its socket was removed or replaced since: it would speak for a driver that is gone."""
        flight = self._flight
        return flight if flight is not None and self._identity.still_leads_there(flight.attempt) else None

    def _provisional(self, attempt: Attempt, caller: _Caller) -> Standing:
        """What is reported to `caller` whose time is up, while the Probe goes on for others."""
        if self._is_a_rest(attempt.so_far, attempt, caller.deadline):
            return self.standing
        return self.standing.after(attempt.so_far, self.settings.thresholds, asyncio.get_running_loop().time())

    def _take_off(self, found: ProbeResult) -> _Flight:
        """
        Begin a Probe that lasts for all callers who wait: a shorter one would fail a slow, healthy driver.

        `found` is why the one before it did not connect: this one may have too little time left to find that again.
        """
        attempt = Attempt(
            started=asyncio.get_running_loop().time(),
            deadline=max(caller.deadline for caller in self._callers),
            redial_until=max(caller.redial_until for caller in self._callers),
            method=self.settings.probe_path,
            service=self.settings.health_service,
            driver_name=self.driver_name.text,
            so_far=found,
        )
        task = asyncio.get_running_loop().create_task(self._fly(attempt))
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)
        self._flight = _Flight(attempt, task)
        return self._flight

    def _leave(self) -> None:
        """
        No caller waits any more.

        A kubelet that hangs up at the probe timeout does so a moment before the Probe is over, so that goes on: its result is
        reported to later callers.  They do not wait for it, and at most one Probe goes on like that.
        """
        left, self._flight = self._flight, None
        for task in self._flights:
            if left is None or task is not left.task:
                task.cancel()

    async def _fly(self, attempt: Attempt) -> tuple[ProbeResult, Standing]:
        loop = asyncio.get_running_loop()
        try:
            result = await self._probe_once(attempt)
            late = loop.time() - attempt.deadline
            if result.reason is Reason.DEADLINE and late > STOOD_STILL:
                # The driver may have answered in time, to a process that was stopped or starved.
                log.info(
                    "This process did not run while the probe did; probing again", late=format_duration(int(late * 1e9))
                )
                attempt.renew(loop.time())
                result = await self._probe_once(attempt)
        except Exception as error:  # noqa: BLE001  a fault of ours must become an answer, not a hung caller
            log.error("Probe failed inside the sidecar", err=repr(error))
            result = ProbeResult(
                Reason.INTERNAL, f"livenessprobe: internal error: {error!r}", "Health check failed", repr(error)
            )
        finally:
            if self._flight is not None and self._flight.task is asyncio.current_task():
                self._flight = None
        seconds = loop.time() - attempt.started
        if attempt.started < self._newest:  # another one has been made since, of its successor perhaps: this is no news
            self._record(result, attempt, seconds)
            return result, self.standing.after(result, self.settings.thresholds, loop.time())
        if self._is_a_rest(result, attempt, attempt.deadline):
            return result, self.standing
        return result, self._note(result, attempt, seconds)

    def _is_a_rest(self, result: ProbeResult, attempt: Attempt, deadline: float) -> bool:
        """
        Whether `result` is that time ran out, and there was little of it: what callers had left after a probe that failed.

        The failure before it says more, and it is no second one for a threshold to count.
        """
        out_of_time = result.reason is Reason.DEADLINE or (not result.ready and not attempt.connected)
        failed_before = self.standing.result is not None and not self.standing.result.ready
        short = min(CUT_SHORT_SECONDS, self.settings.probe_timeout / 2)
        return out_of_time and failed_before and deadline - attempt.started < short

    async def _probe_once(self, attempt: Attempt) -> ProbeResult:
        late = asyncio.get_running_loop().time() >= attempt.deadline
        return attempt.so_far if late else await self._identity.probe(attempt)

    # --- what a result means

    def _note(self, result: ProbeResult, attempt: Attempt, seconds: float) -> Standing:
        """Metrics, upstream's record, what is reported from now on, and one record of our own when that changes."""
        self._newest = attempt.started
        self._record(result, attempt, seconds)
        self._metrics.probed(result.reason, seconds)
        new_driver = attempt.connected and attempt.socket != self._peer
        if attempt.connected:
            self._peer = attempt.socket
        now = asyncio.get_running_loop().time()
        self.standing = self.standing.after(result, self.settings.thresholds, now, new_driver=new_driver)
        self._tell_change(now)
        lost = not attempt.connected or result.reason is Reason.CONNECTION_LOST
        if self._away and not lost:
            self.driver_name.driver_is_back()
        elif attempt.connected:
            self.driver_name.driver_reached()
        self._away = lost
        self._noted()
        return self.standing

    def _record(self, result: ProbeResult, attempt: Attempt, seconds: float) -> None:
        """What upstream tells of each probe."""
        if result is not NO_TIME:
            self._metrics.operation(attempt.method, result.code, seconds)
        if result.reason is None:
            log.v(5).info(result.record)
        else:
            self._metrics.failed(result.reason)
            log.error(result.record, err=result.err)

    def _tell_change(self, now: float) -> None:
        report = self.standing.ready.report
        assert report is not None  # noqa: S101  a result has come
        self._metrics.reported(report.reason is None)
        if report.reason is self._told:
            return
        if report.reason is None:
            lasted = format_duration(int((now - self._unready_since) * 1000) * 1_000_000)
            log.info("CSI driver is healthy again", driver=self.driver_name.text, unhealthyFor=lasted)
        else:
            if self._told is None:
                self._unready_since = now
            log.warning(
                "CSI driver is unhealthy", driver=self.driver_name.text, reason=report.reason.value, detail=report.body
            )
        self._told = report.reason

    # --- probes by themselves

    async def run(self) -> None:
        """Probe on schedule while an interval is set; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._adopted.clear()
            interval = self.settings.interval
            if not interval:
                await self._adopted.wait()
                continue
            schedule = Schedule(loop.time(), interval, random.random())  # noqa: S311  to spread pods, not to hide anything
            while self.settings.interval == interval:
                await self._probe()
                await self._sleep_until(schedule.next_after(loop.time()), interval)

    async def _sleep_until(self, moment: float, interval: float) -> None:
        """Until `moment`, or until another interval than `interval` is set."""
        try:
            async with asyncio.timeout_at(moment):
                while self.settings.interval == interval:
                    self._adopted.clear()
                    await self._adopted.wait()
        except TimeoutError:
            pass


async def _until(deadline: float, flight: _Flight) -> tuple[ProbeResult, Standing] | None:
    """The result of the flight; None if it goes on after `deadline`.  It goes on even if this call is cancelled."""
    if flight.attempt.deadline <= deadline:
        return await asyncio.shield(flight.task)
    done, _ = await asyncio.wait({flight.task}, timeout=max(0, deadline - asyncio.get_running_loop().time()))
    return flight.task.result() if done else None


def _ran_out_of_time(result: ProbeResult, attempt: Attempt, caller: _Caller) -> bool:
    """Whether the flight ended only because its time was up, while `caller` had more to give."""
    if result.reason is Reason.DEADLINE:
        return caller.deadline > attempt.deadline
    return not result.ready and not attempt.connected and caller.redial_until > attempt.redial_until
