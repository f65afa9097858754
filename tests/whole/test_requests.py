"""Bytes that clients send to the whole process: valid requests, refused ones, and data that follows a request."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import FakeDriver, Start, eventually, process_status, raw
from tests.support.names import GET


@pytest.mark.parametrize("path", ["/healthz", "/livez?verbose", "/nope"])
def test_connect_is_answered_as_any_other_method(driver: FakeDriver, sidecar: Start, path: str) -> None:
    """With the body, though after a 2xx to CONNECT the bytes are no longer HTTP."""
    process = sidecar()
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(f"CONNECT {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 " if path == "/nope" else b"HTTP/1.1 200 OK")
    assert body.decode() == process.get(path).body
    assert "Error in ASGI" not in process.log()


def test_request_bodies_are_not_kept(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=10s")
    process.await_name()
    assert process.get().status == 200
    driver.hang = True
    before = _resident(process.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            client.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 15900000\r\n\r\n" + b"x" * 15_000_000)
        assert _resident(process.process.pid) - before < 30_000


def _resident(pid: int) -> int:
    return int(process_status(pid, "VmRSS"))


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
def test_upgrades_are_ignored(driver: FakeDriver, sidecar: Start, upgrade: bytes) -> None:
    """This rests on the one private attribute of Hypercorn that is used."""
    process = sidecar()
    answer = raw(process.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n", 1)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", b"417 Expectation Failed"),
    ],
)
def test_anything_but_plain_http1_is_refused_and_closed(
    driver: FakeDriver, sidecar: Start, data: bytes, status: bytes
) -> None:
    process = sidecar()
    started = time.monotonic()
    assert raw(process.port, data, 10).startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert time.monotonic() - started < 5  # the server hung up


def test_headers_over_16_kib_are_refused(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    answer = raw(process.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 1)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_malformed_requests_cause_no_traceback_and_no_hang(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: \xff;q=\r\nAccept-Encoding: gzip;q=\xff\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
        b"\r\n\r\n\r\n",
        b"\x00" * 100,
    ):
        raw(process.port, data, 0.3)
        assert process.get().status == 200, data
    assert "Traceback" not in process.log()
    assert "Error" not in process.log(), process.log()


def test_a_request_in_small_pieces_is_answered(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()

    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.002)
        answer = client.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01", b"400 Bad Request"),
        (b" GET /healthz HTTP/1.1", b"400 Bad Request"),
        (b"\r\n", b"400 Bad Request"),
        (b"nonsense\n", b"400 Bad Request"),
        (b"GET  /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"G(T /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"A" * 17_000, b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(
    driver: FakeDriver, sidecar: Start, sent: bytes, status: bytes
) -> None:
    process = sidecar()

    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(sent)
        answer = client.makefile("rb").read()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 " + status,
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(status),
        b"Connection: close",
    ]
    assert body == status


def test_http_max_header_bytes_bounds_the_headers(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-max-header-bytes=1024")

    assert process.get(X="a" * 500).status == 200
    assert process.get(X="a" * 1100).status == 431


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length : 5\r\n",
        b" Content-Length: 5\r\n",
        b"X: y\r\n folded\r\nContent-Length: 5\r\nContent-Length: 0\r\n",
        b"X\0: y\r\n",
        b"X: y\0\r\n",
    ],
)
def test_forms_of_request_smuggling_get_at_most_one_answer(driver: FakeDriver, sidecar: Start, head: bytes) -> None:
    """A proxy in front may see a second request in these bytes; the sidecar does not."""
    process = sidecar()
    smuggled = b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = raw(process.port, smuggled, 2)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert re.match(rb"HTTP/1\.1 (400|501) ", answer), answer[:200]


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
