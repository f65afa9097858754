"""
How much of a time this process could not use: held back by the CPU quota of its cgroup, or waiting for its disk.

A driver must not be blamed for such time.  What a system does not tell counts as nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from livenessprobe.process import cgroup
from livenessprobe.process.cpus import quota

TICK_SECONDS = 0.1
"""How often the event loop is asked to be on time while a meter runs."""

_STAT_BYTES = 4096
_THROTTLED = re.compile(rb"^(?:throttled_usec|throttled_time) (\d{1,18})$", re.MULTILINE)
_PER_SECOND = {1: 1e9, 2: 1e6}
"""The units of throttled time in cgroup v1 and v2."""
_PRESSURE = re.compile(r"^some avg10=(\d{1,3})\.", re.MULTILINE)


class Cause(str, Enum):
    """What can hold this process back; the values are metric labels, so they never change."""

    CPU_LIMIT = "cpu_limit"
    DISK = "disk"
    STOOD_STILL = "stood_still"


class Usage(NamedTuple):
    """What this process has suffered since its start, and suffers now."""

    throttled: float = 0.0
    """Seconds for which the CPU quota has held back the cgroup; the kernel adds up those of several CPUs."""
    major_faults: int = 0
    """Pages that were read from a disk when a thread needed them."""
    waiting: frozenset[tuple[str, str]] = frozenset()
    """
    Threads that wait for CPU under a quota, each with its CPU time so far.

    The kernel adds to `throttled` only once it lets a thread go on, so what lasts is not in there.
    """


class Lost(NamedTuple):
    """Seconds that this process could not use."""

    throttled: float = 0.0
    disk: float = 0.0

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.throttled + self.disk


class Counters:
    """The counters of this process in /proc and in its cgroup."""

    def __init__(self, root: str | os.PathLike[str] = "") -> None:
        self._root = root
        files = [(version, f"{folder}/cpu.stat") for version, folder in cgroup.folders("cpu", root)]
        self._cpu_stat = next(((version, path) for version, path in files if _THROTTLED.search(_read(path))), None)

    def read(self) -> Usage:
        """The counters now; takes some 10 us."""
        major_faults = _major_faults()
        if self._cpu_stat is None:
            return Usage(0.0, major_faults)
        version, path = self._cpu_stat
        found = _THROTTLED.search(_read(path))
        return Usage(0.0 if found is None else int(found[1]) / _PER_SECOND[version], major_faults)

    def read_all(self) -> Usage:
        """The counters and the waiting threads; takes some 200 us."""
        usage = self.read()
        if self._cpu_stat is None or quota(self._root) is None:
            return usage
        return usage._replace(waiting=frozenset(_waiting(f"{self._root}/proc/self/task")))

    def memory_pressure(self) -> int | None:
        """Percent of the last 10 s in which some thread waited for memory; None where the system does not tell."""
        for version, folder in cgroup.folders("memory", self._root):
            if version == 2 and (found := _PRESSURE.search(cgroup.read(f"{folder}/memory.pressure"))):
                return int(found[1])
        return None


class Meter:
    """Measures what this process loses from now until `stop`; belongs to the running event loop."""

    def __init__(self, counters: Counters) -> None:
        self.lost = Lost()
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._at = self._began = self._loop.time()
        self._usage = counters.read()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._add()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def stop(self) -> Lost:
        """What was lost; the meter measures no more."""
        self._timer.cancel()
        if self._loop.time() - self._began >= TICK_SECONDS:  # else no more than that, and most probes end earlier
            self._add()
        return self.lost

    def _add(self) -> None:
        now, usage = self._loop.time(), self._counters.read_all()
        found = lost(self._usage, usage, passed=now - self._at, late=now - self._timer.when())
        self.lost = Lost(self.lost.throttled + found.throttled, self.lost.disk + found.disk)
        self._at, self._usage = now, usage


def lost(before: Usage, after: Usage, *, passed: float, late: float) -> Lost:
    """
    What was lost of the `passed` seconds between two readings; the event loop was `late` by so many seconds at the second.

    All of them if the same thread waits for CPU at both, without having had any.  A late event loop has waited for the disk if
    pages were read from it meanwhile, but for the time that the quota took.
    """
    stuck = not before.waiting.isdisjoint(after.waiting)
    throttled = passed if stuck else min(passed, max(0.0, after.throttled - before.throttled))
    waited = late - throttled if after.major_faults > before.major_faults else 0.0
    return Lost(throttled, max(0.0, waited))


def _waiting(tasks: str) -> Iterator[tuple[str, str]]:
    """The threads in this folder of /proc that could run and do not, but for the one that reads it."""
    own = str(threading.get_native_id())
    try:
        names = os.listdir(tasks)
    except OSError:
        return
    for name in names:
        _, _, fields = _read(f"{tasks}/{name}/stat").rpartition(b") ")
        if fields.startswith(b"R") and name != own and (times := _read(f"{tasks}/{name}/schedstat").split()):
            yield name, times[0].decode(errors="replace")


def _major_faults() -> int:
    """Those of all threads of this process."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _read(path: str) -> bytes:
    """The first bytes of a small file; none if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return b""
    try:
        return os.read(file, _STAT_BYTES)
    except OSError:
        return b""
    finally:
        os.close(file)
