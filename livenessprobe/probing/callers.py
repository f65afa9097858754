"""Clients that ask for health: counts hang-ups, and estimates the timeout of a kubelet that hangs up too early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from livenessprobe.gotext import format_seconds
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.advice import IMPATIENT_KUBELET
from livenessprobe.probing.askers import KUBELET, Asker, Askers, Client
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.standing import Standing

log = get_logger(__file__)

SHORTEST_SECONDS = 0.9
"""timeoutSeconds is an integer of 1 or more, so a kubelet hangs up sooner only when it stops; 0.1 s for its other clock."""
LATE_SECONDS = 1.0
"""A response this late after the probe timeout is late through our fault: a hang-up then is not too early."""
FORGET_SECONDS = 600.0
CLIENTS_MAX = 64


class Caller(NamedTuple):
    """One request for health."""

    client: Client
    hang_up: asyncio.Future[float] | None = None
    """Gets the time at which the client hung up, if it does so before its response; perhaps later than the response."""


class _Wait(NamedTuple):
    seconds: float
    hung_up: bool
    """Whether the client hung up then; otherwise it got its response."""
    seen: float
    """When a wait of this client was last seen."""


class KubeletTimeouts:
    """
    Estimates the timeouts of kubelets from how long their requests waited.  Pure: `now` is the time of a monotonic clock.

    The timeoutSeconds of a running pod never changes, so the longest wait of a client counts.  If it ended in a hang-up, it
    is the timeout.  If it ended in a response, the timeout is longer, and shorter hang-ups were not the kubelet's.
    """

    def __init__(self) -> None:
        self._longest: dict[Client, _Wait] = {}
        """The client seen last comes last."""

    def saw(self, client: Client, seconds: float, now: float, *, hung_up: bool) -> None:
        """A request of `client` has waited for `seconds`, until its response or until the client `hung_up`."""
        if not client[1].startswith(KUBELET) or seconds < SHORTEST_SECONDS:
            return
        self._forget(now)
        before = self._longest.pop(client, None)
        if before is not None and before.seconds > seconds:
            seconds, hung_up = before.seconds, before.hung_up
        elif len(self._longest) >= CLIENTS_MAX:
            del self._longest[next(iter(self._longest))]
        self._longest[client] = _Wait(seconds, hung_up, now)

    def shortest(self, now: float) -> float:
        """The shortest timeout of a kubelet that hung up, in seconds; 0 if none did."""
        self._forget(now)
        return min((wait.seconds for wait in self._longest.values() if wait.hung_up), default=0.0)

    def _forget(self, now: float) -> None:
        for client in [client for client, wait in self._longest.items() if now - wait.seen > FORGET_SECONDS]:
            del self._longest[client]


class Callers:
    """Passes requests for health on to the prober, and observes how long they wait."""

    def __init__(self, prober: Prober, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._prober = prober
        self._metrics = metrics
        self._clock = clock
        self._timeouts = KubeletTimeouts()
        self.askers = Askers()
        self._warned = False
        metrics.kubelet_patience.set_function(lambda: self._timeouts.shortest(clock()))

    @property
    def kubelet_timeout(self) -> float:
        """The shortest timeout of a kubelet that hung up before the probe timeout, in seconds; 0 if none did."""
        return self._timeouts.shortest(self._clock())

    @property
    def driver(self) -> str:
        """The driver's name."""
        return self._prober.driver_name.text

    async def check(self, caller: Caller) -> Standing:
        """What is reported of the driver now.  Cancel this call only if the connection is gone, so that there is no response."""
        started = self._clock()
        client, hang_up = caller
        asker = self.askers.came(client, started)
        if hang_up is not None:
            hang_up.add_done_callback(lambda at: self._hung_up(client, asker, started, at.result()))
        standing = await self._prober.check()
        if hang_up is None or not hang_up.done():
            now = self._clock()
            self._timeouts.saw(client, now - started, now, hung_up=False)
            asker.answered(now - started, good=_is_good(client[2], standing))
        return standing

    def _hung_up(self, client: Client, asker: Asker, started: float, at: float) -> None:
        """The client hung up `at` this time of the clock, before its response."""
        now = max(at, started)  # a request may have come ahead of the FIN, and been started behind it
        self._metrics.callers_gone.inc()
        asker.hung_up(now - started)
        too_early = now - started <= self._prober.settings.probe_timeout + LATE_SECONDS
        self._timeouts.saw(client, now - started, now, hung_up=too_early)
        if (shortest := self._timeouts.shortest(now)) and not self._warned:
            self._warned = True
            log.warning(
                IMPATIENT_KUBELET.what,
                waited=format_seconds(round(shortest, 1)),
                probeTimeout=format_seconds(self._prober.settings.probe_timeout),
                advice=IMPATIENT_KUBELET.way_out,
            )


def _is_good(path: str, standing: Standing) -> bool:
    """Whether the response of `path` to `standing` is a 200."""
    match path:
        case "/livez":
            return bool(standing.alive.stands)
        case "/startupz":
            return standing.started
        case "/readyz":
            return bool(standing.alive.stands and standing.ready.stands)
    return standing.ready.report is not None and standing.ready.report.ready
