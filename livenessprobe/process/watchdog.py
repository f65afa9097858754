"""
A thread that ends the process if the event loop is stuck.

With a stuck event loop all health requests time out, and the kubelet keeps restarting the driver, which is not at fault.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from typing import NoReturn

from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.process import termination

log = get_logger(__file__)

EXIT_CODE = 4
CHECK_SECONDS = 5.0
"""Between two checks, each of which asks the loop to run a callback."""
LATE_SECONDS = 1.0
"""A check that is later than this starts the count anew: the process was stopped or had no CPU, and the loop may work."""
STUCK_SECONDS = 60.0
"""The loop is stuck if it runs no callback for this long while all checks are on time."""


@dataclass(slots=True)
class Detector:
    """Decides whether the loop is stuck.  Pure: times are seconds of any monotonic clock."""

    due: float
    """When the next check is due."""
    silent_since: float
    callbacks: int = 0

    def check(self, now: float, callbacks: int) -> bool:
        """Whether the loop is stuck; it has run `callbacks` callbacks up to `now`."""
        if callbacks != self.callbacks or now > self.due + LATE_SECONDS:
            self.callbacks, self.silent_since = callbacks, now
        self.due = now + CHECK_SECONDS
        return now - self.silent_since >= STUCK_SECONDS


class Watchdog:
    """Watches the running event loop while this is entered."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks = 0
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _count_callback(self) -> None:
        self._callbacks += 1

    def _watch(self) -> None:
        now = time.monotonic()
        detector = Detector(due=now + CHECK_SECONDS, silent_since=now)
        while not self._stopped.wait(max(0.0, detector.due - time.monotonic())):
            if detector.check(time.monotonic(), self._callbacks):
                self._exit()
            try:
                self._loop.call_soon_threadsafe(self._count_callback)
            except RuntimeError:
                return  # the loop is closed

    def _exit(self) -> NoReturn:
        message = f"livenessprobe: event loop stuck for {STUCK_SECONDS:.0f}s; exiting to be restarted by the kubelet"
        log.error("Event loop is stuck; exiting", seconds=int(STUCK_SECONDS))
        termination.leave(message)
        klog.flush()
        os._exit(EXIT_CODE)
