"""
The control group of this process (cgroup v2 or v1): where its files are, and the memory that it has left.

A command beside a sidecar looks here before it takes memory, so this module imports nothing: pathlib and typing take 2 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_UNLIMITED = 1 << 60
"""Above this, v1 means that there is no limit."""
HOT_FILE_PAGES = 4 << 20
"""Bytes of file pages that each probe of a sidecar uses (docs/performance.md): without them it waits for the disk."""


class Memory:
    """The memory limit of a group, and what is in use of it, without file pages beyond HOT_FILE_PAGES; in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int, used: int) -> None:
        self.limit, self.used = limit, used

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory) and (self.limit, self.used) == (other.limit, other.used)

    def __hash__(self) -> int:
        return hash((self.limit, self.used))

    @property
    def left(self) -> int:
        """What processes of the group can still get."""
        return max(0, self.limit - self.used)


def folders(controller: str, root: str | os.PathLike[str] = "") -> Iterator[tuple[int, str]]:
    """The folders that may be this process's group for `controller`, each with the version of its files, 1 or 2."""
    for line in read(f"{root}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            version, mounts = 2, [f"{root}/sys/fs/cgroup"]
        elif controller in controllers.split(","):
            version, mounts = 1, [f"{root}/sys/fs/cgroup/{name}" for name in (controllers, controller)]
        else:
            continue
        for mount in mounts:
            # In a container the mounted root may be the container's own group, by a cgroup namespace or a bind mount.
            yield version, f"{mount}/{path.removeprefix('/')}"
            yield version, mount


def memory(root: str | os.PathLike[str] = "") -> Memory | None:
    """The memory limit of this process's group; None without a limit."""
    for version, folder in folders("memory", root):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, usage = (read(f"{folder}/{name}") for name in names)
        if limit.isdigit() and usage.isdigit() and int(limit) < _UNLIMITED:
            cold = max(0, _file_pages(read(f"{folder}/memory.stat")) - HOT_FILE_PAGES)
            return Memory(int(limit), max(0, int(usage) - cold))
    return None


def shortage(needed: int, root: str | os.PathLike[str] = "") -> str:
    """Why this process should not take `needed` bytes more, with the way out, for people; empty if it can."""
    found = memory(root)
    if found is None or found.left >= needed:
        return ""
    return (
        f"it needs {needed >> 20} MiB here, {found.left >> 20} MiB are left of the memory limit of {found.limit >> 20} MiB, and "
        "beyond it the kernel kills the sidecar too; raise resources.limits.memory of the sidecar"
    )


def _file_pages(stat: str) -> int:
    """
    Bytes of file pages in the text of memory.stat, those of groups below included.

    The kernel takes them back before it kills a process, active ones too; near the limit it is chance which are active.
    """
    pairs = (line.partition(" ") for line in stat.splitlines())
    numbers = {name: int(text) for name, _, text in pairs if text.isdigit()}
    return sum(numbers.get(f"total_{name}", numbers.get(name, 0)) for name in ("active_file", "inactive_file"))


def read(path: str | os.PathLike[str]) -> str:
    """The text of a small file, without blanks around it; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
