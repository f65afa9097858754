"""Runs one vector against `python -m livenessprobe`, and returns the observation."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance.checks import problems, step_problems
from tests.conformance.observation import Observation, StepSeen, parse_log, parse_response
from tests.conformance.ports import Ports
from tests.conformance.raw_driver import RawDriver
from tests.conformance.vectors import Expectation, Fragment, Vector, fill

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "livenessprobe")
AS_PID_1 = ("unshare", "--pid", "--fork", "--kill-child")

DEFAULT_PORT = 9808
DEFAULT_PORT_WAIT_S = 60.0

POLL_S = 0.01
QUIET_S = 0.03
"""Seconds to wait after each step, to notice records or calls that should not come."""
SETTLE_S = 2.0
"""Seconds that an expected effect may take after its step, for example a log record after its response."""
NAME_WAIT_S = 10.0
BUSY_MACHINE = 3.0
"""Factor on the time that the Go program had to serve HTTP or to exit.  It costs nothing where the process is quick."""


def run(vector: Vector, expected: Expectation, until_stderr: re.Pattern[str] | None = None) -> Observation:
    """
    The observation of `vector`.

    `expected` only decides how long to wait.  A match of `until_stderr` ends the wait for an exit.
    """
    with contextlib.ExitStack() as cleanup:
        return _Run(vector, expected, cleanup).run(until_stderr)


def needs_default_port(vector: Vector, expected: Expectation) -> bool:
    """Whether the process is to listen on the default port."""
    return bool(expected.process.get("running")) and not any("{HPORT}" in argument for argument in vector.argv)


def can_be_pid_1() -> bool:
    """Whether this user may start a process in a PID namespace of its own."""
    try:
        return subprocess.run([*AS_PID_1, "true"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class _Run:
    """One process, its folder, ports and driver."""

    def __init__(self, vector: Vector, expected: Expectation, cleanup: contextlib.ExitStack) -> None:
        self.vector = vector
        self.expected = expected
        self.cleanup = cleanup
        self.http_up: bool | None = None
        self.steps: list[StepSeen] = []
        self.driver: RawDriver | None = None
        self.places = self._places()
        self.setup: Fragment = fill(vector.setup, self.places)
        self._set_up()
        self.process = self._start()

    def run(self, until_stderr: re.Pattern[str] | None) -> Observation:
        if self.vector.waits_for_http:
            self._await_http()
        else:
            self._await_exit(until_stderr)
        for index, step in enumerate(self.vector.steps):
            self._step(index, fill(step, self.places))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.vector.final_wait_s)
        self._settle(lambda: not problems(self.expected, self._observe()))
        return self._observe()

    # Surroundings

    def _places(self) -> dict[str, str]:
        """The values of {SOCK} and the other placeholders."""
        folder = tempfile.mkdtemp(prefix="lpc")
        self.cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        ports = Ports()
        self.cleanup.callback(ports.release)
        if needs_default_port(self.vector, self.expected):
            ports.wait_for(DEFAULT_PORT, DEFAULT_PORT_WAIT_S)
        return {
            "DIR": folder,
            "SOCK": f"{folder}/csi.sock",
            "ABS": os.path.basename(folder),
            "HPORT": str(ports.free()),
            "MPORT": str(ports.free()),
            "DPORT": str(ports.free()),
            "BIN": " ".join(COMMAND),
        }

    def _set_up(self) -> None:
        for path in self.setup.get("mkdir", []):
            os.makedirs(path, exist_ok=True)
        for path in self.setup.get("touch", []):
            Path(path).touch()
        for path in self.setup.get("bound_not_listening", []):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(path)
        for port in self.setup.get("busy_ports", []):
            self.cleanup.enter_context(socket.create_server(("0.0.0.0", int(port))))
        if self.setup.get("driver") is not None:
            self._new_driver(self.setup["driver"])

    def _new_driver(self, spec: Fragment) -> None:
        self.driver = RawDriver(spec)
        self.cleanup.callback(self.driver.stop)

    def _start(self) -> subprocess.Popen[bytes]:
        self.stdout, self.stderr = (self.cleanup.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT)} | self.setup.get("env", {})
        self.started = time.monotonic()
        process = subprocess.Popen(
            [*(AS_PID_1 if self.setup.get("pid1") else ()), *COMMAND, *fill(self.vector.argv, self.places)],
            stdin=subprocess.DEVNULL,
            stdout=self.stdout,
            stderr=self.stderr,
            env=environment,
            cwd=self.setup.get("cwd", self.places["DIR"]),
        )
        self.cleanup.callback(_kill, process)
        return process

    # Waiting

    def _await_exit(self, until_stderr: re.Pattern[str] | None) -> None:
        if self.vector.wait_exit_s is None:
            limit = self.vector.observe_s or 0.0
        else:
            limit = self.vector.wait_exit_s * BUSY_MACHINE
        if until_stderr is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(limit)
            return
        self._await(lambda: until_stderr.search(self._read(self.stderr)), limit)

    def _await_http(self) -> None:
        """Wait until HTTP is served and the driver's name is known, which the Go program waits for before it serves HTTP."""
        self.http_up = self._await(lambda: _listening(self.places["HPORT"]), self.vector.ready_s * BUSY_MACHINE)
        if any(step.get("request", {}).get("port") == "MPORT" for step in self.vector.steps):
            self._await(lambda: _listening(self.places["MPORT"]), self.vector.ready_s * BUSY_MACHINE)
        if self.driver is not None:
            self._await(lambda: "CSI driver name" in self._read(self.stderr), NAME_WAIT_S)

    def _await(self, what: Callable[[], object], seconds: float) -> bool:
        """Whether `what()` became true before the time was up and before the process ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            alive = self.process.poll() is None
            if what():
                return True
            if not alive:
                return False
            time.sleep(POLL_S)
        return False

    def _settle(self, holds: Callable[[], bool]) -> None:
        """Wait a moment, and then until `holds()` or SETTLE_S have passed."""
        time.sleep(QUIET_S)
        end = time.monotonic() + SETTLE_S
        while not holds() and time.monotonic() < end:
            time.sleep(POLL_S)

    # Steps

    def _step(self, index: int, step: dict[str, Any]) -> None:
        self._change_driver(step)
        if "touch" in step:
            Path(step["touch"]).touch()
        if "rm" in step:
            os.unlink(step["rm"])
        time.sleep(step.get("sleep_s", 0))
        if step.get("reset_counters") and self.driver is not None:
            self.driver.reset()
        if "signal" in step:
            os.kill(self._pid(), signal.Signals[step["signal"]])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(step.get("wait_s", 2))
        self.steps.append(self._request(step["request"]) if "request" in step else StepSeen())

        def holds() -> bool:
            self.steps[index] = replace(
                self.steps[index],
                log=parse_log(self._read(self.stderr)),
                driver=None if self.driver is None else self.driver.seen(),
            )
            return not step_problems(self.expected.steps.get(index, {}), self._observe(), index)

        self._settle(holds)

    def _change_driver(self, step: dict[str, Any]) -> None:
        if "driver_new" in step:
            self._new_driver(step["driver_new"])
        if self.driver is None:
            return
        self.driver.behave(step.get("driver", {}))
        if step.get("driver_stop"):
            self.driver.stop(unlink=step.get("unlink", True))
        if step.get("driver_start"):
            self.driver.start()
        if "driver_start_after_s" in step:
            later = threading.Timer(step["driver_start_after_s"], self.driver.start)
            later.start()
            self.cleanup.callback(later.join)
            self.cleanup.callback(later.cancel)

    def _request(self, request: Fragment) -> StepSeen:
        address = (request.get("host", "127.0.0.1"), int(self.places[request.get("port", "HPORT")]))
        data, timeout = request_bytes(request), request.get("timeout_s", 6.0)
        started = time.monotonic()
        if "disconnect_after_s" in request:
            with socket.create_connection(address) as connection:
                connection.sendall(data)
                time.sleep(request["disconnect_after_s"])
            return StepSeen(seconds=time.monotonic() - started)
        if "parallel" in request:
            with ThreadPoolExecutor(request["parallel"]) as pool:
                answers = list(pool.map(lambda _: exchange(address, data, timeout), range(request["parallel"])))
            responses = tuple(parse_response(answer) for answer in answers)
            return StepSeen(parallel=responses, seconds=time.monotonic() - started)
        try:
            raw = exchange(address, data, timeout, half_close=request.get("shut", False))
        except ConnectionRefusedError:
            return StepSeen(refused=True)
        return StepSeen(raw=raw, seconds=time.monotonic() - started)

    # Seeing

    def _pid(self) -> int:
        """The process's id in this PID namespace."""
        if not self.setup.get("pid1"):
            return self.process.pid
        return next(_children(self.process.pid))

    def _read(self, file: Any) -> str:
        """The whole file; the position at which the process writes does not change."""
        return os.pread(file.fileno(), 1 << 26, 0).decode("utf-8", "surrogateescape")

    def _observe(self) -> Observation:
        return Observation(
            places=self.places,
            exit_code=self.process.poll(),
            stdout=self._read(self.stdout),
            stderr=self._read(self.stderr),
            elapsed=time.monotonic() - self.started,
            http_up=self.http_up,
            steps=tuple(self.steps),
            driver=None if self.driver is None else self.driver.seen(),
        )


def request_bytes(request: Fragment) -> bytes:
    """The bytes of a request, given raw or in parts."""
    if "raw" in request:
        text, count = request.get("repeat", ("", 0))
        return str(request["raw"]).encode("latin-1").replace(b"{REPEAT}", text.encode() * count)
    version, body, headers = request.get("version", "1.1"), request.get("body", ""), dict(request.get("headers", {}))
    if version != "1.0":
        headers = {"Host": "localhost"} | headers
    if body:
        headers["Content-Length"] = str(len(body.encode()))
    headers.setdefault("Connection", "close")
    lines = [f"{request.get('method', 'GET')} {request.get('path', '/healthz')} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", body]).encode()


def exchange(address: tuple[str, int], data: bytes, timeout: float, *, half_close: bool = False) -> bytes:
    """All bytes received until the server closes, or sends nothing for `timeout` seconds."""
    received = b""
    with socket.create_connection(address, timeout=timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while more := connection.recv(65536):
                received += more
    return received


def _listening(port: str) -> bool:
    for host in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
    return False


def _children(pid: int) -> Iterator[int]:
    """Ids of the children of process `pid`."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _state, parent, *_ = path.read_text().rpartition(")")[2].split()
            if int(parent) == pid:
                yield int(path.parent.name)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
