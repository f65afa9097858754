"""When to probe next, if probes run by themselves.  Pure: times are numbers of any clock that never goes back."""

from __future__ import annotations

import math
from typing import NamedTuple

MARGIN = 1.0
"""Seconds by which a report may come late before it counts as old."""


class Schedule(NamedTuple):
    """
    Moments `interval` apart, for ever: what takes long or comes late moves none of them.

    The jitter is in `phase`, a number from 0 to 1 of each process's own, by which the first gap is shorter.  Gaps that
    vary would be longer than the interval at times, and a dead driver be seen later than threshold and interval promise.
    """

    start: float
    interval: float
    phase: float = 0.0

    def next_after(self, now: float) -> float:
        """The next moment after `now`; those that were missed are left out."""
        origin = self.start - self.phase * self.interval
        count = math.floor((now - origin) / self.interval) + 1
        if origin + count * self.interval <= now:  # at a moment itself rounding may lead back to it
            count += 1
        return origin + count * self.interval


def report_lasts(interval: float, timeout: float) -> float:
    """Seconds for which a report is good enough to answer with: until the next one must be there."""
    return interval + max(timeout, 0.0) + MARGIN
