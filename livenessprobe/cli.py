"""Runs the sidecar or the command that the command line asks for; returns the exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TextIO, TypeVar

from livenessprobe import UPSTREAM_VERSION, __version__
from livenessprobe.gotext import quote
from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.klog.writer import write_all
from livenessprobe.probing import health_file
from livenessprobe.process import cpus, threads
from livenessprobe.process.imports import hide_modules
from livenessprobe.settings import command_line, describe, flags
from livenessprobe.settings.file import FileContent, read_settings_file
from livenessprobe.settings.layers import DEFAULT_FILE, Layer, SettingsError
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.load import load, with_file
from livenessprobe.settings.model import Loaded, Settings
from livenessprobe.settings.validate import http_setting, metrics_listener_error, source_of
from livenessprobe.web.listener import ListenError, listen, look_up

Opened = TypeVar("Opened")

log = get_logger(__file__)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Do what `arguments` say, with the variables in `environ`; returns the exit code.

    0: stopped, or help; 1: refused or failed; 2: a bad flag or variable; all as the Go program.  3: by --exit-on-failure.
    """
    _fill_standard_descriptors()
    klog.capture_library_records()
    try:
        match list(arguments):
            case ["demo", *rest]:
                from livenessprobe.commands import demo

                return demo.main(rest, environ)
            case ["lint", *rest]:
                from livenessprobe.commands import lint

                return lint.main(rest, environ)
            case ["config", *rest]:
                return run(rest, environ, _print_settings)
        return run(arguments, environ, _serve)
    finally:
        klog.flush()


class _Start(NamedTuple):
    """The settings, and the flags and variables that they come from."""

    line: command_line.CommandLine
    environ: Mapping[str, str]
    without_file: Loaded
    loaded: Loaded


def run(arguments: Sequence[str], environ: Mapping[str, str], then: Callable[[_Start], int]) -> int:
    """Read the settings and go on with `then`; an exit code."""
    try:
        line = command_line.parse(arguments)
    except command_line.HelpRequested:
        return _print(command_line.usage(sys.argv[0]), sys.stderr)
    except command_line.FlagError as error:
        _maxprocs_records(error.given, environ)
        klog.flush()
        _print(f"{error}\n{command_line.usage(sys.argv[0])}", sys.stderr)
        return 2
    values = line.values()
    if flags.BOOL.check(values.get("version", "false")):
        return _print(f"livenessprobe {__version__} (Python), matches upstream {UPSTREAM_VERSION}", sys.stdout)
    try:
        loaded = load(values, environ)
        _look_up(loaded)
        start = _Start(line, environ, without_file=loaded, loaded=loaded)
        start = start._replace(loaded=_with_file(start, read_settings_file(loaded.raw["config"].text)))
    except SettingsError as error:
        klog.configure(error.log)
        _maxprocs_records(line.given, environ)
        log.error(error.message, err=error.err, **error.pairs)
        return error.code
    klog.configure(start.loaded.settings.log)
    _maxprocs_records(line.given, environ)
    return then(start)


def _with_file(start: _Start, file: FileContent) -> Loaded:
    """The settings with a `file`; names to listen on are looked up only if they differ from those of `start`."""

    def load_layer(layer: Layer) -> Loaded:
        loaded = load(start.line.values(), start.environ, layer)
        wanted, known = loaded.settings, start.loaded.settings
        if (wanted.http, wanted.metrics) != (known.http, known.metrics):
            _look_up(loaded)
        return loaded

    return with_file(start.without_file, file, load_layer)


