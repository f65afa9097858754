"""The sidecar as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from tests.support.common import ROOT, eventually
from tests.support.driver import FakeDriver
from tests.support.files import ConfigMap, Content
from tests.support.http import Answer, free_port, request
from tests.support.names import HASH, SOON

COMMAND = (sys.executable, "-m", "livenessprobe")


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
        command = [*self.prefix, *COMMAND, *self.arguments]
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
        # that measures time does not.  A page, such as /, would load Quart.
        self.get("/nowhere")

    def log(self) -> str:
        return "" if self._log is None else self._log.read_text(errors="surrogateescape")

    def await_log(self, text: str, seconds: float = 10.0) -> None:
        eventually(lambda: text in self.log(), seconds)

    def await_name(self) -> None:
        self.await_log('"CSI driver name"')

    def lines(self, text: str) -> list[str]:
        """The lines of the log that contain `text`."""
        return [line for line in self.log().splitlines() if text in line]

    def records(self, message: str) -> list[str]:
        """The text after `message` in each record with that message, in text format."""
        return [line.partition(f'] "{message}"')[2].lstrip() for line in self.lines(f'] "{message}"')]

    def get(self, path: str = "/healthz", method: str = "GET", timeout: float = 40, **headers: str) -> Answer:
        with self.keep_alive(timeout) as connection:
            return request(connection, path, method, headers)

    def keep_alive(self, timeout: float = 20) -> contextlib.closing[http.client.HTTPConnection]:
        """A connection for several requests, which is opened by the first."""
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout))

    def metric(self, series: str) -> float:
        """The value of one series of /metrics, named as the line has it; 0 if there is none."""
        lines = self.get("/metrics").body.splitlines()
        values = [line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} ")]
        return float(values[0]) if values else 0.0

    def await_metric(self, series: str, value: float, seconds: float = SOON) -> None:
        eventually(lambda: self.metric(series) == value, seconds)

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

    def await_idle(self, seconds: float = 20) -> None:
        """Wait until the sidecar has slept for 0.3 s, so has done what it can; needs /proc."""

        def sleeps() -> bool:
            state, used = self._state_and_cpu()
            time.sleep(0.3)
            return state == "S" and self._state_and_cpu() == (state, used)

        eventually(sleeps, seconds)

    def _state_and_cpu(self) -> tuple[str, list[str]]:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return fields[0], fields[11:13]

    def sighup(self) -> None:
        """Send SIGHUP, once the process has installed its handler."""
        self.get("/")
        self.signal(signal.SIGHUP)

    def write(self, path: Path, text: str) -> None:
        """Replace the settings file at `path`, and make the sidecar read it."""
        path.write_text(text)
        self.sighup()

    def swap(self, config: ConfigMap, content: Content) -> None:
        """Mount `content`, and wait until it is in force."""
        before = self.metric(HASH)
        config.swap(content)
        eventually(lambda: self.metric(HASH) != before, SOON)

    def read_again(self) -> None:
        """Have unchanged settings read again; when this returns, all earlier records are in the log."""
        sentence = "Settings file read again; nothing changed"
        before = len(self.records(sentence))
        self.sighup()
        eventually(lambda: len(self.records(sentence)) > before, SOON)

    def descriptors(self) -> list[str]:
        """The targets of the sidecar's open descriptors; needs /proc."""
        folder, found = Path(f"/proc/{self.process.pid}/fd"), []
        for number in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                found.append(os.readlink(folder / number))
        return found

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        """The exit code of a process that ends by itself."""
        return self.process.wait(seconds)

    def stop(self, seconds: float = 10.0) -> int:
        """Send SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            if sys.platform != "win32":
                self.signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self._log is not None:
            self._log.unlink(missing_ok=True)


Start = Callable[..., Sidecar]
"""Starts a sidecar: the fixture `sidecar`."""


class Done(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str
    seconds: float


def command(*words: str, prefix: tuple[str, ...] = (), stdout: IO[str] | int = subprocess.PIPE, **environ: str) -> Done:
    """Run `livenessprobe` with these words until it ends by itself."""
    started = time.monotonic()
    options = {"cwd": ROOT, "env": os.environ | environ, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
    done = subprocess.run([*prefix, *COMMAND, *words], stdout=stdout, **options)
    return Done(done.returncode, done.stdout or "", done.stderr, time.monotonic() - started)


@contextlib.contextmanager
def watching(*words: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A watch whose output is a pipe."""
    words = (*COMMAND, "watch", "--every=100ms", *words)
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    process = subprocess.Popen(words, cwd=ROOT, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def without_faults(driver: FakeDriver, *arguments: str) -> Iterator[Sidecar]:
    """A sidecar for many tests, whose log must show no fault of its own at the end."""
    process = Sidecar((f"--csi-address={driver.path}", *arguments))
    yield process
    log = process.log()
    process.kill()
    assert not re.search("Traceback|inside the sidecar|Error in ASGI", log), log


def injected(folder: Path, code: str) -> dict[str, str]:
    """The environment of a process that runs `code` before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def process_status(pid: int, field: str) -> str:
    """The value of one line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


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
