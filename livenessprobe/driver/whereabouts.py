"""What the file system tells of a socket file that is missing or forbidden, as the end of a sentence.  Never fails."""

from __future__ import annotations

import itertools
import os
import stat
import sys
from collections.abc import Iterable
from functools import lru_cache

from livenessprobe.driver.address import unexpanded

ENTRIES_MAX = 64
"""Entries of a folder that are looked at."""
_DAC_OVERRIDE = 1 << 1


def of_missing(path: str) -> str:
    """Why there is no file at `path`, or which socket is beside it; empty if nothing is known."""
    folder = os.path.dirname(path) or "."
    if variable := unexpanded(path):
        return f"; {variable}"
    if path.strip("'\" ") != path:
        return "; the address begins or ends with a quote or a blank: remove it"
    if not os.path.isdir(folder):
        return f"; {folder} is no folder" if os.path.exists(folder) else f"; {folder} does not exist either"
    entries = _entries(folder)
    if not entries and is_deleted(_lines("/proc/self/mountinfo"), os.path.realpath(folder)):
        return f"; {folder} was deleted on the host, and perhaps made again, since this pod started: restart the pod"
    beside = _nearest(os.path.basename(path), tuple(each.name for each in entries if _is_socket(each)))
    return f"; beside it is the socket {os.path.join(folder, beside)}" if beside else ""


def of_forbidden() -> str:
    """What a process of this user has to do to be let in."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return "run as the driver's user or as root"
    if not is_whole_range(_lines("/proc/self/uid_map")):
        return "this process is root in a user namespace only: run the pod with hostUsers: true, or as the driver's user"
    if not has_override(_lines("/proc/self/status")):
        return "this process is root without the capability DAC_OVERRIDE: add it, or run as the driver's user"
    return "this process is root, so a security module refuses it: check SELinux or AppArmor"


def is_deleted(mountinfo: Iterable[str], folder: str) -> bool:
    """Whether the mount that shows `folder` is of a folder that was deleted (proc_pid_mountinfo: the root ends in //deleted)."""
    length, deleted = -1, False
    for line in mountinfo:
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        point = fields[4].replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", "\\")
        if f"{folder}/".startswith(f"{point.rstrip('/')}/") and len(point) >= length:  # a later mount covers an earlier one
            length, deleted = len(point), fields[3].endswith("//deleted")
    return deleted


def is_whole_range(uid_map: Iterable[str]) -> bool:
    """Whether user IDs are those of the host (user_namespaces); also if there is no map."""
    return all(line.split() == ["0", "0", "4294967295"] for line in uid_map)


def has_override(status: Iterable[str]) -> bool:
    """Whether a process may use any file (capabilities: CAP_DAC_OVERRIDE); also if that is not known."""
    effective = next((line.split()[1] for line in status if line.startswith("CapEff:")), "f")
    return bool(int(effective, 16) & _DAC_OVERRIDE)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, ENTRIES_MAX))
    except OSError:
        return []


def _is_socket(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):  # known without a system call
            return False
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return False


@lru_cache(maxsize=4)
def _nearest(name: str, others: tuple[str, ...]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, others, 1, cutoff=0.0)), "")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
