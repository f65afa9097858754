"""Calls that the driver has not looked at, and responses whose HTTP/2 or gRPC is odd or wrong, seen by the whole process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.raw_driver import ACK, END_HEADERS, HEADERS, PING, SETTINGS, frame, message
from tests.support import COMMAND, ROOT, Sidecar, Start, eventually, not_on_windows
from tests.support.frames import GET_PLUGIN_INFO, LAST_STREAM, OPENING, PROBE, Call, FrameDriver, Respond, goaway, ready

pytestmark = not_on_windows("Python cannot listen on AF_UNIX there")

PADDED = 0x8
DIALS = "livenessprobe_driver_connections_total"
PROBE_CALLS = 'csi_sidecar_operations_seconds_count{{driver_name="frame.csi",grpc_status_code="{}",method_name="/csi.v1.Identity/Probe"}}'


@pytest.fixture
def frames(socket_path: str) -> Iterator[FrameDriver]:
    with FrameDriver(socket_path) as driver:
        yield driver


# --- calls that the driver has not looked at

REFUSALS: dict[str, Callable[[Call], bytes]] = {
    "GOAWAY 0 below the stream": lambda call: goaway(0, 0),
    "GOAWAY 2 below the stream": lambda call: goaway(0, 2),
    "GOAWAY 11 below the stream": lambda call: goaway(0, 11),
    "a graceful GOAWAY and then one below the stream": lambda call: goaway(LAST_STREAM, 0) + goaway(0, 0),
    "REFUSED_STREAM": lambda call: call.rst(7),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_call_that_the_driver_has_not_looked_at_is_made_again_on_a_fresh_connection(
    frames: FrameDriver, sidecar: Start, refusal: str
) -> None:
    process = sidecar("--unreachable-grace=0s", "--connection-reuse=0s")
    process.await_name()
    refused = frames.connections + 1
    frames.respond = lambda call: REFUSALS[refusal](call) if call.connection == refused else ready(call)

    answer = process.get()

    assert (answer.status, answer.body) == (200, "ok")
    assert frames.connections == refused + 1
    assert process.metric(PROBE_CALLS.format("OK")) == 1
    assert process.metric(PROBE_CALLS.format("Unavailable")) == 0
    assert process.metric(DIALS) == frames.connections


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_second_refusal_is_the_result(frames: FrameDriver, sidecar: Start, refusal: str) -> None:
    process = sidecar("--unreachable-grace=0s", "--connection-reuse=0s")
    process.await_name()
    frames.respond = REFUSALS[refusal]

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "connection_lost")
    assert answer.body.startswith("rpc error: code = Unavailable desc = ")
    assert answer.seconds < 1
    assert frames.probes() == 2
    assert process.metric(PROBE_CALLS.format("Unavailable")) == 1


@pytest.mark.parametrize("greeting", [frame(SETTINGS) + goaway(LAST_STREAM, 0), frame(SETTINGS) + goaway(0, 0)])
def test_a_server_that_drains_is_dialled_again(frames: FrameDriver, sidecar: Start, greeting: bytes) -> None:
    process = sidecar("--unreachable-grace=0s", "--connection-reuse=0s")
    process.await_name()
    for _ in range(10):
        draining = frames.connections + 1
        frames.greeting = lambda number: greeting if number == draining else frame(SETTINGS)
        assert process.get().status == 200


def test_a_refused_call_has_the_callers_time_and_no_more(frames: FrameDriver, sidecar: Start) -> None:
    """Both calls have the time of one: the second hangs until the deadline."""
    process = sidecar("--unreachable-grace=0s", "--connection-reuse=0s", "--probe-timeout=700ms")
    process.await_name()
    refused = frames.connections + 1
    frames.respond = lambda call: call.rst(7) if call.connection == refused else b""

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "deadline")
    assert 0.65 < answer.seconds < 1.2


def test_a_refused_call_for_the_name_is_made_again(frames: FrameDriver, sidecar: Start) -> None:
    frames.respond = lambda call: goaway(0, 0) if call.connection == 1 else ready(call)
    process = sidecar("-v=5")
    process.await_name()
    assert [call.connection for call in frames.calls if call.path == GET_PLUGIN_INFO] == [1, 2]
    assert process.records("Failed to get CSI driver name") == []


def test_check_makes_a_refused_call_again(frames: FrameDriver, socket_path: str) -> None:
    frames.respond = lambda call: call.rst(7) if call.connection == 1 else ready(call)
    command = [*COMMAND, "check", f"--csi-address={socket_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "healthy: ok\n"), done.stderr
    assert frames.connections == 2


# --- HTTP/2 that gRPC's core does not understand

NOT_UNDERSTOOD = "gRPC's core does not understand the driver's HTTP/2"


def padded(call: Call) -> bytes:
    return frame(HEADERS, END_HEADERS | PADDED, call.stream, b"\x03" + call.encode(OPENING) + bytes(3))


LEGAL: dict[str, Respond] = {
    "padded DATA": lambda call: call.headers() + call.data(b"\x03" + message(b"") + bytes(3), PADDED) + call.trailers(),
    "padded HEADERS": lambda call: padded(call) + call.data() + call.trailers(),
    "interim headers": lambda call: call.headers([(":status", "103")]) + call.answer(),
    "an unused flag of DATA": lambda call: call.headers() + call.data(flags=0x40) + call.trailers(),
    "an unused flag of PING": lambda call: frame(PING, 0x40, payload=bytes(8)) + call.answer(),
    "an acknowledgement that was not asked for": lambda call: frame(SETTINGS, ACK) + call.answer(),
}


@pytest.mark.parametrize("kind", LEGAL)
def test_http2_that_grpcs_core_does_not_understand_has_a_sentence(frames: FrameDriver, sidecar: Start, kind: str) -> None:
    process = sidecar("--probe-timeout=5s")
    process.await_name()
    frames.respond = LEGAL[kind]

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "protocol_error")
    assert answer.body.startswith(f"rpc error: code = Internal desc = {NOT_UNDERSTOOD}: ")
    assert answer.seconds < 1
    assert process.metric(PROBE_CALLS.format("Internal")) == 1


@pytest.mark.parametrize(
    "greeting", [frame(SETTINGS, ACK) + frame(SETTINGS), frame(SETTINGS) + frame(SETTINGS, ACK), frame(SETTINGS, 0x40)]
)
def test_settings_that_grpcs_core_does_not_understand_have_a_sentence(
    frames: FrameDriver, sidecar: Start, greeting: bytes
) -> None:
    frames.greeting = lambda _: greeting
    answer = sidecar("--unreachable-grace=0s").get()
    assert (answer.status, answer.reason) == (500, "protocol_error")
    assert NOT_UNDERSTOOD in answer.body


# --- responses with something behind their message

BEHIND: dict[str, tuple[Respond, str]] = {
    "a second message": (
        lambda call: call.headers() + call.data(message(b"") * 2) + call.trailers(),
        "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message",
    ),
    "a byte": (
        lambda call: call.headers() + call.data(message(b"") + b"\0") + call.trailers(),
        "the response has bytes behind its message, so that gRPC's core does not see its end",
    ),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_what_follows_a_message_is_a_protocol_error_from_the_second_probe_on(
    frames: FrameDriver, sidecar: Start, kind: str
) -> None:
    """gRPC's core reports nothing before the deadline; a streamed read sees a second message at once."""
    process = sidecar("--probe-timeout=500ms")
    process.await_name()
    frames.respond, sentence = BEHIND[kind]
    assert process.get().reason == "deadline"

    answers = [process.get() for _ in range(3)]

    assert {(each.status, each.reason) for each in answers} == {(500, "protocol_error")}
    assert {each.body for each in answers} == {f"rpc error: code = Internal desc = {sentence}"}
    assert all(each.seconds < 0.3 for each in answers) or kind == "a byte"

    frames.respond = ready
    assert [process.get().status for _ in range(3)] == [200, 200, 200]
    before = frames.probes()
    assert process.get().status == 200
    assert frames.probes() == before + 1  # once a call has succeeded, no stream is read before it


