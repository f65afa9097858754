"""The network namespace of this process: whether it is the host's, and which unix sockets listen in it.  Linux only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from livenessprobe.process.cgroup import read

_ACCEPTS = 0x10000
"""The flag of a listening socket in /proc/net/unix (__SO_ACCEPTCON)."""


def is_of_host(root: Path = Path("/")) -> bool | None:
    """Whether it is the first namespace of the kernel, that of the node; None if that is not known."""
    core = root / "proc/sys/net/core"
    if not core.is_dir():
        return None
    # The kernel registers most settings of net/core in the first namespace only (sysctl_net_core.c), somaxconn in each.
    return (core / "dev_weight").exists() if (core / "somaxconn").exists() else None


def listening_sockets(root: Path = Path("/")) -> list[str]:
    """
    The paths of unix sockets on which a process listens; empty if they are not known.

    Containers of a pod share the namespace, so the driver's socket is among them, under the path that the driver has for it.
    """
    return sorted(set(_listening(read(root / "proc/self/net/unix").splitlines())))


def _listening(lines: list[str]) -> Iterator[str]:
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/") and int(fields[3], 16) & _ACCEPTS:
            yield fields[7]
