"""Test doubles on real sockets: a scripted gRPC driver, a relay that counts connections, the sidecar, an HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BoolValue

from livenessprobe.csi import csi_pb2

ROOT = Path(__file__).parent.parent


def not_on_windows(why: str) -> pytest.MarkDecorator:
    """A mark, for a test or as a file's `pytestmark`, that skips on Windows what Windows lacks."""
    return pytest.mark.skipif(sys.platform == "win32", reason=f"Windows: {why}")


def plain(value: object) -> str | None:
    """The test id of a parameter; None if pytest would escape it, since an escaped id cannot be selected by name."""
    words = " ".join(value) if isinstance(value, list) else ""
    return words if words.isascii() and words.isprintable() else None


def eventually(what: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `what()` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds}s"
        time.sleep(0.01)


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


Content = str | bytes | Callable[[Path], object]
"""What a file holds: text, bytes, or a function that creates something else at the path."""


def nothing(_path: Path) -> None:
    """As content: the file does not exist."""


class ConfigMap:
    """
    A folder laid out as the kubelet mounts a ConfigMap that has the one key `settings.toml`, or no key.

    The kubelet replaces the content by renaming the symbolic link `..data`, so a reader sees the old or the new
    content, each complete.
    """

    def __init__(self, folder: Path, content: Content = nothing) -> None:
        self.path = folder / "settings.toml"
        self._folder = folder
        self._swaps = 0
        folder.mkdir()
        self.swap(content)

    def swap(self, content: Content) -> None:
        """Mount `content`; the old content has been deleted when this returns."""
        self._swaps += 1
        old = self._folder / os.readlink(self._data) if self._data.is_symlink() else None
        new = self._folder / f"..2026_01_01_00_00_00.{self._swaps:09}"
        new.mkdir()
        if isinstance(content, str | bytes):
            (new / self.path.name).write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            content(new / self.path.name)
        os.symlink(new.name, self._folder / "..data_tmp")
        os.rename(self._folder / "..data_tmp", self._data)
        if content is not nothing and not self.path.is_symlink():
            os.symlink(f"..data/{self.path.name}", self.path)
        if old is not None:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Remove the file, as the kubelet does when an optional ConfigMap is deleted."""
        self.swap(nothing)
        self.path.unlink()

    @property
    def _data(self) -> Path:
        return self._folder / "..data"


class Relay:
    """Passes bytes between two unix sockets, and counts the connections."""

    def __init__(self, path: str, behind: str) -> None:
        self.total = 0
        self.open = 0
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


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    headers: dict[str, str]
    seconds: float

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-livenessprobe-reason")


@dataclass(slots=True)
class Sidecar:
    """The sidecar as a process.  It listens on a free port, unless the arguments or `port` say where."""

    arguments: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    await_http: bool = True
    stderr: int | None = None
    """A descriptor for the sidecar's stderr; None keeps stderr in a file, which `log` reads."""
    prefix: tuple[str, ...] = ()
    """A command in front of the sidecar's, for example setpriv."""
    port: int = 0
    process: subprocess.Popen[bytes] = field(init=False)
    _log: Path | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        listens = ("--http-endpoint", "--health-port")
        if not self.port and not any(argument.startswith(listens) for argument in self.arguments):
            self.port = free_port()
            self.arguments = (*self.arguments, f"--http-endpoint=127.0.0.1:{self.port}")
        if self.stderr is None:
            import tempfile

            descriptor, name = tempfile.mkstemp(prefix="lplog")
            self._log, stderr = Path(name), descriptor
        else:
            stderr = self.stderr
        environ = {name: text for name, text in os.environ.items() if not name.startswith("COV_")} | self.environ
        command = [*self.prefix, sys.executable, "-m", "livenessprobe", *self.arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stderr=stderr)
        if self._log is not None:
            os.close(stderr)
        if self.await_http and self.port:
            self._await_port()

    def _await_port(self) -> None:
        def listening() -> bool:
            assert self.process.poll() is None, self.log()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listening, 20)
        # The kernel accepts connections before the process does.  This request waits for the process, so that a test
        # that measures time does not.
        self.get("/")

    def log(self) -> str:
        return "" if self._log is None else self._log.read_text(errors="surrogateescape")

    def await_log(self, text: str, seconds: float = 10.0) -> None:
        eventually(lambda: text in self.log(), seconds)

    def await_name(self) -> None:
        self.await_log('"CSI driver name"')

    def get(self, path: str = "/healthz", method: str = "GET", timeout: float = 40, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return request(connection, path, method, headers)
        finally:
            connection.close()

    def metric(self, series: str) -> float:
        """The value of one series of /metrics, named as the line has it; 0 if there is none."""
        lines = self.get("/metrics").body.splitlines()
        values = [line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} ")]
        return float(values[0]) if values else 0.0

    def figures(self) -> dict[str, float]:
        """All series of one scrape of /metrics."""
        lines = (line.rpartition(" ") for line in self.get("/metrics").body.splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in lines}

    def threads(self) -> list[str]:
        """The names of the sidecar's threads; needs /proc."""
        names = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended meanwhile
                names.append((task / "comm").read_text(encoding="utf-8").strip())
        return names

    def sighup(self) -> None:
        """Send SIGHUP, once the process has installed its handler."""
        self.get("/")
        self.process.send_signal(signal.SIGHUP)

    def write(self, path: Path, text: str) -> None:
        """Replace the settings file at `path`, and make the sidecar read it."""
        path.write_text(text)
        self.sighup()

    def wait(self, seconds: float = 10.0) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            if sys.platform != "win32":
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self._log is not None:
            self._log.unlink(missing_ok=True)


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


def with_little_room(process: Sidecar) -> socket.socket:
    """A client whose receive buffer holds few unread responses."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", process.port))
    return client


@contextlib.contextmanager
def never_reading(process: Sidecar, requests: bytes) -> Iterator[int]:
    """A client that reads no response; yields how many of `requests` were answered when the buffers were full."""
    asked = 0

    def answers() -> int:
        nonlocal asked
        asked += 1  # each scrape is a response too
        return int(process.metric('livenessprobe_http_responses_total{code="200"}')) - asked

    def no_more() -> bool:
        before = answers()
        time.sleep(0.2)
        return answers() == before

    before = answers()
    with with_little_room(process) as client:
        client.sendall(requests)
        eventually(lambda: answers() > before)
        eventually(no_more)
        yield answers() - before


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
