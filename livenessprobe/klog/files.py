"""Log files as klog v2.11 writes them (klog_file.go): `-log_file`, `-log_dir`, rotation, and a file for each severity."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable

from livenessprobe.klog.format import SEVERITIES, Options

_NAMES = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}
_DIRECTORY_MAX_MB = 1800
"""klog's MaxSize for files in a directory; -log_file_max_size applies to -log_file only."""


class LogFiles:
    """
    The log files of one process; each is opened when its first record is written.

    If a file cannot be written, `report` gets a message, and records are not written to files for RETRY_SECONDS: a full
    disk stops the log files, not the probes.
    """

    RETRY_SECONDS = 60.0

    def __init__(self, options: Options, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report
        self._files: dict[str, _File] = {}
        """By severity; with -log_file there is one, under `I`."""
        self._retry_at = 0.0
        megabytes = options.log_file_max_size if options.log_file else _DIRECTORY_MAX_MB
        self._limit = megabytes * 1024 * 1024 or math.inf

    def write(self, severity: str, line: str) -> None:
        """Append `line` to the file of `severity` and, unless -one_output, to those of all lower severities."""
        if time.monotonic() < self._retry_at:
            return
        data = f"{line}\n".encode(errors="backslashreplace")
        if self._options.log_file:
            targets = "I"
        elif self._options.one_output:
            targets = severity
        else:
            targets = SEVERITIES[: SEVERITIES.index(severity) + 1]
        try:
            for target in targets:
                self._append(target, data)
        except (OSError, ValueError) as error:
            self._retry_at = time.monotonic() + self.RETRY_SECONDS
            self._report(f"cannot write log file: {error}; trying again in {self.RETRY_SECONDS:.0f}s")

    def _append(self, severity: str, data: bytes) -> None:
        file = self._files.get(severity)
        if file is None or file.size + len(data) >= self._limit:
            file = self._open(severity, os.O_APPEND if file is None else os.O_TRUNC)
        file.write(data)

    def _open(self, severity: str, flag: int) -> _File:
        file = _File(self._options.log_file or self._dated_path(severity), flag)
        if severity in self._files:
            os.close(self._files[severity].descriptor)
        self._files[severity] = file
        if not self._options.skip_log_headers:
            file.write(_header().encode(errors="backslashreplace"))
        return file

    def _dated_path(self, severity: str) -> str:
        """program.host.user.log.SEVERITY.date-time.pid; also makes program.SEVERITY a link to it."""
        program = os.path.basename(sys.argv[0]) or "livenessprobe"
        name = f"{program}.{_host()}.{_user()}.log.{_NAMES[severity]}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"
        folder = self._options.log_dir or tempfile.gettempdir()
        link = os.path.join(folder, f"{program}.{_NAMES[severity]}")
        try:
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(name, link)
        except OSError:
            pass  # klog ignores it too: the link is a convenience
        return os.path.join(folder, name)


class _File:
    """An open log file and its size in bytes; `flag` is O_APPEND or O_TRUNC."""

    def __init__(self, path: str, flag: int) -> None:
        # O_NONBLOCK makes opening a FIFO without a reader fail; without it opening would block all logging.
        flags = os.O_CREAT | os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | flag
        self.descriptor = os.open(path, flags, 0o666)
        self.size = os.fstat(self.descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append all of `data`; raises OSError."""
        while data:
            written = os.write(self.descriptor, data)
            self.size += written
            data = data[written:]


def _header() -> str:
    import platform  # for log files only

    return (
        f"Log file created at: {time.strftime('%Y/%m/%d %H:%M:%S')}\n"
        f"Running on machine: {_host()}\n"
        f"Binary: Built with Python {platform.python_version()} for {sys.platform}/{platform.machine()}\n"
        "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n"
    )


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _user() -> str:
    try:
        return re.sub(r"[^\w.-]", "_", getpass.getuser())
    except (KeyError, OSError, ImportError):
        return "unknownuser"  # a uid without an entry, as in most containers
