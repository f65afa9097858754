"""The health file at the end of the process, and what is told of one that makes trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from livenessprobe.driver.result import READY
from livenessprobe.probing import health_file, reporter
from livenessprobe.probing.reporter import TELL_AGAIN_SECONDS, Outlets
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Settings, Thresholds

HEALTHY = Standing().after(READY, Thresholds(), 0.0)


def test_nothing_is_written_after_the_end(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may have been sent to write, and get its turn only now."""
    file = folder / "health"
    settings = make_settings(health_file=str(file))
    told = Outlets()
    told.begin(str(file))
    told._tell_file(settings, HEALTHY, "d", 0.0)
    assert file.exists()
    told.end()
    written: list[object] = []
    monkeypatch.setattr(health_file, "write", lambda *arguments: written.append(arguments))

    told._tell_file(settings, HEALTHY, "d", 0.0)

    assert not file.exists()
    assert written == []


def test_a_write_that_hangs_beyond_the_end_leaves_no_file(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that answers no more; the end does not wait for it."""
    file = folder / "health"
    began, goes_on, write = threading.Event(), threading.Event(), health_file.write

    def hang(*arguments: object) -> None:
        began.set()
        goes_on.wait(20)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(health_file, "write", hang)
    told = Outlets()
    told.begin(str(file))
    settings = make_settings(health_file=str(file))
    writer = threading.Thread(target=told._tell_file, args=(settings, HEALTHY, "d", 0.0))
    writer.start()
    assert began.wait(20)
    started = time.monotonic()
    told.end()
    assert time.monotonic() - started < 10

    goes_on.set()
    writer.join()

    assert not file.exists()


def test_trouble_that_comes_and_goes_is_told_once_a_minute(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, records = [1000.0], []
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(reporter, "log", SimpleNamespace(error=lambda *_, err: records.append((now[0], err))))
    path = folder / "none" / "health"
    settings = make_settings(health_file=str(path))
    told = Outlets()
    told.begin(str(path))
    for _ in range(130):
        told._tell_file(settings, HEALTHY, "d", 0.0)
        path.parent.mkdir()
        told._tell_file(settings, HEALTHY, "d", 0.0)
        assert path.exists()
        path.unlink()
        path.parent.rmdir()
        now[0] += 1

    sentence = f"health file {path} cannot be written: No such file or directory"
    assert records == [(1000.0 + TELL_AGAIN_SECONDS * count, sentence) for count in range(3)]


class NoThreads(ThreadPoolExecutor):
    """What asyncio has where the system gives no more threads."""

    def submit(self, *_: object, **__: object) -> object:
        raise RuntimeError("can't start new thread")


async def test_without_a_thread_the_file_is_written_all_the_same(
    folder: Path, make_settings: Callable[..., Settings]
) -> None:
    file = folder / "health"
    asyncio.get_running_loop().set_default_executor(NoThreads())
    prober = SimpleNamespace(
        settings=make_settings(health_file=str(file)), standing=HEALTHY, driver_name=SimpleNamespace(text="d")
    )
    told = Outlets()
    told.noted.set()
    running = asyncio.create_task(told.run(prober, asyncio.Event()))
    await asyncio.sleep(0.1)

    assert file.exists()
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
