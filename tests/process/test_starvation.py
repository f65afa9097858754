"""What a process loses to its own limits: the kernel's counters, and the event loop beside them."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from livenessprobe.process.starvation import TICK_SECONDS, Counters, Lost, Meter, Usage, lost
from tests.probing.scripted import ScriptedCounters
from tests.process.test_cpus import tree
from tests.virtual import loop, virtual

V2, V1 = "0::/\n", "3:cpu,cpuacct:/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "throttled"),
    [
        (V2, {"cpu_DOT_stat": "usage_usec 7\nnr_throttled 3\nthrottled_usec 1500000\nnr_bursts 0\n"}, 1.5),
        (V1, {"cpu_COMMA_cpuacct__cpu_DOT_stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 250000000\n"}, 0.25),
        ("0::/pod/c1\n", {"pod__c1__cpu_DOT_stat": "throttled_usec 2000000\n", "cpu_DOT_stat": "throttled_usec 9\n"}, 2.0),
        (V2, {"cpu_DOT_stat": "usage_usec 7\nuser_usec 3\n"}, 0.0),  # a group without a controller for CPU
        (V2, {"cpu_DOT_stat": ""}, 0.0),
        (V2, {"cpu_DOT_stat": "throttled_usec -5\n"}, 0.0),
        (V2, {"cpu_DOT_stat": "throttled_usec max\n"}, 0.0),
        (V2, {"cpu_DOT_stat": "throttled_usec " + "9" * 400 + "\n"}, 0.0),
        (V2, {"cpu_DOT_stat": "\0\ufffd" * 5000}, 0.0),
        (V2, {}, 0.0),
        ("nonsense", {}, 0.0),
        (None, {}, 0.0),
    ],
)
def test_the_throttled_time_of_a_group(cgroup: str | None, files: dict[str, str], throttled: float, tmp_path: Path) -> None:
    assert Counters(tree(tmp_path, cgroup, **files)).read().throttled == throttled


def test_a_file_that_disappears_or_becomes_nonsense_counts_as_nothing(tmp_path: Path) -> None:
    counters = Counters(tree(tmp_path, V2, cpu_DOT_stat="throttled_usec 1500000\n"))
    stat = tmp_path / "sys/fs/cgroup/cpu.stat"
    stat.write_text("?")
    assert counters.read().throttled == 0
    stat.unlink()
    assert counters.read().throttled == 0
    stat.mkdir()
    assert counters.read().throttled == 0


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=34.56 avg60=1.00 avg300=0.00 total=123\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n", 34),
        ("some avg10=junk avg60=0.00", None),
        ("", None),
    ],
)
def test_the_pressure_on_memory(text: str, percent: int | None, tmp_path: Path) -> None:
    assert Counters(tree(tmp_path, V2, memory_DOT_pressure=text)).memory_pressure() == percent


def test_no_file_tells_the_pressure_under_v1(tmp_path: Path) -> None:
    assert (
        Counters(tree(tmp_path, "4:memory:/\n", memory__memory_DOT_pressure="some avg10=34.56 x")).memory_pressure() is None
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count major faults by process")
def test_this_process_has_counters() -> None:
    usage = Counters().read()
    assert usage.throttled >= 0
    assert usage.major_faults >= 0


def task(tmp_path: Path, name: str, state: str, schedstat: str) -> None:
    folder = tmp_path / "proc/self/task" / name
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{name} (a) R (b) {state} 1 1 1 0 -1\n")
    (folder / "schedstat").write_text(schedstat)


@pytest.mark.parametrize(
    ("cpu_max", "waiting"), [("5000 1000000", frozenset({("7", "100")})), ("max 100000", frozenset()), ("", frozenset())]
)
def test_threads_that_wait_for_cpu_under_a_quota(cpu_max: str, waiting: frozenset[tuple[str, str]], tmp_path: Path) -> None:
    tree(tmp_path, V2, cpu_DOT_stat="throttled_usec 7\n", cpu_DOT_max=cpu_max)
    task(tmp_path, "7", "R", "100 5 2\n")
    task(tmp_path, "8", "S", "300 5 2\n")
    task(tmp_path, "9", "R", "")
    task(tmp_path, str(threading.get_native_id()), "R", "900 5 2\n")

    assert Counters(tmp_path).read_all().waiting == waiting


WAITING = frozenset({("7", "100"), ("8", "300")})
FAULTS, NONE = Usage(1.0, 5), Usage(1.0, 4, WAITING)


@pytest.mark.parametrize(
    ("after", "passed", "late", "found"),
    [
        (Usage(1.0, 4), 0.1, 0.0, Lost()),
        (Usage(1.0, 4), 2.0, 1.9, Lost()),  # late without faults: other programs had the CPU, or the process was stopped
        (FAULTS, 2.0, 1.5, Lost(0.0, 1.5)),
        (FAULTS, 0.1, -0.05, Lost()),  # before the tick was due
        (Usage(1.75, 4), 1.0, 0.9, Lost(0.75, 0.0)),
        (Usage(1.5, 5), 2.0, 1.5, Lost(0.5, 1.0)),
        (Usage(4.0, 5), 2.0, 1.5, Lost(2.0, 0.0)),  # the kernel adds up the time of several CPUs
        (Usage(0.5, 4), 1.0, 0.5, Lost()),  # the process was moved to another group
        (Usage(1.0, 4, frozenset({("8", "300"), ("9", "1")})), 0.5, 0.0, Lost(0.5, 0.0)),
        (Usage(1.0, 4, frozenset({("7", "200")})), 0.5, 0.0, Lost()),  # the thread had CPU meanwhile
    ],
)
def test_what_was_lost_between_two_readings(after: Usage, passed: float, late: float, found: Lost) -> None:
    assert lost(NONE, after, passed=passed, late=late) == found


@virtual
async def test_a_meter_adds_up_what_is_lost_while_it_runs() -> None:
    meter = Meter(ScriptedCounters(faults=True))
    await asyncio.sleep(1)
    assert meter.lost == Lost()
    for _ in range(4):
        loop().stall(0.5)
        await asyncio.sleep(TICK_SECONDS / 2)
    found = meter.stop()
    assert found.disk == pytest.approx(1.6, abs=0.21)
    loop().stall(5)
    await asyncio.sleep(1)
    assert meter.lost is found


@virtual
async def test_a_meter_counts_a_stall_that_has_no_end_before_it_stops() -> None:
    meter = Meter(ScriptedCounters(faults=True))
    await asyncio.sleep(0)
    loop().stall(3)
    assert meter.stop() == Lost(0.0, pytest.approx(3 - TICK_SECONDS))
