"""A walk: steps as plain data, done to a sidecar one after another; after each step sidecar and model must agree."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pprint import pformat
from typing import Any

from tests.machine.inputs import BAD_FILES, GARBAGE, KUBELET, ODD, PATHS, PLAIN, WHOLE, Settings, Step
from tests.machine.model import Outcome
from tests.machine.names import Names
from tests.machine.watch import FAILURES, MINIMAL, PROBES, Disagreement
from tests.machine.world import PERMISSIONS, STATES
from tests.support import Answer, Sidecar, fuse

END_SECONDS = 1.5
"""Seconds that the process may take to end, beyond the requests that it waits for."""
ARRIVED = 0.05
"""Seconds after which a request has certainly arrived, unless the machine stalls."""
HELD_MAX = 30

STACKS = re.compile(r'(Current thread|Thread) 0x|  File "|  <|Extension modules:|SIGQUIT: quit$|$')
"""Lines that SIGQUIT adds to the log."""


class _Received(io.BytesIO):
    """The bytes received on a connection, in place of a socket; bytes after the response stay readable."""

    def makefile(self, _mode: str) -> _Received:
        return self

    def close(self) -> None:
        """Bytes after the response must stay readable."""


class Walk(Names):
    """The steps, and what must follow from each."""

    def do(self, step: Step) -> None:
        """Do one step; raises Disagreement."""
        self.done.append(step)
        self._stalls.worst = 0.0
        self._starved_before = self._starved()
        try:
            self._do(step)
        except (Disagreement, OSError, http.client.HTTPException) as error:
            message = str(error) if isinstance(error, Disagreement) else f"{step}: {error!r}"
            raise Disagreement(f"{message}\nlog:\n{self._log_tail()}\nsteps:\n{pformat(self.done, width=120)}") from None

    def _do(self, step: Step) -> None:
        kind, arguments = step[0], step[1:]
        self.notes[kind] += 1
        began = time.monotonic()
        turn = len(self.done) % len(PATHS)  # in slow states only the first path is requested
        paths = PATHS[turn:] + PATHS[:turn]
        if kind == "start":
            self._start(*arguments)
        elif kind in STATES:
            anew, *rest = arguments
            if kind in PERMISSIONS and os.getuid() == 0 and not MINIMAL or kind == "hung_mount" and fuse.fault():
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

    # --- steps of clients

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._process.port), timeout=20)

    def _step_ask(self) -> None:
        """Only the checks that follow every step."""

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
        for number in range(counted + 1):  # one more, since a caller that runs out of time counts separately
            beliefs = self._after(beliefs, outcomes)
            said |= {belief.says(path) for belief in beliefs}
            if number == counted - 1:
                self._beliefs = beliefs
        for answer in answers:
            if (answered := self._checked(path, answer)) not in said:
                self._fail(f"one of {count} at a time: {path} says {answered}, not one of {said}")
            low, high = self._settings.slowness(self._world.expect.wait)
            if not low <= answer.seconds <= high + 2 * self._stalls.worst + count * 0.01:
                self._fail(f"one of {count} at a time took {answer.seconds:.3f}s")
        self._asked += counted
        self._compare(figures)
        self._asked = 0
        self._beliefs = {belief.anew() for belief in self._beliefs}

    def _step_overtake(self, state: str, arguments: tuple[Any, ...]) -> None:
        """While a request waits for a hung driver, another driver takes its place and another request arrives."""
        if self._settings.interval:
            return
        self._enter("library_hangs", False)
        answers: list[Answer] = []
        first = threading.Thread(target=lambda: answers.append(self._process.get()))
        first.start()
        time.sleep(self._settings.probe_timeout / 2)
        before = set(self._world.expect.outcomes)
        if state.startswith("library"):  # the same program on another socket: it releases the hung call, and responds to it
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
        # The new driver counts last: results of the old one count before that, or not at all.
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
        self._uncertain += count
        self._hung_up += count

    def _step_impatient(self, count: int, patience: float, half: bool) -> None:
        """
        Kubelets come one after another, each of which hangs up after this part of the probe timeout.

        A hung driver must fail once in each probe timeout all the same.
        """
        timeout = self._settings.probe_timeout
        before, began = self._process.figures(), time.monotonic()
        for _ in range(count):
            with self._connect() as connection:
                connection.sendall(KUBELET)
                time.sleep(patience * timeout)
                if half:
                    connection.shutdown(socket.SHUT_WR)
        passed, after = time.monotonic() - began, self._process.figures()
        self._uncertain += count
        self._hung_up += count
        if self._world.expect.wait == "timeout" and not self._stalled():
            failed = sum(after[series] - before[series] for series in after if FAILURES.match(series))
            period = max(timeout, self._settings.interval)
            if not passed / (period + 0.05) - 2 <= failed <= passed / timeout + 1:
                self._fail(f"{failed} failures of a hung driver in {passed:.3f}s")

    def _step_half_close(self) -> None:
        """A client that closes its side behind its request must get the right response."""

        def half(_path: str) -> Answer:
            started = time.monotonic()
            with self._connect() as connection:
                connection.sendall(PLAIN)
                connection.shutdown(socket.SHUT_WR)
                return self._only_answer(self._closes(connection), time.monotonic() - started)

        if self._settings.interval:
            self._checked("/healthz", half(""))
        else:
            self._ask("/healthz", half)

    def _closes(self, connection: socket.socket) -> bytes:
        received = b""
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            try:
                while more := connection.recv(65536):
                    received += more
            except TimeoutError:
                self._fail("a finished connection is not closed")
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
        """Slow clients complete their requests, and must get the right response."""
        for _ in range(min(count, len(self._held))):
            connection, rest, since = self._held.pop(0)
            with connection:
                if time.monotonic() - since > 60 or self._settings.interval:
                    continue  # nearly timed out; or with an interval, where the response is uncertain until the step's end

                def finish(_path: str, connection: socket.socket = connection, rest: bytes = rest) -> Answer:
                    started = time.monotonic()
                    connection.sendall(rest)
                    with contextlib.closing(http.client.HTTPResponse(connection)) as response:
                        response.begin()
                        body = response.read().decode(errors="surrogateescape")
                        headers = {name.lower(): value for name, value in response.getheaders()}
                        return Answer(response.status, body, headers, time.monotonic() - started)

                self._ask("/healthz", finish)

    def _step_close_held(self, count: int) -> None:
        """Slow clients disconnect."""
        for _ in range(min(count, len(self._held))):
            self._held.pop(0)[0].close()

    def _step_garbage(self, number: int) -> None:
        with self._connect() as connection:
            with contextlib.suppress(OSError):  # the sidecar may refuse and close before all of it is sent
                connection.sendall(GARBAGE[number])
                connection.shutdown(socket.SHUT_WR)
            received = self._closes(connection)
        if re.match(rb"HTTP/1\.. (200|500)", received):
            self._fail(f"garbage is answered with {received[:100]!r}")

    def _step_odd_request(self, number: int) -> None:
        """Valid but unusual requests, which must get the right response."""

        def odd(_path: str) -> Answer:
            started = time.monotonic()
            with self._connect() as connection:
                connection.sendall(ODD[number])
                return self._only_answer(self._closes(connection), time.monotonic() - started)

        if self._settings.interval:
            self._checked("", odd(""))
        else:
            self._ask("/healthz", odd)

    def _only_answer(self, received: bytes, seconds: float) -> Answer:
        """The one response in `received`; anything after it is a failure."""
        whole = _Received(received)
        try:
            response = http.client.HTTPResponse(whole)  # type: ignore[arg-type]
            response.begin()
            body = response.read().decode(errors="surrogateescape")
        except http.client.HTTPException as error:
            self._fail(f"{error!r}: {received[:300]!r}")
        if more := whole.read():
            self._fail(f"after the only response there is {more[:300]!r}")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, body, headers, seconds)

    # --- settings and signals

    def _await_file(self, hangup: bool, adopted: Callable[[dict[str, float]], bool]) -> None:
        if hangup:
            self._process.signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while not adopted(self._process.figures()):
            if time.monotonic() > end + 2 * self._stalls.worst:
                self._fail("the settings file does not take effect")
            time.sleep(0.02)

    def _step_reload(self, settings: dict[str, Any], hangup: bool) -> None:
        old, wanted = self._settings, Settings(**settings)
        before = self._figures["livenessprobe_config_hash"]
        self._files += 1
        self._config.swap(wanted.file(self._files))
        self._await_file(hangup, lambda figures: figures["livenessprobe_config_hash"] != before)
        self._settings, self._bad_file = wanted, False
        if old.interval:
            # A probe in flight ends with the settings with which it began.
            time.sleep(old.probe_timeout + 0.3)
            self._baseline()
            self._beliefs |= self._after(self._beliefs)

    def _step_bad_file(self, number: int, hangup: bool) -> None:
        self._config.swap(BAD_FILES[number])
        self._await_file(hangup, lambda figures: figures["livenessprobe_config_last_reload_successful"] == 0)
        self._bad_file = True

    def _step_hangup_signal(self) -> None:
        self._process.signal(signal.SIGHUP)

    def _step_end(self, name: str, requests: int, pause: float) -> None:
        """A signal ends the sidecar in whatever state it is; then a new one is started."""
        asked = [self._connect() for _ in range(requests)]
        for each in asked:
            each.sendall(PLAIN)
        time.sleep(pause)
        began = time.monotonic()
        self._process.signal(signal.Signals[name])
        last = [(self._closes(each), time.monotonic() - began) for each in asked]
        if name != "SIGQUIT":
            self._compare_last(last, certain=pause >= ARRIVED)
        for each in self._held:
            if received := self._closes(each[0]):
                self._fail(f"a client without a complete request received {received[:300]!r}")
        self._compare_end(name, began)
        for connection in (*asked, *(each[0] for each in self._held)):
            connection.close()
        self._held.clear()
        if self._bad_file:  # with a bad file it would start on its defaults
            self._files += 1
            self._config.swap(self._settings.file(self._files))
            self._bad_file = False
        old = self._process
        old.kill()
        self._begin(Sidecar(old.arguments, prefix=old.prefix, port=old.port))

    def _compare_last(self, last: list[tuple[bytes, float]], *, certain: bool) -> None:
        """Requests that were open at the end must have the right response; if arrival was not `certain`, perhaps none."""
        beliefs, said, outcomes = self._beliefs, set(), self._outcomes()
        for _ in range(len(last) + 1):
            beliefs = self._after(beliefs, outcomes)
            said |= {belief.says("/healthz") for belief in beliefs}
        for received, seconds in last:
            if not received and (not certain or self._stalled()):
                continue
            answered = self._checked("/healthz", self._only_answer(received, seconds))
            if answered not in said and not self._settings.interval:
                self._fail(f"at the end /healthz says {answered}, not one of {said}")

    def _compare_end(self, name: str, began: float) -> None:
        quits = name == "SIGQUIT"
        bound = END_SECONDS + (0 if quits else self._settings.probe_timeout)
        try:
            code = self._process.process.wait(max(0.0, began + bound - time.monotonic()) + 2 * self._stalls.worst)
        except subprocess.TimeoutExpired:
            self._fail(f"{name} has not ended the process within {bound:.1f}s")
        if code != (2 if quits else 0):
            self._fail(f"{name} has ended the process with {code}")
        self.most["ms of an end"] = max(self.most["ms of an end"], round((time.monotonic() - began) * 1000))
        if not quits and (left := sorted(self._folder.glob("*health*"))):
            self._fail(f"after {name} these files are left: {left}")
        if quits and "SIGQUIT: quit" not in self._process.log():
            self._fail("no stacks")
        for line in self._new_lines():
            if not (quits and STACKS.match(line)):
                self._compare_line(line)

    def _step_stopped(self, seconds: float) -> None:
        self._process.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.signal(signal.SIGCONT)
