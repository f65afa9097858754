"""Following the settings file: when it is read, and that a fault keeps the old settings."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from livenessprobe.metrics import Metrics
from livenessprobe.reload import Reloader
from livenessprobe.settings.file import FileContent
from livenessprobe.settings.model import Loaded, Settings
from tests.values import load_all

GOOD = "livenessprobe_config_last_reload_successful"
SOON = 15.0
"""Seconds; far longer than a reload takes, for busy machines."""


class Scripted:
    """A Reloader on a file; `load` and `apply` can be made to raise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = Metrics()
        self.adopted: list[Settings] = []
        self.hangup = asyncio.Event()
        self.break_load: Exception | None = None
        self.break_apply: Exception | None = None
        self.reloader = Reloader(load_all(), str(path), self.load, self.apply, self.metrics, settle=0.02)

    def load(self, file: FileContent) -> Loaded:
        if self.break_load is not None:
            raise self.break_load
        return load_all(file=file.content, path=file.path)

    def apply(self, settings: Settings) -> None:
        if self.break_apply is not None:
            raise self.break_apply
        self.adopted.append(settings)

    def figure(self, series: str) -> float:
        lines = self.metrics.expose().body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{series} "))

    @contextlib.asynccontextmanager
    async def watching(self, *, polled: bool):  # type: ignore[no-untyped-def]
        task = asyncio.create_task(self.reloader.watch(self.hangup, polled=polled))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not what():
                await asyncio.sleep(0.01)


@pytest.fixture
def scripted(folder: Path) -> Scripted:
    return Scripted(folder / "config" / "settings.toml")


CONTENT = 'probe_timeout = "{}s"\nunreachable_grace = "0s"\nconfig_poll_interval = "100ms"\n'


async def test_the_default_file_is_polled_after_a_sighup_has_found_it(scripted: Scripted) -> None:
    """The folder of the default file did not exist at the start, so the file is not polled."""
    async with scripted.watching(polled=False):
        scripted.path.parent.mkdir()
        scripted.path.write_text(CONTENT.format(7))
        await asyncio.sleep(0.3)
        assert scripted.adopted == []

        scripted.hangup.set()
        await scripted.until(lambda: [settings.probe_timeout for settings in scripted.adopted] == [7])
        scripted.path.write_text(CONTENT.format(8))
        await scripted.until(lambda: [settings.probe_timeout for settings in scripted.adopted] == [7, 8])
        scripted.path.unlink()
        await scripted.until(lambda: scripted.figure(GOOD) == 0)


@pytest.mark.parametrize("part", ["break_load", "break_apply"])
async def test_an_internal_error_keeps_the_old_settings_and_watching_goes_on(
    scripted: Scripted, part: str, logged: list[str]
) -> None:
    scripted.path.parent.mkdir()
    async with scripted.watching(polled=False):
        scripted.path.write_text(CONTENT.format(7))
        scripted.hangup.set()
        await scripted.until(lambda: len(scripted.adopted) == 1)
        logged.clear()
        setattr(scripted, part, ZeroDivisionError("oops"))
        scripted.path.write_text(CONTENT.format(8))
        scripted.hangup.set()
        await scripted.until(lambda: scripted.figure(GOOD) == 0)
        assert [settings.probe_timeout for settings in scripted.adopted] == [7]
        assert not any("Setting changed" in line for line in logged)

        setattr(scripted, part, None)
        scripted.hangup.set()
        await scripted.until(lambda: scripted.figure(GOOD) == 1)
        assert scripted.adopted[-1].probe_timeout == 8
        (told,) = [line for line in logged if "Setting changed" in line]
        assert 'key="probe_timeout" old="7s" new="8s"' in told


async def test_a_file_that_never_stops_changing_is_read_nevertheless(scripted: Scripted) -> None:
    scripted.path.parent.mkdir()
    new = scripted.path.with_suffix(".new")

    async def change() -> None:
        for seconds in itertools.count(1):
            new.write_text(CONTENT.format(seconds))
            new.replace(scripted.path)
            await asyncio.sleep(0.001)

    changing = asyncio.create_task(change())
    async with scripted.watching(polled=False):
        scripted.hangup.set()
        await scripted.until(lambda: scripted.adopted)
    changing.cancel()
