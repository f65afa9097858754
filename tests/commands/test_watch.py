"""`livenessprobe watch`: what it draws, a line for each change where the output is no terminal, and how it ends."""

from __future__ import annotations

import fcntl
import functools
import http.server
import os
import re
import select
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.commands.seen import Change, Probe, Seen
from livenessprobe.commands.watching import BLOCKS, Frame, View, draw, spark, state, told, why
from livenessprobe.driver.result import WAYS_OUT, Reason
from tests.support import COMMAND, ROOT, FakeDriver, Sidecar, Start, command, eventually, free_port, not_on_windows, watching

pytestmark = not_on_windows("it has no pseudo-terminals")

ENDED, NO_SIDECAR, USAGE = range(3)
"""The exit codes, as docs/doctor.md has them."""
URL = "http://localhost:9808"
AT = "2026-11-02T13:14:15.016Z"
NOW = 1_793_625_285.0
"""30 s later."""
GOOD = Seen(True, "", "ok", "csi.example.com", has_page=True, since=AT, timeout=3.0, probes=(Probe(AT, 0.002, ""),))
BAD = GOOD._replace(healthy=False, reason="refused", sentence="nobody listens on /csi/csi.sock")

watch = functools.partial(command, "watch")


# --- what is drawn


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (View(URL), ("?", "asking", "dim")),
        (View(URL, GOOD), ("+", "healthy", "good")),
        (View(URL, BAD), ("x", "unhealthy", "bad")),
        (View(URL, GOOD._replace(healthy=None)), ("?", "unknown", "slow")),
        (View(URL, fault="gone"), ("?", "no answer", "slow")),
        (View(URL, fault="a web server", is_other=True), ("?", "no sidecar", "slow")),
    ],
)
def test_the_state_has_a_sign_and_a_word(view: View, shown: tuple[str, str, str]) -> None:
    assert state(view) == shown


def test_a_frame_of_two_sidecars() -> None:
    views = [View(URL, GOOD), View("http://localhost:1", BAD)]

    assert [line.text for line in draw(Frame(views, ["a change"], 80, 24, NOW))] == [
        "+ healthy   http://localhost:9808  csi.example.com, for 30s",
        "  ▁  last 2ms of 3s",
        "x unhealthy http://localhost:1  csi.example.com, for 30s",
        "  ▁  last 2ms of 3s",
        "  refused: nobody listens on /csi/csi.sock",
        "  to do: see why the driver has stopped: kubectl logs POD -c DRIVER, with",
        "  --previous once it was restarted",
        "",
        "Changes, the newest last:",
        "  a change",
        "q or Ctrl-C ends",
    ]


def test_levels_are_parts_of_the_timeout_and_failures_are_crosses() -> None:
    seconds = (0.0, 0.5, 1.0, 2.99, 3.0, 9.0)

    assert spark([Probe(AT, each, "") for each in seconds] + [Probe(AT, 0.0, "refused")], 3.0) == "▁▂▃███x"
    assert spark([Probe(AT, 0.0, "")], 0.0) == BLOCKS[-1]


@given(
    text=st.text(max_size=900),
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    number=st.integers(1, 20),
    unicode=st.booleans(),
)
def test_a_frame_fits_the_terminal_whatever_a_sidecar_tells(
    text: str, width: int, height: int, number: int, unicode: bool
) -> None:
    seen = BAD._replace(sentence=text, driver=text, since=text, findings=(text, text))
    views = [View(URL, seen), *[View(URL, GOOD)] * number]

    lines = draw(Frame(views, [text] * 5, width, height, NOW, unicode=unicode))

    assert len(lines) <= max(height, 2)
    for line in lines:
        assert len(line.text) <= width
        assert line.text.isprintable()
        assert unicode or line.text.isascii()


