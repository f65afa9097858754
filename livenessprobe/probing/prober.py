"""
Decides when to ask the driver, and what to report.

Requests share one Probe, the flight.  Its states:

    begun → connecting → connected → ended

- A request begins a flight, or joins the one in flight.  From `connected` it may go back to `connecting`, if the connection
  was one kept from an earlier Probe and had been closed.
- Requests join it until it ends, or until the socket file that it is connected through is removed or replaced: it would speak
  for a driver that is gone.  Then the next request begins another flight, the only case of a second one.
- No client ends a flight.  It goes on and counts if all its callers hang up, or a hung driver would be hidden by callers
  that do not wait for the probe timeout.
- It lasts for the probe timeout from its begin, so a hung driver fails once in that time, however many callers there are.  A
  caller with an earlier deadline is told what has been found so far.  A caller with a later one begins or joins the next
  flight if this one runs out of time.  If all have too little time left for a failure to count, that flight ends with them.
- When it ends its result is recorded, and changes what is reported, unless a flight that began later has ended before it.
- If it runs out of time, and this process was stopped or at least half of the time was lost to its own limits of CPU or memory,
  it starts again, once: the second result counts, so a hung driver is reported within twice the probe timeout.
- At most two flights are in progress.  A flight that begins cancels every flight without a caller; if two have callers, it
  cancels the older of them, whose callers join the new flight.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from livenessprobe.driver.identity import CUT_SHORT_SECONDS, Found, Identity, Question
from livenessprobe.driver.result import NO_TIME, OUT_OF_TIME, WAYS_OUT, ProbeResult, Reason
from livenessprobe.gotext import format_seconds
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing import advice
from livenessprobe.probing.driver_name import DriverName
from livenessprobe.probing.history import History
from livenessprobe.probing.schedule import Schedule, report_lasts
from livenessprobe.probing.standing import Standing
from livenessprobe.process.starvation import Counters, Lost, Meter
from livenessprobe.settings.model import Settings

log = get_logger(__file__)

REMIND_PROBES = 4
"""Failed probes in a row behind which the advice is repeated, so that it is in the last five lines of the log."""


@dataclass(eq=False, slots=True)
class _Caller:
    """A request that waits.  Times are the loop's."""

    deadline: float
    """When it must have its response."""
    redial_until: float
    """Until when an unreachable driver is dialled for it."""


@dataclass(eq=False, slots=True)
class _Flight:
    """One Probe for all callers that wait for it."""

    started: float
    question: Question
    found: Found
    """The result, once it has ended; until then, what is reported to callers whose time is up."""
    callers: int = 0
    """How many requests wait for it."""
    joined: int = 0
    """How many requests have waited for it."""
    cancelled: bool = False
    """Whether later flights have taken its place."""
    task: asyncio.Task[Standing | None] = field(init=False)
    """Its result is what is reported from then on; None if it was cancelled."""

    def update(self, found: Found) -> None:
        """Take over what has been found so far."""
        self.found = found

    def begin_anew(self, now: float) -> None:
        """Start again at `now` with all the time there was at first."""
        passed, asked = now - self.started, self.question
        self.question = asked._replace(deadline=asked.deadline + passed, redial_until=asked.redial_until + passed)
        self.started, self.found = now, Found(NO_TIME)


