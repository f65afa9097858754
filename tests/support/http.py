"""An HTTP client, raw bytes over a socket, and free ports."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import time
from dataclasses import dataclass

from tests.support.names import GET


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    headers: dict[str, str]
    seconds: float

    @property
    def reason(self) -> str | None:
        """Why the driver is not healthy, as the header says; None if it is."""
        word = self.headers.get("x-livenessprobe-reason")
        return None if word == "healthy" else word


def request(connection: http.client.HTTPConnection, path: str, method: str, headers: dict[str, str]) -> Answer:
    started = time.monotonic()
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read().decode(errors="surrogateescape")
    got = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, body, got, time.monotonic() - started)


def raw(port: int, data: bytes, timeout: float = 5) -> bytes:
    """All bytes of the response to `data`, until the server closes or sends nothing for `timeout` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while more := connection.recv(65536):
                received += more
        return received


def incomplete(port: int) -> socket.socket:
    """A client that has sent part of its request."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(GET)
    return client


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection; unread bytes of responses do not count."""
    client.setblocking(False)
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass  # reset
    return True


_ports = random.Random(os.getpid())


def free_port() -> int:
    """A free port, below the range from which the system takes ports; test processes choose apart from one another."""
    while True:
        port = _ports.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
