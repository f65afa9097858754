"""
Writes the log: a bounded queue, and a thread that writes to stderr or to files.

The caller's thread renders a record and queues it; only the writing thread waits for a full pipe or a hung disk, never a
probe.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from livenessprobe.klog.folding import RepeatFilter
from livenessprobe.klog.format import SEVERITIES, Options, Record, render_json, render_text

if TYPE_CHECKING:
    from livenessprobe.klog.files import LogFiles

QUEUE_LIMIT = 4096
"""Records that wait for a blocked stderr; above it new ones are dropped and counted."""
QUEUE_CHARACTERS = 2 << 20
"""The same bound in characters, for long records."""


class Sink:
    """A bounded queue of lines, and the thread that writes them."""

    def __init__(self, stderr: TextIO | None) -> None:
        self.options = Options()
        self.dropped = 0
        self._stderr = stderr
        self._files: LogFiles | None = None
        self._write_coloured: Callable[[str, str], None] | None = None
        self._lines: list[tuple[str, str]] = []
        """Severity and text."""
        self._characters = 0
        """The length of all `_lines`."""
        self._repeats = RepeatFilter()
        self._changed = threading.Condition()
        self._idle = True
        self._thread: threading.Thread | None = None

    def configure(self, options: Options) -> None:
        """Use `options` for the records that follow; the log files are those of the first options that name some."""
        with self._changed:
            self.options = options
            if self._files is None and not options.logtostderr:
                from livenessprobe.klog.files import LogFiles  # rarely used, so not loaded at every start

                self._files = LogFiles(options, self._report)
            self._write_coloured = _coloured_writer(self._stderr) if options.logging_format != "json" else None

    def put(self, record: Record) -> None:
        """Queue `record`, or count it if it repeats earlier ones; never blocks."""
        with self._changed:
            if record.severity not in "EW" or self._repeats.should_write(record, time.monotonic()):
                self._push(record)

    def flush(self, seconds: float) -> None:
        """Wait until all is written, summaries of repeated records included; at most `seconds`."""
        with self._changed:
            self._push_summaries(float("inf"))
            if self._thread is not None:
                self._changed.wait_for(lambda: self._idle, seconds)
                return
            lines, self._lines, self._characters = self._lines, [], 0
        self._write_batch(lines)

    def _push(self, record: Record) -> None:
        if len(self._lines) >= QUEUE_LIMIT or self._characters >= QUEUE_CHARACTERS:
            self.dropped += 1
            return
        json_format = self.options.logging_format == "json"
        line = render_json(record) if json_format else render_text(record, self.options)
        self._lines.append((record.severity, line))
        self._characters += len(line)
        self._idle = False
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="klog", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no thread can be started; `flush` writes
            self._thread = thread
        self._changed.notify_all()

    def _push_summaries(self, now: float) -> None:
        for record in self._repeats.close_windows(now):
            self._push(record)

    def _run(self) -> None:
        while True:
            self._write_batch(self._next_batch())

    def _write_batch(self, lines: list[tuple[str, str]]) -> None:
        for severity, line in lines:
            try:
                self._write(severity, line)
            except Exception:  # noqa: BLE001  whatever went wrong with one line, the next must still be written
                self.dropped += 1

    def _next_batch(self) -> list[tuple[str, str]]:
        """Wait for lines to write, and take them all; queues summaries when their windows end."""
        with self._changed:
            while not self._lines:
                now = time.monotonic()
                end = self._repeats.next_end()
                if end is not None and end <= now:
                    self._push_summaries(now)
                    continue
                self._idle = True
                self._changed.notify_all()
                self._changed.wait(None if end is None else end - now)
            batch = self._lines
            self._lines, self._characters, self._idle = [], 0, False
            return batch

    def _write(self, severity: str, line: str) -> None:
        options = self.options
        files = None if options.logtostderr else self._files
        if files is None or options.alsologtostderr or SEVERITIES.index(severity) >= options.stderrthreshold:
            self._write_to_stderr(severity, line)
        if files is not None:
            files.write(severity, line)

    def _write_to_stderr(self, severity: str, line: str) -> None:
        if self._stderr is None:
            return
        try:
            if self._write_coloured is not None:
                self._write_coloured(severity, line)
            else:
                write_all(self._stderr.fileno(), line)
        except (OSError, ValueError):
            pass  # stderr or its reader is closed, so there is no other place to report it

    def _report(self, message: str) -> None:
        self._write_to_stderr("E", render_text(Record("E", 0, message, (), None, (__file__, 0))))


def _coloured_writer(stream: TextIO | None) -> Callable[[str, str], None] | None:
    """A function that writes a line of a severity in colour, if `stream` is a terminal; None otherwise."""
    try:
        if stream is None or not stream.isatty():
            return None
    except ValueError:
        return None
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, soft_wrap=True, highlight=False)
    styles = {"I": "", "W": "yellow", "E": "red", "F": "bold red"}

    def write(severity: str, line: str) -> None:
        head, bracket, rest = line.partition("] ")
        text = Text(head + bracket, style="dim") + Text(rest, style=styles[severity])
        console.print(text if bracket else Text(line, style=styles[severity]))

    return write


def write_all(descriptor: int, line: str) -> None:
    """Write `line` and a newline as UTF-8 on every platform, all of it even if a pipe accepts parts only; raises OSError."""
    try:
        data = f"{line}\n".encode(errors="surrogateescape")
    except UnicodeEncodeError:
        data = f"{line}\n".encode(errors="backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]