# --- changes


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (View(URL), View(URL, GOOD), ["2026-11-02T13:14:45Z http://localhost:9808 healthy (csi.example.com)"]),
        (View(URL, GOOD), View(URL, GOOD), []),
        (View(URL, GOOD), View(URL, fault="gone"), ["2026-11-02T13:14:45Z http://localhost:9808 no answer gone"]),
        (View(URL, fault="gone"), View(URL, fault="gone"), []),
        (
            View(URL, GOOD._replace(has_page=False)),
            View(URL, BAD._replace(has_page=False)),
            [
                "2026-11-02T13:14:45Z http://localhost:9808 unhealthy refused: nobody listens on /csi/csi.sock "
                "(csi.example.com)"
            ],
        ),
    ],
)
def test_a_change_is_a_line(before: View, after: View, lines: list[str]) -> None:
    assert list(told(before, after, NOW)) == lines


def test_changes_between_two_looks_are_all_told_in_their_order() -> None:
    first, second, third = (Change(f"{AT[:-4]}{number}Z", "", "ok", "a") for number in (1, 2, 3))
    bad = second._replace(reason="deadline", sentence="too late\n")

    lines = told(View(URL, GOOD._replace(changes=(first,))), View(URL, GOOD._replace(changes=(third, bad, first))), NOW)

    assert list(lines) == [
        f"{bad.at} {URL} unhealthy deadline: too late\\n (a)",
        f"{third.at} {URL} healthy (a)",
    ]


def test_why_says_the_reason_and_the_sentence() -> None:
    assert why(View(URL, GOOD)) == ""
    assert why(View(URL, BAD)) == "refused: nobody listens on /csi/csi.sock"
    assert why(View(URL, GOOD._replace(healthy=None))) == "it has not probed its driver yet"


# --- the process


@pytest.fixture(params=["local", "off"])
def probed(driver: FakeDriver, sidecar: Start, request: pytest.FixtureRequest) -> Sidecar:
    """A sidecar that probes on schedule, with pages and without."""
    process = sidecar("--interval=100ms", "--probe-timeout=500ms", f"--pages={request.param}")
    process.await_name()
    eventually(lambda: process.get().status == 200)
    return process


def test_each_change_is_a_line_where_the_output_is_no_terminal(driver: FakeDriver, probed: Sidecar) -> None:
    url = f"http://127.0.0.1:{probed.port}"
    with watching(url) as process:
        assert process.stdout.readline().endswith(f" {url} healthy (fake.csi.test)\n")
        driver.ready = False
        line = process.stdout.readline()
        assert line.endswith(f" {url} unhealthy not_ready: driver responded but is not ready (fake.csi.test)\n")
        driver.ready = True
        assert process.stdout.readline().endswith(f" {url} healthy (fake.csi.test)\n")
        probed.kill()
        assert re.search(f" {url} no answer .*\n", process.stdout.readline())

        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == ENDED


def test_a_pipe_that_nobody_reads_ends_it_without_a_change(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--interval=100ms")
    with watching(f"http://127.0.0.1:{process.port}") as watcher:
        watcher.stdout.readline()
        watcher.stdout.close()

        assert watcher.wait(10) == ENDED
        assert watcher.stderr.read() == ""
        watcher.stdout = None


def test_a_url_that_is_no_sidecar_is_one_sentence() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    done = watch(url)
    server.shutdown()
    server.server_close()

    assert done.code == NO_SIDECAR
    last = done.err.splitlines()[-1]
    assert last.startswith(f"livenessprobe watch: {url}: the response has status 501 and no header X-Livenessprobe-Reason: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "it needs the URL of a sidecar, such as http://localhost:9808"),
        (["localhost:9808"], "localhost:9808: write http://host:port or unix:///path/to/socket"),
        (["--every=1ms", URL], "--every: it must be 100ms or more"),
        (["--interval=1s", URL], "--interval is a flag of the sidecar; watch has --every"),
        (["--evry=1s", URL], "flag provided but not defined: -evry; did you mean --every?"),
    ],
)
def test_a_wrong_command_line(words: list[str], sentence: str) -> None:
    done = watch(*words)

    assert (done.code, done.out, done.err) == (USAGE, "", f"livenessprobe watch: {sentence}\n")


