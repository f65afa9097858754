"""
A CSI driver that misbehaves on demand: a small HTTP/2 server of which a test chooses every byte.

A driver's `spec` is JSON:

    listen            "unix:PATH", "abstract:NAME" or "tcp:HOST:PORT"
    wire              "h2" (default), "goaway" (HTTP/2 that answers no request), or a name in GREETINGS or BEFORE_CLOSE
    settings_delay_s  pause between a connection and the SETTINGS frame
    plugin_info       behaviour of GetPluginInfo; default {"name": "fake.csi.test"}
    probe             behaviour of Probe; default {"ready": null}

A behaviour is the response to a request:

    {"name": "x"} {"name_hex": "…"}          a GetPluginInfoResponse
    {"ready": null|true|false}               a ProbeResponse
    {"body_hex": "…", "flag": 0}             a message of these bytes, with this compression flag
    {"raw_data_hex": "…"}                    a DATA frame of these bytes, which need not be a message
    {"status": 13, "message": "x"}           an error; also "message_hex", or "repeat_body": n for n times "x"
    {"trailers_only": [[name, value], …]}    exactly these headers, and the end of the stream
    {"rst": code} {"close": true} {"hang": true}

and, for a response with a body, "ct" (its content type), "headers", "trailers", "grpc_status" (null: none),
"end_without_trailers", "close_after_data"; for any of them "goaway_then_answer": code, "delay_s", and "cut": n, which closes the
connection after n bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import hpack

from tests.conformance.observation import Call, DriverSeen

Behaviour = Mapping[str, Any]
Headers = Iterable[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4

UNKNOWN_METHOD: Behaviour = {"status": 12, "message": "unknown method"}


TLS_HELLO = bytes.fromhex("16030300310200002d0303") + bytes(38)
GREETINGS = {
    "silent": b"",
    "http1": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"garbage \xff\x00\n garbage\n" * 3,
    "tls": TLS_HELLO,
    "flood": os.urandom(65536),
}
"""Bytes that a driver of this kind sends to every client; then it only reads."""

REFUSED_STREAM = 7
"""HTTP/2's error code for a call that the server has not processed."""


