"""Which error records are repeats of one another, and become one with a count."""

from __future__ import annotations

from livenessprobe.klog.format import Record

FOLD_AFTER = 10
FOLD_SECONDS = 60.0


class Folder:
    """Which error records to hold back: after FOLD_AFTER equal ones in FOLD_SECONDS, the rest become one with a count."""

    KEYS = 64

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, int, Record | None]] = {}
        """By the hash of what makes records equal, since a driver's words may be long: when, how many, and what is held back."""

    def offer(self, record: Record, now: float) -> bool:
        """Whether to write `record` now."""
        key = hash(record.key())
        started, count, _ = self._seen.get(key, (now, 0, None))
        if not count and len(self._seen) >= self.KEYS:
            return True
        held_back = count >= FOLD_AFTER
        self._seen[key] = (started, count + 1, record if held_back else None)
        return not held_back

    def due(self, now: float) -> list[Record]:
        """The folded records of windows that have ended by `now`, which end with this call."""
        ended = [key for key, (started, _, _) in self._seen.items() if now - started >= FOLD_SECONDS]
        folded = []
        for key in ended:
            _, count, last = self._seen.pop(key)
            if last is not None:
                pairs = (*last.pairs, ("repeated", count - FOLD_AFTER))
                folded.append(Record(last.severity, last.level, last.message, pairs, last.err, last.caller))
        return folded

    def next_due(self) -> float | None:
        """When the oldest window ends; None if none is open."""
        return min((started for started, _, _ in self._seen.values()), default=None)
