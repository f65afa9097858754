"""Ways beside HTTP to tell what is reported: the health file, and the end of the process with a termination message."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable

from livenessprobe import healthfile
from livenessprobe.flags import BY_NAME
from livenessprobe.health import Standing
from livenessprobe.healthfile import REQUEST_MODE_LASTS, HealthFileError
from livenessprobe.klog import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.prober import Prober
from livenessprobe.schedule import report_lasts
from livenessprobe.settings import Settings

log = get_logger(__file__)

DEFAULT_TERMINATION_LOG = BY_NAME["termination-log"].default
TERMINATION_MESSAGE_MAX = 4096
"""Bytes the kubelet reads (terminationMessagePath)."""


class Outlets:
    """Follows a prober.  Set `noted` whenever something may have to be told."""

    def __init__(self) -> None:
        self.noted = asyncio.Event()
        self.failed = False
        """Whether --exit-on-failure has ended the process."""
        self._path = ""
        self._trouble = ""
        self._writing = threading.Lock()
        self._open = True

    def begin(self, path: str) -> None:
        """Before the first probe nothing is known, whatever an earlier process may have left at `path`."""
        self._path = path
        if path:
            self._try(healthfile.remove, path)

    def end(self) -> None:
        """Nobody will renew the health file any more."""
        # A write that hangs, on a dead disk perhaps, must not keep the process from ending.
        locked = self._writing.acquire(timeout=1)
        self._open = False
        if self._path:
            self._try(healthfile.remove, self._path)
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
                await asyncio.to_thread(self._tell_file, settings, standing, metrics.driver_name, age)
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
                    self._try(healthfile.remove, self._path)
                self.begin(settings.health_file)
            if not self._path or standing.result is None:
                return
            if standing.ready.stands:
                lasts = report_lasts(settings.interval, settings.probe_timeout) if settings.interval else REQUEST_MODE_LASTS
                self._try(healthfile.write, self._path, driver, lasts, age)
            else:
                self._try(healthfile.remove, self._path)

    def _try(self, action: Callable[..., None], *arguments: object) -> None:
        """Do it, and say once what is in the way."""
        try:
            action(*arguments)
        except HealthFileError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("Health file is not as it should be", err=str(error))
        else:
            self._trouble = ""

    def _exit(self, settings: Settings, standing: Standing, failures: int) -> None:
        assert standing.result is not None  # noqa: S101  it has failed
        self.failed = True
        reason = standing.result.reason.value if standing.result.reason else ""
        log.error("CSI driver failed; exiting as --exit-on-failure says", failures=failures, reason=reason)
        message = (
            f"CSI driver at {settings.csi_address.text} failed {failures} probes in a row: {reason}: {standing.result.body}"
        )
        _write_termination_log(settings.termination_log, message)


def _write_termination_log(path: str, message: str) -> None:
    data = message.encode(errors="backslashreplace")[: TERMINATION_MESSAGE_MAX - 1]
    data = data.decode(errors="ignore").encode() + b"\n"  # no half character at the cut
    # The kubelet makes the default one, so where it is missing nobody reads it.
    flags = os.O_WRONLY | os.O_TRUNC | (0 if path == DEFAULT_TERMINATION_LOG else os.O_CREAT)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644) if path else None
    except OSError as error:
        if path != DEFAULT_TERMINATION_LOG:
            log.error("Termination log cannot be written", err=f"{path}: {error.strerror or error}")
        return
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, data)
        os.close(descriptor)
