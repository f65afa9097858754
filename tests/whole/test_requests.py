"""Bytes that clients send to the whole process: valid requests, refused ones, and data that follows a request."""

from __future__ import annotations

import contextlib
import email.utils
import re
import select
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually, process_status, raw, without_faults
from tests.support.names import GET
from tests.support.requests import RECORDED, Recorded

CLOSE = b"Connection: close\r\n\r\n"
CHUNKS = b"1\r\na\r\n" * 40 + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def driver() -> Iterator[FakeDriver]:
    with tempfile.TemporaryDirectory(prefix="lp") as folder, FakeDriver(f"{folder}/csi.sock") as driver:
        yield driver


@pytest.fixture(scope="module")
def process(driver: FakeDriver) -> Iterator[Sidecar]:
    """One sidecar for most of these tests."""
    with without_faults(driver) as process:
        process.await_name()
        yield process


def whole_answer(process: Sidecar, sent: bytes) -> bytes:
    """The bytes that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(sent)
        return client.makefile("rb").read()


# --- requests


@pytest.mark.parametrize("path", ["/healthz", "/livez?verbose", "/nope"])
def test_connect_is_answered_as_any_other_method(process: Sidecar, path: str) -> None:
    """With the body, though after a 2xx to CONNECT the bytes are no longer HTTP."""
    head, _, body = whole_answer(process, f"CONNECT {path} HTTP/1.1\r\nHost: a\r\n".encode() + CLOSE).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 404 " if path == "/nope" else b"HTTP/1.1 200 OK")
    assert body.decode() == process.get(path).body


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/nope"])
def test_the_date_is_now_in_the_form_of_http(process: Sidecar, path: str) -> None:
    sent = process.get(path).headers["date"]

    moment = email.utils.parsedate_to_datetime(sent)
    assert sent == email.utils.format_datetime(moment, usegmt=True)
    assert abs(moment.timestamp() - time.time()) < 10


@pytest.mark.parametrize("method", [b"head", b"Head", b"get", b"BREW"])
@pytest.mark.parametrize("path", [b"/healthz", b"/metrics"])
def test_a_method_that_only_looks_like_head_has_a_body(process: Sidecar, method: bytes, path: bytes) -> None:
    """Methods are case-sensitive (RFC 9110, 9.1)."""
    head, _, body = whole_answer(process, method + b" " + path + b" HTTP/1.1\r\nHost: a\r\n" + CLOSE).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"ok" if path == b"/healthz" else b"livenessprobe_build_info" in body


def test_request_bodies_are_not_kept(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(f"--csi-address={driver.path}", "--probe-timeout=10s")
    process.await_name()
    assert process.get().status == 200
    resident = lambda: int(process_status(process.process.pid, "VmRSS"))
    driver.hang, before = True, resident()
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, driver, "hang", False)
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            client.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 15900000\r\n\r\n" + b"x" * 15_000_000)
        assert resident() - before < 30_000


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
def test_upgrades_are_ignored(process: Sidecar, upgrade: bytes) -> None:
    """This rests on the one private attribute of Hypercorn that is used."""
    answer = raw(process.port, GET + upgrade + b"\r\n", 1)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")


def test_a_request_in_small_pieces_is_answered(process: Sidecar) -> None:
    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET + CLOSE:
            client.sendall(bytes([byte]))
            time.sleep(0.002)
        answer = client.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined_requests_are_answered_in_order(process: Sidecar) -> None:
    """More requests than the sidecar reads from the kernel before it answers the first."""
    count = 2_000

    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", process.port), 30) as client:
        sending = pool.submit(client.sendall, (GET + b"\r\n") * (count - 1) + GET + CLOSE)
        received = client.makefile("rb").read()
        sending.result()

    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"\r\n\r\nok") == count


# --- as Go's net/http

STATUS_LINE = re.compile(rb"HTTP/1\.[01] [^\r]*(?=\r\n)")


def test_mutated_requests_get_the_recorded_responses_of_go(process: Sidecar) -> None:
    """Status lines, the last body, and whether the connection stays open."""

    def answer(recorded: Recorded) -> Recorded:
        received, closed = b"", False
        with socket.create_connection(("127.0.0.1", process.port), 5) as client:
            client.sendall(recorded.request)
            with contextlib.suppress(TimeoutError):
                while more := client.recv(65_536):
                    received += more
                    if not recorded.closed and len(STATUS_LINE.findall(received)) == len(recorded.status_lines):
                        client.settimeout(0.5)
                closed = True
        return Recorded(recorded.request, STATUS_LINE.findall(received), received.rpartition(b"\r\n\r\n")[2], closed)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(answer, RECORDED)) == RECORDED


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        # Go waits for the body, for ever.
        (GET + b"Content-Length: 5\r\n\r\nabc", [b"HTTP/1.1 200 OK"]),
        (GET + b"Transfer-Encoding: chunked\r\n\r\n", [b"HTTP/1.1 200 OK"]),
        # Go takes the chunks, refuses the names of trailers, ignores the encoding at HTTP/1.0.
        (GET + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", [b"HTTP/1.1 400 Bad Request"]),
        (GET + b"Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n" + GET + CLOSE, [b"HTTP/1.1 200 OK"] * 2),
        (b"GET /healthz HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", [b"HTTP/1.1 501 Not Implemented"]),
        # Go keeps the connection; its 417 has the client's version.
        (b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [b"HTTP/1.0 200 OK"]),
        (b"GET /healthz HTTP/1.0\r\nExpect: a\r\n\r\n", [b"HTTP/1.1 417 Expectation Failed"]),
        # Go wants no Host with CONNECT, and any number of zeros.
        (b"CONNECT /healthz HTTP/1.1\r\n\r\n", [b"HTTP/1.1 400 Bad Request"]),
        (GET + b"Content-Length: 000000000000000000000\r\n\r\n", [b"HTTP/1.1 400 Bad Request"]),
        # Go waits for the end of the line.
        (GET + b"\r\n\x16\x03\x01\x02", [b"HTTP/1.1 200 OK", b"HTTP/1.1 400 Bad Request"]),
    ],
)  # fmt: skip
def test_where_go_responds_otherwise(process: Sidecar, sent: bytes, expected: list[bytes]) -> None:
    """As docs/differences.md says; the connection is closed."""
    assert STATUS_LINE.findall(whole_answer(process, sent)) == expected


@pytest.mark.parametrize("behind", [b"\r\n", b"\n", b"\0", b"x", b"GET"])
def test_a_few_bytes_behind_a_request_are_no_second_request(process: Sidecar, behind: bytes) -> None:
    """Some clients send an empty line."""
    answer = raw(process.port, GET + b"\r\n" + behind, 0.5)

    assert STATUS_LINE.findall(answer) == [b"HTTP/1.1 200 OK"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_an_asterisk_has_no_path(process: Sidecar, method: bytes) -> None:
    """A response without a body; OPTIONS asks about the whole server."""
    answer = whole_answer(process, method + b" * HTTP/1.1\r\nHost: x\r\n" + CLOSE)

    assert STATUS_LINE.findall(answer) == [b"HTTP/1.1 200 OK" if method == b"OPTIONS" else b"HTTP/1.1 400 Bad Request"]
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", [b"/metrics", b"//healthz"])
def test_head_has_no_framing_where_get_has_no_length_yet(process: Sidecar, path: bytes) -> None:
    answer = whole_answer(process, b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE).lower()

    assert answer.endswith(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding:" not in answer
    assert b"\r\ncontent-length:" not in answer


def test_a_refused_tunnel_is_closed(process: Sidecar) -> None:
    answer = whole_answer(process, b"CONNECT localhost:80 HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_http_10_is_not_told_that_the_connection_is_closed(process: Sidecar) -> None:
    """It always is, without a header."""
    answer = whole_answer(process, b"GET /healthz HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"connection:" not in answer.lower()


# --- refusals


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01", b"400 Bad Request"),
        (b" GET /healthz HTTP/1.1", b"400 Bad Request"),
        (b"\r\n", b"400 Bad Request"),
        (b"nonsense\n", b"400 Bad Request"),
        (b"GET  /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"G(T /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400 Bad Request"),
        (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", b"505 HTTP Version Not Supported: unsupported protocol version"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400 Bad Request: missing required Host header"),
        (b"GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n", b"400 Bad Request: malformed Host header"),
        (GET + b"X y: z\r\n\r\n", b"400 Bad Request: invalid header name"),
        (GET + b"X: \x01\r\n\r\n", b"400 Bad Request"),
        (b"A" * 17_000, b"431 Request Header Fields Too Large"),
        (GET + b"X: " + b"a" * 17_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(process: Sidecar, sent: bytes, status: bytes) -> None:
    """And the server closes the connection."""
    head, _, body = whole_answer(process, sent).partition(b"\r\n\r\n")

    assert head.split(b"\r\n") == [
        b"HTTP/1.1 " + status,
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(status),
        b"Connection: close",
    ]
    assert body == status


def test_an_unknown_expectation_is_refused_and_closed(process: Sidecar) -> None:
    assert whole_answer(process, GET + b"Expect: a miracle\r\n\r\n").startswith(b"HTTP/1.1 417 Expectation Failed\r\n")


def test_the_bound_on_headers_holds_for_every_request_of_a_connection(driver: FakeDriver, sidecar: Start) -> None:
    """Also in small pieces, with a bound above and below the default."""
    for bound, size, status in ((65536, 40_000, b"200"), (1024, 500, b"200"), (1024, 2_000, b"431")):
        process = sidecar(f"--csi-address={driver.path}", f"--http-max-header-bytes={bound}")
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
def test_forms_of_request_smuggling_get_at_most_one_answer(process: Sidecar, head: bytes) -> None:
    """A proxy in front may see a second request in these bytes; the sidecar does not."""
    smuggled = b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = raw(process.port, smuggled, 2)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert re.match(rb"HTTP/1\.1 (400|501) ", answer), answer[:200]


# --- data that follows


@pytest.mark.parametrize(
    "data",
    [
        b"\0\xff" * 40 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\nmore",
        b"GET /healthz HTTP/1.0\r\n\r\n" + GET + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: \xff;q=\r\nAccept-Encoding: gzip;q=\xff\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /healthz HTTP/1.1\r\nHost: a\r\n\r\nmore",
        b"CONNECT /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nmore",
        b"CONNECT /nowhere HTTP/1.1\r\nHost: a\r\n\r\nmore",
        GET + b"Host: y\r\n\r\n",
        GET + b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        GET + b"\r\n\0garbage\r\n\r\n",
        GET + CLOSE + GET + b"\r\n",
        GET + b"Content-Length: 10\r\n\r\nabc",
        GET + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde and more",
        GET + b"Expect: nothing\r\n\r\nmore",
        GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        GET + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-5],
    ],
)
def test_no_bytes_leave_a_task_behind(process: Sidecar, data: bytes) -> None:
    """Nor do they hang the sidecar or cause a traceback."""
    before = process.metric("livenessprobe_tasks")

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: raw(process.port, data, 0.5), range(5)))

    assert process.get().status == 200
    eventually(lambda: process.metric("livenessprobe_tasks") <= before)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
        GET + CLOSE + b"\r\n",
        GET + CLOSE + GET + b"\r\n",
        GET + CLOSE + b"\0garbage",
        GET + b"Content-Length: 5\r\nConnection: close\r\n\r\nabcde and more",
        GET + b"Content-Length: 5\r\n\r\nabc",
        GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        GET + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + CHUNKS,
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_request_is_answered_whatever_bytes_follow_it(
    driver: FakeDriver, process: Sidecar, data: bytes, late: bool
) -> None:
    """Behind the request, and, if `late`, during the probe as well."""
    driver.hang = True
    with socket.create_connection(("127.0.0.1", process.port), 5) as client:
        client.sendall(data)
        eventually(lambda: driver.in_flight == 1)
        if late:
            with contextlib.suppress(OSError):
                client.sendall(b"\r\n")
        driver.hang = False
        driver.release.set()
        client.settimeout(2)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while more := client.recv(65536):
                answer += more
    driver.release.clear()

    assert answer.count(b"HTTP/1.") == 1
    assert answer.split(b" ")[1] == b"200"
    assert answer.endswith(b"\r\n\r\nok")
