"""
Reads the settings file again at intervals and on SIGHUP; applies the settings that need no restart, if the file is valid.

Changes are detected by content: that works for the symlink swaps of ConfigMaps, for plain edits and for mounts on Windows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.settings.describe import Change, changes, newly_overridden
from livenessprobe.settings.file import FileContent, look
from livenessprobe.settings.load import keep_restart_keys
from livenessprobe.settings.model import RESTART_KEYS, InForce, Loaded, Settings

log = get_logger(__file__)

SETTLE_SECONDS = 0.2
"""Pause between two reads; if both are equal, the file is complete."""
SETTLE_LOOKS = 25


@dataclass(eq=False)
class Reloader:
    """Keeps the settings `running` up to date with the file at `path`."""

    running: Loaded
    path: str
    load: Callable[[FileContent], Loaded]
    apply: Callable[[Settings], None]
    metrics: Metrics
    settle: float = SETTLE_SECONDS

    def __post_init__(self) -> None:
        self._seen = self.running.fingerprint or self.running.file_error
        """The fingerprint or the fault of the last look."""
        self._fault = self.running.file_error
        self._pending: tuple[str, ...] = ()
        self._expected = bool(self.running.file)
        """Whether a missing file is a fault."""
        fingerprint = "" if self.running.file_error else self.running.fingerprint
        self.metrics.configured(fingerprint, dict.fromkeys(RESTART_KEYS, False))
        if self.running.file_error:
            self.metrics.misconfigured()

    @property
    def in_force(self) -> InForce:
        """The settings in force now."""
        return InForce(self.running, self._fault, self._pending)

    async def watch(self, hangup: asyncio.Event, *, polled: bool) -> None:
        """Read the file whenever `hangup` is set and, if `polled` or once there is a file, at every poll interval; until cancelled."""
        while True:
            interval = self.running.settings.config_poll_interval if polled or self._expected else 0.0
            told = await _set_within(hangup, interval or None)
            try:
                await self._look(told=told)
            except Exception as error:  # noqa: BLE001  a bug in reading leaves the running settings valid
                self._refuse(f"fault of the sidecar's own: {error!r}")

    async def _look(self, *, told: bool) -> None:
        file = await self._read()
        if _seen(file) != self._seen:
            file = await self._settled(file)
        if _seen(file) == self._seen and not told:
            return
        self._seen = _seen(file)
        if file.fault:
            self._refuse(file.fault)
        elif file.content is None:
            log.info("SIGHUP received, and there is no settings file", file=self.path)
        else:
            await self._consider(file)

    async def _read(self) -> FileContent:
        return await asyncio.to_thread(look, self.path, expected=self._expected)

    async def _settled(self, file: FileContent) -> FileContent:
        """The file once two reads are equal, or after SETTLE_LOOKS reads, since a writer may never stop."""
        for _ in range(SETTLE_LOOKS):
            await asyncio.sleep(self.settle)
            before, file = file, await self._read()
            if _seen(file) == _seen(before):
                break
        return file

    async def _consider(self, file: FileContent) -> None:
        self._expected = True
        wanted = await asyncio.to_thread(self.load, file)
        if wanted.file_mistakes:
            self._refuse(*(mistake.err for mistake in wanted.file_mistakes))
        else:
            self._take(wanted, keep_restart_keys(self.running, wanted))

    def _refuse(self, *faults: str | None) -> None:
        self._fault = "\n".join(map(str, faults))
        self.metrics.misconfigured()
        for fault in faults:
            log.error("Settings file ignored; the previous settings stay", err=fault)

    def _take(self, wanted: Loaded, running: Loaded) -> None:
        found, overridden = changes(self.running, wanted), newly_overridden(self.running, wanted)
        self.apply(running.settings)
        self.running = running
        pending = {change.key for change in found if not change.live}
        self._fault, self._pending = "", tuple(sorted(pending))
        self.metrics.configured(wanted.fingerprint, {key: key in pending for key in RESTART_KEYS})
        if not found and not overridden:
            log.info("Settings file read again; nothing changed", file=self.path)
        for change in found:
            _tell(change)
        for key, running_value, wanted_value, source, by in overridden:
            values = {"running": running_value, "wanted": wanted_value}
            log.warning("Setting has no effect", key=key, **values, source=source, detail=f"is overridden by {by}")


def _seen(file: FileContent) -> str:
    """Equal for equal content and for equal faults."""
    return file.fingerprint or file.fault


def _tell(change: Change) -> None:
    if change.live:
        log.info("Setting changed", key=change.key, old=change.old, new=change.new, source=change.source)
    else:
        log.warning("Setting needs a restart", key=change.key, running=change.old, wanted=change.new, source=change.source)


async def _set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event` and clear it; whether it was set in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
