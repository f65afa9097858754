"""Acts on health outside HTTP: keeps the health file, and ends the process as --exit-on-failure says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from livenessprobe.klog.log import get_logger
from livenessprobe.probing import health_file
from livenessprobe.probing.health_file import REQUEST_MODE_LASTS, HealthFileError
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.schedule import report_lasts
from livenessprobe.probing.standing import Standing
from livenessprobe.process import termination, threads
from livenessprobe.settings.model import Settings

log = get_logger(__file__)

REPEAT_SECONDS = 60.0
"""After which a fault of the health file that lasts is recorded again."""
HUNG_SECONDS = 1.0
"""How long the end waits for a file: a disk that hangs must not keep the process from ending."""


@dataclass(eq=False)
class Reporter:
    """Follows `prober`, from `run` until `close`."""

    prober: Prober
    settings: Settings
    clock: Callable[[], float] = time.monotonic
    failed: bool = False
    """Whether --exit-on-failure has ended the process."""
    _fault: str = ""
    """The last fault of the health file, and when it was recorded."""
    _recorded: float = 0.0
    _write: asyncio.Future[None] | None = None
    """The last change of the health file, in a thread of its own."""
    _closed: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Report each change.  Runs until cancelled, or sets `stop` and ends as --exit-on-failure says."""
        while True:
            await self.prober.changed.wait()
            self.prober.changed.clear()
            standing = self.prober.standing
            self.tell_termination()
            if self.settings.health_file:
                await self._report_in_file(standing)
            if self.settings.exit_on_failure and standing.ready.failures >= self.prober.settings.thresholds.failure:
                self._leave_termination_message(standing)
                self.failed = True
                stop.set()
                return

    async def close(self) -> None:
        """Remove the health file: no process renews it any more."""
        self._closed = True
        if self._write is not None:
            await asyncio.wait({self._write}, timeout=HUNG_SECONDS)
        if self.settings.health_file:
            remove = partial(health_file.remove, self.settings.health_file)
            with contextlib.suppress(TimeoutError):
                threads.run_apart(partial(self._try, remove), HUNG_SECONDS)

    async def _report_in_file(self, standing: Standing) -> None:
        loop, settings = asyncio.get_running_loop(), self.prober.settings
        change = partial(health_file.remove, self.settings.health_file)
        if standing.ready.stands:
            lasts = report_lasts(settings.interval, settings.probe_timeout) if settings.interval else REQUEST_MODE_LASTS
            driver, age = self.prober.driver_name.text, loop.time() - standing.at
            change = partial(health_file.write, self.settings.health_file, driver, lasts, age)
        try:
            self._write = loop.run_in_executor(None, self._change, change)
        except RuntimeError:  # no thread could be started; a delay of the event loop is better than a wrong file
            self._change(change)
        else:
            await asyncio.shield(self._write)

    def _change(self, change: Callable[[], None]) -> None:
        """Make one `change` of the file.  After `close` no file may be left, however late this thread is."""
        if self._closed:
            return
        self._try(change)
        if self._closed:
            self._try(partial(health_file.remove, self.settings.health_file))

    def _try(self, change: Callable[[], None]) -> None:
        """Make one `change` of the file, and record its fault, the same one not again within REPEAT_SECONDS."""
        try:
            change()
        except HealthFileError as error:
            fault, now = str(error), self.clock()
            if fault != self._fault or now - self._recorded >= REPEAT_SECONDS:
                self._fault, self._recorded = fault, now
                log.error("Health file cannot be updated", err=fault)

    def _leave_termination_message(self, standing: Standing) -> None:
        result, failures = standing.result, standing.ready.failures
        assert result is not None and result.reason is not None  # noqa: PT018  it has failed
        reason, address = result.reason.value, self.prober.settings.csi_address.text
        log.error("CSI driver failed; exiting as --exit-on-failure says", failures=failures, reason=reason)
        self.leave_message(f"CSI driver at {address} failed {failures} probes in a row: {reason}: {result.body}")

    def tell_termination(self) -> None:
        """Have the termination message tell what is reported now."""
        history = self.prober.history
        if history.changes:
            reason, sentence = history.changes[-1].reason, history.changes[-1].sentence
            state, why = ("driver healthy", "") if reason is None else ("driver unhealthy", f"{reason.value}: {sentence}")
            termination.report(state, history.side_since, why)

    def leave_message(self, cause: str) -> None:
        """Leave the termination message that `cause` ends the process, unless there is one."""
        self.tell_termination()
        if fault := termination.leave(cause):
            log.error("Termination log cannot be written", err=fault)
