"""Drivers that go away: beside a response, instead of one, or on a fresh connection; each frame is chosen here."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.raw_driver import SETTINGS, frame
from tests.support.frames import LAST_STREAM, Call, FrameDriver, Respond, goaway, ready

FRAMES = "frame.csi"
"""The name of such a driver."""
BESIDE: dict[str, Callable[[Call, int], bytes]] = {
    "before": lambda call, code: goaway(call.stream, code) + ready(call),
    "behind": lambda call, code: ready(call) + goaway(call.stream, code),
}
"""Responses with a GOAWAY of any code beside them."""
UNSEEN: dict[str, Callable[[Call, int], bytes]] = {
    "goaway": lambda _call, code: goaway(0, code),
    "graceful goaway first": lambda _call, code: goaway(LAST_STREAM, 0) + goaway(0, code),
    "refused stream": lambda call, _code: call.rst(7),
}
"""What a driver sends that has not looked at the call."""
DRAINS: dict[str, Callable[[int], bytes]] = {
    "graceful": lambda code: goaway(LAST_STREAM, code),
    "below every stream": lambda code: goaway(0, code),
}
"""What a driver that drains sends behind its SETTINGS."""
ALWAYS, SOMETIMES = 1, 3
"""
Which connections go wrong: all, or each third, beginning with the next.

Two between them, since the request for the driver's name may take one of the two that a Probe needs.
"""


def respond_with(driver: FrameDriver, respond: Respond, every: int = ALWAYS) -> None:
    """From now on `respond` decides on calls of each such connection, and all other calls are answered."""
    first = driver.connections + 1
    driver.greeting = lambda _connection: frame(SETTINGS)
    driver.respond = lambda call: respond(call) if (call.connection - first) % every == 0 else ready(call)


def greet_with(driver: FrameDriver, frames: bytes) -> None:
    """From now on each third connection begins with `frames` behind the SETTINGS, and all calls are answered."""
    first = driver.connections + 1
    driver.greeting = lambda connection: frame(SETTINGS) + (frames if (connection - first) % SOMETIMES == 0 else b"")
    driver.respond = ready
