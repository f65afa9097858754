"""Where a look at the socket file is made, and what it finds."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from livenessprobe.driver import socket_file
from livenessprobe.driver.address import CSIAddress, parse_csi_address
from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.result import Reason
from livenessprobe.driver.socket_file import SocketFile, SocketIdentity, types_on_the_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mountinfo is of Linux")

MOUNTS = r"""
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/a
23 22 0:22 / /proc rw - proc proc rw
24 22 0:23 / /csi rw shared:1 master:2 - ext4 /dev/vda rw
25 22 0:24 / /csi/nfs rw - nfs4 server:/x rw
26 22 0:25 / /with\040blank\134 rw - fuse.ceph ceph rw
27 22 0:26 / /over rw - nfs4 server:/x rw
28 27 0:27 / /over rw - tmpfs tmpfs rw
29 22 0:28 / /csi2 rw - fuse fuse rw
""".strip()


@pytest.mark.parametrize(
    ("folder", "types"),
    [
        ("/", {"overlay"}),
        ("/csi", {"overlay", "ext4"}),
        ("/csi/plugins", {"overlay", "ext4"}),
        ("/csi/nfs", {"overlay", "ext4", "nfs4"}),
        ("/csi/nfs2", {"overlay", "ext4"}),
        ("/csi2/x", {"overlay", "fuse"}),
        ("/with blank\\/x", {"overlay", "fuse.ceph"}),
        ("/over/x", {"overlay", "tmpfs"}),
    ],
)
def test_the_file_systems_on_the_way_to_a_folder(folder: str, types: set[str]) -> None:
    assert types_on_the_way(MOUNTS, folder) == types


@pytest.mark.parametrize("mounts", ["", "garbage", MOUNTS.partition("\n")[2]])
def test_mounts_without_a_root_say_nothing(mounts: str) -> None:
    with pytest.raises(LookupError):
        types_on_the_way(mounts, "/csi")


def look_twice(path: Path) -> tuple[list[str], bool]:
    """The threads that two looks at the file at `path` are made in, and whether its folder is then known to be local."""
    names: list[str] = []

    def look(_: CSIAddress) -> SocketIdentity | None:
        names.append(threading.current_thread().name)
        return None

    async def run() -> bool:
        file = SocketFile(parse_csi_address(str(path), "linux"), look)
        deadline = asyncio.get_running_loop().time() + 5
        for _ in range(2):
            await file.look(deadline)
        is_local = file.is_local()
        file.close()
        return is_local

    return names, asyncio.run(run())


def test_once_the_file_system_is_known_to_be_local_looks_are_made_in_place(folder: Path) -> None:
    names, is_local = look_twice(folder.resolve() / "csi.sock")
    if not is_local:
        pytest.skip("temporary folders are on a file system that is not on the list")
    assert names == ["socket file", "MainThread"]


def test_a_path_through_a_link_is_always_looked_at_in_the_thread(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    assert look_twice(folder / "link" / "csi.sock") == (["socket file", "socket file"], False)


@pytest.mark.parametrize("noticed", [True, False])
def test_a_mount_that_comes_during_a_look_is_not_forgotten_when_the_look_ends(
    noticed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another call may notice it before the look has ended; a look in place would then hang for ever."""
    begun, go_on, changes = threading.Event(), threading.Event(), list[bool]()

    def look(_: CSIAddress) -> SocketIdentity | None:
        begun.set()
        go_on.wait(5)
        return None

    async def run() -> bool:
        file = SocketFile(parse_csi_address(str(folder / "csi.sock"), "linux"), look)
        monkeypatch.setattr(file._mounts, "have_changed", lambda: bool(changes and changes.pop()))
        looking = asyncio.ensure_future(file.look(asyncio.get_running_loop().time() + 5))
        await asyncio.to_thread(begun.wait, 5)
        changes.append(True)
        if noticed:
            assert not file.is_local()
        go_on.set()
        await looking
        is_local = file.is_local()
        file.close()
        return is_local

    monkeypatch.setattr(socket_file, "_is_local", lambda _: True)
    assert not asyncio.run(run())


def test_a_missing_thread_is_an_internal_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        file = SocketFile(parse_csi_address(str(folder / "csi.sock"), "linux"))
        with monkeypatch.context() as patched, pytest.raises(NotConnected) as refused:
            patched.setattr(threading.Thread, "start", start)
            await file.look(asyncio.get_running_loop().time() + 5)
        assert refused.value.reason is Reason.INTERNAL
        assert "can't start new thread" in refused.value.sentence
        with pytest.raises(NotConnected) as missing:
            await file.look(asyncio.get_running_loop().time() + 5)
        assert missing.value.reason is Reason.SOCKET_MISSING

    asyncio.run(run())
