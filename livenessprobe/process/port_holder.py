"""Which process listens on a TCP port, as far as /proc tells; Linux only.  Never fails, and takes a bounded time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

SECONDS_MAX = 0.3
"""How long the processes are looked through; a node may have thousands."""


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
