"""Runs the sidecar or the command that the command line asks for; returns the exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TextIO, TypeVar

from livenessprobe import UPSTREAM_VERSION, __version__
from livenessprobe.gotext import quote
from livenessprobe.klog import log as klog
from livenessprobe.klog.log import get_logger
from livenessprobe.klog.writer import write_all
from livenessprobe.probing import health_file
from livenessprobe.process import cpus, termination, threads
from livenessprobe.process.imports import UNUSED_BY_HYPERCORN, UNUSED_BY_PROMETHEUS, hide_modules, install_placeholders
from livenessprobe.settings import command_line, describe, flags
from livenessprobe.settings.file import HUNG_SECONDS, FileContent, read_settings_file
from livenessprobe.settings.layers import DEFAULT_FILE, KEYS, PREFIX, Layer
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.load import load, with_file
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.model import Loaded
from livenessprobe.settings.validate import http_listener_mistake, metrics_listener_mistake
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
                return run(rest, environ, _print_settings, "config")
        return run(arguments, environ, _serve)
    except BaseException as error:
        termination.leave(f"fault of the sidecar's own: {error!r}")
        raise
    finally:
        klog.flush()


class _Start(NamedTuple):
    """The settings, and the flags and variables that they come from."""

    line: command_line.CommandLine
    environ: Mapping[str, str]
    without_file: Loaded
    loaded: Loaded


def run(arguments: Sequence[str], environ: Mapping[str, str], then: Callable[[_Start], int], command: str = "") -> int:
    """Read the settings and go on with `then`, for `command` if there is one; an exit code."""
    try:
        line = command_line.parse(arguments)
    except command_line.HelpRequested:
        if command:
            return _print(command_line.usage_of_command(sys.argv[0], command), sys.stdout)
        return _print(command_line.usage(sys.argv[0]), sys.stderr)
    except command_line.FlagError as error:
        return _refuse_flag(error, environ)
    if flags.BOOL.check(line.values().get("version", "false")):
        return _print(f"livenessprobe {__version__} (Python), matches upstream {UPSTREAM_VERSION}", sys.stdout)
    _use_termination_log(line, environ)
    start = _read(line, environ)
    klog.configure(start.loaded.settings.log)
    word, meant = command_line.first_word(arguments)
    if word:
        unread = " ".join(line.unread)
        log.warning("The first argument is no flag, so no argument is read", argument=word, detail=meant, unread=unread)
    _maxprocs_records(line.given, environ)
    if start.loaded.is_refused:
        first, *others = start.loaded.all_mistakes
        log.error(first.message, **first.record())
        termination.leave(first.sentence)
        _tell(others, start.loaded.warnings)
        return max(mistake.code for mistake in start.loaded.all_mistakes)
    termination.use(start.loaded.settings.termination_log)
    return then(start)


def _refuse_flag(error: command_line.FlagError, environ: Mapping[str, str]) -> int:
    """Print upstream's error and usage, then what else is wrong in front of the flag and elsewhere, and the error again."""
    _use_termination_log(error.before, environ)
    termination.leave(str(error))
    _maxprocs_records(error.before.given, environ)
    klog.flush()
    _print(f"{error}\n{command_line.usage(sys.argv[0])}", sys.stderr)
    loaded = _read(error.before, environ, [error.key] if error.key in KEYS else []).loaded
    klog.configure(loaded.settings.log)
    _tell(loaded.all_mistakes, loaded.warnings)
    klog.flush()
    _print(f"{error}{error.hint}", sys.stderr)  # again: `kubectl logs --tail` and termination messages show the end
    return 2


def _use_termination_log(line: command_line.CommandLine, environ: Mapping[str, str]) -> None:
    """Use the termination log that a flag or variable names, though the settings may be refused."""
    path = line.values().get("termination-log", environ.get(f"{PREFIX}TERMINATION_LOG", termination.DEFAULT_PATH))
    termination.use("" if "\0" in path else path)


def _read(line: command_line.CommandLine, environ: Mapping[str, str], unreadable: Collection[str] = ()) -> _Start:
    """The settings of flags, variables and file; `unreadable` as for `load`."""
    loaded = _looked_up(load(line.values(), environ, unreadable=unreadable))
    start = _Start(line, environ, without_file=loaded, loaded=loaded)
    file = read_settings_file(loaded.raw["config"].text)
    return start._replace(loaded=_with_file(start, file, unreadable))


