"""
The last probes, and the last changes of what is reported.  Pure: times are seconds of any monotonic clock.

It outlives the driver's restarts, and ends with the process.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.probing.advice import HeldBack

PROBES_MAX, CHANGES_MAX = 100, 50
"""How many of each are kept; older entries are dropped."""
SENTENCE_MAX = 512
"""Characters of a sentence that are kept: a driver's message may have 64 KiB."""


class Probe(NamedTuple):
    """One Probe that has ended."""

    started: float
    seconds: float
    reason: Reason | None
    """Why it failed; None if the driver was ready."""
    callers: int
    """How many requests waited for the Probe, with clients that hung up; a Probe on schedule counts one."""


class Change(NamedTuple):
    """What has been reported since a moment, until the next change."""

    at: float
    reason: Reason | None
    """Why the driver is reported as unhealthy; None if it is reported as healthy."""
    sentence: str
    """The body of /healthz, cut."""
    driver: str
    """The driver's name, as far as it was known."""


class History:
    """Keeps the last PROBES_MAX probes and the last CHANGES_MAX changes, the oldest first."""

    def __init__(self) -> None:
        self.probes: deque[Probe] = deque(maxlen=PROBES_MAX)
        self.changes: deque[Change] = deque(maxlen=CHANGES_MAX)
        """The last one is in force; none before the first Probe has ended."""
        self.probes_total = 0
        self.changes_total = 0
        self.repeated_total = 0
        """Probes that were made again, since this process itself was held back until their time ran out."""
        self.repeated_at = 0.0
        """When that was last so, and why."""
        self.held_back: HeldBack | None = None
        self.side_since = 0.0
        """Since when the driver has been reported as healthy, or as unhealthy, whatever the reasons since then."""

    def probed(self, started: float, seconds: float, reason: Reason | None, callers: int) -> None:
        """Add a Probe that has ended."""
        self.probes_total += 1
        self.probes.append(Probe(started, seconds, reason, callers))

    def repeated(self, at: float, held_back: HeldBack) -> None:
        """Add a Probe that is made again, since this process was `held_back`."""
        self.repeated_total += 1
        self.repeated_at, self.held_back = at, held_back

    def reported(self, at: float, report: ProbeResult, driver: str) -> None:
        """Add `report`, the result that is reported of `driver` from `at` on, unless its reason is the one in force."""
        last = self.changes[-1] if self.changes else None
        if last is not None and last.reason is report.reason:
            return
        if last is None or (last.reason is None) != (report.reason is None):
            self.side_since = at
        self.changes_total += 1
        self.changes.append(Change(at, report.reason, report.body[:SENTENCE_MAX], driver))
