"""
How long a kubelet waits before it hangs up, learnt from those that did.  Pure.

A caller is known by its address, its user agent and what it asks for, and what is learnt from one counts for that one
alone.  Whoever shares all three with a kubelet could still mislead us about it; so hang-ups that come sooner than the
caller was ever seen to wait are somebody else's, and a request that waits longer than what was learnt unlearns it.
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
SOONEST = 0.9 * SHORTEST
"""The same by a clock that is a little off."""
QUIET = 600.0
"""Seconds without a request after which a caller is forgotten; so long, at least, it is remembered how long one waited."""
NEAR = 0.3
"""Seconds by which waits of equal length may seem to differ, on a machine that is busy."""
CALLERS_MAX = 64


Caller = tuple[str, str, str]
"""Address, user agent, path."""


@dataclass(slots=True)
class _Seen:
    since: float
    """When the present period of QUIET seconds began."""
    hang_ups: deque[float] = field(default_factory=lambda: deque(maxlen=GIVE_UPS))
    """The last ones, all of about the same length."""
    longest: float = 0.0
    """So long the caller has surely waited in this period."""
    longest_before: float = 0.0
    """The same for the period before."""
    last: float = 0.0

    def learnt(self) -> float | None:
        return max(self.hang_ups) if len(self.hang_ups) == GIVE_UPS else None

    def floor(self) -> float:
        """Hang-ups sooner than this are somebody else's."""
        return max(self.longest, self.longest_before, (self.learnt() or 0.0) - NEAR)

    def age(self, now: float) -> None:
        """Begin a new period if it is time; what was seen counts for one or two of them."""
        if now - self.since < QUIET:
            return
        self.since = now
        self.longest, self.longest_before = 0.0, self.longest
        if any(waited - NEAR > self.floor() for waited in self.hang_ups):
            self.hang_ups.clear()  # or a single long one would make others that are alike look foreign for ever


class Patience:
    """What is known of callers; times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._callers: dict[Caller, _Seen] = {}

    def hung_up(self, caller: Caller, waited: float, now: float) -> None:
        """A request of `caller` ended because it hung up after `waited` seconds."""
        if not caller[1].startswith(KUBELET) or waited < SOONEST:
            return
        seen = self._seen(caller, now)
        if waited >= seen.floor():
            if any(earlier < waited - NEAR for earlier in seen.hang_ups):
                seen.hang_ups.clear()
            seen.hang_ups.append(waited)
        seen.longest = max(seen.longest, waited - NEAR)

    def answered(self, caller: Caller, waited: float, now: float, *, hurried: bool = False) -> None:
        """A request of `caller` had its answer after `waited` seconds; `hurried` if that was to come before it hangs up."""
        if not caller[1].startswith(KUBELET) or (caller not in self._callers and waited < SOONEST):
            return
        seen = self._seen(caller, now)
        if hurried:  # if it came late nevertheless, nobody knows whether it was still waited for
            return
        seen.longest = max(seen.longest, waited)
        if seen.hang_ups and waited > max(seen.hang_ups):
            seen.hang_ups.clear()

    def of(self, caller: Caller, now: float) -> float | None:
        """Seconds within which `caller` must have its answer; None if it is not known to hang up."""
        learnt = self.learnt(caller, now)
        return None if learnt is None else max(SHORTEST, learnt - max(0.2, learnt / 10))

    def learnt(self, caller: Caller, now: float) -> float | None:
        """Seconds after which `caller` hangs up."""
        self._forget(now)
        seen = self._callers.get(caller)
        return None if seen is None else seen.learnt()

    def shortest(self, now: float) -> float:
        """The least patience known of any caller, in seconds; 0 if none is known."""
        known = [learnt for caller in list(self._callers) if (learnt := self.learnt(caller, now)) is not None]
        return min(known, default=0.0)

    def _seen(self, caller: Caller, now: float) -> _Seen:
        self._forget(now)
        if caller not in self._callers and len(self._callers) >= CALLERS_MAX:
            del self._callers[min(self._callers, key=lambda other: self._callers[other].last)]
        seen = self._callers.setdefault(caller, _Seen(now))
        seen.last = now
        seen.age(now)
        return seen

    def _forget(self, now: float) -> None:
        for caller in [caller for caller, seen in self._callers.items() if now - seen.last > QUIET]:
            del self._callers[caller]
