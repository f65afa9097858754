"""What the operating system tells us: stop, or read the settings again."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType


class Control:
    """Set by signals, waited for by the daemon."""

    def __init__(self) -> None:
        import asyncio  # not at the top: `early` is called before anything that takes time

        self.stop: asyncio.Event = asyncio.Event()
        self.reload: asyncio.Event = asyncio.Event()


def stopped(_number: int, _frame: FrameType | None) -> None:
    """A sidecar that is told to stop has done nothing wrong."""
    _end(0)


def cut_short(number: int, _frame: FrameType | None) -> None:
    """Who asked for an answer has none, which must not look like the good one; shells say it so."""
    _end(128 + number)


def _quit(_number: int, _frame: FrameType | None) -> None:
    """As Go's runtime does it, after all stacks; as PID 1 the signal itself would do nothing."""
    with contextlib.suppress(OSError):
        os.write(2, b"SIGQUIT: quit\n")
    _end(2)


def _end(code: int) -> None:
    """Not by an exception: raised in a callback of the import system's, it would be printed and forgotten."""
    with contextlib.suppress(Exception):  # it may be half imported
        sys.modules["livenessprobe.klog.log"].flush(1.0)
    os._exit(code)


def unwind(_number: int, _frame: FrameType | None) -> None:
    """For who has something to clean up."""
    raise SystemExit(0)


def early(told: Callable[[int, FrameType | None], None] = stopped) -> None:
    """
    Until the event loop runs: TERM and INT end the process by `told`, HUP waits for `control`, and what Go ignores is ignored.

    As PID 1 a signal without a handler would have no effect at all.  The image's launcher has blocked these three, so those that
    came before this call take effect now.
    """
    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, told)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    for ignored in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(ignored, signal.SIG_IGN)
    faulthandler.unregister(signal.SIGQUIT)  # else it would think that its handler is still there
    signal.signal(signal.SIGQUIT, _quit)
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.register(signal.SIGQUIT, chain=True)  # it writes the stacks even where no Python runs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


@contextlib.contextmanager
def control() -> Iterator[Control]:
    """Turn signals into events of the running loop; the handlers of before are back afterwards."""
    import asyncio

    events = Control()
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        from livenessprobe.process.windows import on_console_end

        def stop(*_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending already
                loop.call_soon_threadsafe(events.stop.set)

        handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGBREAK)}
        on_console_end(stop)
        try:
            yield events
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return
    loop.add_signal_handler(signal.SIGTERM, events.stop.set)
    loop.add_signal_handler(signal.SIGINT, events.stop.set)
    loop.add_signal_handler(signal.SIGHUP, events.reload.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield events
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        early()
