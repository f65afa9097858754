"""`livenessprobe demo`: the first thing a new user runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

from tests.support import ROOT, eventually

COMMAND = [sys.executable, "-m", "livenessprobe", "demo"]


def test_each_key_changes_the_response() -> None:
    keys = "n\nr\nh\nb\nc\nb\nx\nq\n"
    done = subprocess.run(
        [*COMMAND, "--probe-timeout=1s"], cwd=ROOT, input=keys, capture_output=True, text=True, timeout=60, check=False
    )
    answers = re.findall(r"GET /healthz -> (\d+) after [\d.]+s(?: \[(\w+)\])?", done.stdout)
    assert answers == [
        ("200", ""),
        ("500", "not_ready"),
        ("200", ""),
        ("500", "deadline"),
        ("200", ""),
        ("500", "refused"),
        ("200", ""),
    ]
    assert "'x' is none of" in done.stdout
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout


def test_without_a_keyboard_it_serves_until_stopped() -> None:
    with subprocess.Popen(
        COMMAND, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        url = next(match[1] for line in demo.stdout if (match := re.search(r"curl -i (\S+)", line)))

        def healthy() -> bool:
            try:
                return bool(urllib.request.urlopen(url, timeout=5).status == 200)
            except urllib.error.URLError:
                return False

        eventually(healthy)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(10) == 0


def test_a_bad_flag_is_refused_in_one_line() -> None:
    done = subprocess.run([*COMMAND, "--nope"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "livenessprobe demo: flag provided but not defined: -nope; --help lists all flags\n"
