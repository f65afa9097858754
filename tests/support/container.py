"""A process in namespaces of its own, as in a container: limits of its control group, and a network."""

from __future__ import annotations

from pathlib import Path

NEW_NETWORK = ("unshare", "--user", "--map-root-user", "--net")
"""A command in front of another, which then has no network but a loopback interface that is down."""


def with_limits(folder: Path, *, limit: int = 0, used: int = 0, cpu: str = "") -> tuple[str, ...]:
    """
    A command in front of another, which then reads these limits of its control group; `limit` and `used` are bytes of memory.

    The files in `folder` are those of both versions of control groups.  They limit nothing.
    """
    files = {}
    if limit:
        files |= {"memory.max": f"{limit}", "memory.current": f"{used}"}
        files |= {"memory/memory.limit_in_bytes": f"{limit}", "memory/memory.usage_in_bytes": f"{used}"}
    if cpu:
        quota, period = cpu.split()
        files |= {"cpu.max": cpu, "cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": period}
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    mount = f'mount --bind {folder}/cgroup /sys/fs/cgroup && exec "$@"'
    return ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
