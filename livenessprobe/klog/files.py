"""klog's old log files: `-log_file`, `-log_dir`, rotation, and which file gets which severity (klog v2.11, klog_file.go)."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable

from livenessprobe.klog.format import SEVERITIES, Options

_NAMES = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}
_DIRECTORY_MAX_MB = 1800
"""klog's MaxSize for files in a directory; -log_file_max_size counts for -log_file only."""


class LogFiles:
    """
    The files of one process, opened at their first record.

    A file that cannot be written is reported once through `complain` and tried again after a minute: a full disk stops
    the file, not the probe.
    """

    RETRY_SECONDS = 60.0

    def __init__(self, options: Options, complain: Callable[[str], None]) -> None:
        self._options = options
        self._complain = complain
        self._descriptors: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._broken_until = 0.0
        megabytes = options.log_file_max_size if options.log_file else _DIRECTORY_MAX_MB
        self._limit = megabytes * 1024 * 1024 or None

    def write(self, severity: str, line: str) -> None:
        """Append `line` to the file of `severity` and, unless -one_output, to those of all lower severities."""
        if time.monotonic() < self._broken_until:
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
            self._broken_until = time.monotonic() + self.RETRY_SECONDS
            self._complain(f"cannot write log file: {error}; trying again in {self.RETRY_SECONDS:.0f}s")

    def _append(self, severity: str, data: bytes) -> None:
        if severity not in self._descriptors:
            self._open(severity, append=True)
        elif self._limit is not None and self._sizes[severity] + len(data) >= self._limit:
            self._open(severity, append=False)
        while data:
            written = os.write(self._descriptors[severity], data)
            self._sizes[severity] += written
            data = data[written:]

    def _open(self, severity: str, *, append: bool) -> None:
        path = self._options.log_file or self._dated_path(severity)
        # A FIFO without a reader must be an error, not the end of all logging.
        flags = os.O_CREAT | os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        flags |= os.O_APPEND if append else os.O_TRUNC
        descriptor = os.open(path, flags, 0o666)
        if (old := self._descriptors.pop(severity, None)) is not None:
            os.close(old)
        self._descriptors[severity] = descriptor
        self._sizes[severity] = os.fstat(descriptor).st_size
        if not self._options.skip_log_headers:
            header = self._header().encode(errors="backslashreplace")
            self._sizes[severity] += os.write(descriptor, header)

    def _dated_path(self, severity: str) -> str:
        """program.host.user.log.SEVERITY.date-time.pid, with a link program.SEVERITY to the newest."""
        program = os.path.basename(sys.argv[0]) or "livenessprobe"
        host = socket.gethostname().partition(".")[0]
        name = f"{program}.{host}.{_user()}.log.{_NAMES[severity]}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"
        folder = self._options.log_dir or tempfile.gettempdir()
        link = os.path.join(folder, f"{program}.{_NAMES[severity]}")
        try:
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(name, link)
        except OSError:
            pass  # klog ignores it too: the link is a convenience
        return os.path.join(folder, name)

    def _header(self) -> str:
        return (
            f"Log file created at: {time.strftime('%Y/%m/%d %H:%M:%S')}\n"
            f"Running on machine: {socket.gethostname().partition('.')[0]}\n"
            f"Binary: Built with Python {platform.python_version()} for {sys.platform}/{platform.machine()}\n"
            "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n"
        )


def _user() -> str:
    try:
        return re.sub(r"[^\w.-]", "_", getpass.getuser())
    except (KeyError, OSError, ImportError):
        return "unknownuser"  # a uid without an entry, as in most containers