def _with_file(start: _Start, file: FileContent, unreadable: Collection[str] = ()) -> Loaded:
    """The settings with a `file`; names to listen on are looked up only if they differ from those of `start`."""

    def load_layer(layer: Layer) -> Loaded:
        loaded = load(start.line.values(), start.environ, layer, unreadable=unreadable)
        wanted, known = loaded.settings, start.loaded.settings
        return loaded if (wanted.http, wanted.metrics) == (known.http, known.metrics) else _looked_up(loaded)

    return with_file(start.without_file, file, load_layer)


def _tell(mistakes: Iterable[Mistake], warnings: Iterable[str]) -> None:
    """Log the mistakes behind the first, each with its source, and unknown variables."""
    for mistake in mistakes:
        log.error(mistake.message, **mistake.record(source=mistake.source))
    for warning in warnings:
        log.warning("Unknown setting", detail=warning)


def _serve(start: _Start) -> int:
    loaded = start.loaded
    if path := loaded.settings.health_file:
        # Before anything that may fail: the file of an earlier process must not outlast it.
        try:
            threads.run_apart(functools.partial(health_file.remove, path), HUNG_SECONDS)
        except health_file.HealthFileError as error:
            log.error("Health file cannot be updated", err=str(error))
        except TimeoutError:
            log.error("Health file cannot be updated", err=f"health file {path}: its file system does not respond")
    if fault := threads.fault():
        log.error("Cannot run without threads", err=fault)
        termination.leave(f"Cannot run without threads: {fault}")
        return 1
    listeners, mistakes = _open(loaded, listen)
    if mistakes:
        for mistake in mistakes:
            log.error(mistake.message, **mistake.record())
        termination.leave(mistakes[0].sentence)
        return 1
    http, metrics = listeners
    assert http is not None
    _warn(loaded, start.line)
    with hide_modules("ssl"):
        import asyncio
    install_placeholders(UNUSED_BY_HYPERCORN | UNUSED_BY_PROMETHEUS)

    from livenessprobe import daemon

    executor = daemon.THREADS
    if loaded.settings.automaxprocs:
        executor = min(executor, _maxprocs(start.environ)[0])
    # A folder without a file may be a mount that is filled later.
    polled = bool(loaded.file) or os.path.isdir(os.path.dirname(DEFAULT_FILE))
    file = daemon.SettingsFile(loaded.file or DEFAULT_FILE, polled, functools.partial(_with_file, start))
    # Not closed: that would wait for threads that a hung disk may hold.  The process ends anyway.
    runner = asyncio.Runner(loop_factory=daemon.event_loop)
    return runner.run(daemon.run(loaded, file, daemon.Listeners(http, metrics), executor))


def _print_settings(start: _Start) -> int:
    _warn(start.loaded, start.line)
    return _print(json.dumps(describe.document(start.loaded), indent=2), sys.stdout)


def _open(
    loaded: Loaded, how: Callable[[ListenAddress], Opened]
) -> tuple[tuple[Opened | None, Opened | None], tuple[Mistake, ...]]:
    """What `how` makes of the addresses of health and of metrics; a mistake for each of which it makes nothing."""
    wanted, opened, mistakes = loaded.settings, [], []
    for address, mistake in ((wanted.http, http_listener_mistake), (wanted.metrics, metrics_listener_mistake)):
        found = None
        try:
            found = how(address) if address is not None else None
        except ListenError as error:
            mistakes.append(mistake(loaded.raw, str(error), error.taken))
        opened.append(found)
    return (opened[0], opened[1]), tuple(mistakes)


def _looked_up(loaded: Loaded) -> Loaded:
    """With a mistake for each name or port to listen on that does not exist; nothing is opened."""
    return loaded._replace(mistakes=(*loaded.mistakes, *_open(loaded, look_up)[1]))


def _warn(loaded: Loaded, line: command_line.CommandLine) -> None:
    """Log what looks wrong but does not stop the process."""
    if (timeout := loaded.raw["connection_timeout"]).source != "default":
        log.warning(f"Warning: option connection-timeout={quote(timeout.text)} is deprecated and has no effect")
    if loaded.raw["log_backtrace_at"].text:
        log.warning("Flag -log_backtrace_at has no effect: there are no Go stack traces here")
    if line.unread and line.given:
        log.warning("Arguments after the first one that is no flag are not read", unread=" ".join(line.unread))
    for warning in loaded.warnings:
        log.warning("Unknown setting", detail=warning)
    for mistake in loaded.file_mistakes:
        log.error("Settings file ignored; running on flags, environment and defaults", err=mistake.err)


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
