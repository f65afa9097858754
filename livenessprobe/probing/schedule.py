"""When the next Probe on schedule is due.  Pure: times are seconds of any monotonic clock."""

from __future__ import annotations

import math
from typing import NamedTuple

MARGIN = 1.0
"""Seconds by which a result may come late before the one before it is too old."""


class Schedule(NamedTuple):
    """
    Moments `interval` apart, without end.  A slow or late Probe does not shift later ones.

    `phase`, a random number from 0 to 1, shortens the first gap, so that the pods of a cluster do not probe at the same time.
    Jitter in each gap would make some longer than the interval, and a failure would be reported later than promised.
    """

    start: float
    interval: float
    phase: float = 0.0

    def next_after(self, now: float) -> float:
        """The next moment after `now`; missed moments are left out."""
        origin = self.start - self.phase * self.interval
        count = math.floor((now - origin) / self.interval) + 1
        if origin + count * self.interval <= now:  # rounding may lead back to `now`
            count += 1
        return origin + count * self.interval


def report_lasts(interval: float, timeout: float) -> float:
    """Seconds for which a result may be reported: until the next result must have come."""
    return interval + max(timeout, 0.0) + MARGIN
