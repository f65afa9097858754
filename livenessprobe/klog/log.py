"""The log of this process: loggers for its modules, `configure`, `flush`, and the capture of libraries' records."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from livenessprobe.klog.format import Options, Record
from livenessprobe.klog.vmodule import compile_pattern
from livenessprobe.klog.writer import Sink

_sink = Sink(sys.stderr)
_patterns: list[tuple[Callable[[str], bool], int]] = []


def configure(options: Options) -> None:
    """Use `options` for the records that follow."""
    _patterns[:] = [(compile_pattern(pattern), level) for pattern, level in options.vmodule]
    _sink.configure(options)
    Logger.generation += 1


def flush(seconds: float = 2.0) -> None:
    """Wait until all records are written, at most `seconds`."""
    _sink.flush(seconds)


def dropped() -> int:
    """Records lost so far: stderr was blocked, or a record could not be written."""
    return _sink.dropped


class Verbose(NamedTuple):
    """Logs only if the verbosity includes `level`; made by `Logger.v`."""

    logger: Logger
    level: int
    enabled: bool

    def info(self, message: str, **pairs: object) -> None:
        if self.enabled:
            self.logger.emit("I", self.level, message, pairs)


class Logger:
    """
    The logger of one source file.

    `-vmodule` matches the name of the file, and the name of the Go file whose records it writes, so that existing manifests
    (`--vmodule=connection=5`) keep their meaning.
    """

    generation = 0
    """Counts calls of `configure`, after which the verbosity is worked out again."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._level = 0
        self._seen = -1

    def v(self, level: int) -> Verbose:
        """A logger for records of verbosity `level`."""
        if self._seen != Logger.generation:
            by_pattern = next((n for match, n in _patterns if any(map(match, self._names))), 0)
            self._level = max(_sink.options.v, by_pattern)
            self._seen = Logger.generation
        return Verbose(self, level, level <= self._level)

    def info(self, message: str, **pairs: object) -> None:
        self.emit("I", 0, message, pairs)

    def warning(self, message: str, **pairs: object) -> None:
        self.emit("W", 0, message, pairs)

    def error(self, message: str, *, err: object | None = None, **pairs: object) -> None:
        """Log an error; `err` comes first in text and last in JSON, and is left out if None."""
        self.emit("E", 0, message, pairs, err)

    def emit(self, severity: str, level: int, message: str, pairs: dict[str, object], err: object | None = None) -> None:
        """Log a record that names the line of the caller's caller."""
        frame = sys._getframe(2)  # noqa: SLF001  as logging does it
        caller = (frame.f_code.co_filename, frame.f_lineno)
        _sink.put(Record(severity, level, message, tuple(pairs.items()), err, caller))


def get_logger(path: str, upstream: str = "main") -> Logger:
    """The logger of the source file `path` (`__file__`); upstream writes the same records in `upstream`.go."""
    return Logger(os.path.splitext(os.path.basename(path))[0], upstream)


class _LibraryHandler(logging.Handler):
    """Logs the records of libraries (asyncio, Hypercorn, Quart, grpc) in klog's form, with tracebacks only from -v=5 on."""

    def emit(self, record: logging.LogRecord) -> None:
        err = None
        if record.exc_info and record.exc_info[1] is not None:
            err = repr(record.exc_info[1])
            if _sink.options.v >= 5:
                err = logging.Formatter().formatException(record.exc_info)
        severity = "E" if record.levelno >= logging.ERROR else "W" if record.levelno >= logging.WARNING else "I"
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        _sink.put(Record(severity, 0, message, (("logger", record.name),), err, (record.pathname, record.lineno)))


def capture_library_records() -> None:
    """Send the records that libraries make with `logging` or `warnings` to this log."""
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
