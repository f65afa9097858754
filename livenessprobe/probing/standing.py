"""
What a run of probes adds up to.

Pure.  The rule is that of the kubelet's prober worker: a result is reported once it has been seen as often in a row as its
threshold says; until then the earlier report stands.  The first result is reported at once, having nothing earlier to
stand on.
"""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.settings.model import Thresholds


class Health(NamedTuple):
    """One question about the driver, and the answer that stands."""

    good: bool | None = None
    """The last result; None before the first."""
    run: int = 0
    """How many results like the last one came in a row."""
    report: ProbeResult | None = None
    """What is reported: the newest result of the kind that stands."""
    stands: bool | None = None
    """Whether that is a good one."""

    def after(self, result: ProbeResult, thresholds: Thresholds, *, good: bool) -> Health:
        """The health once `result`, which is `good` or not, is known."""
        run = self.run + 1 if self.good == good else 1
        needed = thresholds.success if good else thresholds.failure
        if self.stands is None or self.stands == good or run >= needed:
            return Health(good, run, result, good)
        return Health(good, run, self.report, self.stands)

    @property
    def failures(self) -> int:
        """How many failures came in a row, up to the last result."""
        return 0 if self.good or self.good is None else self.run


class Standing(NamedTuple):
    """All that is reported of the driver."""

    ready: Health = Health()
    """For /healthz and /readyz."""
    alive: Health = Health()
    """For /livez."""
    started: bool = False
    """For /startupz: whether this driver has been ready once."""
    result: ProbeResult | None = None
    """The last result itself."""
    at: float = 0.0
    """When it came."""

    def after(self, result: ProbeResult, thresholds: Thresholds, at: float, *, new_driver: bool = False) -> Standing:
        """What is reported once `result` has come; `new_driver` if it is not the driver of before."""
        return Standing(
            ready=self.ready.after(result, thresholds, good=result.ready),
            alive=self.alive.after(result, thresholds, good=result.alive),
            started=result.ready or (self.started and not new_driver),
            result=result,
            at=at,
        )

    def is_fresh(self, now: float, lasts: float) -> bool:
        """Whether there is a result that is not older than it `lasts`."""
        return self.result is not None and now - self.at <= lasts
