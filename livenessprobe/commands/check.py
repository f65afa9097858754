"""
`livenessprobe check`: one probe in a process of its own, for exec probes and for people.

An exec probe starts this process every few seconds, so this module and its imports load little: no web server, no metrics, no
Dynaconf; gRPC only to probe the driver, an HTTP client only to ask a sidecar.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult, Reason
from livenessprobe.klog import log as klog
from livenessprobe.klog.writer import write_all
from livenessprobe.probing import health_file
from livenessprobe.process import memory, threads
from livenessprobe.process.imports import hide_modules
from livenessprobe.settings import command_line, flags
from livenessprobe.settings.file import read_settings_file
from livenessprobe.settings.layers import SettingsError, overlay
from livenessprobe.settings.load import load, with_file
from livenessprobe.settings.model import Loaded, Settings

HEALTHY, USAGE, NOT_CONNECTED, CALL_FAILED, NOT_READY = range(5)
"""Exit codes; those of the same meaning are as in grpc-health-probe."""

PAUSE = 0.2
"""Seconds between the probes of --wait."""

FLAGS = (
    flags.Flag("output", flags.STRING, "text", "`text`: one line. json: one object."),
    flags.Flag(
        "url", flags.STRING, "", "Ask the sidecar at this `address` instead of the driver: http://… or unix:///path."
    ),
    flags.Flag("wait", flags.DURATION, "0s", "Repeat the check until the driver is healthy, for at most this long."),
)


class Outcome(NamedTuple):
    """The exit code, and what is printed."""

    code: int
    reason: str
    """The value of a `Reason`, or `healthy`."""
    message: str

    def render(self, output: str, asked: str, seconds: float) -> str:
        """A line of text, or a JSON object if `output` is json."""
        if output == "json":
            healthy = self.code == HEALTHY
            fields = {"healthy": healthy, "exit_code": self.code, "reason": None if healthy else self.reason}
            return json.dumps(fields | {"message": self.message, "asked": asked, "seconds": round(seconds, 3)})
        return f"{self.reason}: {self.message}"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check once or, with --wait, several times; prints one line and returns the exit code."""
    try:
        line = command_line.parse(arguments, FLAGS)
        values = line.values()
        own = {flag.name: values.pop(flag.name, flag.default) for flag in FLAGS}
        if line.unread:
            raise command_line.FlagError(f"{line.unread[0]!r} is no flag; flags begin with a dash")
        loaded = _load(values, environ)
        ask, asked = _target(own["url"], "health-file" in values, loaded)
        if own["output"] not in ("text", "json"):
            raise command_line.FlagError(f"--output={own['output']}: write text or json")
    except command_line.HelpRequested:
        _print(command_line.usage(f"{sys.argv[0]} check", FLAGS))
        return HEALTHY
    except (command_line.FlagError, SettingsError) as error:
        write_all(2, f"livenessprobe check: {error}")
        return USAGE
    started = time.monotonic()
    outcome = _repeat(ask, loaded.settings.probe_timeout, flags.DURATION.check(own["wait"]))
    _print(outcome.render(own["output"], asked, time.monotonic() - started))
    return outcome.code


def _load(values: Mapping[str, str], environ: Mapping[str, str]) -> Loaded:
    without_file = load(values, environ, merger=overlay)
    file = read_settings_file(without_file.raw["config"].text)
    return with_file(without_file, file, lambda layer: load(values, environ, layer, merger=overlay))


def _print(text: str) -> None:
    try:
        write_all(1, text.removesuffix("\n"))
    except OSError:
        pass  # stdout may be closed; the exit code has the result


Ask = Callable[[float], Outcome]
"""Checks once; the argument is the timeout in seconds."""


