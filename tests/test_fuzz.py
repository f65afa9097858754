"""
Anything at all on the port, and anything at all from the driver: never a hang, a crash or a wrong answer.

`make fuzz` tries thousands of times as many.  Arguments, durations, addresses, TOML and log lines have properties of their
own, in the tests of their rooms, which it runs as well.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.csi import csi_pb2
from tests.support import FakeDriver, Sidecar

TOKENS = st.sampled_from(
    [
        b"GET ", b"POST ", b"HEAD ", b"PRI ", b"/healthz", b"/livez?verbose", b"/metrics", b"*", b"http://a/b", b"%", b"%2f", b" HTTP/1.1",
        b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Host: x", b"Host: ", b"Content-Length: 5", b"Content-Length: 99999999999",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close", b"Connection: keep-alive", b"Upgrade: h2c", b"Upgrade: websocket",
        b"Expect: 100-continue", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"\0", b"\xff", b": ", b" ", b"\t", b"a" * 300, b"Accept-Encoding: gzip",
    ]
)  # fmt: skip
REQUESTS = st.lists(TOKENS | st.binary(max_size=20), max_size=30).map(b"".join)


class Parrot(FakeDriver):
    """A driver that says the bytes it is told to."""

    answer = b""

    def _ready(self, _request: bytes) -> bytes:
        return self.answer


@pytest.fixture(scope="module")
def parrot() -> Iterator[Parrot]:
    with tempfile.TemporaryDirectory(prefix="lp") as folder, Parrot(f"{folder}/csi.sock") as driver:
        yield driver


@pytest.fixture(scope="module")
def process(parrot: Parrot) -> Iterator[Sidecar]:
    process = Sidecar((f"--csi-address={parrot.path}",))
    yield process
    log = process.log()
    process.kill()
    assert "Traceback" not in log
    assert "inside the sidecar" not in log


@settings(max_examples=settings.default.max_examples // 2)
@given(REQUESTS, st.booleans())
def test_nothing_on_the_port_keeps_it_from_answering(parrot: Parrot, process: Sidecar, request: bytes, cut: bool) -> None:
    parrot.answer = b""
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


@given(st.binary(max_size=60) | st.binary(max_size=5).map(lambda head: b"\x0a" + head))
def test_whatever_the_driver_says_has_an_answer(parrot: Parrot, process: Sidecar, said: bytes) -> None:
    """Not ready only if it says so in valid protobuf; no valid protobuf, no 200."""
    parrot.answer = said
    try:
        response = csi_pb2.ProbeResponse.FromString(said)
        expected = 200 if not response.HasField("ready") or response.ready.value else 500
        reason = None if expected == 200 else "not_ready"
    except Exception:  # noqa: BLE001  the decoder's
        expected, reason = 500, "protocol_error"

    answer = process.get()

    assert (answer.status, answer.reason) == (expected, reason)
