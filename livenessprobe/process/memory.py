"""The garbage collector while modules are imported and while the process serves; how much memory a sidecar needs."""

from __future__ import annotations

import gc
import os
import sys


def before_imports() -> None:
    """Switch the collector off: modules stay for the life of the process, so looking at them only costs CPU."""
    gc.disable()


def before_serving() -> None:
    """
    Switch the collector on, for objects that are created from now on.

    Connections leave reference cycles.  The collector would run later if it counted the loaded modules: after 12 s of
    `make attack` memory has grown by 3.6 MiB this way, by 5.5 without.  At thresholds of 1000, 5 and 2 the garbage that waits
    takes 0.1 MiB more with pages and 0.3 MiB more with probes; the collections cost 2 µs a probe.
    """
    gc.collect()
    freeze()
    gc.set_threshold(1000, 2, 1)
    gc.enable()


def enable_collection() -> None:
    """Switch the collector on, in a process that runs for long but does not serve."""
    gc.enable()


def freeze() -> None:
    """Exclude all present objects from collection: they live as long as the process."""
    gc.freeze()
    # CPython puts a full collection off until the objects that wait for one are a quarter of those that the last one left.  An
    # empty collection makes the frozen objects count no more; else the garbage of 26,000 probes was never collected.
    gc.collect()


ANONYMOUS = 18 << 20
"""Bytes of anonymous memory of a sidecar without metrics (docs/performance.md, "Little memory")."""
ANONYMOUS_WITH_METRICS = 21 << 20
"""The same, once Quart is loaded."""
GRPC = 8 << 20
"""Bytes that probes of a driver add to a command: 6.5 MiB on CPython 3.11, 5.5 MiB in the image, and page tables."""
READ_AHEAD = 128 << 10
"""Bytes: the kernel's default for a disk's read-ahead."""
_HOT_FILE_PAGES = 8 << 20


def needed(anonymous: int, read_ahead: int = READ_AHEAD) -> int:
    """
    Bytes of memory below which a sidecar thrashes: its responses take seconds, and a healthy driver looks hung.

    Measured with limits from 24 to 64 MiB and read-aheads from 128 KiB to 8 MiB (docs/performance.md): beside anonymous memory the
    pages of gRPC and the interpreter that each probe uses must stay, and each page fault reads `read_ahead` bytes around it.
    """
    return anonymous + _HOT_FILE_PAGES + 2 * read_ahead


def read_ahead() -> int:
    """The read-ahead of the disk that holds the interpreter, in bytes; the kernel's default if it is not known, as on overlayfs."""
    if sys.platform != "linux":
        return READ_AHEAD
    try:
        device = os.stat(sys.executable).st_dev
        with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", encoding="ascii") as file:
            return int(file.read()) << 10
    except (OSError, ValueError):
        return READ_AHEAD
