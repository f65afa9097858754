"""The memory limit of a container, and what is in use of it, read from cgroup trees as kernels lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from livenessprobe.process.cgroup import Memory, memory, shortage
from tests.process.test_cpus import tree

MIB = 1 << 20
V1 = "4:memory:/kubepods/pod1\n1:name=systemd:/kubepods/pod1\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("41943040", "31457280", "inactive_file 10485760\nactive_file 4194304\n"), Memory(40 * MIB, 20 * MIB)),
        (("41943040", "31457280", "inactive_file 4194304\n"), Memory(40 * MIB, 30 * MIB)),
        (("41943040", "31457280", ""), Memory(40 * MIB, 30 * MIB)),
        (("41943040", "31457280", "inactive_file junk\nanon\n"), Memory(40 * MIB, 30 * MIB)),
        (("41943040", "1024", "inactive_file 41943040\n"), Memory(40 * MIB, 0)),
        (("max", "31457280", ""), None),
        (("", "31457280", ""), None),
        (("41943040", "", ""), None),
    ],
)
def test_the_memory_of_a_container_under_v2(files: tuple[str, str, str], found: Memory | None, tmp_path: Path) -> None:
    limit, usage, stat = files
    names = {"memory_DOT_max": limit, "memory_DOT_current": usage, "memory_DOT_stat": stat}

    assert memory(tree(tmp_path, "0::/\n", **names)) == found


def test_a_limit_of_the_pod_counts_where_the_container_has_none(tmp_path: Path) -> None:
    files = {"pod__c1__memory_DOT_max": "max", "pod__c1__memory_DOT_current": "1"}
    files |= {"memory_DOT_max": "1048576", "memory_DOT_current": "1024"}

    assert memory(tree(tmp_path, "0::/pod/c1\n", **files)) == Memory(MIB, 1024)


@pytest.mark.parametrize(("limit", "found"), [("41943040", Memory(40 * MIB, 20 * MIB)), ("9223372036854771712", None)])
def test_the_memory_of_a_container_under_v1(limit: str, found: Memory | None, tmp_path: Path) -> None:
    """The figures of groups below are in the totals; a limit near 2^63 is none.  4 MiB of file pages count as used."""
    files = {"limit_in_bytes": limit, "usage_in_bytes": "31457280", "stat": "active_file 1\ntotal_active_file 14680064"}

    assert memory(tree(tmp_path, V1, **{f"memory__memory_DOT_{name}": text for name, text in files.items()})) == found


def test_no_control_groups(tmp_path: Path) -> None:
    assert memory(tmp_path) is None


def test_what_is_left_is_never_negative() -> None:
    assert Memory(10, 30).left == 0
    assert Memory(30, 10).left == 20


def test_a_shortage_is_told_with_the_way_out(tmp_path: Path) -> None:
    files = {"memory_DOT_max": "41943040", "memory_DOT_current": "36700160"}
    root = tree(tmp_path, "0::/\n", **files)

    assert shortage(5 * MIB, root) == ""
    assert shortage(6 * MIB, root) == (
        "it needs 6 MiB here, 5 MiB are left of the memory limit of 40 MiB, and beyond it the kernel kills the sidecar too; "
        "raise resources.limits.memory of the sidecar"
    )
    assert shortage(1 << 60, tmp_path / "nothing") == ""
