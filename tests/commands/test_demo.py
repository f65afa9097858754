"""`livenessprobe demo`: the first thing a new user runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support import ROOT, eventually, free_port

COMMAND = [sys.executable, "-m", "livenessprobe", "demo"]


def test_each_key_changes_the_response() -> None:
    keys = "n\nr\nh\nb\nc\nb\nx\nq\n"
    done = subprocess.run(
        [*COMMAND, "--probe-timeout=1s"],
        cwd=ROOT,
        input=keys,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
        assert next(line for line in demo.stdout if "input" in line).startswith("Standard input has ended")
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(10) == 0


def test_a_bad_flag_is_refused_in_one_line() -> None:
    done = subprocess.run([*COMMAND, "--nope"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "livenessprobe demo: flag provided but not defined: -nope; --help lists all flags\n"


def test_all_mistakes_are_told() -> None:
    done = subprocess.run(
        [*COMMAND, "--http-endpoint=9811", "--logging-format=xml"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == ["livenessprobe demo"] * 2
    assert "9811" in done.stderr
    assert "xml" in done.stderr


@pytest.mark.parametrize(
    ("flags", "health", "metrics"),
    [
        ([], r"-i http://127\.0\.0\.1:\d+/", r"http://127\.0\.0\.1:\d+/"),
        (["--http-endpoint=:0"], r"-i http://127\.0\.0\.1:\d+/", r"http://127\.0\.0\.1:\d+/"),
        (["--http-endpoint=localhost:0"], r"-i http://(127\.0\.0\.1|\[::1\]):\d+/", r"http://\S+:\d+/"),
        (["--http-endpoint=[::1]:0"], r"-i http://\[::1\]:\d+/", r"http://\[::1\]:\d+/"),
        (["--http-endpoint=unix://{folder}/s"], "-i --unix-socket {folder}/s http://localhost/", "--unix-socket {folder}/s http://"),
        (["--health-port={port}"], "-i http://127\\.0\\.0\\.1:{port}/", None),
        (["--health-port=0"], r"-i http://127\.0\.0\.1:\d+/", None),
        (["--health-port=0", "--metrics-address=127.0.0.1:{port}"], r"-i http://127\.0\.0\.1:\d+/", "http://127.0.0.1:{port}/"),
    ],
)  # fmt: skip
def test_keys_work_at_any_address(flags: list[str], health: str, metrics: str | None, folder: Path) -> None:
    """And the demo shows how to reach health, and metrics where they are served."""
    places = {"{port}": str(free_port()), "{folder}": str(folder)}

    def filled(text: str) -> str:
        for place, value in places.items():
            text = text.replace(place, value)
        return text

    done = subprocess.run(
        [*COMMAND, *map(filled, flags)], cwd=ROOT, input="n\nq\n", capture_output=True, text=True, timeout=60, check=False
    )

    assert re.findall(r"GET /healthz -> (\d+)", done.stdout) == ["200", "500"]
    assert re.search(rf"curl {filled(health)}healthz\n", done.stdout)
    if metrics is None:
        assert "/metrics" not in done.stdout
    else:
        assert re.search(rf"curl {filled(metrics)}\S*metrics\n", done.stdout)
    assert "Traceback" not in done.stderr + done.stdout


def test_demos_that_start_at_the_same_moment_have_a_port_and_a_driver_each() -> None:
    demos = [
        subprocess.Popen(COMMAND, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [demo.communicate(f"{key}\nq\n", timeout=60) for demo, key in zip(demos, "npp", strict=True)]

    assert [demo.returncode for demo in demos] == [0, 0, 0], outputs
    assert len({re.search(r"curl -i (\S+)", out)[1] for out, _ in outputs}) == len(demos)
    assert [re.findall(r"GET /healthz -> (\d+)", out) for out, _ in outputs] == [["200", "500"], ["200"] * 2, ["200"] * 2]


def test_a_variable_may_say_where_to_listen() -> None:
    port = free_port()

    done = subprocess.run(
        COMMAND, cwd=ROOT, input="q\n", env={**os.environ, "LIVENESSPROBE_HEALTH_PORT": str(port)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert f"curl -i http://127.0.0.1:{port}/healthz\n" in done.stdout
    assert "GET /healthz -> 200" in done.stdout


def test_a_slow_response_is_announced_in_a_line_of_its_own() -> None:
    """No line is written in pieces, also where Python does not buffer."""
    done = subprocess.run(
        COMMAND, cwd=ROOT, input="s\nq\n", env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert re.search(r"\nprobing…\n(?:.*\n)*?GET /healthz -> 200 after 2\.\d+s: ok\n", done.stdout)
    assert not re.search(r"[^\n](GET /healthz ->|probing…|[IWE]\d{4} \d\d:\d\d)", done.stdout)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_without_a_reader_ends_quietly(option: str) -> None:
    """As in `livenessprobe demo --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([*COMMAND, option], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_keys_and_listen_forms() -> None:
    done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0
    for part in ("--http-endpoint=host:port", "unix:///path", "--health-port=port", "it crashes (SIGKILL)", "quit"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("variable", "expected"), [("", r"\x1b\[32m200\x1b\[0m .*\x1b\[31m500\x1b\[0m"), ("NO_COLOR", "200 .* 500")]
)
def test_a_200_is_green_and_a_500_red_on_a_terminal(variable: str, expected: str) -> None:
    pty = pytest.importorskip("pty", exc_type=ImportError)
    ours, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm"} | ({variable: "1"} if variable else {})

    subprocess.run(COMMAND, cwd=ROOT, input=b"n\nq\n", env=environ, stdout=terminal, stderr=subprocess.DEVNULL, check=True)
    os.close(terminal)
    output = os.read(ours, 65_536).decode()
    os.close(ours)

    assert re.search(expected, output, re.DOTALL)
    assert ("\x1b" in output) == (not variable)
