"""
The writing end of the log: a bounded queue, and a thread that writes to stderr or to files.

A record is rendered where it is made and written by a thread of its own, so that a full or closed stderr never stops a
probe.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from livenessprobe.klog.folding import FOLD_SECONDS, Folder
from livenessprobe.klog.format import SEVERITIES, Options, Record, render_json, render_text

if TYPE_CHECKING:
    from livenessprobe.klog.files import LogFiles

QUEUE_LIMIT = 4096
"""Records that wait for a blocked stderr; beyond it new ones are dropped and counted."""
QUEUE_CHARACTERS = 2 << 20
"""The same, for long records."""


class Sink:
    """The writing end: a bounded queue and a thread that may block."""

    def __init__(self, stderr: TextIO | None) -> None:
        self.options = Options()
        self.dropped = 0
        self._stderr = stderr
        self._files: LogFiles | None = None
        self._retired: list[LogFiles] = []
        """Files of earlier options; the thread that writes closes them, since it may be writing."""
        self._paint: Callable[[str, str], None] | None = None
        self._lines: deque[tuple[str, str]] = deque()
        self._characters = 0
        """In all of them."""
        self._folder = Folder()
        self._wake = threading.Condition()
        self._idle = True
        self._thread: threading.Thread | None = None

    def configure(self, options: Options) -> None:
        """Take `options` for all records to come."""
        with self._wake:
            self.options = options
            if self._files is not None:
                self._retired.append(self._files)
                self._start()
                self._wake.notify_all()
            self._files = None if options.logtostderr else _log_files(options, self._complain)
            self._paint = _terminal_painter(self._stderr) if options.logging_format != "json" else None

    def put(self, record: Record) -> None:
        """Queue `record`; never blocks."""
        with self._wake:
            if record.severity in "EW" and not self._folder.offer(record, time.monotonic()):
                self._start()
                self._wake.notify_all()  # so that the window's end is slept towards
                return
            self._push(record)

    def _push(self, record: Record) -> None:
        if len(self._lines) >= QUEUE_LIMIT or self._characters >= QUEUE_CHARACTERS:
            self.dropped += 1
            return
        json_format = self.options.logging_format == "json"
        line = render_json(record) if json_format else render_text(record, self.options)
        self._lines.append((record.severity, line))
        self._characters += len(line)
        self._idle = False
        self._start()
        self._wake.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="klog", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # no thread can be started; `flush` writes
            self._thread = thread

    def flush(self, seconds: float) -> None:
        """Wait until all is written, folded records included, at most `seconds`."""
        with self._wake:
            for record in self._folder.due(float("inf")):
                self._push(record)
            if self._thread is not None:
                self._wake.wait_for(lambda: self._idle, seconds)
                return
            taken = self._take()
        self._write_out(*taken)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._lines and not self._retired:
                    self._idle = True
                    self._wake.notify_all()
                    started = self._folder.next_due()
                    now = time.monotonic()
                    if started is not None and now - started >= FOLD_SECONDS:
                        for record in self._folder.due(now):
                            self._push(record)
                    else:
                        self._wake.wait(None if started is None else FOLD_SECONDS - (now - started))
                taken = self._take()
                self._idle = False
            self._write_out(*taken)

    def _take(self) -> tuple[list[tuple[str, str]], list[LogFiles]]:
        """The lines to write and the files to close, which are no longer queued."""
        lines, retired = list(self._lines), self._retired
        self._lines.clear()
        self._characters = 0
        self._retired = []
        return lines, retired

    def _write_out(self, lines: list[tuple[str, str]], retired: list[LogFiles]) -> None:
        for files in retired:
            files.close()
        for severity, line in lines:
            try:
                self._write(severity, line)
            except Exception:  # noqa: BLE001  whatever went wrong with one line, the next must still be written
                self.dropped += 1

    def _write(self, severity: str, line: str) -> None:
        options, files = self.options, self._files
        if files is None:
            self._to_stderr(severity, line)
            return
        if options.alsologtostderr or SEVERITIES.index(severity) >= options.stderrthreshold:
            self._to_stderr(severity, line)
        files.write(severity, line)

    def _to_stderr(self, severity: str, line: str) -> None:
        if self._stderr is None:
            return
        try:
            if self._paint is not None:
                self._paint(severity, line)
            else:
                write_all(self._stderr.fileno(), line)
        except (OSError, ValueError):
            pass  # stderr is closed or its reader gone: there is nobody to tell

    def _complain(self, message: str) -> None:
        self._to_stderr("E", render_text(Record("E", 0, message, (), None, (__file__, 0))))


def _log_files(options: Options, complain: Callable[[str], None]) -> LogFiles:
    from livenessprobe.klog.files import LogFiles  # hardly anybody asks for them

    return LogFiles(options, complain)


def _terminal_painter(stream: TextIO | None) -> Callable[[str, str], None] | None:
    """Colours, for a person at a terminal only; container logs stay plain."""
    try:
        if stream is None or not stream.isatty():
            return None
    except ValueError:
        return None
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, soft_wrap=True, highlight=False)
    styles = {"I": "", "W": "yellow", "E": "red", "F": "bold red"}

    def paint(severity: str, line: str) -> None:
        head, bracket, rest = line.partition("] ")
        text = Text(head + bracket, style="dim") + Text(rest, style=styles[severity])
        console.print(text if bracket else Text(line, style=styles[severity]))

    return paint


def write_all(descriptor: int, line: str) -> None:
    """`line` and a newline, as UTF-8 on every platform, whole even where a pipe takes it in parts."""
    try:
        data = f"{line}\n".encode(errors="surrogateescape")
    except UnicodeEncodeError:
        data = f"{line}\n".encode(errors="backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]
