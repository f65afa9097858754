"""Ways beside HTTP to tell what is reported: the health file, and the end of the process with a termination message."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.probing import health_file
from livenessprobe.probing.health_file import REQUEST_MODE_LASTS, HealthFileError
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.schedule import report_lasts
from livenessprobe.probing.standing import Standing
from livenessprobe.process import termination
from livenessprobe.settings.model import Settings

log = get_logger(__file__)

TELL_AGAIN_SECONDS = 60.0
"""After which what is still in the way of the health file is told again."""


class Outlets:
    """Follows a prober.  Set `noted` whenever something may have to be told."""

    def __init__(self) -> None:
        self.noted = asyncio.Event()
        self.failed = False
        """Whether --exit-on-failure has ended the process."""
        self._path = ""
        self._trouble = ""
        self._told = 0.0
        """When of it, by a clock that never goes back."""
        self._writing = threading.Lock()
        self._open = True

    def begin(self, path: str) -> None:
        """Before the first probe nothing is known, whatever an earlier process may have left at `path`."""
        self._path = path
        if path:
            self._try(health_file.remove, path)

    def end(self) -> None:
        """Nobody will renew the health file any more."""
        # A write that hangs, on a dead disk perhaps, must not keep the process from ending.
        locked = self._writing.acquire(timeout=1)
        self._open = False
        if self._path:
            self._try(health_file.remove, self._path)
        if locked:
            self._writing.release()

    async def run(self, prober: Prober, metrics: Metrics, stop: asyncio.Event) -> None:
        """Tell all that is noted; runs until cancelled."""
        while True:
            await self.noted.wait()
            self.noted.clear()
            settings, standing = prober.settings, prober.standing
            if settings.health_file or self._path:
                age = asyncio.get_running_loop().time() - standing.at
                try:
                    await asyncio.to_thread(self._tell_file, settings, standing, metrics.driver_name, age)
                except RuntimeError:  # no thread was to be had; better late for a moment than wrong
                    self._tell_file(settings, standing, metrics.driver_name, age)
            failures = standing.ready.failures
            if settings.exit_on_failure and failures >= settings.thresholds.failure:
                self._exit(settings, standing, failures)
                stop.set()
                return

    def _tell_file(self, settings: Settings, standing: Standing, driver: str, age: float) -> None:
        with self._writing:
            if not self._open:
                return
            if settings.health_file != self._path:
                if self._path:
                    self._try(health_file.remove, self._path)
                self.begin(settings.health_file)
            if not self._path or standing.result is None:
                return
            if standing.ready.stands:
                lasts = report_lasts(settings.interval, settings.probe_timeout) if settings.interval else REQUEST_MODE_LASTS
                self._try(health_file.write, self._path, driver, lasts, age)
                if not self._open:  # the write hung, and the end did not wait for it
                    self._try(health_file.remove, self._path)
            else:
                self._try(health_file.remove, self._path)

    def _try(self, action: Callable[..., None], *arguments: object) -> None:
        """Do it, and say what is in the way; not again within TELL_AGAIN_SECONDS."""
        try:
            action(*arguments)
        except HealthFileError as error:
            trouble, now = str(error), time.monotonic()
            if trouble != self._trouble or now - self._told >= TELL_AGAIN_SECONDS:
                self._trouble, self._told = trouble, now
                log.error("Health file is not as it should be", err=trouble)

    def _exit(self, settings: Settings, standing: Standing, failures: int) -> None:
        assert standing.result is not None  # noqa: S101  it has failed
        self.failed = True
        reason = standing.result.reason.value if standing.result.reason else ""
        log.error("CSI driver failed; exiting as --exit-on-failure says", failures=failures, reason=reason)
        message = (
            f"CSI driver at {settings.csi_address.text} failed {failures} probes in a row: {reason}: {standing.result.body}"
        )
        if trouble := termination.write_message(settings.termination_log, message):
            log.error("Termination log cannot be written", err=trouble)