def _target(url: str, file: bool, loaded: Loaded) -> tuple[Ask, str]:
    """How to check the sidecar at `url`, the health `file` or else the driver; and the address, for the output."""
    found = loaded.settings
    if url:
        return _sidecar(url), url
    if file:
        return lambda _: _read_health_file(found.health_file), found.health_file
    # The default grace is left out, since --wait is there to wait for a driver; a grace that was set is kept.
    grace = found.unreachable_grace if loaded.raw["unreachable_grace"].text else 0.0
    return lambda timeout: _ask_driver(found, timeout, min(grace, timeout)), found.csi_address.text


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
        if left >= timeout or latest.reason != Reason.DEADLINE.value:
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
        code = NOT_READY if result.reason is Reason.NOT_READY else CALL_FAILED if found.connected else NOT_CONNECTED
        return _failed(code, result)

    return asyncio.run(ask())


def _failed(code: int, result: ProbeResult) -> Outcome:
    assert result.reason is not None  # it has failed
    return Outcome(code, result.reason.value, " ".join(result.body.split()))


def _read_health_file(path: str) -> Outcome:
    try:
        return Outcome(HEALTHY, "healthy", f"{health_file.read(path)} by {path}")
    except health_file.HealthFileError as error:
        return Outcome(NOT_READY, Reason.NOT_READY.value, str(error))


def _sidecar(url: str) -> Ask:
    """How to ask the sidecar at `url`; raises FlagError if `url` is invalid."""
    from urllib.parse import urlsplit

    wrong = command_line.FlagError(f"--url={url}: write http://host:port/healthz or unix:///path/to/socket")
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise wrong from None
    if sys.platform != "win32" and parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return lambda timeout: _ask_sidecar("localhost", 0, parts.path, "/healthz", timeout)
    if parts.scheme != "http" or not parts.hostname:
        raise wrong
    path = (parts.path or "/healthz") + (f"?{parts.query}" if parts.query else "")
    return lambda timeout: _ask_sidecar(parts.hostname or "", port, "", path, timeout)


def _ask_sidecar(host: str, port: int, socket_path: str, path: str, timeout: float) -> Outcome:
    from http.client import HTTPConnection, HTTPException

    # The sidecar's own probe may take the probe timeout.
    connection = HTTPConnection(host, port or None, timeout=max(timeout, 0) + 1)
    try:
        if sys.platform != "win32" and socket_path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(connection.timeout)
            connection.sock.connect(socket_path)
        else:
            connection.connect()
    except OSError as error:
        return Outcome(NOT_CONNECTED, Reason.UNREACHABLE.value, f"cannot connect to the sidecar: {error.strerror or error}")
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(65_536).decode(errors="replace")
        reason = response.getheader("X-Livenessprobe-Reason", "")
    except TimeoutError:
        return Outcome(CALL_FAILED, Reason.DEADLINE.value, "the sidecar sent no response within the probe timeout plus 1 s")
    except (OSError, HTTPException, ValueError) as error:
        return Outcome(CALL_FAILED, Reason.CONNECTION_LOST.value, f"the sidecar sent no valid response: {error!r}")
    finally:
        connection.close()
    if response.status == 200:
        return Outcome(HEALTHY, "healthy", " ".join(body.split()))
    known = next((each for each in Reason if each.value == reason), None)
    if known is None:
        return Outcome(CALL_FAILED, Reason.PROTOCOL_ERROR.value, f"status {response.status}: {' '.join(body.split())[:500]}")
    return Outcome(_code_for(known, body), known.value, " ".join(body.split()))


def _code_for(reason: Reason, body: str) -> int:
    """The exit code that a check of the driver itself would have."""
    if reason is Reason.NOT_READY:
        return NOT_READY
    # Some reasons occur both before and after connecting; only an error of the call itself has these texts.
    if body.startswith("livenessprobe: internal error: ") or "rpc error: code = " in body:
        return CALL_FAILED
    return NOT_CONNECTED


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call `main`; writes all log records before it returns."""
    try:
        return main(arguments, environ)
    finally:
        klog.flush()
