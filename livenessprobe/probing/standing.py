"""
Whether the driver is reported as healthy: the thresholds applied to results in a row.  Pure.

The rule is that of the kubelet's prober worker: a result is reported once it has come as often in a row as its threshold
says; until then the earlier report stands.  The first result is reported at once.
"""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.settings.model import Thresholds


class Health(NamedTuple):
    """The report on one question about the driver."""

    good: bool | None = None
    """The last result; None before the first."""
    run: int = 0
    """How many results of the same kind as the last one came in a row."""
    report: ProbeResult | None = None
    """The result that is reported: the newest of the kind that stands."""
    stands: bool | None = None
    """Whether the report is good."""
    seconds: float = 0.0
    """How long the reported probe took."""

    def after(self, result: ProbeResult, thresholds: Thresholds, *, good: bool, seconds: float = 0.0) -> Health:
        """The report after `result`, which is `good` or not."""
        run = self.run + 1 if self.good == good else 1
        needed = thresholds.success if good else thresholds.failure
        if self.stands is None or self.stands == good or run >= needed:
            return Health(good, run, result, good, seconds)
        return Health(good, run, self.report, self.stands, self.seconds)

    @property
    def failures(self) -> int:
        """How many failures came in a row up to the last result."""
        return 0 if self.good or self.good is None else self.run


class Standing(NamedTuple):
    """What is reported of the driver."""

    ready: Health = Health()
    """For /healthz and /readyz."""
    alive: Health = Health()
    """For /livez."""
    started: bool = False
    """For /startupz: whether this driver has been ready once."""
    result: ProbeResult | None = None
    """The last result itself."""
    at: float = 0.0
    """When the last result came."""

    def after(
        self, result: ProbeResult, thresholds: Thresholds, at: float, *, new_driver: bool = False, seconds: float = 0.0
    ) -> Standing:
        """
        What is reported after `result`, found by a Probe that took `seconds`.

        `new_driver` if it came through another socket file than the one before.
        """
        return Standing(
            ready=self.ready.after(result, thresholds, good=result.ready, seconds=seconds),
            alive=self.alive.after(result, thresholds, good=result.alive, seconds=seconds),
            started=result.ready or (self.started and not new_driver),
            result=result,
            at=at,
        )

    def is_fresh(self, now: float, lasts: float) -> bool:
        """Whether there is a result, no more than `lasts` seconds old."""
        return self.result is not None and now - self.at <= lasts
