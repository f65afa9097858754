"""The watchdog: when a silent event loop counts as stuck, and how the process then ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livenessprobe.process.watchdog import EVERY, LATE, Verdict
from tests.support import ROOT


@pytest.mark.parametrize(
    ("looks", "stuck"),
    [
        ([(EVERY, 0)] * 11, False),
        ([(EVERY, 0)] * 12, True),
        ([(EVERY, n) for n in range(1, 100)], False),
        ([(EVERY, 1)] * 13, True),  # it answered the first check, then no more
        ([(EVERY, 0)] * 11 + [(EVERY, 1)] + [(EVERY, 1)] * 11, False),
        ([(EVERY + LATE + 0.1, 0)] * 100, False),  # throttled: no check is on time
        ([(EVERY, 0)] * 11 + [(3600.0, 0)], False),  # stopped, and continued
        ([(EVERY, 0)] * 11 + [(3600.0, 0)] + [(EVERY, 0)] * 12, True),
        ([(EVERY + LATE - 0.1, 0)] * 11, True),
        ([(EVERY, 0)] * 11 + [(4.9, 0)], False),  # 59.9 s
        ([(EVERY, 0)] * 11 + [(EVERY + LATE + 0.1, 0)], False),
    ],
)
def test_the_watchdog_counts_silence_only_between_checks_that_were_on_time(
    looks: list[tuple[float, int]], stuck: bool
) -> None:
    now = 1000.0
    verdict = Verdict(due=now + EVERY, silent_since=now)
    said = []
    for later, beats in looks:
        now += later
        said.append(verdict.look(now, beats))

    assert said[-1] is stuck
    assert stuck or not any(said[:-1])


STUCK = """
import asyncio, os, signal, sys, time
from livenessprobe.process import watchdog
watchdog.EVERY, watchdog.PATIENCE = 0.05, {patience}
async def main():
    with watchdog.Watchdog(sys.argv[1]):
        await asyncio.sleep(0.3)
        {body}
asyncio.run(main())
"""


def run_stuck(folder: Path, body: str, patience: float = 0.5) -> tuple[int, str]:
    words = folder / "termination"
    process = subprocess.Popen([sys.executable, "-c", STUCK.format(body=body, patience=patience), str(words)], cwd=ROOT)
    code = process.wait(30)
    return code, words.read_text() if words.exists() else ""


def test_a_stuck_loop_ends_the_process_with_a_termination_message(folder: Path) -> None:
    code, words = run_stuck(folder, "time.sleep(60)")

    assert code == 4
    assert "event loop stuck" in words


def test_a_working_loop_does_not_end_the_process(folder: Path) -> None:
    assert run_stuck(folder, "await asyncio.sleep(2)") == (0, "")


def test_a_stopped_process_does_not_end_itself_when_continued(folder: Path) -> None:
    """Even if the loop was busy before the stop, and still is at the first check afterwards."""
    body = "time.sleep(0.3); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(0.3); await asyncio.sleep(0.3)"
    script = STUCK.format(body=body, patience=1.5)
    process = subprocess.Popen([sys.executable, "-c", script, str(folder / "words")], cwd=ROOT)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)

    assert process.wait(30) == 0
