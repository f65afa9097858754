"""
Random bytes on the port and from the driver never cause a hang, a crash or a wrong response.

`make fuzz` runs thousands of examples.  It also runs the properties of arguments, durations, addresses, TOML and log
lines, which are in the tests of their modules.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.csi import csi_pb2
from livenessprobe.csi.grpc_health_pb2 import HealthCheckResponse
from livenessprobe.driver.methods import HEALTH_CHECK
from tests.support import FakeDriver, Sidecar, eventually, without_faults
from tests.support.requests import Head, heads

TOKENS = st.sampled_from(
    [
        b"GET ", b"POST ", b"HEAD ", b"PRI ", b"/healthz", b"/livez?verbose", b"/metrics", b"*", b"http://a/b", b"%", b"%2f", b" HTTP/1.1",
        b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Host: x", b"Host: ", b"Content-Length: 5", b"Content-Length: 99999999999",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close", b"Connection: keep-alive", b"Upgrade: h2c", b"Upgrade: websocket",
        b"Expect: 100-continue", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"\0", b"\xff", b": ", b" ", b"\t", b"a" * 300, b"Accept-Encoding: gzip",
    ]
)  # fmt: skip
HEADS = st.sampled_from([b"/healthz", b"/livez", b"/metrics", b"/nowhere", b"//healthz"]).map(
    lambda path: b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNKS = st.integers(1, 40).map(lambda number: b"1\r\na\r\n" * number)
PARTS = TOKENS | st.binary(max_size=20)
WITH_BODIES = st.lists(st.tuples(HEADS, CHUNKS, st.just(b"0\r\n\r\n") | PARTS).map(b"".join), min_size=1, max_size=4)
REQUESTS = (st.lists(PARTS, max_size=30) | WITH_BODIES).map(b"".join)
ANSWERS = st.binary(max_size=60) | st.binary(max_size=5).map(lambda head: b"\x0a" + head)


class Parrot(FakeDriver):
    """A driver that responds with the bytes it is given."""

    answer = b""
    info = csi_pb2.GetPluginInfoResponse(name="parrot").SerializeToString()

    def _get_plugin_info(self, _request: bytes, _context: object) -> bytes:
        self.names_asked += 1
        return self.info

    def _ready(self, _request: bytes) -> bytes:
        return self.answer


@pytest.fixture(scope="module")
def parrot() -> Iterator[Parrot]:
    with tempfile.TemporaryDirectory(prefix="lp") as folder, Parrot(f"{folder}/csi.sock") as driver:
        yield driver


@pytest.fixture(scope="module")
def process(parrot: Parrot) -> Iterator[Sidecar]:
    with without_faults(parrot) as process:
        yield process


@pytest.fixture(scope="module")
def health_checker(parrot: Parrot) -> Iterator[Sidecar]:
    parrot.methods[HEALTH_CHECK] = parrot._ready
    with without_faults(parrot, f"--probe-path={HEALTH_CHECK}") as process:
        yield process


@settings(max_examples=settings.default.max_examples // 2)
@given(REQUESTS, st.booleans())
def test_any_bytes_on_the_port_leave_the_sidecar_working(
    parrot: Parrot, process: Sidecar, request: bytes, cut: bool
) -> None:
    """And no task is left behind once the client has gone."""
    parrot.answer = b""
    before = process.metric("livenessprobe_tasks")
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        with contextlib.suppress(OSError):
            client.sendall(request)
            if cut:
                client.shutdown(socket.SHUT_WR)
            client.settimeout(0.02)
            client.recv(65_536)

    answer = process.get()

    assert (answer.status, answer.body) == (200, "ok")
    assert process.process.poll() is None
    eventually(lambda: process.metric("livenessprobe_tasks") <= before, 3)


@settings(max_examples=settings.default.max_examples // 2)
@given(heads())
def test_the_first_response_to_a_random_head_is_that_of_go(parrot: Parrot, process: Sidecar, head: Head) -> None:
    parrot.answer = b""
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(head.head)
        status_line = client.makefile("rb").readline().rstrip()

    assert status_line.partition(b" ")[2].decode() == head.expected


@given(ANSWERS)
def test_any_response_to_probe_is_reported(parrot: Parrot, process: Sidecar, said: bytes) -> None:
    """500 not_ready only if valid protobuf says so; never 200 for invalid protobuf."""
    parrot.answer = said
    try:
        response = csi_pb2.ProbeResponse.FromString(said)
        expected = 200 if not response.HasField("ready") or response.ready.value else 500
        reason = None if expected == 200 else "not_ready"
    except Exception:  # noqa: BLE001  whatever the decoder raises
        expected, reason = 500, "protocol_error"

    answer = process.get()

    assert (answer.status, answer.reason) == (expected, reason)


@given(ANSWERS | st.integers(0, 9).map(lambda status: HealthCheckResponse(status=status).SerializeToString()))
def test_any_response_to_grpcs_health_check_is_reported(parrot: Parrot, health_checker: Sidecar, said: bytes) -> None:
    parrot.answer = said
    try:
        serving = HealthCheckResponse.FromString(said).status == HealthCheckResponse.SERVING
        expected = (200, None) if serving else (500, "not_ready")
    except Exception:  # noqa: BLE001  whatever the decoder raises
        expected = (500, "protocol_error")

    answer = health_checker.get()

    assert (answer.status, answer.reason) == expected


@settings(max_examples=settings.default.max_examples // 2)
@given(ANSWERS | st.text(max_size=200).map(lambda name: csi_pb2.GetPluginInfoResponse(name=name).SerializeToString()))
def test_any_plugin_info_does_not_change_the_report(parrot: Parrot, process: Sidecar, said: bytes) -> None:
    parrot.answer, parrot.info = b"", said
    before = parrot.names_asked

    def is_asked_again() -> bool:
        os.utime(parrot.path)  # a changed socket file may be another driver's, so the name is asked again
        answer = process.get()
        assert (answer.status, answer.body) == (200, "ok")
        return parrot.names_asked > before

    eventually(is_asked_again)
    assert process.get("/metrics").status == 200
    assert process.process.poll() is None
