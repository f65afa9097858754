"""The health file when the process ends, and the records of a file that cannot be written."""

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
    """A thread may have been asked to write, but only run now."""
    file = folder / "health"
    settings = make_settings(health_file=str(file))
    outputs = Outlets()
    outputs.begin(str(file))
    outputs._tell_file(settings, HEALTHY, "d", 0.0)
    assert file.exists()
    outputs.end()
    written: list[object] = []
    monkeypatch.setattr(health_file, "write", lambda *arguments: written.append(arguments))

    outputs._tell_file(settings, HEALTHY, "d", 0.0)

    assert not file.exists()
    assert written == []


def test_a_write_that_hangs_beyond_the_end_leaves_no_file(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that does not respond; the end does not wait for it."""
    file = folder / "health"
    began, released, write = threading.Event(), threading.Event(), health_file.write

    def hang(*arguments: object) -> None:
        began.set()
        released.wait(20)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(health_file, "write", hang)
    outputs = Outlets()
    outputs.begin(str(file))
    settings = make_settings(health_file=str(file))
    writer = threading.Thread(target=outputs._tell_file, args=(settings, HEALTHY, "d", 0.0))
    writer.start()
    assert began.wait(20)
    started = time.monotonic()
    outputs.end()
    assert time.monotonic() - started < 10

    released.set()
    writer.join()

    assert not file.exists()


def test_an_error_that_comes_and_goes_is_logged_once_a_minute(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, records = [1000.0], []
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(reporter, "log", SimpleNamespace(error=lambda *_, err: records.append((now[0], err))))
    path = folder / "none" / "health"
    settings = make_settings(health_file=str(path))
    outputs = Outlets()
    outputs.begin(str(path))
    for _ in range(130):
        outputs._tell_file(settings, HEALTHY, "d", 0.0)
        path.parent.mkdir()
        outputs._tell_file(settings, HEALTHY, "d", 0.0)
        assert path.exists()
        path.unlink()
        path.parent.rmdir()
        now[0] += 1

    sentence = f"health file {path} cannot be written: No such file or directory"
    assert records == [(1000.0 + TELL_AGAIN_SECONDS * count, sentence) for count in range(3)]


class NoThreads(ThreadPoolExecutor):
    """The executor that asyncio has if the system starts no more threads."""

    def submit(self, *_: object, **__: object) -> object:
        raise RuntimeError("can't start new thread")


async def test_without_a_free_thread_the_file_is_written_on_the_event_loop(
    folder: Path, make_settings: Callable[..., Settings]
) -> None:
    file = folder / "health"
    asyncio.get_running_loop().set_default_executor(NoThreads())
    prober = SimpleNamespace(settings=make_settings(health_file=str(file)), standing=HEALTHY)
    outputs = Outlets()
    outputs.noted.set()
    running = asyncio.create_task(outputs.run(prober, SimpleNamespace(driver_name="d"), asyncio.Event()))
    await asyncio.sleep(0.1)

    assert file.exists()
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
