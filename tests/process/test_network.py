"""The network namespace of a process: that of the node or a pod's own, and the unix sockets that listen in it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from livenessprobe.process import network
from tests.support import ROOT, not_on_windows

pytestmark = not_on_windows("it has no network namespaces")

HEADER = "Num       RefCount Protocol Flags    Type St Inode Path\n"


def proc(root: Path, names: list[str]) -> Path:
    """A /proc whose net/core has the settings `names`."""
    core = root / "proc/sys/net/core"
    core.mkdir(parents=True)
    for name in names:
        (core / name).touch()
    return root


@pytest.mark.parametrize(
    ("names", "of_host"),
    [(["somaxconn", "dev_weight"], True), (["somaxconn", "optmem_max"], False), ([], None)],
)
def test_the_host_has_settings_that_a_pod_has_not(names: list[str], of_host: bool | None, tmp_path: Path) -> None:
    assert network.is_of_host(proc(tmp_path, names)) is of_host


def test_nothing_is_known_without_proc(tmp_path: Path) -> None:
    assert network.is_of_host(tmp_path) is None
    assert network.listening_sockets(tmp_path) == []


def test_a_new_namespace_is_not_that_of_the_host() -> None:
    words = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c"]
    code = "from livenessprobe.process import network; print(network.is_of_host(), network.listening_sockets())"
    done = subprocess.run([*words, code], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr}")

    assert done.stdout == "False []\n"


def test_the_sockets_are_those_on_which_a_process_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "with blanks .sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        assert path not in network.listening_sockets()

        listener.listen()
        client.connect(path)

        assert network.listening_sockets().count(path) == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ffff: 00000002 00000000 00010000 0001 01 124 /csi/csi.sock", ["/csi/csi.sock"]),
        ("ffff: 00000002 00000000 00000000 0001 03 124 /csi/csi.sock", []),
        ("ffff: 00000002 00000000 00010000 0001 01 124 @abstract", []),
        ("ffff: 00000002 00000000 00010000 0001 01 124", []),
        ("", []),
    ],
)
def test_lines_of_the_table(line: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "proc/self/net").mkdir(parents=True)
    (tmp_path / "proc/self/net/unix").write_text(f"{HEADER}{line}\n{line}\n")

    assert network.listening_sockets(tmp_path) == found
