"""The checks after each step of a walk: responses, metrics, log, files, and resources of one sidecar."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from tests.machine.inputs import Settings, Step
from tests.machine.model import Belief, Outcome, probed
from tests.machine.world import World
from tests.support import Answer, ConfigMap, Sidecar

STALL = 0.04
"""Seconds; a longer pause of this machine may cost a good driver its probe timeout."""
BACK_SECONDS = 4.0
"""Seconds for which a step's descriptors, tasks and threads may stay."""
FDS = 12
"""
Descriptors beyond those of the start, held connections not counted.

gRPC keeps five once it is in use, and a reused connection to the driver is the sixth.  If the driver never accepts, and
with an interval, a probe and the request for the name hang in dials of several descriptors each.
"""
TASKS = 1
"""Tasks beyond those of the start: perhaps the request for the name.  Held connections have no task."""
POOL = "event_engine"
"""The name of threads in gRPC's pool; the pool starts another thread when all are busy, and may keep it."""
THREADS, POOLED = 9, 14 + (os.cpu_count() or 1)
"""The most threads outside gRPC's pool (three of them for files), and in it."""
PROBES = re.compile(r'csi_sidecar_operations_seconds_count\{.*method_name="/csi.v1.Identity/Probe"\}')
FAILURES = re.compile(r'livenessprobe_probe_failures_total\{reason="(\w+)"\}')
LABEL = re.compile(r'driver_name="((?:[^"\\]|\\.)*)"')
LINE = re.compile(r'[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [\w./-]+:\d+\] "')
CONTROL = re.compile(r"[\x00-\x08\x0a-\x0c\x0e-\x1f]|\r(?!$)")
FAILED = re.compile(
    r'(?:\] |"msg":)"(?:Health check failed|Driver responded but is not ready|Lost connection|Failed to establish [^"]*)"'
)
CAUSE = re.compile(r' reason="\w+"|"reason":"\w+"|=<$')
"""In the record of a failed probe; the first line of a value with several lines says nothing of what follows."""
BAD = ("Traceback", "never retrieved", "inside the sidecar", "internal error", "fault of the sidecar", "exception", "ASGI")


class Disagreement(AssertionError):
    """The sidecar does not behave as the model says."""


@dataclass
class Stalls:
    """Measures how long this machine stands still, with a thread that wants to run 200 times a second."""

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
"""setpriv, to take from root the capability to ignore file permissions."""


