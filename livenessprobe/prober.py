"""When to ask the driver and what to answer: one Probe in flight for all callers, and the driver's name learnt beside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from livenessprobe.connection import NotConnected
from livenessprobe.gotext import format_duration
from livenessprobe.health import NO_TIME, ProbeResult, Reason
from livenessprobe.identity import NAME_TIMEOUT, PROBE, Attempt, DriverError, Identity
from livenessprobe.klog import get_logger
from livenessprobe.metrics import UNKNOWN_DRIVER, Metrics
from livenessprobe.settings import Settings

log = get_logger(__file__)

STILL_CONNECTING_SECONDS = 10.0
NAME_BACKOFF_MAX = 1.0


@dataclass(eq=False, slots=True)
class _Caller:
    """What one request may wait for.  Times are the loop's."""

    deadline: float
    redial_until: float


@dataclass(slots=True)
class _Flight:
    attempt: Attempt
    task: asyncio.Task[ProbeResult]


class Prober:
    """Answers for the driver."""

    def __init__(self, identity: Identity, settings: Settings, metrics: Metrics) -> None:
        self._identity = identity
        self._metrics = metrics
        self.adopt(settings)
        self._flight: _Flight | None = None
        """The one that new callers join."""
        self._flights: set[asyncio.Task[ProbeResult]] = set()
        self._callers: set[_Caller] = set()
        self._reported: Reason | None = None
        self._unready_since = 0.0
        self._away = False
        self._named_peer: object = None
        self._name_wanted = asyncio.Event()
        self._name_wanted.set()

    def adopt(self, settings: Settings) -> None:
        """Go by `settings` from now on.  A request in flight keeps those it began with."""
        self.settings = settings
        self._identity.dialer.reuse = settings.connection_reuse
        self._metrics.probe_timeout.set(settings.probe_timeout)

    def longest_wait(self) -> float:
        """Seconds until every request has its answer, those that come now included."""
        now = asyncio.get_running_loop().time()
        return max(0.0, self.settings.probe_timeout, *(caller.deadline - now for caller in self._callers))

    # --- health

    async def check(self) -> ProbeResult:
        """
        What the driver says now, within the probe timeout counted from this call.

        Joins a Probe in flight.  If that one runs out of time before this caller does, the next one is joined or begun with
        what is left.
        """
        timeout, grace = self.settings.probe_timeout, self.settings.unreachable_grace
        if timeout <= 0:
            self._metrics.probed(NO_TIME.reason, 0)
            log.error(NO_TIME.record, err=NO_TIME.err)
            return NO_TIME
        now = asyncio.get_running_loop().time()
        caller = _Caller(now + timeout, now + grace)
        self._callers.add(caller)
        try:
            return await self._wait(caller)
        finally:
            self._callers.discard(caller)
            if not self._callers:
                self._abandon()

    async def _wait(self, caller: _Caller) -> ProbeResult:
        loop = asyncio.get_running_loop()
        if self._flight is not None and self._identity.still_leads_there(self._flight.attempt):
            self._metrics.shared.inc()
        while True:
            flight = self._flight
            # A flight on another socket than the one that is there now would speak for a driver that is gone.
            if flight is None or not self._identity.still_leads_there(flight.attempt):
                flight = self._take_off()
            result = await _until(caller.deadline, flight)
            if result is None:
                return flight.attempt.so_far
            if loop.time() >= caller.deadline or not _ran_out_of_time(result, flight.attempt, caller):
                return result

    def _take_off(self) -> _Flight:
        """Begin a Probe that lasts as long as the most patient caller: a short one would fail a slow, healthy driver."""
        attempt = Attempt(
            started=asyncio.get_running_loop().time(),
            deadline=max(caller.deadline for caller in self._callers),
            redial_until=max(caller.redial_until for caller in self._callers),
        )
        task = asyncio.get_running_loop().create_task(self._fly(attempt), name="probe")
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)
        self._flight = _Flight(attempt, task)
        return self._flight

    def _abandon(self) -> None:
        """Nobody waits any more: end the Probe, as upstream does, so that it holds up nobody who comes next."""
        for flight in self._flights:
            flight.cancel()
        self._flight = None

    async def _fly(self, attempt: Attempt) -> ProbeResult:
        loop = asyncio.get_running_loop()
        try:
            result = NO_TIME if loop.time() >= attempt.deadline else await self._identity.probe(attempt)
        except Exception as error:  # noqa: BLE001  a fault of ours must become an answer, not a hung caller
            log.error("Probe failed inside the sidecar", err=repr(error))
            result = ProbeResult(
                Reason.INTERNAL, f"livenessprobe: internal error: {error!r}", "Health check failed", repr(error)
            )
        finally:
            if self._flight is not None and self._flight.task is asyncio.current_task():
                self._flight = None
        self._note(result, attempt, loop.time() - attempt.started)
        return result

    def _note(self, result: ProbeResult, attempt: Attempt, seconds: float) -> None:
        """Metrics, upstream's record, and one record of our own when health changes."""
        if result is not NO_TIME:
            self._metrics.operation(PROBE, result.code, seconds)
        self._metrics.probed(result.reason, seconds)
        if result.reason is None:
            log.v(5).info(result.record)
        else:
            log.error(result.record, err=result.err)
        self._note_change(result)
        if not attempt.connected or result.reason is Reason.CONNECTION_LOST:
            self._away = True
        elif self._away or self._identity.dialer.peer != self._named_peer:
            self._away = False
            self._name_wanted.set()  # a driver that was away, or another socket, may have another name

    def _note_change(self, result: ProbeResult) -> None:
        if result.reason is self._reported:
            return
        now = asyncio.get_running_loop().time()
        if result.reason is None:
            lasted = format_duration(int((now - self._unready_since) * 1000) * 1_000_000)
            log.info("CSI driver is healthy again", driver=self._metrics.driver_name, unhealthyFor=lasted)
        else:
            if self._reported is None:
                self._unready_since = now
            log.warning(
                "CSI driver is unhealthy", driver=self._metrics.driver_name, reason=result.reason.value, detail=result.body
            )
        self._reported = result.reason

    # --- the driver's name

    async def learn_names(self) -> None:
        """Ask for the driver's name, at the start and whenever it may have changed; runs until cancelled."""
        while True:
            await self._name_wanted.wait()
            self._name_wanted.clear()
            await self._learn_name()

    async def _learn_name(self) -> None:
        loop = asyncio.get_running_loop()
        log_connection = get_logger(__file__, "connection")
        log_connection.v(5).info("Connecting", address=self._identity.dialer.address.text)
        still_connecting = loop.time() + STILL_CONNECTING_SECONDS
        pause, announced = 0.1, False
        while True:
            patience = max(self.settings.probe_timeout, NAME_TIMEOUT)
            try:
                async with self._identity.dialled(patience) as connection:
                    if not announced:
                        log.info("Calling CSI driver to discover driver name")
                        announced = True
                    name = await self._identity.driver_name(connection, patience)
                    self._named_peer = connection.socket
                    self._named(name)
                    return
            except NotConnected:
                if loop.time() >= still_connecting:
                    log_connection.info("Still connecting", address=self._identity.dialer.address.text)
                    still_connecting = loop.time() + STILL_CONNECTING_SECONDS
            except DriverError as error:
                log.error("Failed to get CSI driver name", err=str(error))
            # A probe that reaches the driver ends the pause.
            await _nap(self._name_wanted, pause)
            pause = min(pause * 2, NAME_BACKOFF_MAX)

    def _named(self, name: str) -> None:
        if name != self._metrics.driver_name or self._metrics.driver_name == UNKNOWN_DRIVER:
            log.info("CSI driver name", driver=name)
            self._metrics.driver_name = name
        self._name_wanted.clear()


async def _until(deadline: float, flight: _Flight) -> ProbeResult | None:
    """The flight's result; None if it goes on after `deadline`.  The flight goes on whatever becomes of this caller."""
    if flight.attempt.deadline <= deadline:
        return await asyncio.shield(flight.task)
    done, _ = await asyncio.wait({flight.task}, timeout=max(0, deadline - asyncio.get_running_loop().time()))
    return flight.task.result() if done else None


def _ran_out_of_time(result: ProbeResult, attempt: Attempt, caller: _Caller) -> bool:
    """Whether the flight ended only because its time was up, while `caller` had more to give."""
    if result.reason is Reason.DEADLINE:
        return caller.deadline > attempt.deadline
    return not result.ready and not attempt.connected and caller.redial_until > attempt.redial_until


async def _nap(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
