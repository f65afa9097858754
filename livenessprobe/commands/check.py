"""
`livenessprobe check`: one probe in a process of its own, for exec probes and for people.

An exec probe starts this process every few seconds, so this module and its imports load little: no web server, no metrics, no
Dynaconf; gRPC only to probe the driver, an HTTP client only to ask a sidecar.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from livenessprobe.commands import sidecar
from livenessprobe.driver.result import OUT_OF_TIME, Reason
from livenessprobe.klog import log as klog
from livenessprobe.klog.writer import write_all
from livenessprobe.probing import health_file
from livenessprobe.process import cgroup, memory, threads
from livenessprobe.process.imports import hide_modules
from livenessprobe.settings import command_line, flags
from livenessprobe.settings.model import Loaded, Settings

HEALTHY, USAGE, NOT_CONNECTED, CALL_FAILED, NOT_READY, NO_MEMORY = range(6)
"""Exit codes; those of the same meaning are as in grpc-health-probe."""

NOT_A_SIDECAR, STALE_FILE, NO_MEMORY_LEFT = "not_a_sidecar", "stale_file", "no_memory"
"""Reasons that only this command has."""

PAUSE = 0.2
"""Seconds between the probes of --wait."""

FLAGS = (
    flags.Flag("output", flags.STRING, "text", "`text`: one line. json: one object."),
    flags.Flag(
        "url", flags.STRING, "", "Ask the sidecar at this `address` instead of the driver: http://host:port or unix:///path."
    ),
    flags.Flag("wait", flags.DURATION, "0s", "Repeat the check until the driver is healthy, for at most this long."),
)


class Outcome(NamedTuple):
    """The exit code, and what is printed."""

    code: int
    reason: str
    """The value of a `Reason`, NOT_A_SIDECAR, STALE_FILE, NO_MEMORY_LEFT, or `healthy`."""
    message: str
    driver: str = ""
    """The driver's name, if a sidecar has told it."""
    probe_seconds: float = 0.0
    """How long the sidecar's probe took."""

    def render(self, output: str, asked: str, seconds: float) -> str:
        """A line of text, or a JSON object if `output` is json."""
        if output == "json":
            healthy = self.code == HEALTHY
            fields = {"healthy": healthy, "exit_code": self.code, "reason": None if healthy else self.reason}
            told = {"driver": self.driver, "probe_seconds": self.probe_seconds} if self.driver else {}
            return json.dumps(fields | {"message": self.message, "asked": asked, "seconds": round(seconds, 3)} | told)
        told_by = f" (driver {self.driver}, probed in {self.probe_seconds:.3f}s)" if self.driver else ""
        return f"{self.reason}: {self.message}{told_by}"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check once or, with --wait, several times; prints one line and returns the exit code."""
    try:
        line = command_line.parse(arguments, FLAGS)
        values = line.values()
        own = {flag.name: values.pop(flag.name, flag.default) for flag in FLAGS}
        if line.unread:
            raise command_line.FlagError(f"{line.unread[0]!r} is no flag; flags begin with a dash")
        loaded = sidecar.load_settings(values, environ)
        if loaded.is_refused:
            return _refuse(*(mistake.sentence for mistake in loaded.all_mistakes))
        sidecar.tell_of_ignored_file("check", loaded)
        ask, asked = _target(own["url"], "health-file" in values, loaded, environ)
        if own["output"] not in ("text", "json"):
            raise command_line.FlagError(f"--output={own['output']}: write text or json")
    except command_line.HelpRequested:
        _print(command_line.usage_of_command(sys.argv[0], "check", FLAGS))
        return HEALTHY
    except command_line.FlagError as error:
        return _refuse(f"{error}{error.hint}")
    started = time.monotonic()
    outcome = _repeat(ask, loaded.settings.probe_timeout, flags.DURATION.check(own["wait"]))
    _print(outcome.render(own["output"], asked, time.monotonic() - started))
    return outcome.code


def _refuse(*sentences: str) -> int:
    write_all(2, "\n".join(f"livenessprobe check: {sentence}" for sentence in sentences))
    return USAGE


def _print(text: str) -> None:
    try:
        write_all(1, text.removesuffix("\n"))
    except OSError:
        pass  # stdout may be closed; the exit code has the result


Ask = Callable[[float], Outcome]
"""Checks once; the argument is the timeout in seconds."""


def _target(url: str, file: bool, loaded: Loaded, environ: Mapping[str, str]) -> tuple[Ask, str]:
    """How to check the sidecar at `url`, the health `file` or else the driver; and the address, for the output."""
    found = loaded.settings
    if url:
        return _sidecar(url), url
    if file:
        return lambda timeout: _read_health_file(found.health_file, timeout), found.health_file
    if short := cgroup.shortage(memory.GRPC):
        place = _beside(found, environ)
        if place is None:
            return lambda _: Outcome(NO_MEMORY, NO_MEMORY_LEFT, short), found.csi_address.text
        return lambda timeout: _ask_sidecar(place, _TOLD_IN_FULL, timeout), str(place)
    # The default grace is left out, since --wait is there to wait for a driver; a grace that was set is kept.
    grace = found.unreachable_grace if loaded.raw["unreachable_grace"].text else 0.0
    return lambda timeout: _ask_driver(found, timeout, min(grace, timeout)), found.csi_address.text


def _beside(ours: Settings, environ: Mapping[str, str]) -> sidecar.Place | None:
    """Where the sidecar in whose container this is can be asked, if it makes the same probe of the same driver."""
    loaded = sidecar.beside(environ)
    if loaded is None or not loaded.settings.http.text:
        return None
    theirs = loaded.settings
    same = [(each.csi_address, each.probe_path, each.health_service) for each in (ours, theirs)]
    return next(sidecar.places(theirs.http)) if same[0] == same[1] else None


def _repeat(ask: Ask, timeout: float, wait: float) -> Outcome:
    """Ask until healthy, for at most `wait` seconds; returns the last outcome, but not a timeout that the end of `wait` caused."""
    end = time.monotonic() + wait
    outcome = ask(timeout)
    if wait:
        memory.enable_collection()  # one probe leaves no garbage worth collecting, many do
    while outcome.code != HEALTHY and (left := end - time.monotonic()) > 0:
        time.sleep(min(PAUSE, left))
        left = max(end - time.monotonic(), 0.1)
        latest = ask(min(timeout, left))
        # A timeout says nothing if the probe had less than its normal time; then the outcome before it stays.
        if left >= timeout or latest.reason not in OUT_OF_TIME:
            outcome = latest
    return outcome


def _ask_driver(settings: Settings, timeout: float, grace: float) -> Outcome:
    if fault := threads.fault():  # without threads gRPC ends the process (SIGSEGV)
        return Outcome(NOT_CONNECTED, Reason.INTERNAL.value, fault)
    with hide_modules("ssl"):
        import asyncio

    from livenessprobe.driver.connection import Dialer
    from livenessprobe.driver.identity import Identity, Question

    async def ask() -> Outcome:
        now = asyncio.get_running_loop().time()
        question = Question(now + timeout, now + grace, settings.probe_path, settings.health_service)
        dialer = Dialer(settings.csi_address, lambda: None)
        try:
            found = await Identity(dialer).probe(question)
        finally:
            await dialer.close()
        result = found.result
        if result.reason is None:
            return Outcome(HEALTHY, "healthy", result.body)
        return Outcome(_code_for(result.reason.value, found.connected), result.reason.value, _one_line(result.body))

    return asyncio.run(ask())


def _code_for(reason: str, connected: bool) -> int:
    """The exit code of a failed probe."""
    return NOT_READY if reason == Reason.NOT_READY.value else CALL_FAILED if connected else NOT_CONNECTED


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _read_health_file(path: str, timeout: float) -> Outcome:
    try:
        driver = threads.run_apart(partial(health_file.read, path), max(timeout, 0))
        return Outcome(HEALTHY, "healthy", f"{driver} by {path}")
    except TimeoutError:
        return Outcome(NOT_READY, Reason.HUNG_MOUNT.value, f"{path} cannot be read: its file system does not respond")
    except health_file.HealthFileExpired as error:
        return Outcome(NOT_READY, STALE_FILE, str(error))
    except health_file.HealthFileError as error:
        return Outcome(NOT_READY, Reason.NOT_READY.value, str(error))


_TOLD_IN_FULL = "/readyz"
"""Has the same status as /healthz, and its JSON tells the driver's name and how far the probe came."""