class Watch:
    """One sidecar, one world, and the beliefs about them."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """The largest counts after any step: descriptors, tasks, threads."""
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

    _asked = 0
    _bad_file = False

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
        """A new sidecar, about which only the empty belief holds."""
        self._sidecar = sidecar
        self._read = 0
        self._said: list[tuple[float, str]] = []
        self._beliefs = {Belief()}
        self._uncertain = 0
        self._hung_up = 0
        """Health requests so far whose clients hung up, each of which may have had its response before."""
        self._before: set[str] = set()
        self._figures = self._sidecar.figures()
        self._probes = 0.0
        self._starved_before = self._starved()
        self._baseline()

    @property
    def _process(self) -> Sidecar:
        assert self._sidecar is not None
        return self._sidecar

    def _count(self, what: str) -> int:
        try:
            return len(os.listdir(f"/proc/{self._process.process.pid}/{what}"))
        except FileNotFoundError:
            return 0

    def _starved(self) -> float:
        """Seconds for which threads of the sidecar were ready to run and had no CPU, in total."""
        if self._sidecar is None:
            return 0.0
        waited = 0
        for task in Path(f"/proc/{self._process.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                waited += int(task.read_text().split()[1])
        return waited / 1e9

    def _log_tail(self) -> str:
        return "\n".join(line[:300] for line in self._sidecar.log().splitlines()[-25:]) if self._sidecar else ""

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
            outcomes |= {Outcome("deadline"), Outcome("deadline", False), *self._world.expect.late}
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

    # --- answers

    def _checked(self, path: str, answer: Answer) -> tuple[int, str | None]:
        """Status and reason of a response, whose body must fit them."""
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
        """One request, which makes one probe."""
        answer = (get or self._process.get)(path)
        answered = self._checked(path, answer)
        if not self._uncertain:
            self._in_time(path, answer)
        beliefs = self._after(self._beliefs)
        kept = {belief for belief in beliefs if belief.says(path) == answered}
        if not kept:
            beliefs = self._after(self._beliefs, self._outcomes())
            kept = {belief for belief in beliefs if belief.says(path) == answered}
        if not kept:
            self._fail(f"{path} says {answered}, not one of { ({belief.says(path) for belief in beliefs}) }")
        self._beliefs = kept
        self._asked += 1

    def _agree(self, paths: tuple[str, ...]) -> None:
        """Send requests to `paths`; responses, metrics, log and health file must agree with the model."""
        if self._settings.interval:
            self._settle(paths)
        else:
            if self._uncertain:  # the abandoned requests may or may not have counted
                if self._world.expect.wait != "none" or self._world.expect.delay:
                    time.sleep(self._settings.probe_timeout + 0.05)  # their Probe goes on to its end
                beliefs = self._beliefs
                for _ in range(self._uncertain):
                    beliefs = self._after(beliefs)
                    self._beliefs = self._beliefs | beliefs
            slow = self._world.expect.wait in ("timeout", "any") or (
                self._world.expect.wait == "unreached" and self._settings.slowness("unreached")[0] > 0.05
            )
            answered = all(each.alive for each in self._world.expect.outcomes)  # otherwise there is a pause between probes
            for path in paths[: 1 if slow else 4 if answered else 2]:
                self._ask(path)
            self._compare(self._process.figures())
        self._compare_health_file()
        self._compare_log()
        self._beliefs = {belief.anew() for belief in self._beliefs}
        self._uncertain = self._asked = 0
        self._before = set()

    def _settle(self, paths: tuple[str, ...]) -> None:
        """With an interval the report must soon fit the driver's state, and stay so."""
        settings = self._settings
        limit = time.monotonic() + 3 * (settings.interval + settings.probe_timeout) + 3
        first = self._beliefs
        while True:
            beliefs = first
            for _ in range(3):
                beliefs = beliefs | self._after(beliefs)
            for _ in range(3):
                beliefs = self._after(beliefs)
            # Probes of a state that lasted only a moment may have counted too.
            beliefs |= {replace(each, started=True) for each in beliefs} | {
                replace(each, started=each.ready.stands or False) for each in beliefs
            }
            self._beliefs = beliefs
            wrong = ""
            for path in (*paths, *paths):
                answered = self._process.get(path)
                said = (answered.status, answered.reason)
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
                self._fail(f"with an interval, wrong for too long: {wrong}")
            time.sleep(0.02)
        if (
            grown := set(self._grown(figures))
            - {each.reason for each in self._outcomes()}
            - self._before
            - {"socket_missing", "refused", "connection_lost", "deadline", "unreachable", "protocol_error"}
        ):
            self._fail(f"failures grew by {grown}")
        self._baseline(figures)

    # --- metrics

    def _compare(self, figures: dict[str, float], mixed: frozenset[str] = frozenset()) -> None:
        """Compare metrics after a step without an interval."""
        counted = sum(value for series, value in figures.items() if PROBES.match(series)) - self._probes
        if not self._asked <= counted <= self._asked + self._uncertain:
            self._fail(f"{counted} probes were counted for {self._asked} requests and {self._uncertain} uncertain ones")
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
        if self._figures["livenessprobe_callers_gone_total"] > self._hung_up:
            self._fail(
                f"{self._figures['livenessprobe_callers_gone_total']} hang-ups, but at most {self._hung_up} clients did so"
            )
        names = {match[1] for series in self._figures if (match := LABEL.search(series))}
        if len(names) > 10:
            self._fail(f"too many drivers in the metrics: {names}")
        good = self._figures["livenessprobe_config_last_reload_successful"]
        if good != (not self._bad_file):
            self._fail(f"config_last_reload_successful is {good}")

    # --- files

    def _compare_health_file(self) -> None:
        stands = {belief.ready.stands for belief in self._beliefs}
        end = time.monotonic() + 2
        while self._health_file.exists() not in stands:
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail(f"the health file is {'there' if self._health_file.exists() else 'not there'}")
            time.sleep(0.002)

    def _compare_log(self) -> None:
        """Lines are well-formed, none is an internal error, and the last record about health agrees with the model."""
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
                self._fail(f"the log's last record about health says {last!r}, not one of {wanted}")
            time.sleep(0.005)

    def _new_lines(self) -> list[str]:
        """The complete lines that the log has gained since the last call."""
        log = self._process.log()
        new, self._read = log[self._read :], log.rfind("\n") + 1
        return new[: new.rfind("\n") + 1].split("\n")[:-1]

    def _compare_line(self, line: str) -> None:
        if self._format == "json":
            if not (line.startswith('{"ts":') and line.endswith("}")):
                self._fail(f"not a record: {line[:300]!r}")
        elif not LINE.match(line) and not line.startswith(("\t", " >")):
            self._fail(f"not a record: {line[:300]!r}")
        if FAILED.search(line) and not CAUSE.search(line):
            self._fail(f"a failed probe without its cause: {line[:300]!r}")
        if CONTROL.search(line):
            self._fail(f"control bytes in the log: {line[:300]!r}")
        if any(bad in line for bad in BAD):
            self._fail(f"in the log: {line[:1000]}")

    # --- resources

    def _healthy_process(self) -> None:
        if self._process.process.poll() is not None:
            self._fail(f"the process ended with {self._process.process.returncode}")
        self._comes_back("descriptors", self._fds + FDS, lambda: self._count("fd") - len(self._held))
        self._comes_back("tasks", self._tasks + TASKS, lambda: self._process.metric("livenessprobe_tasks"))
        self._comes_back("threads in gRPC's pool", POOLED, lambda: self._process.threads().count(POOL))
        self._comes_back("other threads", THREADS, lambda: sum(name != POOL for name in self._process.threads()))

    def _comes_back(self, what: str, most: float, count: Callable[[], float]) -> None:
        """Wait until the count is at most `most`: objects of the last step may still be closing."""
        end = time.monotonic() + BACK_SECONDS
        while (found := count()) > most:
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail(f"{found:.0f} {what}, but at most {most:.0f} are expected")
            time.sleep(0.02)
        self.most[what] = max(self.most[what], round(found))
