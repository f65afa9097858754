"""A client that closes its side of the connection: it gets its responses, and a hang-up is told from a half-close."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually, not_on_windows
from tests.support.names import GET, METRICS

pytestmark = not_on_windows("unix sockets in Python")


def exchange(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """The bytes received by a client that closes its side behind `data`, and the seconds until the server has closed, too."""
    began = time.monotonic()
    connection.settimeout(20)
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: connection.recv(65536), b"")), time.monotonic() - began


def gone(process: Sidecar) -> float:
    time.sleep(0.3)  # whether a client hung up is known 0.1 s after its response
    return process.metric("livenessprobe_callers_gone_total")


@pytest.mark.parametrize("delay", [0.0, 0.7])
@pytest.mark.parametrize("interval", ["0s", "500ms"])
def test_a_client_that_half_closes_gets_its_responses(
    driver: FakeDriver, sidecar: Start, delay: float, interval: str
) -> None:
    process = sidecar(f"--interval={interval}")
    process.await_name()
    process.get("/metrics")
    driver.delay = delay
    for data, bodies in {
        GET + b"\r\n": 1,
        b"GET /healthz HTTP/1.0\r\n\r\n": 1,
        (GET + b"\r\n") * 3: 3,
        (GET + b"\r\n") * 2 + METRICS: 2,
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf": 1,
    }.items():
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            received, seconds = exchange(client, data)
        assert received.count(b"HTTP/1.1 200") + received.count(b"HTTP/1.0 200") == data.count(b" HTTP/1.")
        assert received.count(b"\r\n\r\nok") == bodies
        if b"metrics" in data:
            assert received.endswith(b"0\r\n\r\n")
        assert seconds < bodies * delay + 2
    assert gone(process) == 0


def test_a_client_that_half_closes_is_told_why_a_driver_fails(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=1s")
    process.await_name()
    driver.hang = True
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        received, seconds = exchange(client, GET + b"\r\n")
    assert received.startswith(b"HTTP/1.1 500") and b"\r\nX-Livenessprobe-Reason: deadline\r\n".lower() in received.lower()
    assert 0.9 < seconds < 3
    assert gone(process) == 0


@pytest.mark.parametrize("data", [b"G", b"GET /healthz HTTP/1.1\r\n", GET, GET + b"\r\n" + GET])
def test_an_incomplete_request_of_a_client_that_half_closes_is_refused(
    driver: FakeDriver, sidecar: Start, data: bytes
) -> None:
    process = sidecar()
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        received, seconds = exchange(client, data)
    assert received.endswith(b"400 Bad Request")
    assert received.count(b"HTTP/1.1 200") == data.count(b"\r\n\r\n")
    assert seconds < 2


def test_a_connection_closed_without_a_request_gets_nothing(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        received, seconds = exchange(client, b"")
    assert (received, gone(process)) == (b"", 0)
    assert seconds < 2


KUBELET = b"User-Agent: kube-probe/1.33\r\n"


@pytest.mark.parametrize("network", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("agent", "how", "at_once", "counted"),
    [
        (KUBELET, "close", ("tcp", "unix"), 1),
        (KUBELET, "half-close", ("tcp", "unix"), 1),
        (KUBELET, "reset", ("tcp", "unix"), 1),
        (b"", "reset", ("tcp", "unix"), 1),
        (b"", "close", ("unix",), 1),
        (b"", "half-close", (), 0),
        (b"", "half-close, then close", (), 1),
        (b"User-Agent: not kube-probe/1.33\r\n", "half-close", (), 0),
    ],
)
def test_a_hang_up_is_told_from_a_half_close(
    driver: FakeDriver,
    folder: Path,
    sidecar: Start,
    network: str,
    agent: bytes,
    how: str,
    at_once: tuple[str, ...],
    counted: int,
) -> None:
    """With `at_once` it is counted while the request goes on, else after its response; none is counted twice."""
    endpoint = f"--http-endpoint=unix://{folder}/http.sock" if network == "unix" else "--v=0"
    process = sidecar(endpoint, "--probe-timeout=9s")
    process.await_name()
    driver.hang = True

    def connect() -> socket.socket:
        if network == "tcp":
            return socket.create_connection(("127.0.0.1", process.port))
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{folder}/http.sock")
        return client

    def counted_now() -> int:
        time.sleep(0.3)  # whether a client hung up is known 0.1 s after its response
        with connect() as client:
            received, _ = exchange(client, METRICS)
        return int(received.partition(b"\nlivenessprobe_callers_gone_total ")[2].partition(b"\n")[0])

    with connect() as client:
        client.sendall(GET + agent + b"\r\n")
        eventually(lambda: driver.in_flight == 1)
        if "half" in how:
            client.shutdown(socket.SHUT_WR)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "half-close":
            time.sleep(0.1)
            client.close()
        assert counted_now() == (network in at_once)
        driver.release.set()
        if how == "half-close":
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert counted_now() == counted
    assert counted_now() == counted


def test_a_scrape_whose_client_hangs_up_is_no_health_request(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            client.sendall(METRICS)
    assert gone(process) == 0


def test_clients_that_closed_their_side_are_closed_to_make_room(driver: FakeDriver, sidecar: Start) -> None:
    """The FIN that can be read from them is no request."""
    process = sidecar("--http-max-connections=3")
    process.await_name()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            received, seconds = exchange(client, GET + b"\r\n")
            assert received.startswith(b"HTTP/1.1 200 OK")
            assert seconds < 1