def _sidecar(url: str) -> Ask:
    """How to ask the sidecar at `url`; raises FlagError if `url` is invalid."""
    place, path = sidecar.parse_url(url)
    path = _TOLD_IN_FULL if path in ("", "/", "/healthz") else path
    return lambda timeout: _ask_sidecar(place, path, timeout)


def _ask_sidecar(place: sidecar.Place, path: str, timeout: float) -> Outcome:
    try:
        # The sidecar's own probe may take the probe timeout.
        answer = sidecar.get(place, path, "application/json", max(timeout, 0) + 1)
    except sidecar.NotConnected as error:
        return Outcome(NOT_CONNECTED, Reason.UNREACHABLE.value, f"cannot connect to the sidecar: {error}")
    except TimeoutError:
        return Outcome(CALL_FAILED, Reason.DEADLINE.value, "the sidecar sent no response within the probe timeout plus 1 s")
    except sidecar.NoAnswer as error:
        return Outcome(CALL_FAILED, Reason.CONNECTION_LOST.value, f"the sidecar sent no valid response: {error}")
    return _read_report(answer.status, answer.reason, answer.body)


def _read_report(status: int, word: str, body: str) -> Outcome:
    """The outcome that a response tells: its status, `word` of the header X-Livenessprobe-Reason, and its body."""
    if status < 500 and not word:
        return Outcome(CALL_FAILED, NOT_A_SIDECAR, sidecar.NO_WORD.format(status=status))
    try:
        told = json.loads(body)
        driver, seconds, connected = str(told["driver"]), float(told["seconds"]), bool(told["connected"])
        failed = next((part for part in told["parts"] if not part["ok"]), {"reason": None, "message": "ok"})
        reason, message = failed["reason"], _one_line(str(failed["message"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        known = any(each.value == word for each in Reason)
        reason = word if known else Reason.PROTOCOL_ERROR.value
        return Outcome(CALL_FAILED, reason, _one_line(body)[:500] if known else f"status {status}: {_one_line(body)[:500]}")
    if status == 200:
        return Outcome(HEALTHY, "healthy", "ok", driver, seconds)
    reason = reason or Reason.NOT_READY.value  # of /startupz, which may fail without a failed probe
    return Outcome(_code_for(reason, connected), reason, message, driver, seconds)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call `main`; writes all log records before it returns."""
    try:
        return main(arguments, environ)
    finally:
        klog.flush()
