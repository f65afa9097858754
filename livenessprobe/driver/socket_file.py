"""
Looks at the driver's socket file: whether it is there, whether it is a socket, and whether it is still the same.

On a hung file system (a dead FUSE or NFS mount) a look never returns, so it is made in a thread unless the file system
does not hang: a look in place takes 1 us, one in the thread 60 to 95 us.  The thread is not one of the executor's,
which may be few.  It makes one look at a time, so at most one thread hangs.
"""

from __future__ import annotations

import os
import queue
import stat
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.diagnosis import NotConnected, hung_mount, no_thread, not_connected
from livenessprobe.driver.result import Reason
from livenessprobe.process import threads

if TYPE_CHECKING:
    import asyncio  # takes 4.7 MiB, which a command that looks once may not have

SocketIdentity = tuple[int, int, int]
Look = Callable[[CSIAddress], SocketIdentity | None]
"""Looks at the socket file; raises NotConnected."""

LOCAL = frozenset({"tmpfs", "ext4", "xfs", "btrfs", "overlay"})
"""Types of file systems whose looks do not hang, except on a dead block device."""
_MOUNTS = "/proc/self/mountinfo"


def look(address: CSIAddress) -> SocketIdentity | None:
    """
    The identity of the socket file; None if the address is no path, or on Windows, where there is none.

    Raises NotConnected if a dial could not succeed: looking is cheaper, and its reason more exact.
    """
    if address.network != "unix":
        return None
    path = address.name
    try:
        found = os.lstat(path) if sys.platform == "win32" else os.stat(path)
    except OSError as error:
        raise not_connected(error.errno, path) from None
    if sys.platform == "win32":
        return None
    if not stat.S_ISSOCK(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a file"
        raise NotConnected(Reason.NOT_A_SOCKET, f"{path} is {kind}, not a socket: the driver listens elsewhere")
    # A new socket may have the inode number of the old one, but not its change time.
    return (found.st_dev, found.st_ino, found.st_ctime_ns)


class _Seen(NamedTuple):
    """What a look in the thread has found."""

    identity: SocketIdentity | None
    failure: NotConnected | None
    is_local: bool


class SocketFile:
    """The socket file at `address`, looked at by `look`; for one event loop."""

    def __init__(self, address: CSIAddress, look: Look = look) -> None:
        self._address = address
        self._look = look
        self._is_path = address.network == "unix" and sys.platform != "win32"
        self._is_local = not self._is_path
        """Whether a look does not hang, as the mounts were when the thread last looked."""
        self._mounts = _MountChanges()
        self._has_changed = False
        """Whether a change of the mounts was noticed since the thread's look began."""
        self._looking: asyncio.Future[_Seen] | None = None
        """The look in the thread that has not ended."""
        self._jobs: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[_Seen]] | None] | None = None

    def is_local(self) -> bool:
        """Whether a look at the file does not hang, so that it is made in place."""
        if self._is_path and self._mounts.have_changed():
            self._is_local, self._has_changed = False, True  # until the thread has looked again
        return self._is_local

    def look_in_place(self) -> SocketIdentity | None:
        """The identity of the file, which is local; raises NotConnected."""
        return self._look(self._address)

    async def look(self, deadline: float) -> SocketIdentity | None:
        """The identity of the file; raises NotConnected, at `deadline` (the loop's time) at the latest."""
        if self.is_local():
            return self.look_in_place()
        while self._looking is not None:  # the look of another call; it may have begun too early for this one
            await self._end_of(self._looking, deadline)
        seen = await self._end_of(self._begin(), deadline)
        if seen.failure is not None:
            raise seen.failure
        return seen.identity

    async def _end_of(self, looking: asyncio.Future[_Seen], deadline: float) -> _Seen:
        import asyncio

        await asyncio.wait({looking}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not looking.done():
            raise hung_mount(self._address.name)
        return looking.result()

    def _begin(self) -> asyncio.Future[_Seen]:
        """Begin a look in the thread; raises NotConnected if there is none and none can be started."""
        if self._jobs is None:
            jobs = self._jobs = queue.SimpleQueue()
            try:
                threading.Thread(target=self._work, args=(jobs,), name="socket file", daemon=True).start()
            except RuntimeError:
                self._jobs = None
                raise no_thread(self._address.name, threads.fault()) from None
        import asyncio

        loop = asyncio.get_running_loop()
        self._has_changed = False
        self._mounts.have_changed()  # what changes from here on counts as changed after the look
        looking = self._looking = loop.create_future()
        looking.add_done_callback(self._end)
        self._jobs.put((loop, looking))
        return looking

    def _end(self, looking: asyncio.Future[_Seen]) -> None:
        self._looking = None
        self._is_local = looking.result().is_local and not self._has_changed

    def _work(self, jobs: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[_Seen]] | None]) -> None:
        """Make the looks; runs in the thread."""
        while (job := jobs.get()) is not None:
            loop, looking = job
            identity, failure = None, None
            try:
                identity = self._look(self._address)
            except NotConnected as error:
                failure = error
            seen = _Seen(identity, failure, _is_local(os.path.dirname(self._address.name)))
            try:
                loop.call_soon_threadsafe(looking.set_result, seen)
            except RuntimeError:
                return  # the loop is closed

    def close(self) -> None:
        """Let the thread end, once it is done with its look."""
        self._mounts.close()
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


class _MountChanges:
    """Notices each change of the mounts that this process sees (proc(5)): the kernel marks the file for poll."""

    def __init__(self) -> None:
        self._file: int | None = None

    def have_changed(self) -> bool:
        """Whether they have changed since the last call, or whether that is not known."""
        if sys.platform == "win32":
            return False
        import select

        if self._file is None:
            try:
                self._file = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return True
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLPRI)
        try:
            return bool(self._poll.poll(0))
        except OSError:  # poll(2) wants the limit of descriptors to be no less than the files that it polls
            return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _is_local(folder: str) -> bool:
    """Whether a look into `folder` does not hang; may hang itself."""
    try:
        # A link could lead through any file system.
        if os.path.realpath(folder) != folder:
            return False
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            return types_on_the_way(file.read(), folder) <= LOCAL
    except (OSError, ValueError, LookupError):
        return False


def types_on_the_way(mounts: str, folder: str) -> set[str]:
    """The types of the file systems from `/` to `folder`, which has no links, by the text of proc(5)'s mountinfo."""
    types: dict[str, str] = {}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        types[_unescaped(left.split(" ")[4])] = right.split(" ")[0]  # a later mount hides an earlier one at the same place
    if "/" not in types:
        raise LookupError
    return {kind for place, kind in types.items() if place == "/" or f"{folder}/".startswith(f"{place}/")}


def is_mount_point(path: str) -> bool:
    """Whether the file itself is a bind mount, as `docker run -v …/csi.sock:/csi/csi.sock` makes it (proc(5), mountinfo)."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            return any(_unescaped(line.split(" ")[4]) == path for line in file)
    except (OSError, IndexError):
        return False


def _unescaped(place: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        place = place.replace(code, character)
    return place
