"""
How long a kubelet waits before it hangs up, learnt from those that did.  Pure.

A caller is known by its address and user agent, and what is learnt from one counts for that one alone.  Whoever shares
both with a kubelet could still mislead us about it; so a single request that waited longer than what was learnt unlearns it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

KUBELET = "kube-probe/"
"""How the user agent of a kubelet's probe begins."""
GIVE_UPS = 3
"""Hang-ups after which the longest of them is believed."""
SHORTEST = 1.0
"""Seconds; timeoutSeconds is 1 or more, so no kubelet hangs up sooner and none is answered sooner because of this."""
QUIET = 600.0
"""Seconds without a request after which a caller is forgotten."""
CALLERS_MAX = 64


@dataclass(slots=True)
class _Seen:
    hang_ups: deque[float] = field(default_factory=lambda: deque(maxlen=GIVE_UPS))
    last: float = 0.0


class Patience:
    """What is known of callers; times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._callers: dict[tuple[str, str], _Seen] = {}

    def hung_up(self, caller: tuple[str, str], waited: float, now: float) -> None:
        """A request of `caller` (address, user agent) ended because it hung up after `waited` seconds."""
        if caller[1].startswith(KUBELET) and waited >= SHORTEST * 0.9:
            self._seen(caller, now).hang_ups.append(waited)

    def answered(self, caller: tuple[str, str], waited: float, now: float) -> None:
        """A request of `caller` had its answer after `waited` seconds."""
        self._forget(now)
        if (seen := self._callers.get(caller)) is not None:
            seen.last = now
            if seen.hang_ups and waited > max(seen.hang_ups):
                seen.hang_ups.clear()

    def of(self, caller: tuple[str, str], now: float) -> float | None:
        """Seconds within which `caller` must have its answer; None if it is not known to hang up."""
        learnt = self.learnt(caller, now)
        return None if learnt is None else max(SHORTEST, learnt - max(0.2, learnt / 10))

    def learnt(self, caller: tuple[str, str], now: float) -> float | None:
        """Seconds after which `caller` hangs up."""
        self._forget(now)
        seen = self._callers.get(caller)
        return max(seen.hang_ups) if seen is not None and len(seen.hang_ups) == GIVE_UPS else None

    def shortest(self, now: float) -> float:
        """The least patience known of any caller, in seconds; 0 if none is known."""
        known = [learnt for caller in list(self._callers) if (learnt := self.learnt(caller, now)) is not None]
        return min(known, default=0.0)

    def _seen(self, caller: tuple[str, str], now: float) -> _Seen:
        self._forget(now)
        if caller not in self._callers and len(self._callers) >= CALLERS_MAX:
            del self._callers[min(self._callers, key=lambda other: self._callers[other].last)]
        seen = self._callers.setdefault(caller, _Seen())
        seen.last = now
        return seen

    def _forget(self, now: float) -> None:
        for caller in [caller for caller, seen in self._callers.items() if now - seen.last > QUIET]:
            del self._callers[caller]
