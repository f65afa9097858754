"""
A thread that ends the process if its event loop is stuck for good.

Nothing else could tell: a stuck loop answers nobody, the kubelet takes that for the driver's failure, and restarts the wrong
container again and again.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.process import termination

log = get_logger(__file__)

EXIT_CODE = 4
EVERY = 5.0
"""Seconds between looks."""
LATE = 1.0
"""Seconds by which a look may come late.  Later, the process was stopped or had no CPU, and the loop is not to blame."""
PATIENCE = 60.0
"""Seconds without a sign of the loop, in all of which the looks came on time."""


@dataclass(slots=True)
class Verdict:
    """What the looks add up to.  Pure: times are seconds of any clock that never goes back."""

    due: float
    silent_since: float
    beats: int = 0

    def look(self, now: float, beats: int) -> bool:
        """Whether the loop is stuck, given that it has answered `beats` looks until `now`."""
        if beats != self.beats or now > self.due + LATE:
            self.beats, self.silent_since = beats, now
        self.due = now + EVERY
        return now - self.silent_since >= PATIENCE


class Watchdog:
    """Watches the running loop while it is entered; `termination_log` is the path for the kubelet's message."""

    def __init__(self, termination_log: str, die: Callable[[int], object] = os._exit) -> None:
        self._termination_log = termination_log
        self._die = die
        self._loop = asyncio.get_running_loop()
        self._beats = 0
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _beat(self) -> None:
        self._beats += 1

    def _watch(self) -> None:
        now = time.monotonic()
        verdict = Verdict(due=now + EVERY, silent_since=now)
        while not self._stopped.wait(max(0.0, verdict.due - time.monotonic())):
            if verdict.look(time.monotonic(), self._beats):
                self._end()
                return
            try:
                self._loop.call_soon_threadsafe(self._beat)
            except RuntimeError:
                return  # closed

    def _end(self) -> None:
        message = f"livenessprobe: event loop stuck for {PATIENCE:.0f}s; exiting so that the kubelet starts it anew"
        log.error("Event loop is stuck; exiting", seconds=int(PATIENCE))
        termination.leave(self._termination_log, message)
        klog.flush()
        self._die(EXIT_CODE)