class RawDriver:
    """Listens from its construction until `stop`; can be started again."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._behaviours: dict[str, Behaviour] = {
            "GetPluginInfo": spec.get("plugin_info", {"name": "fake.csi.test"}),
            "Probe": spec.get("probe", {"ready": None}),
        }
        self._connections = 0
        self._calls: list[Call] = []
        self._listener: socket.socket | None = None
        self._open: set[_Connection] = set()
        self._acceptor: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        listener = _listen(self._spec["listen"])
        self._stopped = threading.Event()
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener, self._stopped), daemon=True)
        self._acceptor.start()

    def stop(self, *, unlink: bool = True) -> None:
        """Close the listener and all connections; when this returns, connections are refused."""
        if self._listener is None or self._acceptor is None:
            return
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self._listener = None
        for connection in list(self._open):
            connection.close()
        kind, _, path = self._spec["listen"].partition(":")
        if unlink and kind == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def behave(self, changes: Mapping[str, Behaviour]) -> None:
        """Change behaviours, from the next request on."""
        for key, method in (("plugin_info", "GetPluginInfo"), ("probe", "Probe")):
            if key in changes:
                self._behaviours[method] = changes[key]

    def reset(self) -> None:
        """Forget connections and calls."""
        with self._lock:
            self._connections = 0
            self._calls.clear()

    def seen(self) -> DriverSeen:
        with self._lock:
            return DriverSeen(self._connections, tuple(self._calls))

    def called(self, call: Call) -> Behaviour:
        """Note a request; returns the behaviour for it."""
        with self._lock:
            self._calls.append(call)
            return self._behaviours.get(call.method, UNKNOWN_METHOD)

    def _accept(self, listener: socket.socket, stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections += 1
            connection = _Connection(accepted, self._spec, self.called, stopped, self._open)
            self._open.add(connection)
            connection.start()


class _Connection:
    """One connection: a thread that reads frames, and a thread for each response."""

    def __init__(
        self,
        connected: socket.socket,
        spec: Mapping[str, Any],
        called: Callable[[Call], Behaviour],
        stopped: threading.Event,
        open_: set[_Connection],
    ) -> None:
        self._socket = connected
        self._spec = spec
        self._called = called
        self._stopped = stopped
        self._open = open_
        self._writing = threading.Lock()
        self._encoder = hpack.Encoder()
        self._answered = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._spawn(self._serve)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _serve(self) -> None:
        wire = self._spec.get("wire", "h2")
        with self._socket, contextlib.suppress(OSError, EOFError):
            if wire in BEFORE_CLOSE:
                self._socket.sendall(BEFORE_CLOSE[wire])
                if BEFORE_CLOSE[wire]:
                    self._socket.shutdown(socket.SHUT_WR)
                    self._socket.settimeout(0.05)
                    self._socket.recv(4096)
            elif wire in GREETINGS:
                self._socket.sendall(GREETINGS[wire])
                while self._socket.recv(65536):
                    pass
            else:
                self._http2(answers=wire == "h2")
        self._open.discard(self)

    def _hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _http2(self, *, answers: bool) -> None:
        if self._exactly(len(PREFACE)) != PREFACE:
            self._hang_up()
            return
        if self._stopped.wait(self._spec.get("settings_delay_s", 0)):
            return
        self._send(frame(SETTINGS) if answers else frame(SETTINGS) + GO_AWAY)
        decoder = hpack.Decoder()
        headers: dict[int, tuple[tuple[str, str], ...]] = {}
        bodies: dict[int, bytes] = {}
        while True:
            kind, flags, stream, payload = self._frame()
            if kind == HEADERS:
                headers[stream] = tuple((str(name), str(value)) for name, value in decoder.decode(payload))
            elif kind == DATA:
                bodies[stream] = bodies.get(stream, b"") + payload
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._send(frame(kind, ACK, payload=payload if kind == PING else b""))
            if kind in (HEADERS, DATA) and flags & END_STREAM and answers:
                self._request(stream, headers.pop(stream), bodies.pop(stream, b""))

    def _request(self, stream: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        method = dict(headers)[":path"].rsplit("/", 1)[1]
        behaviour = self._called(Call(method, headers, body))
        self._answered += 1
        if self._answered > self._spec.get("calls_per_connection", self._answered):
            behaviour = {"rst": REFUSED_STREAM}
        self._spawn(self._answer, stream, behaviour)

    def _answer(self, stream: int, behaviour: Behaviour) -> None:
        if self._stopped.wait(behaviour.get("delay_s", 0)):
            return
        with contextlib.suppress(OSError), self._writing:  # one at a time, since the encoder depends on the order of frames
            self._socket.sendall(answer(stream, behaviour, self._encode)[: behaviour.get("cut")])
            if behaviour.keys() & {"close", "close_after_data", "cut"}:
                self._hang_up()

    def _encode(self, headers: Headers) -> bytes:
        return self._encoder.encode(list(headers))

    def _send(self, data: bytes) -> None:
        with self._writing:
            self._socket.sendall(data)

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(9)
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        return head[3], head[4], stream, self._exactly(int.from_bytes(head[:3], "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


# Responses


def answer(stream: int, behaviour: Behaviour, encode: Callable[[Headers], bytes]) -> bytes:
    """All frames of a response."""
    if behaviour.get("hang") or behaviour.get("close"):
        return b""
    if "rst" in behaviour:
        return frame(RST_STREAM, 0, stream, struct.pack(">I", behaviour["rst"]))
    frames = b""
    if "goaway_then_answer" in behaviour:
        frames = frame(GOAWAY, payload=struct.pack(">II", stream, behaviour["goaway_then_answer"]))
    if "trailers_only" in behaviour:
        headers = [(name, value) for name, value in behaviour["trailers_only"]]
        return frames + frame(HEADERS, END_HEADERS | END_STREAM, stream, encode(headers))
    opening = [(":status", "200"), ("content-type", behaviour.get("ct", "application/grpc"))]
    if "status" in behaviour:
        headers = [*opening, ("grpc-status", str(behaviour["status"])), ("grpc-message", percent(_error_message(behaviour)))]
        return frames + frame(HEADERS, END_HEADERS | END_STREAM, stream, encode(headers))
    return frames + _answer_with_body(stream, behaviour, opening, encode)


def _answer_with_body(
    stream: int, behaviour: Behaviour, opening: list[tuple[str, str]], encode: Callable[[Headers], bytes]
) -> bytes:
    extra = [(name, value) for name, value in behaviour.get("headers", [])]
    frames = frame(HEADERS, END_HEADERS, stream, encode([*opening, *extra]))
    data = _data(behaviour)
    if behaviour.get("end_without_trailers"):
        return frames + frame(DATA, END_STREAM, stream, data)
    if data:
        frames += frame(DATA, 0, stream, data)
    if behaviour.get("close_after_data"):
        return frames
    status = behaviour.get("grpc_status", "0")
    trailers = [("grpc-status", status)] if status is not None else [("x-none", "1")]
    trailers += [(name, value) for name, value in behaviour.get("trailers", [])]
    return frames + frame(HEADERS, END_HEADERS | END_STREAM, stream, encode(trailers))


def _data(behaviour: Behaviour) -> bytes:
    if "raw_data_hex" in behaviour:
        return bytes.fromhex(behaviour["raw_data_hex"])
    if "body_hex" in behaviour:
        return message(bytes.fromhex(behaviour["body_hex"]), behaviour.get("flag", 0))
    if "name" in behaviour or "name_hex" in behaviour:
        name = bytes.fromhex(behaviour["name_hex"]) if "name_hex" in behaviour else str(behaviour["name"]).encode()
        return message(b"\x0a" + varint(len(name)) + name if name else b"")
    ready = behaviour.get("ready")
    if ready is None:
        return message(b"")
    return message(b"\x0a\x02\x08\x01" if ready else b"\x0a\x00")


def _error_message(behaviour: Behaviour) -> bytes:
    if "repeat_body" in behaviour:
        return b"x" * int(behaviour["repeat_body"])
    if "message_hex" in behaviour:
        return bytes.fromhex(behaviour["message_hex"])
    return str(behaviour.get("message", "")).encode()


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GO_AWAY = frame(GOAWAY, payload=bytes(8))
BEFORE_CLOSE = {
    "accept_close": b"",
    "half_settings": frame(SETTINGS)[:5],
    "goaway_closes": frame(SETTINGS) + GO_AWAY,
    "http1_closes": GREETINGS["http1"],
    "tls_closes": TLS_HELLO,
    "garbage_closes": GREETINGS["garbage"],
}
"""Bytes that a driver of this kind sends before it closes the connection."""


def message(body: bytes, flag: int = 0) -> bytes:
    """One gRPC message."""
    return bytes([flag]) + struct.pack(">I", len(body)) + body


def varint(number: int) -> bytes:
    """A number in protobuf's encoding."""
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def percent(text: bytes) -> str:
    """The encoding of grpc-message."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in text)


def _listen(where: str) -> socket.socket:
    kind, _, address = where.partition(":")
    if kind == "tcp":
        host, _, port = address.rpartition(":")
        return socket.create_server((host, int(port)), backlog=128)
    if kind not in ("unix", "abstract"):
        raise ValueError(f"cannot listen on {where!r}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address if kind == "unix" else f"\0{address}")
    listener.listen(128)
    return listener
