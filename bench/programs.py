"""The measured programs: how each is started, and its CPU, memory and wake-ups as the kernel counts them.  Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bench.figures import memory
from bench.load import Order
from tests.support import free_port

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
"""A program must respond 200 within this time after its start."""
INTERVAL = "10s"
OUTPUT_SHOWN = 3000
"""Characters of a failed program's output that are shown."""
SETTINGS = ("LIVENESSPROBE_", "LIVENESS_PROBE_", "CSI_", "PYTHONDONTWRITEBYTECODE")
"""Prefixes of variables that programs must not see; with the last one all would compile their modules at each start."""
ENVIRONMENT = {name: text for name, text in os.environ.items() if not name.startswith(SETTINGS)}


class ProgramError(Exception):
    """A program that cannot be measured; the text is a sentence with the end of its output."""


def servers(python: Sequence[str], peer: Sequence[str]) -> dict[str, list[str]]:
    """
    The command of each program that answers /healthz; `{sock}` is the driver's socket, `{port}` the program's port.

    Only the costs of the started process count, not of its children: a peer must not be a shell.
    """
    sidecar = [*python, "-m", "livenessprobe", "--csi-address={sock}", "--http-endpoint=127.0.0.1:{port}"]
    commands = {
        "sidecar": sidecar,
        "sidecar-dials": [*sidecar, "--connection-reuse=0s"],
        "sidecar-interval": [*sidecar, f"--interval={INTERVAL}"],
        "floor-fresh": [*python, "-m", "bench.floor_fresh", "{sock}", "{port}"],
        "floor-kept": [*python, "-m", "bench.floor_kept", "{sock}", "{port}"],
        "floor-ok": [*python, "-m", "bench.floor_ok", "{sock}", "{port}"],
    }
    return commands | ({"peer": list(peer)} if peer else {})


def one_shots(python: Sequence[str], sock: str, health: Path) -> dict[str, list[str]]:
    """The command of each program that ends by itself."""
    check = [*python, "-m", "livenessprobe", "check"]
    load = (
        "from livenessprobe.settings import file, load as settings\n"
        "without_file = settings.load({}, {})\n"
        "def load(path=''):\n"
        "    found = file.read_settings_file(path, '')\n"
        "    return settings.with_file(without_file, found, lambda layer: settings.load({}, {}, layer))\n"
    )
    file = str(ROOT / "settings.toml")
    clocked = (
        f"{load}load({file!r}); import time; started = time.process_time()\n"
        f"for _ in range(20): load({file!r})\n"
        "print((time.process_time() - started) / 20)"
    )
    return {
        "interpreter": [*python, "-c", "pass"],
        "floor-import": [*python, "-m", "bench.floor_import"],
        "check": [*check, f"--csi-address={sock}"],
        "check-file": [*check, f"--health-file={health}"],
        "tomllib": [*python, "-c", f"import tomllib; tomllib.load(open({file!r}, 'rb'))"],
        "settings": [*python, "-c", f"{load}load()"],
        "settings-file": [*python, "-c", f"{load}load({file!r})"],
        "settings-again": [*python, "-c", clocked],
    }


class Running:
    """A started program; a context manager that ends it."""

    def __init__(self, name: str, command: Sequence[str], sock: str) -> None:
        self.name = name
        self.port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._started = time.monotonic()
        words = [word.replace("{sock}", sock).replace("{port}", str(self.port)) for word in command]
        try:
            self._process = subprocess.Popen(
                words, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise ProgramError(f"{name}: cannot start {words[0]}: {error}") from error
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def first_200(self) -> tuple[float, float]:
        """Send requests until one gets a 200: CPU and wall-clock seconds from the start until then."""
        request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        answer = b""
        while not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            if self._process.poll() is not None:
                raise self.failed(f"ended with exit code {self._process.returncode} before it answered")
            if time.monotonic() > self._started + START_SECONDS:
                raise self.failed(f"did not answer 200 within {START_SECONDS:g} s, but {answer[:200]!r}")
            time.sleep(0.002)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as connection:
                connection.sendall(request)
                answer = connection.recv(4096)
        return self.cpu(), time.monotonic() - self._started

    def cpu(self) -> float:
        """CPU seconds of all its threads, ended ones included, with a resolution of nanoseconds."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)  # the clock id that clock_getcpuclockid(3) makes of a process id
        except OSError as error:
            raise self.failed("has ended") from error

    def wakeups(self) -> int:
        """How often its threads have waited and were woken."""
        total = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):  # the thread has just ended
                total += int(path.read_text(encoding="utf-8").partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return total

    def memory(self) -> dict[str, float]:
        """MiB of RSS, PSS and anonymous memory."""
        try:
            return memory(Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii"))
        except OSError as error:
            raise self.failed("has ended") from error

    def output(self) -> str:
        """Everything that the program has written."""
        number = self._log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(
            errors="replace"
        )  # pread does not move the position in the file

    def failed(self, what: str) -> ProgramError:
        """An error with the end of the program's output."""
        return ProgramError(
            f"{self.name} {what}; its output ends in:\n{self.output()[-OUTPUT_SHOWN:].strip() or '(nothing)'}"
        )


class Caller:
    """The load generator's process; a context manager that ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", ROOT / "bench/load.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def obey(self, program: Running, order: Order) -> dict[str, Any]:
        """
        Send `order` to the load generator; returns its report.  ProgramError unless all responses of `program` were
        200.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        report: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the load generator ended"}')
        if "error" in report:
            raise program.failed(f"under load: {report['error']}")
        return report


@dataclass(frozen=True, slots=True)
class Once:
    """The costs and the output of a process that has ended by itself."""

    cpu: float
    wall: float
    output: str


def once(name: str, command: Sequence[str]) -> Once:
    """Run `command` to its end; ProgramError unless it succeeds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise ProgramError(
            f"{name} ended with exit code {ended.returncode}: {(ended.stderr or ended.stdout)[-OUTPUT_SHOWN:]}"
        )
    return Once(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, ended.stdout)
