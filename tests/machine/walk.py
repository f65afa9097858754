"""A walk: steps as plain data, done to a sidecar one after another; after each the model is asked whether it agrees."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from pprint import pformat
from typing import Any, NoReturn

from tests.machine.model import Belief, Outcome, probed
from tests.machine.world import PERMISSIONS, STATES, World
from tests.support import Answer, ConfigMap, Sidecar

Step = tuple[Any, ...]

PATHS = ("/healthz", "/livez", "/readyz", "/startupz")
SLACK = 1.2
"""Seconds by which an answer may be late on a busy machine."""
STALL = 0.04
"""A pause of this machine that may cost a good driver its probe timeout."""
BACK_SECONDS = 4.0
"""For which what a step has opened may stay open."""
END_SECONDS = 1.5
"""Which an end may take, beyond the requests it waits for."""
ARRIVED = 0.05
"""Seconds after which a request has certainly come in, unless something stalls."""
HELD_MAX = 30
PLAIN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Pad: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n"
FDS = 12
"""
Descriptors beyond those of the start, held connections not counted.

Once gRPC is awake it keeps five, and a connection to the driver that is kept is the sixth.  Where nobody accepts, and with an
interval, a probe and the question for the name hang in dials of some descriptors each for as long as that lasts.
"""
TASKS = 1
"""Tasks beyond those of the start: the name is perhaps being asked for.  Held connections have none."""
POOL = "event_engine"
"""The name of the threads in gRPC's pool; it takes another one when all of them have work, and may keep it."""
THREADS, POOLED = 6 + (os.cpu_count() or 1), 14 + (os.cpu_count() or 1)
"""Others, of which those for files are as many as CPUs; and in the pool."""
PROBES = re.compile(r'csi_sidecar_operations_seconds_count\{.*method_name="/csi.v1.Identity/Probe"\}')
FAILURES = re.compile(r'livenessprobe_probe_failures_total\{reason="(\w+)"\}')
LABEL = re.compile(r'driver_name="((?:[^"\\]|\\.)*)"')
LINE = re.compile(r'[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [\w./-]+:\d+\] "')
CONTROL = re.compile(r"[\x00-\x08\x0a-\x0c\x0e-\x1f]|\r(?!$)")
BAD = ("Traceback", "never retrieved", "inside the sidecar", "internal error", "fault of the sidecar", "exception", "ASGI")
STACKS = re.compile(r'(Current thread|Thread) 0x|  File "|  <|Extension modules:|SIGQUIT: quit$|$')
"""What SIGQUIT adds to the log."""
GARBAGE: tuple[bytes, ...] = (
    b"\x00\xff\xfe\x01\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    bytes.fromhex("16030100c8010000c40303") + bytes(200),
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 40_000,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: x\r\n\r\n",
    b"\r\n" * 1000,
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 12 + b"0\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)
CLOSE = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
ODD: tuple[bytes, ...] = (
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n\r\n",
    b"GET /healthz" + CLOSE + b"\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    b"head /healthz" + CLOSE + b"\r\n",
    b"get /healthz" + CLOSE + b"\r\n",
    b"GET http://x/healthz" + CLOSE + b"\r\n",
    b"POST /healthz" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"POST /healthz" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 12 + b"0\r\n\r\n",
    b"GET /healthz" + CLOSE + b"Content-Length: 3\r\n\r\nabc",
)
"""Legal, and the last of a connection; a method is a matter of case, so `head` is none that Go knows, and has a body."""
BAD_FILES: tuple[bytes, ...] = (
    b"",
    b'probe_timeout = "9',
    b"\xff\xfe",
    b'probe_timeot = "9s"\n',
    b"probe_timeout = 9\n",
    b"failure_threshold = 0\n",
    b'interval = "50ms"\n',
    b"#" * (1 << 20) + b"##",
)


class Disagreement(AssertionError):
    """The sidecar is not as the model says."""


@dataclass
class Settings:
    """Those that a walk changes; seconds."""

    probe_timeout: float = 0.5
    unreachable_grace: float | None = None
    connection_reuse: float = 1.0
    failure_threshold: int = 1
    success_threshold: int = 1
    interval: float = 0.0

    def file(self, number: int) -> str:
        lines = [f"# {number}", 'config_poll_interval = "100ms"']
        for key, value in vars(self).items():
            if value is not None:
                lines.append(f"{key} = {value}" if isinstance(value, int) else f'{key} = "{round(value * 1000)}ms"')
        return "\n".join(lines) + "\n"

    def slowness(self, wait: str) -> tuple[float, float]:
        """How long an answer takes, at least and at most."""
        grace = self.probe_timeout if self.unreachable_grace is None else min(self.unreachable_grace, self.probe_timeout)
        low, high = {
            "none": (0.0, 0.0),
            "unreached": (grace, grace),
            "timeout": (self.probe_timeout, self.probe_timeout),
            "any": (0.0, self.probe_timeout),
        }[wait]
        return low - 0.02, high + SLACK


class _Received(io.BytesIO):
    """What has come on a connection, to be read as from a socket; what an answer leaves of it can be read on."""

    def makefile(self, _mode: str) -> _Received:
        return self

    def close(self) -> None:
        """Not yet."""


@dataclass
class Stalls:
    """Notices when this machine stands still: a thread that wants to wake 200 times a second."""

    worst: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(0.005):
            now = time.monotonic()
            self.worst = max(self.worst, now - before - 0.005)
            before = now

    def stop(self) -> None:
        self._stop.set()


MINIMAL = shutil.which("setpriv") if os.getuid() == 0 else None
"""Takes from root the power to pass over permissions."""


class Walk:
    """One sidecar, one world, and the beliefs about them."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """Of what is counted after each step."""
        self.done: list[Step] = []
        self._folder = Path(tempfile.mkdtemp(prefix="lpm"))
        self._stalls = Stalls()
        self._world = World(self._folder)
        self._sidecar: Sidecar | None = None
        self._held: list[tuple[socket.socket, bytes, float]] = []

    def close(self) -> None:
        self._stalls.stop()
        for each, _, _ in self._held:
            each.close()
        if self._sidecar is not None:
            self._sidecar.kill()
        self._world.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def do(self, step: Step) -> None:
        """One step; raises Disagreement."""
        self.done.append(step)
        self._stalls.worst = 0.0
        self._starved_before = self._starved()
        try:
            self._do(step)
        except (Disagreement, OSError, http.client.HTTPException) as error:
            told = str(error) if isinstance(error, Disagreement) else f"{step}: {error!r}"
            raise Disagreement(f"{told}\nlog:\n{self._log_tail()}\nsteps:\n{pformat(self.done, width=120)}") from None

    def _log_tail(self) -> str:
        return "\n".join(line[:300] for line in self._sidecar.log().splitlines()[-25:]) if self._sidecar else ""

    def _start(self, settings: dict[str, Any], verbosity: int, logging_format: str) -> None:
        self._settings = Settings(**settings)
        self._files = 0
        self._config = ConfigMap(self._folder / "config", self._settings.file(0))
        self._health_file = self._folder / "health"
        self._format = logging_format
        prefix = (MINIMAL, "--bounding-set=-dac_override,-dac_read_search") if MINIMAL else ()
        self._begin(
            Sidecar(
                (
                    f"--csi-address={self._world.address}",
                    f"--config={self._config.path}",
                    f"--health-file={self._health_file}",
                    f"--v={verbosity}",
                    f"--logging-format={logging_format}",
                ),
                prefix=prefix,
            )
        )
        self._fds = self._count("fd")
        self._tasks = self._figures["livenessprobe_tasks"]

    def _begin(self, sidecar: Sidecar) -> None:
        """Nothing is known of it yet, as it knows nothing."""
        self._sidecar = sidecar
        self._read = 0
        self._said: list[tuple[float, str]] = []
        self._beliefs = {Belief()}
        self._loose = 0
        self._before: set[str] = set()
        self._figures = self._sidecar.figures()
        self._probes = 0.0
        self._starved_before = self._starved()
        self._baseline()

    def _count(self, what: str) -> int:
        try:
            return len(os.listdir(f"/proc/{self._process.process.pid}/{what}"))
        except FileNotFoundError:
            return 0

    def _threads(self) -> list[str]:
        """Their names."""
        names = []
        for task in Path(f"/proc/{self._process.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                names.append((task / "comm").read_text().strip())
        return names

    def _starved(self) -> float:
        """Seconds for which threads of the sidecar wanted to run and had no CPU, all told."""
        if self._sidecar is None:
            return 0.0
        waited = 0
        for task in Path(f"/proc/{self._process.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                waited += int(task.read_text().split()[1])
        return waited / 1e9

    @property
    def _process(self) -> Sidecar:
        assert self._sidecar is not None
        return self._sidecar

    def _do(self, step: Step) -> None:
        kind, arguments = step[0], step[1:]
        self.notes[kind] += 1
        began = time.monotonic()
        turn = len(self.done) % len(PATHS)  # in slow states only the first is asked
        paths = PATHS[turn:] + PATHS[:turn]
        if kind == "start":
            self._start(*arguments)
        elif kind in STATES:
            anew, *rest = arguments
            if kind in PERMISSIONS and os.getuid() == 0 and not MINIMAL:
                return
            self._enter(kind, anew, *rest)
        elif kind == "ask":
            paths = tuple(arguments[0])
        else:
            getattr(self, f"_step_{kind}")(*arguments)
        self._agree(paths)
        self._healthy_process()
        self.seconds[step[0]] += time.monotonic() - began

    def _enter(self, state: str, anew: bool, *rest: Any) -> None:
        self._before = {each.reason or "" for each in self._world.expect.outcomes}
        self._world.enter(state, anew, *rest)

    # --- comparing

    def _fail(self, what: str) -> NoReturn:
        beliefs = "\n  ".join(map(str, list(self._beliefs)[:6]))
        raise Disagreement(
            f"{what}\nstep: {self.done[-1]}\nexpect: {self._world.expect}\nsettings: {self._settings}\n"
            f"worst stall: {self._stalls.worst:.3f}; the sidecar starved for {self._starved() - self._starved_before:.3f}\nbeliefs:\n  {beliefs}"
        )

    def _outcomes(self) -> set[Outcome]:
        outcomes = set(self._world.expect.outcomes)
        if self._stalled():
            self.notes["stalled"] += 1
            outcomes |= {Outcome("deadline"), Outcome("deadline", False)}
        return outcomes

    def _stalled(self) -> bool:
        return self._stalls.worst > STALL or self._starved() - self._starved_before > STALL

    def _after(self, beliefs: set[Belief], outcomes: Iterable[Outcome] | None = None) -> set[Belief]:
        return probed(
            beliefs,
            self._world.expect.outcomes if outcomes is None else outcomes,
            self._world.socket,
            self._settings.failure_threshold,
            self._settings.success_threshold,
        )

    def _told(self, path: str, answer: Answer) -> tuple[int, str | None]:
        """What an answer says; its body must be in keeping."""
        body = answer.body.encode(errors="surrogateescape")
        expect = self._world.expect
        if answer.status not in (200, 500):
            self._fail(f"{path}: status {answer.status}")
        if (answer.status == 200) != (answer.reason is None) and path != "/startupz":
            self._fail(f"{path}: status {answer.status} with reason {answer.reason}")
        if answer.status == 200 and body != b"ok":
            self._fail(f"{path}: 200 with {body[:200]!r}")
        only = {each.reason for each in expect.outcomes} == {answer.reason}
        if path == "/healthz" and answer.status == 500 and expect.body is not None and only and body != expect.body:
            self._fail(f"body {body[:300]!r}, not {expect.body[:300]!r}")
        return answer.status, answer.reason

    def _in_time(self, path: str, answer: Answer) -> None:
        low, high = self._settings.slowness(self._world.expect.wait)
        low += self._world.expect.delay
        if answer.seconds > high + self._world.expect.delay + 2 * self._stalls.worst:
            self._fail(f"{path} took {answer.seconds:.3f}s, not at most {high:.3f}s")
        if answer.seconds < low:
            self._fail(f"{path} took {answer.seconds:.3f}s, not at least {low:.3f}s")

    def _ask(self, path: str, get: Callable[[str], Answer] | None = None) -> None:
        """One request, one probe."""
        answer = (get or self._process.get)(path)
        told = self._told(path, answer)
        if not self._loose:
            self._in_time(path, answer)
        beliefs = self._after(self._beliefs)
        kept = {belief for belief in beliefs if belief.says(path) == told}
        if not kept:
            beliefs = self._after(self._beliefs, self._outcomes())
            kept = {belief for belief in beliefs if belief.says(path) == told}
        if not kept:
            self._fail(f"{path} says {told}, not one of { ({belief.says(path) for belief in beliefs}) }")
        self._beliefs = kept
        self._asked += 1

    _asked = 0

    def _agree(self, paths: tuple[str, ...]) -> None:
        """Ask everywhere; answers, metrics, log and health file must be the model's."""
        if self._settings.interval:
            self._settle(paths)
        else:
            if self._loose:  # they may or may not have counted
                beliefs = self._beliefs
                for _ in range(self._loose):
                    beliefs = self._after(beliefs)
                    self._beliefs = self._beliefs | beliefs
            slow = self._world.expect.wait in ("timeout", "any") or (
                self._world.expect.wait == "unreached" and self._settings.slowness("unreached")[0] > 0.05
            )
            answered = all(each.alive for each in self._world.expect.outcomes)  # else there is a pause between probes
            for path in paths[: 1 if slow else 4 if answered else 2]:
                self._ask(path)
            self._compare(self._process.figures())
        self._compare_health_file()
        self._compare_log()
        self._beliefs = {belief.anew() for belief in self._beliefs}
        self._loose = self._asked = 0
        self._before = set()

    def _compare(self, figures: dict[str, float], mixed: frozenset[str] = frozenset()) -> None:
        """Metrics after a step without an interval."""
        counted = sum(value for series, value in figures.items() if PROBES.match(series)) - self._probes
        if not self._asked <= counted <= self._asked + self._loose:
            self._fail(f"{counted} probes were counted for {self._asked} requests and {self._loose} loose ones")
        allowed = {each.reason for each in self._world.expect.outcomes} | mixed
        grown = self._grown(figures)
        if set(grown) - allowed:
            allowed |= {each.reason for each in self._outcomes()}
        if set(grown) - allowed:
            self._fail(f"failures grew by {grown}, allowed are {allowed}")
        if sum(grown.values()) > counted or (None not in allowed and sum(grown.values()) != counted):
            self._fail(f"failures grew by {grown}, after {counted} probes")
        self._filter_by(figures)
        self._baseline(figures)

    def _filter_by(self, figures: dict[str, float]) -> None:
        shown = (figures["livenessprobe_driver_up"], figures["livenessprobe_healthy"])
        changes = sum(
            figures[series] - self._figures[series]
            for series in figures
            if series.startswith("livenessprobe_health_changes_")
        )
        kept = {
            belief
            for belief in self._beliefs
            if (belief.ready.good, belief.ready.stands) == shown and (belief.changes == changes or self._settings.interval)
        }
        if not kept:
            self._fail(f"driver_up and healthy are {shown} after {changes} changes")
        self._beliefs = kept

    def _grown(self, figures: dict[str, float]) -> dict[str, float]:
        grown = {}
        for series, value in figures.items():
            if (match := FAILURES.match(series)) and value > self._figures[series]:
                grown[match[1]] = value - self._figures[series]
        return grown

    def _baseline(self, figures: dict[str, float] | None = None) -> None:
        before = self._figures
        now = time.monotonic()
        self._figures = figures or self._process.figures()
        self._probes, probes = sum(value for series, value in self._figures.items() if PROBES.match(series)), self._probes
        dialled = self._figures["livenessprobe_driver_connections_total"] - before["livenessprobe_driver_connections_total"]
        elapsed = now - self._read_at if hasattr(self, "_read_at") else 0.0
        if dialled > 10 + 3 * (self._probes - probes) + 40 * elapsed:
            self._fail(f"{dialled} connections dialled in {elapsed:.3f}s for {self._probes - probes} probes")
        self._read_at = now
        names = {match[1] for series in self._figures if (match := LABEL.search(series))}
        if len(names) > 10:
            self._fail(f"too many drivers in the metrics: {names}")
        good = self._figures["livenessprobe_config_last_reload_successful"]
        if good != (not self._bad_file):
            self._fail(f"config_last_reload_successful is {good}")

    _bad_file = False

    def _settle(self, paths: tuple[str, ...]) -> None:
        """With an interval: what is reported must soon be what the state makes it, and stay so."""
        settings = self._settings
        limit = time.monotonic() + 3 * (settings.interval + settings.probe_timeout) + 3
        first = self._beliefs
        while True:
            beliefs = first
            for _ in range(3):
                beliefs = beliefs | self._after(beliefs)
            for _ in range(3):
                beliefs = self._after(beliefs)
            # What was seen of a state that lasted for a moment only may have counted for this.
            beliefs |= {replace(each, started=True) for each in beliefs} | {
                replace(each, started=each.ready.stands or False) for each in beliefs
            }
            self._beliefs = beliefs
            wrong = ""
            for path in (*paths, *paths):
                told = self._process.get(path)
                said = (told.status, told.reason)
                kept = {belief for belief in beliefs if belief.says(path) == said}
                if not kept:
                    wrong = f"{path} says {said}"
                    break
                beliefs = kept
            if not wrong:
                self._beliefs = {
                    replace(belief, socket=each) for belief in beliefs for each in (belief.socket, self._world.socket)
                }
                figures = self._process.figures()
                shown = (figures["livenessprobe_driver_up"], figures["livenessprobe_healthy"])
                if any((belief.ready.good, belief.ready.stands) == shown for belief in beliefs):
                    break
                wrong = f"driver_up and healthy are {shown}"
            if time.monotonic() > limit + 2 * self._stalls.worst:
                self._fail(f"with an interval, for too long: {wrong}")
            time.sleep(0.02)
        if (
            grown := set(self._grown(figures))
            - {each.reason for each in self._outcomes()}
            - self._before
            - {"socket_missing", "refused", "connection_lost", "deadline", "unreachable", "protocol_error"}
        ):
            self._fail(f"failures grew by {grown}")
        self._baseline(figures)

    def _compare_health_file(self) -> None:
        stands = {belief.ready.stands for belief in self._beliefs}
        end = time.monotonic() + 2
        while self._health_file.exists() not in stands:
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail(f"the health file is {'there' if self._health_file.exists() else 'not there'}")
            time.sleep(0.002)

    def _compare_log(self) -> None:
        """Well-formed lines, no faults of the sidecar's own, and the last word on health is the model's."""
        end = time.monotonic() + 2
        while True:
            now = time.monotonic()
            for line in self._new_lines():
                self._compare_line(line)
                if "CSI driver is unhealthy" in line:
                    match = re.search(r'reason"?[=:]"(\w+)"', line)
                    assert match is not None, line
                    self._said.append((now, match[1]))
                elif "CSI driver is healthy again" in line:
                    self._said.append((now, ""))
            last = self._said[-1][1] if self._said else ""
            wanted = {"" if belief.ready.stands else belief.ready.reason for belief in self._beliefs}
            often = Counter(reason for at, reason in self._said if now - at < 130)
            if last in wanted or any(often[each] >= 5 for each in wanted if each):  # then it may be folded
                return
            if now > end + 2 * self._stalls.worst:
                self._fail(f"the log's last word is {last!r}, not one of {wanted}")
            time.sleep(0.005)

    def _new_lines(self) -> list[str]:
        """Those of the log that are complete, and were not when it was read before."""
        log = self._process.log()
        new, self._read = log[self._read :], log.rfind("\n") + 1
        return new[: new.rfind("\n") + 1].split("\n")[:-1]

    def _compare_line(self, line: str) -> None:
        if self._format == "json":
            if not (line.startswith('{"ts":') and line.endswith("}")):
                self._fail(f"not a record: {line[:300]!r}")
        elif not LINE.match(line) and not line.startswith(("\t", " >")):
            self._fail(f"not a record: {line[:300]!r}")
        if CONTROL.search(line):
            self._fail(f"control bytes in the log: {line[:300]!r}")
        if any(bad in line for bad in BAD):
            self._fail(f"in the log: {line[:1000]}")

    def _healthy_process(self) -> None:
        if self._process.process.poll() is not None:
            self._fail(f"the process ended with {self._process.process.returncode}")
        self._comes_back("descriptors", self._fds + FDS, lambda: self._count("fd") - len(self._held))
        self._comes_back("tasks", self._tasks + TASKS, lambda: self._process.metric("livenessprobe_tasks"))
        self._comes_back("threads in gRPC's pool", POOLED, lambda: self._threads().count(POOL))
        self._comes_back("other threads", THREADS, lambda: sum(name != POOL for name in self._threads()))

    def _comes_back(self, what: str, most: float, count: Callable[[], float]) -> None:
        """Wait until there are at most so many; those of a moment ago may be on their way out."""
        end = time.monotonic() + BACK_SECONDS
        while (found := count()) > most:
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail(f"{found:.0f} {what}, where {most:.0f} can be explained")
            time.sleep(0.02)
        self.most[what] = max(self.most[what], round(found))

    # --- steps of clients

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._process.port), timeout=20)

    def _step_ask(self) -> None:
        """Nothing but what follows each step."""

    def _step_parallel(self, count: int, path: str) -> None:
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda _: self._process.get(path), range(count)))
        if self._settings.interval:
            return
        figures = self._process.figures()
        counted = round(sum(value for series, value in figures.items() if PROBES.match(series)) - self._probes)
        if not 1 <= counted <= count:
            self._fail(f"{counted} probes for {count} requests")
        beliefs, said, outcomes = self._beliefs, set(), self._outcomes()
        for number in range(counted + 1):  # one more, as who runs out of time counts for himself
            beliefs = self._after(beliefs, outcomes)
            said |= {belief.says(path) for belief in beliefs}
            if number == counted - 1:
                self._beliefs = beliefs
        for answer in answers:
            if (told := self._told(path, answer)) not in said:
                self._fail(f"one of {count} at a time: {path} says {told}, not one of {said}")
            low, high = self._settings.slowness(self._world.expect.wait)
            if not low <= answer.seconds <= high + 2 * self._stalls.worst + count * 0.01:
                self._fail(f"one of {count} at a time took {answer.seconds:.3f}s")
        self._asked += counted
        self._compare(figures)
        self._asked = 0
        self._beliefs = {belief.anew() for belief in self._beliefs}

    def _step_overtake(self, state: str, arguments: tuple[Any, ...]) -> None:
        """A request waits for a driver that hangs; another driver takes its place, and another request comes."""
        if self._settings.interval:
            return
        self._enter("library_hangs", False)
        answers: list[Answer] = []
        first = threading.Thread(target=lambda: answers.append(self._process.get()))
        first.start()
        time.sleep(self._settings.probe_timeout / 2)
        before = set(self._world.expect.outcomes)
        if state.startswith("library"):  # the same program on another socket: it lets the hung call go, and answers it
            before.add(Outcome(None, True))
        self._enter(state, True, *arguments)
        second = self._process.get()
        first.join()
        figures = self._process.figures()
        counted = round(sum(value for series, value in figures.items() if PROBES.match(series)) - self._probes)
        if (self._settings.failure_threshold, self._settings.success_threshold) == (1, 1):
            if second.reason not in {each.reason for each in self._outcomes()}:
                self._fail(f"the request to the new driver says {second.reason}")
            self._in_time("/healthz", second)
        old = frozenset(each.reason for each in before) | {"refused", "deadline"}
        if answers[0].reason not in old | {each.reason for each in self._outcomes()} and (
            self._settings.failure_threshold,
            self._settings.success_threshold,
        ) == (1, 1):
            self._fail(f"the request to the old driver says {answers[0].reason}")
        if not 1 <= counted <= 3:
            self._fail(f"{counted} probes for two requests")
        # The new driver has the last word: what is found of the old one counts before that, or not at all.
        either = self._outcomes() | before | {Outcome("refused", False)}
        paths, beliefs = set(), self._beliefs
        for _ in range(counted):
            paths |= self._after(beliefs, self._outcomes())
            beliefs = beliefs | self._after(beliefs, either)
        self._beliefs = {
            replace(b, started=s, socket=each) for b in paths for s in (True, False) for each in (b.socket, None)
        }
        self._asked = counted
        self._compare(figures, old | {None})
        self._asked = 0
        self._beliefs = {belief.anew() for belief in self._beliefs}

    def _step_hang_up(self, count: int, reset: bool, delay: float) -> None:
        opened = [self._connect() for _ in range(count)]
        for each in opened:
            each.sendall(PLAIN)
        time.sleep(delay)
        for each in opened:
            if reset:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        self._loose += count

    def _step_half_close(self) -> None:
        with self._connect() as connection:
            connection.sendall(PLAIN)
            connection.shutdown(socket.SHUT_WR)
            self._loose += 1
            self._closes(connection)

    def _closes(self, connection: socket.socket) -> bytes:
        received = b""
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            try:
                while more := connection.recv(65536):
                    received += more
            except TimeoutError:
                self._fail("a connection that is of no more use is not closed")
        if received and not received.startswith(b"HTTP/1."):
            self._fail(f"not HTTP: {received[:100]!r}")
        return received

    def _step_hold(self, count: int, sent: int) -> None:
        """Slow clients begin requests."""
        for _ in range(min(count, HELD_MAX - len(self._held))):
            each = self._connect()
            each.sendall(WHOLE[:sent])
            self._held.append((each, WHOLE[sent:], time.monotonic()))

    def _step_finish(self, count: int) -> None:
        """They come to the end of them, and get the right answer."""
        for _ in range(min(count, len(self._held))):
            connection, rest, since = self._held.pop(0)
            with connection:
                if time.monotonic() - since > 60 or self._settings.interval:
                    continue  # nearly too slow; and with an interval no answer is certain before the step's end

                def finish(_path: str, connection: socket.socket = connection, rest: bytes = rest) -> Answer:
                    started = time.monotonic()
                    connection.sendall(rest)
                    with contextlib.closing(http.client.HTTPResponse(connection)) as response:
                        response.begin()
                        body = response.read().decode(errors="surrogateescape")
                        headers = {name.lower(): value for name, value in response.getheaders()}
                        return Answer(response.status, body, headers, time.monotonic() - started)

                self._ask("/healthz", finish)

    def _step_let_go(self, count: int) -> None:
        """They give up."""
        for _ in range(min(count, len(self._held))):
            self._held.pop(0)[0].close()

    def _step_garbage(self, number: int) -> None:
        with self._connect() as connection:
            with contextlib.suppress(OSError):  # it may be refused, and the connection gone, before all of it is sent
                connection.sendall(GARBAGE[number])
                connection.shutdown(socket.SHUT_WR)
            received = self._closes(connection)
        if re.match(rb"HTTP/1\.. (200|500)", received):
            self._fail(f"garbage is answered with {received[:100]!r}")

    def _step_odd_request(self, number: int) -> None:
        """Few clients ask like that; they get the right answer too."""

        def odd(_path: str) -> Answer:
            started = time.monotonic()
            with self._connect() as connection:
                connection.sendall(ODD[number])
                return self._only_answer(self._closes(connection), time.monotonic() - started)

        if self._settings.interval:
            self._told("", odd(""))
        else:
            self._ask("/healthz", odd)

    def _only_answer(self, received: bytes, seconds: float) -> Answer:
        """All that came on a connection, which must be one answer and no more."""
        whole = _Received(received)
        try:
            response = http.client.HTTPResponse(whole)  # type: ignore[arg-type]
            response.begin()
            body = response.read().decode(errors="surrogateescape")
        except http.client.HTTPException as error:
            self._fail(f"{error!r}: {received[:300]!r}")
        if more := whole.read():
            self._fail(f"after the only answer there is {more[:300]!r}")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, body, headers, seconds)

    # --- settings and signals

    def _await_file(self, hangup: bool, adopted: Callable[[dict[str, float]], bool]) -> None:
        if hangup:
            self._process.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while not adopted(self._process.figures()):
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail("the settings file is not taken over")
            time.sleep(0.02)

    def _step_reload(self, settings: dict[str, Any], hangup: bool) -> None:
        old, wanted = self._settings, Settings(**settings)
        before = self._figures["livenessprobe_config_hash"]
        self._files += 1
        self._config.swap(wanted.file(self._files))
        self._await_file(hangup, lambda figures: figures["livenessprobe_config_hash"] != before)
        self._settings, self._bad_file = wanted, False
        if old.interval:
            # What is in flight ends by the settings it began with.
            time.sleep(old.probe_timeout + 0.3)
            self._baseline()
            self._beliefs |= self._after(self._beliefs)

    def _step_bad_file(self, number: int, hangup: bool) -> None:
        self._config.swap(BAD_FILES[number])
        self._await_file(hangup, lambda figures: figures["livenessprobe_config_last_reload_successful"] == 0)
        self._bad_file = True

    def _step_hangup_signal(self) -> None:
        self._process.process.send_signal(signal.SIGHUP)

    def _step_end(self, name: str, requests: int, pause: float) -> None:
        """A signal ends the sidecar, whatever it is at; another takes its place."""
        asked = [self._connect() for _ in range(requests)]
        for each in asked:
            each.sendall(PLAIN)
        time.sleep(pause)
        began = time.monotonic()
        self._process.process.send_signal(signal.Signals[name])
        last = [(self._closes(each), time.monotonic() - began) for each in asked]
        if name != "SIGQUIT":
            self._compare_last(last, certain=pause >= ARRIVED)
        for each in self._held:
            if received := self._closes(each[0]):
                self._fail(f"who has not asked is told {received[:300]!r}")
        self._compare_end(name, began)
        for connection in (*asked, *(each[0] for each in self._held)):
            connection.close()
        self._held.clear()
        if self._bad_file:  # with that one it would start on its defaults
            self._files += 1
            self._config.swap(self._settings.file(self._files))
            self._bad_file = False
        old = self._process
        old.kill()
        self._begin(Sidecar(old.arguments, prefix=old.prefix, port=old.port))

    def _compare_last(self, last: list[tuple[bytes, float]], *, certain: bool) -> None:
        """Requests that were open at the end have the right answer; if that is not `certain` to have come in, or none."""
        beliefs, said, outcomes = self._beliefs, set(), self._outcomes()
        for _ in range(len(last) + 1):
            beliefs = self._after(beliefs, outcomes)
            said |= {belief.says("/healthz") for belief in beliefs}
        for received, seconds in last:
            if not received and (not certain or self._stalled()):
                continue
            told = self._told("/healthz", self._only_answer(received, seconds))
            if told not in said and not self._settings.interval:
                self._fail(f"at the end /healthz says {told}, not one of {said}")

    def _compare_end(self, name: str, began: float) -> None:
        quits = name == "SIGQUIT"
        bound = END_SECONDS + (0 if quits else self._settings.probe_timeout)
        try:
            code = self._process.process.wait(max(0.0, began + bound - time.monotonic()) + 2 * self._stalls.worst)
        except subprocess.TimeoutExpired:
            self._fail(f"{name} has not ended it within {bound:.1f}s")
        if code != (2 if quits else 0):
            self._fail(f"{name} has ended it with {code}")
        self.most["ms of an end"] = max(self.most["ms of an end"], round((time.monotonic() - began) * 1000))
        if not quits and (left := sorted(self._folder.glob("*health*"))):
            self._fail(f"after {name} there is {left}")
        if quits and "SIGQUIT: quit" not in self._process.log():
            self._fail("no stacks")
        for line in self._new_lines():
            if not (quits and STACKS.match(line)):
                self._compare_line(line)

    def _step_stopped(self, seconds: float) -> None:
        self._process.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.process.send_signal(signal.SIGCONT)

    def _step_name(self) -> None:
        """The driver's present name is learnt in the end."""
        name = self._world.expect.name
        if not name:
            return
        label = "".join(each if each.isprintable() else "?" for each in name).replace("\\", r"\\").replace('"', r"\"")
        series = f'csi_sidecar_operations_seconds_count{{driver_name="{label}",'
        before = self._count_of(series)
        end = time.monotonic() + 20
        while self._count_of(series) == before:
            if time.monotonic() > end:
                self._fail(f"the driver's name {name!r} is not learnt")
            if not self._settings.interval:
                self._ask("/healthz")
            time.sleep(0.02)

    def _count_of(self, series: str) -> float:
        return sum(
            value for each, value in self._process.figures().items() if each.startswith(series) and "Identity/Probe" in each
        )