def test_help() -> None:
    done = watch("--help")

    assert (done.code, done.err) == (ENDED, "")
    assert "-every duration" in done.out


# --- on a terminal


class Terminal:
    """A pseudo-terminal of 80 columns and 24 lines with a watch on it."""

    def __init__(self, *words: str, **environ: str) -> None:
        pty = pytest.importorskip("pty", exc_type=ImportError)  # a Python may have been built for another C library
        self.termios = pytest.importorskip("termios", exc_type=ImportError)
        self.end, other = pty.openpty()
        fcntl.ioctl(other, self.termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.modes = self.termios.tcgetattr(other)
        environ = {"TERM": "xterm"} | {name: text for name, text in os.environ.items() if name != "COLUMNS"} | environ
        command = [*COMMAND, "watch", "--every=100ms", *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=other, stdout=other, stderr=other, env=environ, start_new_session=True, close_fds=True
        )
        self.other = other
        self.seen = ""

    def read(self) -> None:
        while select.select([self.end], [], [], 0.02)[0]:
            self.seen += os.read(self.end, 65536).decode()

    def shows(self, text: str) -> bool:
        self.read()
        return text in self.seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)
        os.close(self.other)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    started = []

    def start(*words: str, **environ: str) -> Terminal:
        started.append(Terminal(*words, **environ))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize("end", ["q", "ctrl-c", "ctrl-d"])
def test_it_is_live_on_a_terminal_and_leaves_it_as_it_was(
    driver: FakeDriver, sidecar: Start, terminal: Callable[..., Terminal], end: str
) -> None:
    process = sidecar("--interval=100ms", "--probe-timeout=500ms")
    process.await_name()
    shown = terminal(f"http://127.0.0.1:{process.port}")
    eventually(lambda: shown.shows("+ healthy"))
    driver.ready = False
    eventually(lambda: shown.shows("x unhealthy"))
    eventually(lambda: shown.shows("not_ready: driver responded but is not ready"))
    assert WAYS_OUT[Reason.NOT_READY][:40] in shown.seen

    if end == "ctrl-c":
        shown.process.send_signal(signal.SIGINT)
    else:
        os.write(shown.end, {"q": b"q", "ctrl-d": b"\x04"}[end])
    eventually(lambda: shown.process.poll() is not None)

    assert shown.process.returncode == ENDED
    assert shown.shows("\x1b[?1049l")  # the screen as it was before
    assert shown.seen.rindex("\x1b[?25h") > 0  # and the cursor
    assert shown.termios.tcgetattr(shown.other) == shown.modes
    assert "Traceback" not in shown.seen


def test_without_colour_there_are_words_and_signs(
    driver: FakeDriver, sidecar: Start, terminal: Callable[..., Terminal]
) -> None:
    process = sidecar("--interval=100ms")
    shown = terminal(f"http://127.0.0.1:{process.port}", NO_COLOR="1")
    eventually(lambda: shown.shows("+ healthy"))

    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown.seen)


def test_a_dumb_terminal_has_lines(driver: FakeDriver, sidecar: Start, terminal: Callable[..., Terminal]) -> None:
    process = sidecar("--interval=100ms")
    process.await_name()
    url = f"http://127.0.0.1:{process.port}"
    shown = terminal(url, TERM="dumb")
    eventually(lambda: shown.shows(f" {url} healthy (fake.csi.test)"))

    assert "\x1b" not in shown.seen


def test_a_sidecar_that_hangs_delays_no_other(driver: FakeDriver, sidecar: Start) -> None:
    hung = free_port()
    process = sidecar("--interval=100ms")
    process.await_name()
    import socket

    with socket.create_server(("127.0.0.1", hung)):
        started = time.monotonic()
        with watching(f"http://127.0.0.1:{hung}", f"http://127.0.0.1:{process.port}") as watcher:
            line = watcher.stdout.readline()

    assert line.endswith(" healthy (fake.csi.test)\n")
    assert time.monotonic() - started < 5
