"""An event loop with a virtual clock: a day of timers passes as fast as their callbacks run."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Jump(selectors.DefaultSelector):
    """A selector that never sleeps: it sets the clock to the next timer instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen")
        if not ready and timeout:
            # Set to the timer's own time: adding the timeout would sometimes miss it by the last bit.
            self.loop.now = self.loop._scheduled[0].when()  # type: ignore[attr-defined]
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now = 1000.0  # an arbitrary uptime; asyncio reads the clock in its constructor
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def stall(self, seconds: float) -> None:
        """The process stands still, as after SIGSTOP: time passes, and no timer runs."""
        self.now += seconds


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A decorator: the test runs in virtual time."""

    @functools.wraps(test)
    def run(*arguments: object, **values: object) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*arguments, **values))

    return run


def loop() -> VirtualLoop:
    """The running loop."""
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running
