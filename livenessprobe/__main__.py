"""`livenessprobe` and `python -m livenessprobe`: from the command line to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from livenessprobe import UPSTREAM_VERSION, __version__, cpus, flags, klog, settings, signals
from livenessprobe.gotext import quote
from livenessprobe.klog import get_logger
from livenessprobe.listener import ListenError, listen
from livenessprobe.settings import Loaded, SettingsError

if TYPE_CHECKING:
    from livenessprobe.daemon import Listeners

log = get_logger(__file__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 stopped or help, 1 refused or failed, 2 a bad flag or variable, as the Go program's."""
    signals.early()
    _fill_standard_descriptors()
    klog.capture_foreign()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["demo"]:
            from livenessprobe import demo

            return demo.main(arguments[1:])
        return run(arguments, os.environ)
    finally:
        klog.flush()


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The sidecar itself."""
    try:
        line = flags.parse(arguments)
    except flags.HelpRequested:
        _print(flags.usage(sys.argv[0]))
        return 0
    except flags.FlagError as error:
        _maxprocs_records(error.given, environ)
        klog.flush()
        _print(f"{error}\n{flags.usage(sys.argv[0])}")
        return 2
    values = line.values()
    if flags.BOOL.check(values.get("version", "false")):
        print(f"livenessprobe {__version__} (Python), matches upstream {UPSTREAM_VERSION}")  # noqa: T201
        return 0
    try:
        loaded = settings.load(values, environ)
    except SettingsError as error:
        klog.configure(error.log)
        _maxprocs_records(line.given, environ)
        log.error(error.message, err=error.err, **error.pairs)
        return error.code
    klog.configure(loaded.settings.log)
    _maxprocs_records(line.given, environ)
    try:
        listeners = _listen(loaded)
    except SettingsError as error:
        log.error(error.message, err=error.err, **error.pairs)
        return error.code
    _warn(loaded, line)
    return _serve(loaded, listeners, environ)


def _serve(loaded: Loaded, listeners: Listeners, environ: Mapping[str, str]) -> int:
    import asyncio

    from livenessprobe import daemon

    threads, _ = _maxprocs(environ) if loaded.settings.automaxprocs else (cpus.present(), "")
    asyncio.run(daemon.run(loaded, listeners, threads))
    return 0


def _listen(loaded: Loaded) -> Listeners:
    """Open what is to be served on; raises SettingsError in upstream's words."""
    from livenessprobe.daemon import Listeners

    wanted = loaded.settings
    try:
        http = listen(wanted.http)
    except ListenError as error:
        raise SettingsError("Failed to start http server", str(error)) from None
    if wanted.metrics is None:
        return Listeners(http)
    try:
        return Listeners(http, listen(wanted.metrics))
    except ListenError as error:
        raise settings.metrics_listener_error(wanted.metrics.text, wanted.metrics_path, str(error)) from None


def _warn(loaded: Loaded, line: flags.CommandLine) -> None:
    """What is odd, but no reason not to run."""
    if (timeout := loaded.raw["connection_timeout"]).source != "default":
        log.warning(f"Warning: option connection-timeout={quote(timeout.text)} is deprecated and has no effect")
    if loaded.raw["log_backtrace_at"].text:
        log.warning("Flag -log_backtrace_at has no effect: there are no Go stack traces here")
    if line.unread:
        log.warning("Arguments after the first one that is no flag are not read", unread=" ".join(line.unread))
    for warning in loaded.warnings:
        log.warning("Unknown setting", detail=warning)
    if loaded.file_error:
        log.error("Settings file passed over; running on flags, environment and defaults", err=loaded.file_error)


def _maxprocs(environ: Mapping[str, str]) -> tuple[int, str]:
    return cpus.maxprocs(environ, cpus.quota(), cpus.present())


def _maxprocs_records(given: Sequence[tuple[str, str]], environ: Mapping[str, str]) -> None:
    """Upstream acts on --automaxprocs whenever it meets it, so each occurrence has its record."""
    enabled = False
    for name, text in given:
        if name != "automaxprocs":
            continue
        if flags.AUTOMAXPROCS.check(text):
            log.info(_maxprocs(environ)[1])
            enabled = True
        elif enabled:
            log.info("maxprocs: No GOMAXPROCS change to reset")


def _print(text: str) -> None:
    """Usage goes to stderr as it is, whole and without a header."""
    if sys.stderr is not None:
        try:
            klog.write_all(sys.stderr.fileno(), text.removesuffix("\n"))
        except (OSError, ValueError):
            pass


def _fill_standard_descriptors() -> None:
    """Open /dev/null for those of 0, 1 and 2 that are closed, or a socket of ours could become "stderr"."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    sys.exit(main())
