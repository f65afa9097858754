"""Those who ask for health: how long they wait, and what a kubelet that hangs up too soon is told."""

from __future__ import annotations

import asyncio
import time

from livenessprobe.gotext import format_seconds
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing.patience import KUBELET, Caller, Patience
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.standing import Standing

log = get_logger(__file__)


class Callers:
    """What is known of them."""

    def __init__(self, prober: Prober, metrics: Metrics) -> None:
        self._prober = prober
        self._metrics = metrics
        self._patience = Patience()
        self._advised = False
        metrics.kubelet_patience.set_function(lambda: self._patience.shortest(time.monotonic()))

    async def check(self, caller: Caller) -> Standing:
        """What is reported, in time for this caller if it is known to hang up."""
        started = time.monotonic()
        patience = None
        try:
            standing = await self._prober.check(patience)
        except asyncio.CancelledError:
            now = time.monotonic()
            self._metrics.callers_gone.inc()
            self._patience.hung_up(caller, now - started, now)
            self._advise(caller[1], now - started)
            raise
        now = time.monotonic()
        self._patience.answered(caller, now - started, now, hurried=patience is not None)
        return standing

    def _advise(self, user_agent: str, seconds: float) -> None:
        """One record for a kubelet that hangs up before the probe timeout: most manifests have that mistake."""
        timeout = self._prober.settings.probe_timeout
        if self._advised or not user_agent.startswith(KUBELET) or seconds > timeout + 1:
            return
        self._advised = True
        log.warning(
            "The kubelet hung up before the probe timeout, so it never sees the reason of a failure",
            waited=format_seconds(round(seconds, 1)),
            probeTimeout=format_seconds(timeout),
            advice="set timeoutSeconds of the liveness probe above --probe-timeout",
        )