def test_a_wrong_message_behind_a_timeout_is_never_a_ready_driver(frames: FrameDriver, sidecar: Start) -> None:
    """A streamed read takes a message with an unknown compression flag for an empty one, which would mean ready."""
    process = sidecar("--probe-timeout=500ms")
    process.await_name()
    frames.respond = lambda call: b""
    assert process.get().reason == "deadline"
    frames.respond = lambda call: call.headers() + call.data(message(b"\x0a\x00", 2)) + call.trailers()
    assert [(each.status, each.reason) for each in (process.get(), process.get())] == [(500, "protocol_error")] * 2


def test_a_driver_that_hangs_again_and_again_is_called_once_for_each_probe(frames: FrameDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=300ms")
    process.await_name()
    frames.respond = lambda call: b""
    assert [process.get().reason for _ in range(3)] == ["deadline"] * 3
    assert frames.probes() == 3


def test_names_too_are_not_waited_for_in_vain(frames: FrameDriver, sidecar: Start) -> None:
    """The first call waits for the whole timeout of 10 s."""
    double = {GET_PLUGIN_INFO: lambda call: call.headers() + call.data(message(b"") * 2) + call.trailers(), PROBE: ready}
    frames.respond = lambda call: double[call.path](call)
    process: Sidecar = sidecar("--probe-timeout=1s")
    eventually(lambda: any("cardinality violation" in each for each in process.records("Failed to get CSI driver name")), 15)


# --- statuses that gRPC makes up

MADE_UP: dict[str, tuple[Respond, str]] = {
    "FLOW_CONTROL_ERROR": (lambda call: call.rst(3), "ResourceExhausted"),
    "an unknown code": (lambda call: call.rst(100), "Unknown"),
    "the largest code": (lambda call: call.rst(2**32 - 1), "Unknown"),
    "no trailers": (lambda call: call.headers() + call.data(flags=1), "Internal"),
    **{
        f"grpc-status {status!r}": (
            lambda call, status=status: call.headers() + call.data() + call.trailers([("grpc-status", status)]),
            "Unknown",
        )
        for status in ("abc", "", "-1", "4294967296", "99")
    },
}


@pytest.mark.parametrize("kind", MADE_UP)
def test_a_status_that_grpc_makes_up_has_gos_code(frames: FrameDriver, sidecar: Start, kind: str) -> None:
    process = sidecar()
    process.await_name()
    frames.respond, code = MADE_UP[kind]
    answer = process.get()
    assert answer.status == 500
    assert answer.body.startswith(f"rpc error: code = {code} desc = ")
    assert process.metric(PROBE_CALLS.format(code)) == 1
