"""The control group of this process (cgroup v2 or v1): where its files are, and the memory that it has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60
"""Above this, v1 means that there is no limit."""


class Memory(NamedTuple):
    """The memory limit of a group, and what is in use of it, in bytes."""

    limit: int
    used: int
    """Without inactive file pages, which the kernel takes back before it kills a process."""

    @property
    def left(self) -> int:
        """What processes of the group can still get."""
        return max(0, self.limit - self.used)


def folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """The folders that may be this process's group for `controller`, each with the version of its files, 1 or 2."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            version, mounts = 2, [root / "sys/fs/cgroup"]
        elif controller in controllers.split(","):
            version, mounts = 1, [root / "sys/fs/cgroup" / name for name in (controllers, controller)]
        else:
            continue
        for mount in mounts:
            # In a container the mounted root may be the container's own group, by a cgroup namespace or a bind mount.
            yield version, mount / path.removeprefix("/")
            yield version, mount


def memory(root: Path = Path("/")) -> Memory | None:
    """The memory limit of this process's group; None without a limit."""
    for version, folder in folders("memory", root):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, usage = (read(folder / name) for name in names)
        if limit.isdigit() and usage.isdigit() and int(limit) < _UNLIMITED:
            return Memory(int(limit), max(0, int(usage) - _inactive_file(read(folder / "memory.stat"))))
    return None


def _inactive_file(stat: str) -> int:
    """Bytes of inactive file pages in the text of memory.stat, those of groups below included."""
    pairs = (line.partition(" ") for line in stat.splitlines())
    numbers = {name: int(text) for name, _, text in pairs if text.isdigit()}
    return numbers.get("total_inactive_file", numbers.get("inactive_file", 0))


def read(path: Path) -> str:
    """The text of a small file, without blanks around it; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
