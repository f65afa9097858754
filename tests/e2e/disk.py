"""
A disk of its own for the image's files, whose read-ahead is known and whose pages are in no cache.

It is an ext4 file system in a file, on a loop device with direct I/O.  The read-ahead of the disk decides how much a page
fault reads, and these pages count for the container: 128 KiB is the kernel's default and that of most nodes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e import podman
from tests.e2e.host import CACHE, Failed, Skip, run

SIZE = 512 << 20
DEFAULT_READ_AHEAD = 128
"""KiB, of Linux."""


class Disk:
    """The mounted disk; `root` has the image's files."""

    def __init__(self, device: str, place: Path) -> None:
        self._device = device
        self.place = place
        self.root = place / "root"

    def mount(self) -> None:
        run("mount", self._device, self.place)

    def unmount(self) -> None:
        """A container that has just ended may still hold the file system."""
        end = time.monotonic() + 20
        while subprocess.run(["umount", self.place], capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                raise Failed(f"{self.place} is still in use 20 s after its container ended")
            time.sleep(0.2)

    def forget(self, read_ahead: int) -> None:
        """Mount anew, so that no page is in the cache, with `read_ahead` KiB; Failed if the device has another value."""
        self.unmount()
        setting = Path("/sys/block", Path(self._device).name, "queue/read_ahead_kb")
        setting.write_text(str(read_ahead))
        self.mount()
        if (found := setting.read_text().strip()) != str(read_ahead):
            raise Failed(f"{setting} is {found}, not {read_ahead}: the figures would be those of another disk")


@contextmanager
def empty(name: str, size: int = SIZE) -> Iterator[Disk]:
    """An empty disk; it is detached and deleted at the end, whatever happens.  Skip without loop devices."""
    file = CACHE / f"{name}.img"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another run uses {file}; wait for its end, or set E2E_CACHE") from None
        yield from _mounted(file, CACHE / name, size)


@contextmanager
def holding(image: str) -> Iterator[Disk]:
    """A disk with the files of `image`."""
    with empty("disk") as disk:
        with podman.files_of(image) as files:
            shutil.copytree(files, disk.root, symlinks=True)
        yield disk


def _mounted(file: Path, place: Path, size: int) -> Iterator[Disk]:
    _detach_left(file)
    file.unlink(missing_ok=True)  # a new file, since a container that was left behind may still hold the old one
    with file.open("wb") as opened:
        opened.truncate(size)
    place.mkdir(exist_ok=True)
    try:
        run("mkfs.ext4", "-q", "-F", file)
        try:
            device = run("losetup", "--find", "--show", "--direct-io=on", file)
        except (Failed, FileNotFoundError) as error:
            raise Skip(f"NOT MEASURED, no loop device with direct I/O can be made here: {error}") from None
        if run("losetup", "--noheadings", "--output", "DIO", device) != "1":
            raise Skip(f"NOT MEASURED, {device} has no direct I/O: pages would be cached twice")
        disk = Disk(device, place)
        try:
            disk.mount()
        except Failed as error:
            raise Skip(f"NOT MEASURED, file systems cannot be mounted here: {error}") from None
        yield disk
    finally:
        with suppress(Failed):
            run("umount", "--lazy", place)
        _detach_left(file)
        file.unlink(missing_ok=True)


def _detach_left(file: Path) -> None:
    """Detach the file, now or after a run that was killed."""
    for line in subprocess.run(["losetup", "-j", file], capture_output=True, text=True, check=False).stdout.splitlines():
        device = line.partition(":")[0]
        subprocess.run(["umount", device], capture_output=True, check=False)
        run("losetup", "--detach", device)


def drop_pages(folder: Path) -> None:
    """Drop the files in `folder` from the page cache, so that the next container pays for reading them."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
