"""Bytes that clients send with, after and instead of a request, and clients that do not read or that disconnect."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, eventually, raw, request, with_little_room

Start = Callable[..., Sidecar]

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKS = b"1\r\na\r\n" * 40 + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\xff" * 40 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        GET + b"\r\n" + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        GET + b"\r\n\0garbage\r\n\r\n",
        GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
        GET + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde and more",
        GET + b"Expect: nothing\r\n\r\nmore",
        GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n" + GET + b"\r\n",
        b"GET / HTTP/9.9\r\n\r\nmore",
        b"CONNECT /healthz HTTP/1.1\r\nHost: a\r\n\r\nmore",
        b"CONNECT /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore",
        b"CONNECT /nowhere HTTP/1.1\r\nHost: a\r\n\r\nmore",
        GET + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-5],
    ],
)
def test_no_bytes_leave_a_task_behind(driver: FakeDriver, sidecar: Start, data: bytes) -> None:
    process = sidecar()
    process.await_name()
    before = process.metric("livenessprobe_tasks")

    for _ in range(5):
        raw(process.port, data, 0.5)

    eventually(lambda: process.metric("livenessprobe_tasks") <= before)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
        GET + b"Connection: close\r\n\r\n\r\n",
        GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
        GET + b"Connection: close\r\n\r\n\0garbage",
        GET + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde and more",
        GET + b"Content-Length: 5\r\n\r\nabc",
        GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        GET + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + CHUNKS,
    ],
)
def test_a_request_is_answered_whatever_bytes_follow_it(driver: FakeDriver, sidecar: Start, data: bytes) -> None:
    driver.delay = 0.2  # so that all bytes arrive before the response
    process = sidecar()

    answer = raw(process.port, data, 3)

    assert answer.count(b"HTTP/1.") == 1
    assert answer.split(b" ")[1] == b"200"
    assert answer.endswith(b"\r\n\r\nok")


def test_bytes_that_arrive_during_the_probe_do_not_change_the_response(driver: FakeDriver, sidecar: Start) -> None:
    driver.delay = 0.5
    process = sidecar()

    with socket.create_connection(("127.0.0.1", process.port), 5) as client, client.makefile("rb") as answer:
        client.sendall(GET + b"Connection: close\r\n\r\n")
        time.sleep(0.1)
        client.sendall(b"\r\n")

        assert answer.read().endswith(b"\r\n\r\nok")


def test_pipelined_requests_are_answered_in_order(driver: FakeDriver, sidecar: Start) -> None:
    """More requests than the sidecar reads from the kernel before it answers the first."""
    process = sidecar()
    count = 2_000

    with socket.create_connection(("127.0.0.1", process.port), 30) as client:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(client.sendall, (GET + b"\r\n") * (count - 1) + GET + b"Connection: close\r\n\r\n")
            received = b"".join(iter(lambda: client.recv(65536), b""))
            sending.result()

    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"\r\n\r\nok") == count


@pytest.mark.parametrize("method", [b"head", b"Head", b"get", b"BREW"])
@pytest.mark.parametrize("path", [b"/healthz", b"/metrics"])
def test_a_method_that_only_looks_like_head_has_a_body(
    driver: FakeDriver, sidecar: Start, method: bytes, path: bytes
) -> None:
    """Methods are case-sensitive (RFC 9110, 9.1)."""
    process = sidecar()

    answer = raw(process.port, method + b" " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 5)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"ok" if path == b"/healthz" else b"livenessprobe_build_info" in body
    assert "Error" not in process.log()


def test_the_bound_on_headers_holds_for_every_request_of_a_connection(driver: FakeDriver, sidecar: Start) -> None:
    """Also in small pieces, with a bound above and below the default."""
    for bound, size, status in ((65536, 40_000, b"200"), (1024, 2_000, b"431")):
        process = sidecar(f"--http-max-header-bytes={bound}")
        with socket.create_connection(("127.0.0.1", process.port), 5) as client:
            client.sendall(GET + b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            client.sendall(GET)
            for _ in range(size // 500):
                client.sendall(b"X: " + b"y" * 495 + b"\r\n")
                if select.select([client], [], [], 0.002)[0]:
                    break  # refused; another write might fail
            if status == b"200":
                client.sendall(b"\r\n")

            assert client.recv(65536).split(b" ")[1] == status


def test_a_client_that_disconnects_after_pipelined_requests_is_noticed(driver: FakeDriver, sidecar: Start) -> None:
    """After the first response: until then it may have closed only its side, and wait for all responses."""
    process = sidecar("--probe-timeout=20s")
    process.await_name()
    before = process.metric("livenessprobe_tasks")
    driver.hang = True

    for _ in range(5):
        with socket.create_connection(("127.0.0.1", process.port), 5) as client:
            client.sendall((GET + b"\r\n") * 60)
            eventually(lambda: driver.in_flight == 1)

    driver.release.set()
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == 5)
    eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_full_of_requests_accepting_pauses_and_no_new_request_is_lost(driver: FakeDriver, sidecar: Start) -> None:
    """The kernel holds the clients; descriptors are left for the driver."""
    process = sidecar("--http-max-connections=4", "--probe-timeout=20s")
    process.await_name()
    before = len(os.listdir(f"/proc/{process.process.pid}/fd"))
    driver.hang = True
    clients = []
    for _ in range(200):
        clients.append(socket.create_connection(("127.0.0.1", process.port), 20))
        clients[-1].sendall(GET + b"Connection: close\r\n\r\n")
    eventually(lambda: driver.in_flight == 1)
    time.sleep(0.5)

    assert len(os.listdir(f"/proc/{process.process.pid}/fd")) < before + 12
    driver.hang = False
    driver.release.set()
    for client in clients:
        with client, client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nok")
    assert process.metric("livenessprobe_http_connections_closed_total") == 0


def test_clients_that_send_requests_without_pause_do_not_block_others(driver: FakeDriver, sidecar: Start) -> None:
    """Once the bound is reached, a connection is closed after its response."""
    process = sidecar("--http-max-connections=1")
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", process.port), 20) as client:
                while not over.is_set():
                    client.sendall((b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n") * 20)
                    if not client.recv(65536):
                        break

    with ThreadPoolExecutor(20) as pool:
        for _ in range(20):
            pool.submit(ask)
        time.sleep(0.5)
        try:
            answers = [process.get(timeout=5).status for _ in range(5)]
        finally:
            over.set()

    assert answers == [200] * 5


def unread(process: Sidecar, requests: bytes) -> socket.socket:
    """A client that has sent `requests` and reads nothing."""
    client = with_little_room(process)
    client.setblocking(False)
    client.send(requests)
    return client


def test_clients_that_do_not_read_are_closed_to_make_room(driver: FakeDriver, sidecar: Start) -> None:
    """They count as connections without a request, and the one that has not read for longest is closed first."""
    process = sidecar("--http-max-connections=3")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)) as poller:

        def metric(series: str) -> float:
            body = request(poller, "/metrics", "GET", {}).body
            return float(body.partition(f"\n{series} ")[2].partition("\n")[0] or 0)

        def is_slow() -> bool:
            """Whether no response but the poller's own has been written for a while."""
            before = metric('livenessprobe_http_responses_total{code="200"}')
            time.sleep(0.2)
            return metric('livenessprobe_http_responses_total{code="200"}') == before + 1

        with unread(process, METRICS * 2000) as first:
            eventually(is_slow, 40)
            with unread(process, METRICS * 2000) as second:
                eventually(is_slow, 40)
                assert metric("livenessprobe_http_connections_closed_total") == 0
                assert process.get().status == 200
                assert metric("livenessprobe_http_connections_closed_total") == 1
                eventually(lambda: is_reset(first))
                assert not is_reset(second)


def is_reset(client: socket.socket) -> bool:
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_a_client_that_half_closes_and_does_not_read_is_dropped(driver: FakeDriver, sidecar: Start) -> None:
    """Quart then cancels the request in the middle of a response."""
    process = sidecar("--http-idle-timeout=4s")
    process.await_name()
    process.get("/metrics")
    before = process.metric("livenessprobe_tasks")

    with unread(process, METRICS * 400) as client:
        eventually(lambda: process.metric("livenessprobe_tasks") > before)
        time.sleep(2)  # by then the buffers are full
        client.shutdown(socket.SHUT_WR)

        eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_a_refusal_behind_unread_responses_closes_the_connection(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """After some numbers of responses there is no space for the refusal at first."""
    path = f"{folder}/http.sock"
    sidecar(f"--http-endpoint=unix://{path}")
    eventually(lambda: os.path.exists(path))

    for count in range(1, 40):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(METRICS * count + b"BAD\r\n\r\n")
            time.sleep(0.1)
            received = b"".join(iter(lambda: client.recv(65536), b""))
        assert received.endswith(b"400 Bad Request"), count


# --- a client that closes its side of the connection


def exchange(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """All that a client receives that closes its side behind `data`, and the seconds until the server has closed, too."""
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
