"""A file system that hangs: a FUSE server that answers the first request of the kernel, and no other (linux/fuse.h)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

INIT = 26
VERSION = 7, 31
MNT_FORCE, MNT_DETACH = 1, 2
HEADER = struct.Struct("=IIQQIIII")
"""Of a request: length, opcode, unique number, node, uid, gid, pid, padding."""


class CannotMount(Exception):
    """No file system can be mounted that hangs; says why."""


@contextlib.contextmanager
def hung_mount(folder: Path) -> Iterator[None]:
    """
    Mounts a file system at `folder` in which every look hangs until the end.

    Skips the test where FUSE cannot be mounted, and says why.  Looks wait in the kernel's queue, so they end when their
    process is killed.
    """
    try:
        unmount = mount(folder)
    except CannotMount as error:
        pytest.skip(f"{error}: the hung file system is tested by a look that never returns only")
    try:
        yield
    finally:
        unmount()


def mount(folder: Path) -> Callable[[], None]:
    """Mounts such a file system; returns what ends it, and raises CannotMount."""
    if sys.platform != "linux":
        raise CannotMount("FUSE IS OF LINUX")
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        raise CannotMount(f"FUSE CANNOT BE USED ({error})") from None
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(folder)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"hung", place, b"fuse", 0, options):
        os.close(device)
        raise CannotMount(f"FUSE CANNOT BE MOUNTED ({os.strerror(ctypes.get_errno())})")

    def unmount() -> None:
        os.close(device)  # aborts all requests
        libc.umount2(place, MNT_FORCE | MNT_DETACH)

    serving = threading.Thread(target=_serve, args=(device,), daemon=True)
    serving.start()
    serving.join()  # until INIT is answered
    return unmount


@lru_cache(maxsize=1)
def fault() -> str | None:
    """Why no file system can be mounted that hangs; None if one can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount(Path(folder))()
        except CannotMount as error:
            return str(error)
    return None


def _serve(device: int) -> None:
    request = os.read(device, 1 << 17)
    _, opcode, unique, *_ = HEADER.unpack_from(request)
    assert opcode == INIT
    # fuse_init_out: version, read-ahead, flags, background, congestion, largest write, and zeros.
    body = struct.pack("=IIIIHHI", *VERSION, 0, 0, 12, 9, 4096).ljust(64, b"\0")
    os.write(device, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)
