"""The watchdog: when the event loop counts as stuck, and how the process then ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from livenessprobe.process.watchdog import CHECK_SECONDS, LATE_SECONDS, Detector
from tests.support import ROOT, FakeDriver, Sidecar

Start = Callable[..., Sidecar]


@pytest.mark.parametrize(
    ("checks", "stuck"),
    [
        ([(CHECK_SECONDS, 0)] * 11, False),
        ([(CHECK_SECONDS, 0)] * 12, True),
        ([(CHECK_SECONDS, n) for n in range(1, 100)], False),
        ([(CHECK_SECONDS, 1)] * 13, True),  # the callback of the first check ran, then no other
        ([(CHECK_SECONDS, 0)] * 11 + [(CHECK_SECONDS, 1)] + [(CHECK_SECONDS, 1)] * 11, False),
        ([(CHECK_SECONDS + LATE_SECONDS + 0.1, 0)] * 100, False),  # throttled: no check is on time
        ([(CHECK_SECONDS, 0)] * 11 + [(3600.0, 0)], False),  # stopped, and continued
        ([(CHECK_SECONDS, 0)] * 11 + [(3600.0, 0)] + [(CHECK_SECONDS, 0)] * 12, True),
        ([(CHECK_SECONDS + LATE_SECONDS - 0.1, 0)] * 11, True),
        ([(CHECK_SECONDS, 0)] * 11 + [(4.9, 0)], False),  # 59.9 s
        ([(CHECK_SECONDS, 0)] * 11 + [(CHECK_SECONDS + LATE_SECONDS + 0.1, 0)], False),
    ],
)
def test_the_watchdog_counts_silence_only_between_checks_that_were_on_time(
    checks: list[tuple[float, int]], stuck: bool
) -> None:
    now = 1000.0
    detector = Detector(due=now + CHECK_SECONDS, silent_since=now)
    found = []
    for later, callbacks in checks:
        now += later
        found.append(detector.check(now, callbacks))

    assert found[-1] is stuck
    assert stuck or not any(found[:-1])


SCRIPT = """
import asyncio, os, signal, sys, time
from livenessprobe.process import termination, watchdog
watchdog.CHECK_SECONDS, watchdog.STUCK_SECONDS = 0.05, {stuck_seconds}
termination.expect(sys.argv[1])
async def main():
    with watchdog.Watchdog():
        await asyncio.sleep(0.3)
        {body}
asyncio.run(main())
"""


def start(log: Path, body: str, stuck_seconds: float = 0.5) -> subprocess.Popen[bytes]:
    """A process whose event loop runs `body` under a watchdog."""
    code = SCRIPT.format(body=body, stuck_seconds=stuck_seconds)
    return subprocess.Popen([sys.executable, "-c", code, str(log)], cwd=ROOT)


def test_a_stuck_loop_ends_the_process_with_a_termination_message(folder: Path) -> None:
    (folder / "log").touch()
    process = start(folder / "log", "time.sleep(60)")

    assert process.wait(30) == 4
    assert "event loop stuck" in (folder / "log").read_text()


def test_a_working_loop_does_not_end_the_process(folder: Path) -> None:
    process = start(folder / "log", "await asyncio.sleep(2)")

    assert process.wait(30) == 0
    assert not (folder / "log").exists()


def test_a_stopped_process_does_not_end_itself_when_continued(folder: Path) -> None:
    """Even if the loop was busy before the stop, and still is at the first check afterwards."""
    body = "time.sleep(0.3); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(0.3); await asyncio.sleep(0.3)"
    process = start(folder / "log", body, stuck_seconds=1.5)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)

    assert process.wait(30) == 0


STUCK_SIDECAR = """
import time
from livenessprobe.process import watchdog
from livenessprobe.web import responses
watchdog.CHECK_SECONDS, watchdog.STUCK_SECONDS = 0.1, 2.0
responses.health = lambda report: time.sleep(60)
"""


def test_a_sidecar_with_a_stuck_loop_exits(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    (folder / "sitecustomize.py").write_text(STUCK_SIDECAR)  # Python runs it before anything else
    log = folder / "termination"
    log.touch()
    process = sidecar(f"--termination-log={log}", environ={"PYTHONPATH": f"{folder}:{ROOT}"})
    process.await_name()

    with pytest.raises(OSError):
        process.get(timeout=20)

    assert process.wait() == 4
    assert log.read_text().startswith("livenessprobe: event loop stuck for 2s")
    process.await_log('"Event loop is stuck; exiting" seconds=2')
