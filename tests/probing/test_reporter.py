"""The health file while the process runs and at its end, and the records of a health file that cannot be written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from livenessprobe.driver.result import NOT_READY, READY
from livenessprobe.probing import health_file
from livenessprobe.probing.history import History
from livenessprobe.probing.reporter import REPEAT_SECONDS, Reporter
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Settings, Thresholds
from tests.values import make_settings

HEALTHY = Standing().after(READY, Thresholds(), 0.0)
UNHEALTHY = Standing().after(NOT_READY, Thresholds(), 0.0)


class Prober(SimpleNamespace):
    """Stands for a prober that reports `standing`."""

    def __init__(self, settings: Settings) -> None:
        name = SimpleNamespace(text="d")
        super().__init__(settings=settings, changed=asyncio.Event(), driver_name=name, history=History())
        self.report(HEALTHY)

    def report(self, standing: Standing) -> None:
        self.standing = standing
        self.changed.set()


class Running:
    """A reporter that follows `prober` and has its health file in `folder`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.file = folder / "health"
        self.prober = Prober(settings._replace(health_file=str(self.file)))
        self._reporter = Reporter(self.prober, self.prober.settings)  # type: ignore[arg-type]
        self._task = asyncio.create_task(self._reporter.run(asyncio.Event()))

    async def end(self) -> None:
        """As the process does."""
        self._task.cancel()
        await self._reporter.close()
        assert self._task.cancelled()


@pytest.fixture
async def running(folder: Path) -> Running:
    return Running(folder, make_settings())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_file_is_there_while_the_driver_is_healthy_and_the_process_runs(running: Running) -> None:
    await until(running.file.exists)
    running.prober.report(UNHEALTHY)
    await until(lambda: not running.file.exists())
    running.prober.report(HEALTHY)
    await until(running.file.exists)

    await running.end()

    assert not running.file.exists()


async def test_nothing_is_written_after_the_end(folder: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write waits for a thread until then."""
    await until(running.file.exists)
    busy, pool = threading.Event(), ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(busy.wait)
    written: list[object] = []
    monkeypatch.setattr(health_file, "write", lambda *arguments: written.append(arguments))
    running.prober.report(HEALTHY)
    await asyncio.sleep(0.01)

    await running.end()
    busy.set()
    pool.shutdown()

    assert (written, list(folder.iterdir())) == ([], [])


async def test_a_write_that_hangs_beyond_the_end_leaves_no_file(
    folder: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that answers no more; the end does not wait for it."""
    await until(running.file.exists)
    began, goes_on, write = threading.Event(), threading.Event(), health_file.write

    def hang(*arguments: object) -> None:
        began.set()
        goes_on.wait(20)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(health_file, "write", hang)
    running.prober.report(HEALTHY)
    await until(began.is_set)
    started = time.monotonic()
    await running.end()
    assert time.monotonic() - started < 10

    goes_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()

    assert list(folder.iterdir()) == []


async def test_an_error_that_comes_and_goes_is_logged_once_a_minute(folder: Path, logged: list[str]) -> None:
    now, told = [1000.0], []
    path = folder / "none" / "health"
    prober = Prober(make_settings(health_file=str(path)))
    made = Reporter(prober, prober.settings, lambda: now[0])  # type: ignore[arg-type]
    for _ in range(130):
        await made._report_in_file(HEALTHY)
        path.parent.mkdir()
        await made._report_in_file(HEALTHY)
        assert path.exists()
        path.unlink()
        path.parent.rmdir()
        told += [now[0]] * len(logged)
        assert set(logged) <= {
            f'E "Health file cannot be updated" err="health file {path} cannot be written: No such file or directory"'
        }
        logged.clear()
        now[0] += 1

    assert told == [1000.0 + REPEAT_SECONDS * count for count in range(3)]


class NoThreads(ThreadPoolExecutor):
    """The executor that asyncio has if the system starts no more threads."""

    def submit(self, *_: object, **__: object) -> object:
        raise RuntimeError("can't start new thread")


async def test_without_a_free_thread_the_file_is_written_on_the_event_loop(running: Running) -> None:
    asyncio.get_running_loop().set_default_executor(NoThreads())

    await until(running.file.exists)

    await running.end()
