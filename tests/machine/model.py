"""
The correct behaviour of the sidecar, written down a second time and as simply as possible.

The model is a set of beliefs, each a possible count of results so far.  A probe turns each belief into one or more new
ones; a response removes the beliefs that contradict it.  If none is left, sidecar and model disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

ANSWERS = (None, "not_ready", "driver_error", "unimplemented")
"""Reasons with which a driver counts as alive: it responded to the call."""
ENOUGH = 3
"""The largest threshold in use; longer runs are counted as this long."""

Socket = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a probe; `reached` if there was a connection that speaks gRPC."""

    reason: str | None
    reached: bool = True

    @property
    def ready(self) -> bool:
        return self.reason is None

    @property
    def alive(self) -> bool:
        return self.reason in ANSWERS


READY = Outcome(None)


def turned_away(in_a_row: int) -> str | None:
    """
    The reason after a ready driver has not looked at that number of calls of a probe, each on a fresh connection.

    The first is made again; the second is the result.
    """
    return "connection_lost" if in_a_row > 1 else None


def most_names(seconds: float) -> int:
    """How often a driver whose GetPluginInfo fails may be asked its name: at once, after 0.1 s, and then half as often, to 1 s."""
    asked, pause, passed = 1, 0.1, 0.1
    while passed <= seconds:
        asked, pause = asked + 1, min(2 * pause, 1.0)
        passed += pause
    return asked


@dataclass(frozen=True, slots=True)
class Count:
    """
    The count for one question (ready or alive): the last result, the length of its run, the reported result and its
    reason.
    """

    good: bool | None = None
    run: int = 0
    stands: bool | None = None
    reason: str | None = None

    def after(self, good: bool, reason: str | None, needed: int) -> Count:
        run = min(self.run + 1, ENOUGH) if self.good == good else 1
        if self.stands in (None, good) or run >= needed:
            return Count(good, run, good, reason)
        return Count(good, run, self.stands, self.reason)


@dataclass(frozen=True, slots=True)
class Belief:
    ready: Count = Count()
    alive: Count = Count()
    started: bool = False
    socket: Socket = None
    """The socket that was last reached."""
    changes: int = 0
    """Changes of the report since the step began."""

    def after(self, outcome: Outcome, socket: Socket, failures: int, successes: int) -> Belief:
        other = outcome.reached and socket != self.socket
        ready = self.ready.after(outcome.ready, outcome.reason, successes if outcome.ready else failures)
        changed = self.ready.stands is not None and self.ready.stands != ready.stands
        return Belief(
            ready=ready,
            alive=self.alive.after(outcome.alive, outcome.reason, successes if outcome.alive else failures),
            started=outcome.ready or (self.started and not other),
            socket=socket if outcome.reached else self.socket,
            changes=self.changes + changed,
        )

    def says(self, path: str) -> tuple[int, str | None]:
        """Status and reason of a response."""
        reported = None if self.ready.stands else self.ready.reason
        if path == "/startupz":
            return (200, None) if self.started else (500, reported)
        failed = not self.ready.stands
        if path in ("/livez", "/readyz") and not self.alive.stands:
            failed, reported = True, self.alive.reason
        elif path == "/livez":
            failed = False
        return (500, reported) if failed else (200, None)

    def anew(self) -> Belief:
        return replace(self, changes=0)


def probed(
    beliefs: Iterable[Belief], outcomes: Iterable[Outcome], socket: Socket, failures: int, successes: int
) -> set[Belief]:
    """The beliefs after one more probe."""
    return {belief.after(outcome, socket, failures, successes) for belief in beliefs for outcome in outcomes}
