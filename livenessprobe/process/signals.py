"""Signal handlers: stop, or read the settings file again."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from livenessprobe.process import termination

if TYPE_CHECKING:
    import asyncio  # loading it takes long, and `install_early` must be called before that


class Events(NamedTuple):
    """Set by signals: `stop` by SIGTERM and SIGINT, `reload` by SIGHUP."""

    stop: asyncio.Event
    reload: asyncio.Event
    stopped_by: list[str]
    """The names of the signals that have set `stop`, the first one first."""


def exit_successfully(number: int, _frame: FrameType | None) -> None:
    """Exit with 0: a sidecar that is told to stop has not failed."""
    with contextlib.suppress(Exception):  # modules may be partly imported
        termination.leave(f"stopped by {signal.Signals(number).name}", threads=False)
    _exit(0)


def exit_interrupted(number: int, _frame: FrameType | None) -> None:
    """Exit with 128 + `number`, as shells report it: a check without a result must not exit as if the driver were healthy."""
    _exit(128 + number)


def _exit_on_sigquit(_number: int, _frame: FrameType | None) -> None:
    """Exit with 2 as Go's runtime does; faulthandler has printed all stacks by now."""
    with contextlib.suppress(OSError):
        os.write(2, b"SIGQUIT: quit\n")
    with contextlib.suppress(Exception):  # as above
        termination.leave("ended by SIGQUIT; the stacks of all threads are in the log", threads=False)
    _exit(2)


def _exit(code: int) -> None:
    """End the process at once.  An exception would be printed and ignored if a callback of the import system were running."""
    with contextlib.suppress(Exception):  # the module may be partly imported
        sys.modules["livenessprobe.klog.log"].flush(1.0)
    os._exit(code)


def install_early(stop: Callable[[int, FrameType | None], None] = exit_successfully) -> None:
    """
    Handle signals until the event loop runs: SIGTERM and SIGINT call `stop`, SIGHUP waits for `as_events`, signals that Go
    ignores are ignored.

    If this process is PID 1, a signal without a handler has no effect at all.  The image's launcher blocks these three, so
    signals that came before this call take effect now.
    """
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    for ignored in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(ignored, signal.SIG_IGN)
    faulthandler.unregister(signal.SIGQUIT)  # otherwise a second call would not install its handler again
    signal.signal(signal.SIGQUIT, _exit_on_sigquit)
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.register(signal.SIGQUIT, chain=True)  # prints the stacks even if no Python code can run
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


@contextlib.contextmanager
def as_events() -> Iterator[Events]:
    """While this is entered, signals set events of the running loop; then the handlers of `install_early` are back."""
    import asyncio

    events = Events(asyncio.Event(), asyncio.Event(), [])
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        from livenessprobe.process.windows import on_console_end

        def stop(number: int, _frame: FrameType | None) -> None:
            events.stopped_by.append(signal.Signals(number).name)
            stop_soon()

        def stop_at_console_end() -> None:
            events.stopped_by.append("the end of the console")
            stop_soon()

        def stop_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the process is already ending
                loop.call_soon_threadsafe(events.stop.set)

        install_early(stop)
        on_console_end(stop_at_console_end)
    else:

        def stop_by(name: str) -> None:
            events.stopped_by.append(name)
            events.stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop_by, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, stop_by, "SIGINT")
        loop.add_signal_handler(signal.SIGHUP, events.reload.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield events
    finally:
        if sys.platform != "win32":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        install_early()
