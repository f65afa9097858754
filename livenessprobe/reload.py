"""
The settings file while the process runs: looked at from time to time and on SIGHUP, taken over whole or not at all.

It is watched by content, since that works for the symlink swaps of ConfigMaps, for plain edits and for mounts on Windows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import Metrics
from livenessprobe.settings.describe import Change, changes
from livenessprobe.settings.file import FileContent, look
from livenessprobe.settings.layers import SettingsError
from livenessprobe.settings.load import keep_restart_keys
from livenessprobe.settings.model import RESTART_KEYS, Loaded, Settings

log = get_logger(__file__)

SETTLE_SECONDS = 0.2
"""What is read twice alike, so far apart, is taken for written to the end."""
SETTLE_LOOKS = 25


class Reloader:
    """Keeps `running` up to date with the file at `path`."""

    def __init__(
        self,
        running: Loaded,
        path: str,
        load: Callable[[FileContent], Loaded],
        apply: Callable[[Settings], None],
        metrics: Metrics,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self._running = running
        self._path = path
        self._load = load
        self._apply = apply
        self._metrics = metrics
        self._settle = settle
        self._seen = running.fingerprint or running.file_error
        """The fingerprint or the fault of the last look."""
        self._expected = bool(running.file)
        """Whether it is a fault if there is no file."""
        metrics.configured("" if running.file_error else running.fingerprint, dict.fromkeys(RESTART_KEYS, False))
        if running.file_error:
            metrics.misconfigured()

    async def watch(self, hangup: asyncio.Event, *, polled: bool) -> None:
        """Look every poll interval, if `polled` or once there is a file, and whenever `hangup` is set; until cancelled."""
        while True:
            interval = self._running.settings.config_poll_interval if polled or self._expected else 0.0
            told = await _set_within(hangup, interval or None)
            try:
                await self._look(told=told)
            except Exception as error:  # noqa: BLE001  whatever it is, the settings in force are still good
                self._refuse(f"fault of the sidecar's own: {error!r}")

    async def _look(self, *, told: bool) -> None:
        file = await asyncio.to_thread(self._read)
        if _seen(file) != self._seen:
            file = await self._settled(file)
        if _seen(file) == self._seen and not told:
            return
        self._seen = _seen(file)
        if file.fault:
            self._refuse(file.fault)
        elif file.content is None:
            log.info("SIGHUP received, and there is no settings file", file=self._path)
        else:
            await self._consider(file)

    def _read(self) -> FileContent:
        return look(self._path, expected=self._expected)

    async def _settled(self, file: FileContent) -> FileContent:
        """The file once two reads are equal, or after SETTLE_LOOKS reads, since a writer may never stop."""
        for _ in range(SETTLE_LOOKS):
            await asyncio.sleep(self._settle)
            before, file = file, await asyncio.to_thread(self._read)
            if _seen(file) == _seen(before):
                break
        return file

    async def _consider(self, file: FileContent) -> None:
        self._expected = True
        try:
            wanted = await asyncio.to_thread(self._load, file)
            if wanted.file_error:
                self._refuse(wanted.file_error)
            else:
                self._take(wanted, keep_restart_keys(self._running, wanted))
        except SettingsError as error:
            self._refuse(error.err or str(error))

    def _refuse(self, fault: str) -> None:
        self._metrics.misconfigured()
        log.error("Settings file passed over; the settings in force stay", err=fault)

    def _take(self, wanted: Loaded, running: Loaded) -> None:
        found = changes(self._running, wanted)
        self._apply(running.settings)
        self._running = running
        pending = {change.key for change in found if not change.live}
        self._metrics.configured(wanted.fingerprint, {key: key in pending for key in RESTART_KEYS})
        if not found:
            log.info("Settings file read again; nothing changed", file=self._path)
        for change in found:
            _tell(change)


def _seen(file: FileContent) -> str:
    """Equal for equal content and for equal faults."""
    return file.fingerprint or file.fault


def _tell(change: Change) -> None:
    if change.live:
        log.info("Setting changed", key=change.key, old=change.old, new=change.new, source=change.source)
    else:
        log.warning("Setting needs a restart", key=change.key, running=change.old, wanted=change.new, source=change.source)


async def _set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether `event` was set; it is cleared."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
