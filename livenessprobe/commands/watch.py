"""`livenessprobe watch URL…`: what sidecars report, live on a terminal, or a line for each change."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

from livenessprobe.commands.seen import NotASidecar, Unseen, look
from livenessprobe.commands.sidecar import Place, parse_url
from livenessprobe.commands.watching import Frame, View, draw, told
from livenessprobe.klog.writer import write_all
from livenessprobe.process import memory
from livenessprobe.settings import command_line, flags

ENDED, NO_SIDECAR, USAGE = range(3)
"""Exit codes: ended by the user or a closed pipe, none of the URLs is a sidecar, a wrong command line."""
ASK_SECONDS = 5.0
"""How long a sidecar may take for one response."""
TICK = 1.0
"""Seconds until ages on the terminal are drawn again."""

FLAGS = (flags.Flag("every", flags.DURATION, "2s", "How often each sidecar is asked."),)


class _Ended(Exception):
    """The user has ended the view, or the output has no reader."""


class _Options(NamedTuple):
    places: dict[str, Place]
    """By URL, as it was given."""
    every: float


def main(arguments: Sequence[str]) -> int:
    """Watch the sidecars at the URLs in `arguments` until the user ends it; returns the exit code."""
    try:
        options = _parse(arguments)
    except command_line.HelpRequested:
        write_all(1, command_line.usage_of_command(sys.argv[0], "watch", FLAGS).removesuffix("\n"))
        return ENDED
    except command_line.FlagError as error:
        write_all(2, f"livenessprobe watch: {error}{error.hint}")
        return USAGE
    memory.enable_collection()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        return _watch(options)
    except (_Ended, BrokenPipeError):
        return ENDED
    except OSError as error:
        write_all(2, f"livenessprobe watch: the output cannot be written: {error.strerror}")
        return USAGE


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended


def _parse(arguments: Sequence[str]) -> _Options:
    line = command_line.parse(arguments, FLAGS)
    values = line.values()
    every = flags.DURATION.check(values.pop("every", FLAGS[0].default))
    if values:
        raise command_line.FlagError(f"--{next(iter(values))} is a flag of the sidecar; watch has --every")
    if every < 0.1:
        raise command_line.FlagError("--every: it must be 100ms or more")
    if not line.unread:
        raise command_line.FlagError("it needs the URL of a sidecar, such as http://localhost:9808")
    return _Options({url: parse_url(url, "")[0] for url in line.unread}, every)


# --- asking


def _watch(options: _Options) -> int:
    views = {url: View(url) for url in options.places}
    answers: queue.SimpleQueue[View] = queue.SimpleQueue()
    with _wake() as (woken, wake), _output() as show:
        for url, place in options.places.items():
            threading.Thread(target=_ask_forever, args=(url, place, options.every, answers, wake), daemon=True).start()
        while True:
            lines: list[str] = []
            while not answers.empty():
                view = answers.get()
                lines += told(views[view.url], view, time.time())
                views[view.url] = view
            show(list(views.values()), lines)
            if all(view.is_other for view in views.values()):
                break
            _wait(woken)
    write_all(2, "\n".join(f"livenessprobe watch: {view.url}: {view.fault}" for view in views.values()))
    return NO_SIDECAR


def _ask_forever(url: str, place: Place, every: float, answers: queue.SimpleQueue[View], wake: Callable[[], None]) -> None:
    while True:
        began = time.monotonic()
        answers.put(_ask(url, place))
        wake()
        time.sleep(max(0.0, began + every - time.monotonic()))


def _ask(url: str, place: Place) -> View:
    try:
        return View(url, look(place, ASK_SECONDS))
    except NotASidecar as error:
        return View(url, fault=str(error), is_other=True)
    except Unseen as error:
        return View(url, fault=str(error))


# --- waiting for an answer or a key


@contextlib.contextmanager
def _wake() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor that becomes readable when the function beside it is called; none on Windows, where pipes cannot be polled."""
    if sys.platform == "win32":
        yield -1, lambda: None
        return
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)

    def wake() -> None:
        with contextlib.suppress(OSError):  # full: it is readable already; or closed
            os.write(writer, b"\0")

    try:
        yield reader, wake
    finally:
        os.close(reader)
        os.close(writer)


def _wait(woken: int) -> None:
    """Wait for an answer, for TICK at most; raises _Ended if the user presses q, or the output has no reader any more."""
    if sys.platform == "win32":
        time.sleep(TICK / 4)  # neither pipes nor the console can be waited for
        return
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(1, 0)  # its errors are always told
    keys = os.isatty(0)
    if keys:
        poll.register(0, select.POLLIN)
    for descriptor, _ in poll.poll(TICK * 1000):
        if descriptor == 1:
            raise _Ended
        if descriptor == 0 and os.read(0, 64)[:1] in (b"q", b"Q", b"\x04", b""):
            raise _Ended
        if descriptor == woken:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)


# --- output

Show = Callable[[Sequence[View], Sequence[str]], None]
"""Shows the sidecars, and lines about what has just changed."""


@contextlib.contextmanager
def _output() -> Iterator[Show]:
    """On a terminal a picture; else the lines about changes."""
    if os.isatty(1) and os.environ.get("TERM") != "dumb":
        with _keys(), _terminal() as show:
            yield show
    else:
        yield _write_lines


def _write_lines(_views: Sequence[View], lines: Sequence[str]) -> None:
    for line in lines:
        write_all(1, line)


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """While this is entered, keys arrive without Enter and are not shown."""
    if sys.platform == "win32" or not os.isatty(0):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setcbreak(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _terminal() -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"good": "green", "bad": "bold red", "slow": "yellow", "dim": "dim", "": ""}
    changes: list[str] = []
    with Live(console=console, auto_refresh=False, screen=True, redirect_stdout=False, redirect_stderr=False) as live:

        def show(views: Sequence[View], lines: Sequence[str]) -> None:
            changes.extend(lines)
            del changes[:-100]
            unicode = (console.encoding or "").lower().startswith("utf")
            frame = Frame(views, changes, console.width, console.height, time.time(), unicode)
            drawn = draw(frame)
            text = Text("\n").join(
                Text(line.text, style=styles[line.style], no_wrap=True, overflow="crop") for line in drawn
            )
            live.update(text, refresh=True)

        yield show
