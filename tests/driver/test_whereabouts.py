"""What is said of a socket file that is missing or forbidden, beyond that it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver import whereabouts
from livenessprobe.driver.whereabouts import has_override, is_deleted, is_whole_range, of_missing
from tests.support import ROOT

# --- missing


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def test_a_socket_with_a_similar_name_beside_it_is_named(folder: Path) -> None:
    listen(folder / "registration.sock")
    listen(folder / "csi-nfs.sock")
    (folder / "csi.soc").touch()  # no socket

    assert of_missing(f"{folder}/csi.sock") == f"; beside it is the socket {folder}/csi-nfs.sock"


def test_a_folder_that_is_missing_is_named(folder: Path) -> None:
    (folder / "file").touch()

    assert of_missing(f"{folder}/plugins/csi.sock") == f"; {folder}/plugins does not exist either"
    assert of_missing(f"{folder}/file/csi.sock") == f"; {folder}/file is no folder"


def test_an_empty_folder_says_nothing(folder: Path) -> None:
    (folder / "csi.lock").touch()

    assert of_missing(f"{folder}/csi.sock") == ""


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("$(NAME)/csi.sock", "; $(NAME) was not expanded: the container has no variable NAME; set it under env"),
        ("csi.sock ", "; the address begins or ends with a quote or a blank: remove it"),
        ('csi.sock"', "; the address begins or ends with a quote or a blank: remove it"),
    ],
)
def test_a_path_that_is_never_meant_is_named(folder: Path, name: str, end: str) -> None:
    assert of_missing(f"{folder}/{name}") == end


def test_a_folder_of_many_entries_is_read_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whereabouts, "ENTRIES_MAX", 0)
    listen(folder / "csi-nfs.sock")

    assert of_missing(f"{folder}/csi.sock") == ""


ROW = "36 35 98:0 {root} {point} rw,noatime master:1 - ext4 /dev/root rw"


def mounts(*pairs: tuple[str, str]) -> list[str]:
    return [ROW.format(root=root, point=point) for root, point in pairs]


@pytest.mark.parametrize(
    ("table", "folder", "deleted"),
    [
        (mounts(("/", "/"), ("/var/lib/kubelet/plugins/x//deleted", "/csi")), "/csi", True),
        (mounts(("/", "/"), ("/var/lib/kubelet/plugins/x//deleted", "/csi")), "/csi/sub", True),
        (mounts(("/", "/"), ("/var/lib/kubelet/plugins/x//deleted", "/csi")), "/csi2", False),
        (mounts(("/", "/"), ("/var/lib/kubelet/plugins/x", "/csi")), "/csi", False),
        (mounts(("/", "/"), ("/gone//deleted", "/csi"), ("/new", "/csi")), "/csi", False),
        (mounts(("/", "/"), ("/gone//deleted", "/csi"), ("/new", "/csi/sub")), "/csi/sub", False),
        (mounts(("/gone//deleted", "/")), "/csi", True),
        (mounts(("/gone//deleted", r"/c\040s\134i")), r"/c s\i", True),
        ([], "/csi", False),
        (["cut"], "/csi", False),
    ],
)
def test_the_mount_that_shows_a_folder_may_be_of_a_deleted_one(table: list[str], folder: str, deleted: bool) -> None:
    assert is_deleted(table, folder) is deleted


@given(st.lists(st.text(max_size=60), max_size=4), st.text(max_size=10))
def test_any_table_is_read(lines: list[str], folder: str) -> None:
    is_deleted(lines, folder)


SCRIPT = """
set -e
mkdir "$1/host" "$1/csi"
mount --bind "$1/host" "$1/csi"
rmdir "$1/host"
mkdir "$1/host"
exec "$2" -c 'import sys; from livenessprobe.driver.whereabouts import of_missing; print(of_missing(sys.argv[1]), end="")' "$1/csi/csi.sock"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are Linux's")
def test_a_folder_that_was_deleted_on_the_host_and_made_again(folder: Path) -> None:
    """As when a driver's host folder is cleaned up while the pod runs."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", str(folder), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no mounts may be made here")

    end = "was deleted on the host, and perhaps made again, since this pod started: restart the pod"
    assert (done.stdout, done.stderr) == (f"; {folder}/csi {end}", "")


# --- forbidden


@pytest.mark.parametrize(
    ("uid_map", "whole"),
    [
        (["         0          0 4294967295"], True),
        ([], True),
        (["         0     100000      65536"], False),
        (["         0       1000          1"], False),
        (["0 0 1000", "1000 100000 65536"], False),
    ],
)
def test_a_user_namespace_is_known_by_its_map(uid_map: list[str], whole: bool) -> None:
    assert is_whole_range(uid_map) is whole


@pytest.mark.parametrize(
    ("capabilities", "override"),
    [
        ("CapEff:\t000001ffffffffff", True),
        ("CapEff:\t0000000000000002", True),
        ("CapEff:\t0000000000000000", False),
        ("x", True),
    ],
)
def test_a_capability_opens_any_file(capabilities: str, override: bool) -> None:
    assert has_override(["Name:\tx", capabilities]) is override


@pytest.mark.skipif(sys.platform != "linux", reason="user namespaces are Linux's")
@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        (
            ("unshare", "--user", "--map-root-user"),
            "this process is root in a user namespace only: run the pod with hostUsers: true",
        ),
        (("setpriv", "--bounding-set=-all", "--inh-caps=-all"), "this process is root without the capability DAC_OVERRIDE"),
        (("setpriv", "--reuid=65534", "--clear-groups"), "run as the driver's user or as root"),
        ((), "this process is root, so a security module refuses it"),
    ],
)
def test_the_advice_is_for_the_user_of_the_process(prefix: tuple[str, ...], said: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become all of them")
    script = "from livenessprobe.driver.whereabouts import of_forbidden; print(of_forbidden())"
    done = subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip(done.stderr)

    assert done.stdout.startswith(said)
