"""
The network namespace of this process, as far as /proc tells: whether it is the host's, and who listens in it.  Linux only.

Nothing here fails; what is not known is said to be so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from livenessprobe.process.cgroup import read

SECONDS_MAX = 0.3
"""How long the processes are looked through; a node may have thousands."""
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


def holder(port: int) -> str:
    """The process that listens on `port`, or that it is no process of this container; empty if nothing is known."""
    wanted: set[str] = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii", errors="replace") as table:
                wanted |= listeners(table, port)
        except OSError:
            pass  # another system, or a /proc without it
    if not wanted:
        return ""
    end = time.monotonic() + SECONDS_MAX
    for process in filter(str.isdecimal, _names("/proc")):
        if time.monotonic() > end:
            return ""
        if any(_link(f"/proc/{process}/fd/{number}") in wanted for number in _names(f"/proc/{process}/fd")):
            return f"held by {_command(process)} (PID {process})"
    return "held by a process outside this container, such as another pod on the host's network, or by one of another user"


def listeners(table: Iterable[str], port: int) -> set[str]:
    """The sockets that listen on `port`, as links in /proc/PID/fd name them, in the lines of /proc/net/tcp (proc_net_tcp)."""
    found = set()
    for line in table:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
            found.add(f"socket:[{fields[9]}]")
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _command(process: str) -> str:
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"