class Prober:
    """Answers for one driver."""

    def __init__(self, identity: Identity, settings: Settings, metrics: Metrics, counters: Counters | None = None) -> None:
        """`counters` tell what this process loses to its own limits; without them only a process that stood still is noticed."""
        self.standing = Standing()
        """What is reported."""
        self.history = History()
        self.changed = asyncio.Event()
        """Set after each Probe, and after each change of settings or of the driver's name."""
        self.driver_name = DriverName(identity, settings.probe_path, metrics, self.changed.set)
        self._identity = identity
        self._metrics = metrics
        self._counters = counters
        self._question = Question(0.0, 0.0, settings.probe_path, settings.health_service)
        """What each Probe asks, but for its times."""
        self._adopted = asyncio.Event()
        self._flight: _Flight | None = None
        """The flight that requests join."""
        self._flights: list[_Flight] = []
        """All flights that have neither ended nor been cancelled, the oldest first."""
        self._callers: set[_Caller] = set()
        self._reported: Reason | None = None
        """Why the driver was last reported as unhealthy; None if it was healthy, or before the first Probe."""
        self._untold = 0
        """Probes since the last record with advice."""
        self._unhealthy_since = 0.0
        self._socket: object = None
        """The socket file that the driver was last reached through."""
        self._newest = 0.0
        """When the flight with the newest result began."""
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by the live keys of `settings` from now on.  Requests in flight keep their deadlines, results their counts."""
        self.settings = settings
        self.driver_name.probe_timeout = settings.probe_timeout
        self._identity.dialer.reuse = settings.connection_reuse
        self._metrics.probe_timeout.set(settings.probe_timeout)
        self._adopted.set()
        self.changed.set()

    def longest_wait(self) -> float:
        """Seconds until every request has its response, a request that comes now included."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self.settings.probe_timeout, *(caller.deadline - now for caller in self._callers))

    # --- requests

    async def check(self) -> Standing:
        """
        What is reported of the driver now.

        With an interval set, that is the result of the last Probe, unless it is too old.  Else the driver is probed within the
        probe timeout, counted from this call.
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
            return self._note(_Flight(now, Question(now, now), Found(NO_TIME), joined=1), now)
        caller = _Caller(now + settings.probe_timeout, now + settings.unreachable_grace)
        self._callers.add(caller)
        try:
            return await self._wait(caller, now)
        finally:
            self._callers.discard(caller)

    async def _wait(self, caller: _Caller, now: float) -> Standing:
        """What is reported to `caller`, which has come `now`, from as many flights as it has time for."""
        loop = asyncio.get_running_loop()
        if self._joinable() is not None:
            self._metrics.shared.inc()
        unreachable = None
        while True:
            flight = self._joinable() or self._begin(now, unreachable)
            standing = await _end_of(flight, caller.deadline)
            now = loop.time()
            if flight.cancelled and now < caller.deadline:
                continue
            if standing is None:
                return self._so_far(flight, caller)
            if now >= caller.deadline or not _ran_out_of_time(flight, caller):
                return standing
            if not flight.found.connected:
                unreachable = flight.found.result

    def _joinable(self) -> _Flight | None:
        """The flight, unless the socket file that it is connected through was removed or replaced."""
        flight = self._flight
        return flight if flight is not None and self._identity.is_same_socket(flight.found) else None

    def _so_far(self, flight: _Flight, caller: _Caller) -> Standing:
        """What is reported to `caller`, whose time is up, while `flight` goes on for others."""
        if self._had_too_little_time(flight.found, caller.deadline - flight.started):
            return self.standing
        return self._standing_after(flight, asyncio.get_running_loop().time())

    def _standing_after(self, flight: _Flight, now: float, *, new_driver: bool = False) -> Standing:
        """What is reported if `flight` counts."""
        result, thresholds = flight.found.result, self.settings.thresholds
        return self.standing.after(result, thresholds, now, new_driver=new_driver, seconds=now - flight.started)

    def _begin(self, now: float, unreachable: ProbeResult | None) -> _Flight:
        """Begin a flight for all callers that wait; `unreachable` is why the one before it did not connect."""
        self._make_way()
        timeout = self.settings.probe_timeout
        deadline = max(caller.deadline for caller in self._callers)
        redial_until = max(caller.redial_until for caller in self._callers)
        if deadline - now >= _least_seconds(timeout):
            dials_throughout = redial_until >= deadline
            deadline = max(deadline, now + timeout)
            redial_until = max(redial_until, deadline) if dials_throughout else redial_until
        question = self._question._replace(
            deadline=deadline, redial_until=redial_until, driver_name=self.driver_name.text, unreachable=unreachable
        )
        flight = self._flight = _Flight(now, question, Found(unreachable or NO_TIME))
        flight.task = asyncio.create_task(self._run_flight(flight))
        self._flights.append(flight)
        return flight

    def _make_way(self) -> None:
        """Cancel the flights that have no caller, and the older one of two that have, so that another can begin."""
        stay = [flight for flight in self._flights if flight.callers][-1:]
        for flight in self._flights:
            if flight not in stay:
                flight.cancelled = True
                flight.task.cancel()
        self._flights = stay

    # --- flights

    async def _run_flight(self, flight: _Flight) -> Standing | None:
        loop = asyncio.get_running_loop()
        try:
            lost = await self._ask(flight)
            if flight.found.result.reason in OUT_OF_TIME and self._was_held_back(flight, lost, loop.time()):
                # The driver may have responded in time.
                flight.begin_anew(loop.time())
                await self._ask(flight)
        except asyncio.CancelledError:
            if not flight.cancelled:
                raise  # the process ends
            return None
        except Exception as error:  # noqa: BLE001  a fault of ours must become a response, or its callers would hang
            log.error("Probe failed inside the sidecar", err=repr(error), reason=Reason.INTERNAL.value)
            body = f"livenessprobe: internal error: {error!r}"
            result = ProbeResult(Reason.INTERNAL, body, "Health check failed", repr(error))
            flight.update(flight.found._replace(result=result))
        finally:
            if flight in self._flights:
                self._flights.remove(flight)
            if self._flight is flight:
                self._flight = None
        return self._end(flight, loop.time())

    async def _ask(self, flight: _Flight) -> Lost:
        """Ask the driver, unless the time is up; what this process has lost meanwhile."""
        meter = None if self._counters is None else Meter(self._counters)
        try:
            if asyncio.get_running_loop().time() < flight.question.deadline:
                flight.update(await self._identity.probe(flight.question, flight.update))
        finally:
            lost = Lost() if meter is None else meter.stop()
        return lost

    def _was_held_back(self, flight: _Flight, lost: Lost, now: float) -> bool:
        """Whether this process itself used up the time of `flight`, which has just run out; tells so, with the way out."""
        pressure = self._counters.memory_pressure() if self._counters is not None and lost.disk else None
        found = advice.held_back(lost, now - flight.started, now - flight.question.deadline, pressure)
        if found is not None:
            log.warning(
                "This sidecar was held back while the probe ran; probing again", detail=found.what, advice=found.way_out
            )
            self._metrics.repeated(found.cause)
            self.history.repeated(now, found)
        return found is not None

    def _end(self, flight: _Flight, now: float) -> Standing:
        """What is reported once `flight` has ended."""
        if flight.started < self._newest:  # a later flight has ended before this one, perhaps on a new socket
            self._record(flight, now)
            return self._standing_after(flight, now)
        if self._had_too_little_time(flight.found, flight.question.deadline - flight.started):
            return self.standing
        return self._note(flight, now)

    def _had_too_little_time(self, found: Found, seconds: float) -> bool:
        """
        Whether time ran out after so few `seconds`: callers had no more left after a flight that failed.

        The earlier failure says more, and a threshold must not count it twice.
        """
        out_of_time = found.result.reason in OUT_OF_TIME or (not found.result.ready and not found.connected)
        failed_before = self.standing.result is not None and not self.standing.result.ready
        return out_of_time and failed_before and seconds < _least_seconds(self.settings.probe_timeout)

    # --- results

    def _note(self, flight: _Flight, now: float) -> Standing:
        """Take over the result of `flight`: metrics, records, and what is reported from now on."""
        found = flight.found
        self._newest = flight.started
        self._record(flight, now)
        self._metrics.probed(found.result.reason, now - flight.started)
        new_driver = found.connected and found.socket != self._socket
        if found.connected:
            self._socket = found.socket
        self.standing = self._standing_after(flight, now, new_driver=new_driver)
        self._record_change(now)
        self.driver_name.probed(found)
        self.changed.set()
        return self.standing

    def _record(self, flight: _Flight, now: float) -> None:
        """Record and count one Probe, as upstream does, and keep it in the history."""
        result = flight.found.result
        self.history.probed(flight.started, now - flight.started, result.reason, flight.joined)
        if result is not NO_TIME:
            self._metrics.operation(flight.question.method, result.code, now - flight.started)
        if result.reason is None:
            log.v(5).info(result.record)
        else:
            self._metrics.failed(result.reason)
            log.error(result.record, err=result.err, **result.cause)

    def _record_change(self, now: float) -> None:
        """One record when what is reported has changed; while it stays a failure, one more behind every few probes."""
        report = self.standing.ready.report
        assert report is not None  # there is a result
        self._metrics.reported(report.reason is None)
        self.history.reported(now, report, self.driver_name.text)
        driver = self.driver_name.text
        if report.reason is self._reported:
            self._untold += report.reason is not None
            if report.reason is not None and self._untold == REMIND_PROBES:
                self._untold = 0
                advice = WAYS_OUT[report.reason]
                log.warning("CSI driver is still unhealthy", driver=driver, reason=report.reason.value, advice=advice)
            return
        self._untold = 0
        if report.reason is None:
            lasted = format_seconds(round(now - self._unhealthy_since, 3))
            log.info("CSI driver is healthy again", driver=driver, unhealthyFor=lasted)
        else:
            if self._reported is None:
                self._unhealthy_since = now
            log.warning("CSI driver is unhealthy", driver=driver, reason=report.reason.value, detail=report.body)
        self._reported = report.reason

    # --- Probes on schedule

    async def run(self) -> None:
        """Probe on schedule while an interval is set; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._adopted.clear()
            interval = self.settings.interval
            if not interval:
                await self._adopted.wait()
                continue
            schedule = Schedule(loop.time(), interval, random.random())  # noqa: S311  spreads pods; no secret depends on it
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


async def _end_of(flight: _Flight, deadline: float) -> Standing | None:
    """What is reported once `flight` has ended; None if it goes on after `deadline`, or was cancelled."""
    flight.callers += 1
    flight.joined += 1
    try:
        if flight.question.deadline <= deadline:
            return await asyncio.shield(flight.task)
        done, _ = await asyncio.wait({flight.task}, timeout=max(0, deadline - asyncio.get_running_loop().time()))
        return flight.task.result() if done else None
    finally:
        flight.callers -= 1


def _least_seconds(timeout: float) -> float:
    """The least time in which a probe that fails says something about the driver."""
    return min(CUT_SHORT_SECONDS, timeout / 2)


def _ran_out_of_time(flight: _Flight, caller: _Caller) -> bool:
    """Whether `flight` ended only because its time was up, while `caller` has more."""
    if flight.found.result.reason in OUT_OF_TIME:
        return caller.deadline > flight.question.deadline
    unreachable = not flight.found.result.ready and not flight.found.connected
    return unreachable and caller.redial_until > flight.question.redial_until
