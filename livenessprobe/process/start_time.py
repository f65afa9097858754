"""When this process started, for its metric."""

from __future__ import annotations

import sys
import time


def process_start_time() -> float:
    """Seconds since the epoch; the time of this call where the system does not tell."""
    if sys.platform == "win32":
        from livenessprobe.process import windows

        return windows.process_start_time()
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open("/proc/stat", "rb") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith(b"btime"))
        return boot + ticks / 100  # USER_HZ is 100 on every Linux that Go supports
    except (OSError, ValueError, StopIteration, IndexError):
        return time.time()
