"""`--automaxprocs`: how many CPUs the container's quota leaves us, from cgroup v2 or v1."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path


def quota(root: Path = Path("/")) -> float | None:
    """CPUs of the CPU quota of this process's cgroup; None where there is no quota."""
    try:
        cgroups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        cgroups = []
    for line in cgroups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        path = path.removeprefix("/")
        if controllers == "":
            limit = _cgroup2(root / "sys/fs/cgroup", path)
        elif "cpu" in controllers.split(","):
            limit = _cgroup1(root / "sys/fs/cgroup" / controllers, path) or _cgroup1(root / "sys/fs/cgroup/cpu", path)
        else:
            continue
        if limit is not None:
            return limit
    return None


def _cgroup2(mount: Path, path: str) -> float | None:
    # In a container the cgroup namespace or a bind mount makes the root the container's own group.
    for folder in (mount / path, mount):
        fields = _read(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
            return int(fields[0]) / int(fields[1])
    return None


def _cgroup1(mount: Path, path: str) -> float | None:
    for folder in (mount / path, mount):
        limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(limit) > 0 and int(period) > 0:
            return int(limit) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def maxprocs(environ: Mapping[str, str], limit: float | None, present: int) -> tuple[int, str]:
    """
    The number of CPUs to plan for, and upstream's log line about it.

    The rules are those of go.uber.org/automaxprocs: the environment wins, the quota is rounded down, at least 1.
    """
    if "GOMAXPROCS" in environ:
        text = environ["GOMAXPROCS"]
        count = int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) > 0 else present
        return count, f'maxprocs: Honoring GOMAXPROCS="{text}" as set in environment'
    if limit is None:
        return present, f"maxprocs: Leaving GOMAXPROCS={present}: CPU quota undefined"
    if limit < 1:
        return 1, "maxprocs: Updating GOMAXPROCS=1: using minimum allowed GOMAXPROCS"
    return int(limit), f"maxprocs: Updating GOMAXPROCS={int(limit)}: determined from CPU quota"


def present() -> int:
    """CPUs this process may run on."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a seccomp profile may refuse it
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
