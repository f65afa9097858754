"""CSI drivers for tests: a scripted one on a real socket, a relay that counts connections, the example driver's process."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from livenessprobe.csi import csi_pb2
from tests.support.common import ROOT, eventually


class FakeDriver:
    """A CSI driver whose responses are set by attributes; use it as a context manager."""

    def __init__(self, path: str, name: str = "fake.csi.test") -> None:
        self.path = path
        self.name = name
        self.ready: bool | None = None
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.name_status: tuple[grpc.StatusCode, str] | None = None
        self.methods: dict[str, Callable[[bytes], bytes]] = {}
        """Other unary methods by full name: each maps the bytes of a request to the bytes of the response."""
        self.on_probe: Callable[[], object] = lambda: None
        """Called in each probe before the response is made."""
        self.delay = 0.0
        self.release = threading.Event()
        self.hang = False
        self.probes = 0
        """When each probe began (monotonic clock)."""
        self.times: list[float] = []
        self.names_asked = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._server: grpc.Server | None = None

    def __enter__(self) -> FakeDriver:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.release.clear()
        self._server = grpc.server(ThreadPoolExecutor(64))
        self._server.add_generic_rpc_handlers((_Methods(self._handler),))
        self._server.add_insecure_port(f"unix:{quote(self.path, safe='/:')}" if os.sep in self.path else self.path)
        self._server.start()

    def stop(self) -> None:
        self.release.set()
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    @contextlib.contextmanager
    def stepwise(self) -> Iterator[Callable[[bool], None]]:
        """Yields a function that lets the waiting Probe respond, ready or not, and returns when the next Probe waits."""
        orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        steps = 1

        def obey() -> None:
            self.ready = orders.get(timeout=30)

        def step(ready: bool) -> None:
            nonlocal steps
            eventually(lambda: self.probes == steps)
            orders.put(ready)
            steps += 1
            eventually(lambda: self.probes == steps)

        self.on_probe = obey
        yield step
        self.on_probe = lambda: None
        orders.put(True)

    def _handler(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes] | None:
        if method == "/csi.v1.Identity/GetPluginInfo":
            return self._get_plugin_info
        answer = self.methods.get(method, self._ready if method == "/csi.v1.Identity/Probe" else None)
        return answer and (lambda request, context: self._probe(answer, request, context))

    def _get_plugin_info(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self.names_asked += 1
        if self.name_status is not None:
            context.abort(*self.name_status)
        return csi_pb2.GetPluginInfoResponse(name=self.name).SerializeToString()

    def _ready(self, _request: bytes) -> bytes:
        ready = None if self.ready is None else BoolValue(value=self.ready)
        return csi_pb2.ProbeResponse(ready=ready).SerializeToString()

    def _probe(self, answer: Callable[[bytes], bytes], request: bytes, context: grpc.ServicerContext) -> bytes:
        self.times.append(time.monotonic())
        self.probes += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.on_probe()
            self._wait(self.delay, context)
            if self.hang:
                self._wait(60, context)
            if self.status is not None:
                context.abort(*self.status)
            return answer(request)
        finally:
            self.in_flight -= 1

    def _wait(self, seconds: float, context: grpc.ServicerContext) -> None:
        """Wait for `seconds`, or until the client has cancelled the call, or until the driver stops."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and context.is_active():
            if self.release.wait(min(left, 0.02)):
                return


class _Methods(grpc.GenericRpcHandler):
    """Finds the handler of a call by its method."""

    def __init__(self, find: Callable[[str], Callable[[bytes, grpc.ServicerContext], bytes] | None]) -> None:
        self._find = find

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._find(details.method)
        return handler and grpc.unary_unary_rpc_method_handler(handler)


class Relay:
    """Passes bytes between two unix sockets, and counts the connections."""

    def __init__(self, path: str, behind: str) -> None:
        self.total = 0
        self.open = 0
        self.path = path
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                front, _ = self._listener.accept()
            except OSError:
                return
            self.total += 1
            self.open += 1
            threading.Thread(target=self._serve, args=(front,), daemon=True).start()

    def _serve(self, front: socket.socket) -> None:
        with front, socket.socket(socket.AF_UNIX) as back:
            back.connect(self._behind)
            other = threading.Thread(target=_copy, args=(back, front), daemon=True)
            other.start()
            _copy(front, back)
            other.join()
        self.open -= 1


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def driver_process(path: str) -> Iterator[subprocess.Popen[str]]:
    """The example driver as a process that a test can kill or stop."""
    command = [sys.executable, "-m", "livenessprobe.commands.example_driver", path]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        yield process
    finally:
        process.kill()
        process.communicate()
