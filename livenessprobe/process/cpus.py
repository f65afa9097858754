"""`--automaxprocs`: the number of CPUs to use, from the container's CPU quota (cgroup v2 or v1)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

from livenessprobe.process import cgroup


def quota(root: str | os.PathLike[str] = "") -> float | None:
    """The CPU quota of this process's cgroup, as a number of CPUs; None without a quota."""
    for version, folder in cgroup.folders("cpu", root):
        files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        fields = " ".join(cgroup.read(f"{folder}/{file}") for file in files).split()
        if len(fields) == 2 and all(field.isdigit() and int(field) > 0 for field in fields):
            return int(fields[0]) / int(fields[1])
    return None


def maxprocs(environ: Mapping[str, str], limit: float | None, available: int) -> tuple[int, str]:
    """
    The number of CPUs to use, and upstream's log line about it.

    The rules are those of go.uber.org/automaxprocs: GOMAXPROCS overrides the quota, and the quota is rounded down to at least 1.
    """
    if "GOMAXPROCS" in environ:
        text = environ["GOMAXPROCS"]
        count = int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) > 0 else available
        return count, f'maxprocs: Honoring GOMAXPROCS="{text}" as set in environment'
    if limit is None:
        return available, f"maxprocs: Leaving GOMAXPROCS={available}: CPU quota undefined"
    if limit < 1:
        return 1, "maxprocs: Updating GOMAXPROCS=1: using minimum allowed GOMAXPROCS"
    return int(limit), f"maxprocs: Updating GOMAXPROCS={int(limit)}: determined from CPU quota"


def available() -> int:
    """The number of CPUs that this process may run on."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a seccomp profile may refuse it
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
