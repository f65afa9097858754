"""Detects repeated error records: the log writes the first ones, and one summary with the number of the others.  Pure."""

from __future__ import annotations

from livenessprobe.klog.format import Record

FOLD_AFTER = 10
"""Equal records that are written in one window; more are only counted."""
FOLD_SECONDS = 60.0
"""The length of a window, which begins with the first of equal records."""


class RepeatFilter:
    """Counts equal error records in windows of FOLD_SECONDS, and holds back all after the first FOLD_AFTER."""

    KEYS = 64
    """Windows at the same time; records beyond them are all written."""

    def __init__(self) -> None:
        self._windows: dict[int, tuple[float, int, Record | None]] = {}
        """End, count, and the last record that was held back.  By a hash, because a driver's messages may be long."""

    def should_write(self, record: Record, now: float) -> bool:
        """Count `record`; returns whether to write it, rather than to hold it back."""
        key = hash((record.severity, record.message, repr(record.pairs), str(record.err)))
        if key not in self._windows and len(self._windows) >= self.KEYS:
            return True
        end, count, _ = self._windows.get(key, (now + FOLD_SECONDS, 0, None))
        held_back = count >= FOLD_AFTER
        self._windows[key] = (end, count + 1, record if held_back else None)
        return not held_back

    def close_windows(self, now: float) -> list[Record]:
        """Close the windows that have ended by `now`; returns a summary for each that held records back."""
        summaries = []
        for key in [key for key, (end, _, _) in self._windows.items() if end <= now]:
            _, count, last = self._windows.pop(key)
            if last is not None:
                pairs = (*last.pairs, ("repeated", count - FOLD_AFTER))
                summaries.append(Record(last.severity, last.level, last.message, pairs, last.err, last.caller))
        return summaries

    def next_end(self) -> float | None:
        """When the oldest window ends; None if there is none."""
        return min((end for end, _, _ in self._windows.values()), default=None)
