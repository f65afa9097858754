"""Drivers that misbehave on demand, each on a socket of its own; a test moves one of the sockets to the CSI address."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import hpack

from tests.conformance.raw_driver import ACK, DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, answer, frame
from tests.support import ROOT, FakeDriver

Behaviour = Mapping[str, Any]

TLS_HELLO = bytes.fromhex("16030300310200002d0303") + bytes(38)
GREETINGS = {
    "silent": b"",
    "http1": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"garbage \xff\x00\n garbage\n" * 3,
    "tls": TLS_HELLO,
    "flood": os.urandom(65536),
}
"""Bytes that a driver of this kind sends to every client; then it only reads."""
GO_AWAY = frame(GOAWAY, payload=bytes(8))
BEFORE_CLOSE = {
    "closes": b"",
    "half_settings": frame(SETTINGS)[:5],
    "goaway_closes": frame(SETTINGS) + GO_AWAY,
    "http1_closes": GREETINGS["http1"],
    "tls_closes": TLS_HELLO,
    "garbage_closes": GREETINGS["garbage"],
}
"""Bytes that a driver of this kind sends before it closes the connection."""


class Wire:
    """A driver on a raw socket: HTTP/2 and gRPC with the behaviour in `probe`, or the bytes of its `kind`."""

    def __init__(self, path: str, kind: str = "h2", name: str = "raw.csi.test") -> None:
        self.kind = kind
        self.probe: Behaviour = {"ready": None}
        self.name = name
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        self._open.add(accepted)
        with accepted, contextlib.suppress(OSError, EOFError):
            if self.kind in BEFORE_CLOSE:
                accepted.sendall(BEFORE_CLOSE[self.kind])
                if self.kind != "closes":
                    accepted.shutdown(socket.SHUT_WR)
                    accepted.settimeout(0.05)
                    accepted.recv(4096)
            elif self.kind in GREETINGS:
                accepted.sendall(GREETINGS[self.kind])
                while accepted.recv(65536):
                    pass
            else:
                self._http2(accepted)
        self._open.discard(accepted)

    def _http2(self, accepted: socket.socket) -> None:
        reader = accepted.makefile("rb")
        with reader:
            if reader.read(len(PREFACE)) != PREFACE:
                return
            accepted.sendall(frame(SETTINGS))
            if self.kind == "goaway":
                accepted.sendall(GO_AWAY)
            encoder, decoder = hpack.Encoder(), hpack.Decoder()
            methods: dict[int, str] = {}
            while len(head := reader.read(9)) == 9:
                stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                payload = reader.read(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == HEADERS:
                    methods[stream] = dict(decoder.decode(payload))[":path"].rsplit("/", 1)[1]
                elif kind in (SETTINGS, PING) and not flags & ACK:
                    accepted.sendall(frame(kind, ACK, payload=payload if kind == PING else b""))
                if kind in (HEADERS, DATA) and flags & END_STREAM and self.kind != "goaway":
                    behaviour = self.probe if methods.pop(stream) == "Probe" else {"name": self.name}
                    time.sleep(behaviour.get("delay_s", 0))
                    data = answer(stream, behaviour, lambda headers: encoder.encode(list(headers)))
                    accepted.sendall(data[: behaviour.get("cut", len(data))])
                    if behaviour.keys() & {"close", "close_after_data", "cut"}:
                        return


class GrpcDriver(FakeDriver):
    """A driver on the grpc library, whose responses may also be long."""

    padding = 0

    def _ready(self, request: bytes) -> bytes:
        found = super()._ready(request)
        if self.padding:  # an unknown field
            size, length = self.padding, b""
            while size > 127:
                length += bytes([size & 127 | 128])
                size >>= 7
            found += b"\x7a" + length + bytes([size]) + bytes(self.padding)
        return found

    def reset(self) -> None:
        """Ready at once again; calls that hang are released."""
        self.release.set()
        self.release = threading.Event()
        self.hang, self.ready, self.status, self.delay, self.padding = False, None, None, 0.0, 0


class ProcessDriver:
    """A ready driver as a process that can be stopped and killed."""

    def __init__(self, path: str) -> None:
        self.path = path
        command = [sys.executable, "-m", "tests.machine.drivers", path]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._serving = False

    def serving(self) -> None:
        """Wait until it serves."""
        if not self._serving:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == b"serving\n"
            self._serving = True

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    Wire(sys.argv[1], name="process.csi.test")
    print("serving", flush=True)
    threading.Event().wait()
