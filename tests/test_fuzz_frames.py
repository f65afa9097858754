"""
Random frames from the driver, compared with a small model of what the sidecar must respond.

`make fuzz` runs thousands of examples; Hypothesis prints the frames of a failure and keeps its seed.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.conformance.raw_driver import ACK, DATA, GOAWAY, PING, SETTINGS, frame, message
from tests.support import Sidecar, not_on_windows
from tests.support.frames import PROBE, Call, FrameDriver, goaway, ready

pytestmark = not_on_windows("Python cannot listen on AF_UNIX there")

TIMEOUT = 0.5
WINDOW_UPDATE = 8
READY, NOT_READY = b"\x0a\x02\x08\x01", b"\x0a\x00"


class Part(Enum):
    """Frames of a response."""

    HEADERS = "the headers of a response"
    READY = "a message: ready"
    NOT_READY = "a message: not ready"
    HALVES = "the same as READY, in two DATA frames"
    DONE = "trailers with status 0"
    FAILED = "trailers with status 13"
    # Harmless: a response with these is as without.
    PING_IT = "a PING"
    WINDOW = "more of the connection's window"
    UNKNOWN = "a frame of an unknown type"
    SETTINGS_AGAIN = "other SETTINGS"
    GOAWAY_AT = "a GOAWAY that lets the call go on"
    # A response with these may be healthy only if it would be so without.
    EMPTY_DATA = "DATA without a byte"
    GOAWAY_BELOW = "a GOAWAY below the call"
    REFUSED = "RST_STREAM with REFUSED_STREAM"
    RESET = "RST_STREAM with INTERNAL_ERROR"
    ENDS = "DATA that ends the stream"
    PADDED = "padded DATA"
    BAD_FLAG = "a message with compression flag 2"
    BYTE = "a byte that belongs to no message"
    SHORT_PING = "a PING of one byte"
    ACK_AGAIN = "an acknowledgement of SETTINGS that was not asked for"
    WRONG_STREAM = "DATA on a stream that does not exist"
    HUGE = "the head of a frame of 16 MiB"
    GARBAGE = "bytes that are no frame"


HARMLESS = {Part.PING_IT, Part.WINDOW, Part.UNKNOWN, Part.SETTINGS_AGAIN, Part.GOAWAY_AT}
FRAMES: dict[Part, Callable[[Call], bytes]] = {
    Part.HEADERS: lambda call: call.headers(),
    Part.READY: lambda call: call.data(message(READY)),
    Part.NOT_READY: lambda call: call.data(message(NOT_READY)),
    Part.HALVES: lambda call: call.data(message(READY)[:3]) + call.data(message(READY)[3:]),
    Part.DONE: lambda call: call.trailers(),
    Part.FAILED: lambda call: call.trailers([("grpc-status", "13"), ("grpc-message", "disk on fire")]),
    Part.PING_IT: lambda _: frame(PING, payload=bytes(8)),
    Part.WINDOW: lambda _: frame(WINDOW_UPDATE, payload=struct.pack(">I", 1)),
    Part.UNKNOWN: lambda _: frame(0x55, payload=b"xyz"),
    Part.SETTINGS_AGAIN: lambda _: frame(SETTINGS, payload=struct.pack(">HI", 3, 100)),
    Part.GOAWAY_AT: lambda call: goaway(call.stream, 0),
    Part.EMPTY_DATA: lambda call: call.data(b""),
    Part.GOAWAY_BELOW: lambda _: goaway(0, 0),
    Part.REFUSED: lambda call: call.rst(7),
    Part.RESET: lambda call: call.rst(2),
    Part.ENDS: lambda call: call.data(b"", flags=1),
    Part.PADDED: lambda call: call.data(b"\x03" + message(READY) + bytes(3), flags=8),
    Part.BAD_FLAG: lambda call: call.data(message(READY, 2)),
    Part.BYTE: lambda call: call.data(b"\0"),
    Part.SHORT_PING: lambda _: frame(PING, payload=b"x"),
    Part.ACK_AGAIN: lambda _: frame(SETTINGS, ACK),
    Part.WRONG_STREAM: lambda call: frame(DATA, 0, call.stream + 6, message(READY)),
    Part.HUGE: lambda call: b"\xff\xff\xff" + bytes([DATA, 0]) + struct.pack(">I", call.stream),
    Part.GARBAGE: lambda _: b"\xff" * 5 + b"HTTP/1.1 200 OK\r\n\r\n" + bytes([GOAWAY]),
}

MESSAGES = {Part.READY, Part.HALVES, Part.NOT_READY}
BACKBONE = st.tuples(
    st.just(Part.HEADERS), st.sampled_from(sorted(MESSAGES, key=str)), st.sampled_from([Part.DONE, Part.DONE, Part.FAILED])
).map(list)


@st.composite
def responses(draw: st.DrawFn) -> list[Part]:
    """A whole response with other frames at random places, or frames at random."""
    if draw(st.booleans()):
        parts, others = draw(BACKBONE), draw(st.lists(st.sampled_from(sorted(HARMLESS, key=str)), max_size=3))
    else:
        parts, others = draw(BACKBONE | st.just([])), draw(st.lists(st.sampled_from(Part), max_size=4))
    for other in others:
        parts.insert(draw(st.integers(0, len(parts))), other)
    return parts


def expected(parts: Sequence[Part]) -> set[str]:
    """What the sidecar may report: `healthy` for a complete response with ready, and nothing else if all is harmless."""
    essence = [part for part in parts if part not in HARMLESS]
    if len(essence) == 3 and essence[0] is Part.HEADERS and essence[1] in MESSAGES:
        if essence[2] is Part.DONE:
            return {"not_ready"} if essence[1] is Part.NOT_READY else {"healthy"}
        if essence[2] is Part.FAILED:
            return {"driver_error"}
    failures = {"deadline", "protocol_error", "connection_lost", "driver_error", "not_ready"}
    return failures | {"healthy"} if _has_a_ready_response(parts) else failures


def _has_a_ready_response(parts: Sequence[Part]) -> bool:
    """Whether headers, a message that says ready and trailers with status 0 come in this order, whatever is between them."""
    left = iter(parts)
    return Part.HEADERS in left and any(part in (Part.READY, Part.HALVES) for part in left) and Part.DONE in left


@pytest.fixture(scope="module")
def frames() -> Iterator[FrameDriver]:
    with tempfile.TemporaryDirectory(prefix="lp") as folder, FrameDriver(f"{folder}/csi.sock") as driver:
        driver.address = f"{folder}/csi.sock"  # type: ignore[attr-defined]
        yield driver


@pytest.fixture(scope="module")
def process(frames: FrameDriver) -> Iterator[Sidecar]:
    sidecar = Sidecar((f"--csi-address={frames.address}", f"--probe-timeout={TIMEOUT:g}s"))  # type: ignore[attr-defined]
    sidecar.await_name()
    yield sidecar
    log = sidecar.log()
    sidecar.kill()
    assert "Traceback" not in log and "inside the sidecar" not in log, log  # noqa: PT018


@settings(max_examples=settings.default.max_examples // 2)
@given(responses())
@example([Part.HEADERS, Part.READY, Part.DONE])
@example([Part.HEADERS, Part.READY, Part.BYTE, Part.DONE])
@example([Part.HEADERS, Part.BAD_FLAG, Part.DONE])
@example([Part.GOAWAY_AT, Part.HEADERS, Part.PING_IT, Part.HALVES, Part.DONE])
def test_only_a_complete_response_with_ready_is_healthy_whatever_frames_come(
    frames: FrameDriver, process: Sidecar, parts: list[Part]
) -> None:
    frames.respond = lambda call: b"".join(FRAMES[part](call) for part in parts) if call.path == PROBE else ready(call)

    answer = process.get()

    reason = answer.headers["x-livenessprobe-reason"]
    event(reason)
    assert reason in expected(parts), answer.body
    assert (answer.status == 200) == (reason == "healthy")
    assert answer.seconds < TIMEOUT + 1.5
    assert process.process.poll() is None
    frames.respond = ready
    assert process.get().status == 200  # it has recovered at once
