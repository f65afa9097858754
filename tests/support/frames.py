"""A driver of whose HTTP/2 a test chooses every frame."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import hpack

from tests.conformance.raw_driver import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Headers,
    frame,
    message,
)

PROBE, GET_PLUGIN_INFO = "/csi.v1.Identity/Probe", "/csi.v1.Identity/GetPluginInfo"
LAST_STREAM = 2**31 - 1
OPENING: Headers = ((":status", "200"), ("content-type", "application/grpc"))
DONE: Headers = (("grpc-status", "0"),)


class Call(NamedTuple):
    """A call that the driver has received, and makers of frames for the response to it."""

    connection: int
    """The number of its connection; the first is 1."""
    stream: int
    path: str
    encode: Callable[[Headers], bytes]

    def headers(self, headers: Headers = OPENING, flags: int = END_HEADERS) -> bytes:
        return frame(HEADERS, flags, self.stream, self.encode(headers))

    def data(self, data: bytes = message(b""), flags: int = 0) -> bytes:
        return frame(DATA, flags, self.stream, data)

    def trailers(self, trailers: Headers = DONE) -> bytes:
        return self.headers(trailers, END_HEADERS | END_STREAM)

    def answer(self, body: bytes = b"") -> bytes:
        """A complete response with the message `body`; an empty one says that the driver is ready."""
        return self.headers() + self.data(message(body)) + self.trailers()

    def name(self) -> bytes:
        """A complete response to GetPluginInfo."""
        return self.answer(b"\x0a\x09frame.csi")

    def rst(self, code: int) -> bytes:
        return frame(RST_STREAM, 0, self.stream, struct.pack(">I", code))


def goaway(last_stream: int, code: int) -> bytes:
    return frame(GOAWAY, payload=struct.pack(">II", last_stream, code))


Respond = Callable[[Call], bytes | None]
"""The frames of the response to a call; None closes the connection."""


def ready(call: Call) -> bytes:
    """The response of a driver that is ready."""
    return call.answer() if call.path == PROBE else call.name()


class FrameDriver:
    """Listens at `path` from its construction until `close`; its attributes apply to connections and calls that come later."""

    def __init__(self, path: str, respond: Respond = ready) -> None:
        self.respond = respond
        self.greeting: Callable[[int], bytes] = lambda _connection: frame(SETTINGS)
        """The frames behind the client's preface, for the number of a connection."""
        self.connections = 0
        self.calls: list[Call] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FrameDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def probes(self) -> int:
        """How many Probes it has received."""
        return sum(call.path == PROBE for call in self.calls)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self.connections += 1
                arguments = (accepted, self.connections, self.greeting(self.connections))
                threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, accepted: socket.socket, number: int, greeting: bytes) -> None:
        decoder, encoder, path = hpack.Decoder(), hpack.Encoder(), ""
        with accepted, accepted.makefile("rb") as reader, contextlib.suppress(OSError):
            if reader.read(len(PREFACE)) != PREFACE:
                return
            accepted.sendall(greeting)
            while len(head := reader.read(9)) == 9:
                stream = int.from_bytes(head[5:], "big")
                payload = reader.read(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == HEADERS:
                    path = dict(decoder.decode(payload))[":path"]
                elif kind in (SETTINGS, PING) and not flags & ACK:
                    accepted.sendall(frame(kind, ACK, payload=payload if kind == PING else b""))
                if kind in (HEADERS, DATA) and flags & END_STREAM:
                    call = Call(number, stream, path, lambda headers: encoder.encode(list(headers)))
                    self.calls.append(call)
                    response = self.respond(call)
                    if response is None:
                        return
                    accepted.sendall(response)
