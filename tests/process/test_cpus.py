"""The CPU quota of a container, read from cgroup trees as kernels lay them out, and the effect of --automaxprocs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from livenessprobe.process.cpus import available, maxprocs, quota


def tree(root: Path, cgroup: str | None, **files: str) -> Path:
    """A cgroup tree below `root`.  In the names of files `__` stands for a slash, `_DOT_` for a dot."""
    if cgroup is not None:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".").replace("_COMMA_", ",")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# --- cgroup v2


@pytest.mark.parametrize(
    ("cpu_max", "limit"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("2000 100000\n", 0.02),
        ("100000 50000\n", 2.0),
        ("1 1\n", 1.0),
        ("max 100000\n", None),
        ("", None),
        ("200000 0\n", None),
        ("-1 100000\n", None),
        ("junk\n", None),
        ("100000 junk\n", None),
    ],
)
def test_the_quota_of_a_container_under_v2(cpu_max: str, limit: float | None, tmp_path: Path) -> None:
    """In a cgroup namespace the root of the mount is the container's own group."""
    assert quota(tree(tmp_path, "0::/\n", cpu_DOT_max=cpu_max)) == limit


def test_a_nested_group_under_v2(tmp_path: Path) -> None:
    """Without a cgroup namespace the path leads to the group."""
    files = {"kubepods__pod1__c1__cpu_DOT_max": "300000 100000", "cpu_DOT_max": "100000 100000"}

    assert quota(tree(tmp_path, "0::/kubepods/pod1/c1\n", **files)) == 3.0


def test_a_group_with_colons_in_its_name(tmp_path: Path) -> None:
    """containerd names groups so where systemd manages the tree."""
    name = "pod1.slice:cri-containerd:c1"

    assert quota(tree(tmp_path, f"0::/{name}\n", **{f"{name}__cpu_DOT_max": "300000 100000"})) == 3.0


def test_a_path_of_the_host_under_v2(tmp_path: Path) -> None:
    """The path names a group of the host that is not mounted here; the mounted group counts."""
    assert quota(tree(tmp_path, "0::/kubepods/pod1/c1\n", cpu_DOT_max="50000 100000")) == 0.5


def test_no_controller_files_under_v2(tmp_path: Path) -> None:
    assert quota(tree(tmp_path, "0::/user.slice\n")) is None


# --- cgroup v1

V1 = "12:cpuset:/\n4:cpu,cpuacct:/kubepods/pod1\n1:name=systemd:/kubepods/pod1\n"


@pytest.mark.parametrize("mount", ["cpu_COMMA_cpuacct", "cpu"])
@pytest.mark.parametrize("group", ["", "__kubepods__pod1"])
@pytest.mark.parametrize(
    ("limit", "period", "cpus"),
    [
        ("250000\n", "100000\n", 2.5),
        ("10000\n", "50000\n", 0.2),
        ("1\n", "1\n", 1.0),
        ("-1\n", "100000\n", None),
        ("0\n", "100000\n", None),
        ("100000\n", "0\n", None),
        ("", "", None),
        ("junk\n", "100000\n", None),
        ("100000\n", "junk\n", None),
    ],
)
def test_the_quota_under_v1(limit: str, period: str, cpus: float | None, mount: str, group: str, tmp_path: Path) -> None:
    """With either name of the mount, and with the group nested or mounted as the root."""
    files = {f"{mount}{group}__cpu_DOT_cfs_quota_us": limit, f"{mount}{group}__cpu_DOT_cfs_period_us": period}

    assert quota(tree(tmp_path, V1, **files)) == cpus


def test_a_nested_group_under_v1_comes_first(tmp_path: Path) -> None:
    files = {
        "cpu__kubepods__pod1__cpu_DOT_cfs_quota_us": "300000",
        "cpu__kubepods__pod1__cpu_DOT_cfs_period_us": "100000",
        "cpu__cpu_DOT_cfs_quota_us": "100000",
        "cpu__cpu_DOT_cfs_period_us": "100000",
    }

    assert quota(tree(tmp_path, "4:cpu:/kubepods/pod1\n", **files)) == 3.0


def test_other_controllers_have_no_cpu_quota(tmp_path: Path) -> None:
    """Their names only begin with "cpu"."""
    files = {f"{name}__cpu_DOT_cfs_{what}_us": "100000" for name in ("cpuset", "cpuacct") for what in ("quota", "period")}

    assert quota(tree(tmp_path, "3:cpuset:/\n2:cpuacct:/\n", **files)) is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    """The v2 hierarchy of a hybrid host has no cpu controller."""
    files = {"cpu__cpu_DOT_cfs_quota_us": "400000", "cpu__cpu_DOT_cfs_period_us": "100000"}

    assert quota(tree(tmp_path, "0::/system.slice\n4:cpu:/\n", **files)) == 4.0


# --- neither


@pytest.mark.parametrize("cgroup", [None, "", "\n", "junk", "::", "0::"])
def test_without_groups_there_is_no_quota(cgroup: str | None, tmp_path: Path) -> None:
    assert quota(tree(tmp_path, cgroup)) is None


def test_the_quota_of_this_process_can_be_read() -> None:
    """On whatever machine the tests run."""
    limit = quota()

    assert limit is None or limit > 0


# --- --automaxprocs


@pytest.mark.parametrize(
    ("limit", "count", "line"),
    [
        (None, 8, "maxprocs: Leaving GOMAXPROCS=8: CPU quota undefined"),
        (2.0, 2, "maxprocs: Updating GOMAXPROCS=2: determined from CPU quota"),
        (2.99, 2, "maxprocs: Updating GOMAXPROCS=2: determined from CPU quota"),
        (1.0, 1, "maxprocs: Updating GOMAXPROCS=1: determined from CPU quota"),
        (0.99, 1, "maxprocs: Updating GOMAXPROCS=1: using minimum allowed GOMAXPROCS"),
        (0.02, 1, "maxprocs: Updating GOMAXPROCS=1: using minimum allowed GOMAXPROCS"),
        (16.0, 16, "maxprocs: Updating GOMAXPROCS=16: determined from CPU quota"),
    ],
)
def test_the_quota_is_rounded_down_to_at_least_1(limit: float | None, count: int, line: str) -> None:
    assert maxprocs({}, limit, 8) == (count, line)


@pytest.mark.parametrize(
    ("text", "count"),
    [("3", 3), ("1", 1), ("08", 8), ("99999", 99999)]
    # Text that Go cannot parse counts as set; the number of CPUs stays.
    + [(text, 6) for text in ("", "0", "-1", "+3", "abc", "1.5", " 3", "٣", "²", "100000", "9" * 5000)],
)
@pytest.mark.parametrize("limit", [None, 2.0, 0.5])
def test_the_environment_wins_over_the_quota(text: str, count: int, limit: float | None) -> None:
    line = f'maxprocs: Honoring GOMAXPROCS="{text}" as set in environment'

    assert maxprocs({"GOMAXPROCS": text, "PATH": "/bin"}, limit, 6) == (count, line)


def test_available_counts_the_cpus_this_process_may_use() -> None:
    assert 1 <= available() <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="takes Linux and two CPUs")
def test_only_cpus_in_the_affinity_mask_count() -> None:
    """As `taskset` or a cpuset sets it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available() == 1
    finally:
        os.sched_setaffinity(0, before)