def _serve(start: _Start) -> int:
    loaded = start.loaded
    if path := loaded.settings.health_file:
        # Before anything that may fail: the file of an earlier process must not outlast it.
        try:
            health_file.remove(path)
        except health_file.HealthFileError as error:
            log.error("Health file cannot be updated", err=str(error))
    if fault := threads.fault():
        log.error("Cannot run without threads", err=fault)
        return 1
    try:
        listeners = _open(loaded.settings, listen)
    except SettingsError as error:
        log.error(error.message, err=error.err, **error.pairs)
        return error.code
    _warn(loaded, start.line)
    with hide_modules("ssl"):
        import asyncio

    from livenessprobe import daemon

    executor = daemon.THREADS
    if loaded.settings.automaxprocs:
        executor = min(executor, _maxprocs(start.environ)[0])
    # A folder without a file may be a mount that is filled later.
    polled = bool(loaded.file) or os.path.isdir(os.path.dirname(DEFAULT_FILE))
    file = daemon.SettingsFile(loaded.file or DEFAULT_FILE, polled, functools.partial(_with_file, start))
    # Not closed: that would wait for threads that a hung disk may hold.  The process ends anyway.
    runner = asyncio.Runner(loop_factory=daemon.event_loop)
    return runner.run(daemon.run(loaded, file, daemon.Listeners(*listeners), executor))


def _print_settings(start: _Start) -> int:
    _warn(start.loaded, start.line)
    return _print(json.dumps(describe.document(start.loaded), indent=2), sys.stdout)


def _open(
    wanted: Settings, how: Callable[[ListenAddress], Opened], http_source: str = "", metrics_source: str = ""
) -> tuple[Opened, Opened | None]:
    """What `how` makes of the addresses to listen on; raises SettingsError in upstream's words, with the source behind them."""
    try:
        http = how(wanted.http)
    except ListenError as error:
        raise SettingsError("Failed to start http server", f"{error}{http_source}", log=wanted.log) from None
    if wanted.metrics is None:
        return http, None
    try:
        return http, how(wanted.metrics)
    except ListenError as error:
        raise metrics_listener_error(
            wanted.metrics.text, wanted.metrics_path, f"{error}{metrics_source}", log=wanted.log
        ) from None


def _look_up(loaded: Loaded) -> None:
    """Raise SettingsError if names or ports to listen on do not exist; nothing is opened."""
    http, metrics = http_setting(loaded.raw), loaded.raw["metrics_address"]
    _open(loaded.settings, look_up, source_of(http), source_of(metrics))


def _warn(loaded: Loaded, line: command_line.CommandLine) -> None:
    """Log what looks wrong but does not stop the process."""
    if (timeout := loaded.raw["connection_timeout"]).source != "default":
        log.warning(f"Warning: option connection-timeout={quote(timeout.text)} is deprecated and has no effect")
    if loaded.raw["log_backtrace_at"].text:
        log.warning("Flag -log_backtrace_at has no effect: there are no Go stack traces here")
    if line.unread:
        log.warning("Arguments after the first one that is no flag are not read", unread=" ".join(line.unread))
    for warning in loaded.warnings:
        log.warning("Unknown setting", detail=warning)
    if loaded.file_error:
        log.error("Settings file ignored; running on flags, environment and defaults", err=loaded.file_error)


def _maxprocs(environ: Mapping[str, str]) -> tuple[int, str]:
    return cpus.maxprocs(environ, cpus.quota(), cpus.available())


def _maxprocs_records(given: Sequence[tuple[str, str]], environ: Mapping[str, str]) -> None:
    """Log one record for each --automaxprocs, as upstream does: it acts on the flag while it parses."""
    enabled = False
    for name, text in given:
        if name != "automaxprocs":
            continue
        if flags.AUTOMAXPROCS.check(text):
            log.info(_maxprocs(environ)[1])
            enabled = True
        elif enabled:
            log.info("maxprocs: No GOMAXPROCS change to reset")


def _print(text: str, stream: TextIO | None) -> int:
    """Write `text` unchanged; 0, or 1 if it cannot be written."""
    try:
        if stream is not None:
            write_all(stream.fileno(), text.removesuffix("\n"))
    except (OSError, ValueError):
        return 1
    return 0


def _fill_standard_descriptors() -> None:
    """Open /dev/null for closed descriptors among 0, 1 and 2: a later socket could become stderr."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
