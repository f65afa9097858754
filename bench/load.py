"""
The load generator: requests /healthz as fast as responses come, and measures the latencies.

It is a separate process with prepared bytes on plain sockets, so that its own cost stays small.  Each line of standard
input is an `Order` as JSON.  Each is answered with a line of JSON: latencies in seconds, the total time, and the share
of it for which this process was busy; or an error.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import dataclass

TIMEOUT_SECONDS = 10.0
"""For one response."""


@dataclass(frozen=True, slots=True)
class Order:
    """Send requests for `seconds`, or until there were `requests`."""

    port: int
    connections: int = 0
    """
    Connections that are kept open and used in parallel.  0: one request at a time, each on a new connection, as a
    kubelet does.
    """
    seconds: float = 3600.0
    requests: int = 1 << 40


class UnexpectedError(Exception):
    """A response other than 200, or none."""


def whole(data: bytes) -> bool:
    """Whether `data` is a complete response.  Raises UnexpectedError if its status is not 200."""
    head, ended, body = data.partition(b"\r\n\r\n")
    if not ended:
        return False
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise UnexpectedError(f"answered {data[:300].decode(errors='replace')!r}")
    head = head.lower()
    if b"\r\ntransfer-encoding: chunked" in head:
        return body.startswith(b"0\r\n\r\n") or body.endswith(b"\r\n0\r\n\r\n")
    _, found, after = head.partition(b"\r\ncontent-length:")
    return bool(found) and len(body) >= int(after.partition(b"\r\n")[0])


def connect(port: int) -> socket.socket:
    """A connection to the measured program."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    except OSError as error:
        raise UnexpectedError(f"no connection to 127.0.0.1:{port}: {error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def one_at_a_time(order: Order) -> list[float]:
    """Latencies in seconds, connecting included."""
    request = (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n" % order.port
    )
    latencies: list[float] = []
    end = time.perf_counter() + order.seconds
    while len(latencies) < order.requests and (started := time.perf_counter()) < end:
        with connect(order.port) as connection:
            connection.sendall(request)
            data = b""
            while not whole(data):
                try:
                    more = connection.recv(65536)
                except OSError as error:
                    raise UnexpectedError(f"no answer: {error}") from error
                if not more and b"\r\n\r\n" not in data:
                    raise UnexpectedError("closed the connection without an answer")
                if not more:
                    break  # a response without a length ends with its connection
                data += more
        latencies.append(time.perf_counter() - started)
    return latencies


@dataclass(slots=True)
class Kept:
    """A connection for many requests."""

    socket: socket.socket
    asked: float = 0.0
    data: bytes = b""


def side_by_side(order: Order) -> list[float]:
    """Latencies in seconds of requests on kept connections."""
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench\r\n\r\n" % order.port
    latencies: list[float] = []
    kept: dict[int, Kept] = {}
    poll = select.epoll()

    def open_one() -> Kept:
        one = Kept(connect(order.port))
        kept[one.socket.fileno()] = one
        poll.register(one.socket, select.EPOLLIN)
        return one

    def ask(one: Kept) -> None:
        one.asked, one.data = time.perf_counter(), b""
        one.socket.sendall(request)

    with poll:
        opened = [open_one() for _ in range(order.connections)]
        end, asked = time.perf_counter() + order.seconds, len(opened)
        for one in opened:
            ask(one)
        while kept:
            ready = poll.poll(TIMEOUT_SECONDS)
            if not ready:
                raise UnexpectedError(f"no answer within {TIMEOUT_SECONDS:g} s")
            for number, _ in ready:
                one = kept[number]
                more = one.socket.recv(65536)
                if not more:
                    raise UnexpectedError("closed the connection without a whole answer")
                one.data += more
                if not whole(one.data):
                    continue
                now = time.perf_counter()
                latencies.append(now - one.asked)
                ended, last = now >= end or asked >= order.requests, b"\r\nconnection: close" in one.data.lower()
                if ended or last:
                    kept.pop(number).socket.close()
                if not ended:
                    asked += 1
                    ask(open_one() if last else one)
    return latencies


def obey(order: Order) -> dict[str, object]:
    """The report on `order`."""
    started, busy = time.perf_counter(), time.process_time()
    try:
        latencies = side_by_side(order) if order.connections else one_at_a_time(order)
    except (UnexpectedError, OSError) as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - started
    return {"latencies": latencies, "seconds": seconds, "busy": (time.process_time() - busy) / seconds}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(obey(Order(**json.loads(line)))), flush=True)
