"""The bench: its figures, table and load generator, and that its floors do real work.  No test depends on timing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import figures, load, plot
from bench.figures import FIGURES, TARGETS, Samples, Target
from bench.programs import Caller, ProgramError, Running, once, servers
from tests.support import driver_process, eventually

BENCH = Path(__file__).parent.parent / "bench"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 102)), 0.99, 100),
        ([7.0], 0.99, 7.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_this_share_does_not_exceed(
    values: list[float], share: float, expected: float
) -> None:
    assert figures.percentile(values, share) == expected


def samples(**programs: list[float]) -> Samples:
    return {"kubelet_p50": {name.replace("_", "-"): values for name, values in programs.items()}}


def test_a_ratio_is_the_median_of_the_ratios_of_rounds() -> None:
    """
    The machine was twice as slow in the second round and five times in the third; the ratio of the medians would be
    2.2.
    """
    seen = samples(sidecar=[1.1, 2.2, 5.5], floor_kept=[1.0, 2.0, 1.0])

    assert figures.ratio(seen, "kubelet_p50", "sidecar", "floor-kept") == pytest.approx(1.1)


@pytest.mark.parametrize("floor", [[], [0.0, 0.0]])
def test_without_a_floor_there_is_no_ratio(floor: list[float]) -> None:
    assert figures.ratio(samples(sidecar=[1.0, 2.0], floor_kept=floor), "kubelet_p50", "sidecar", "floor-kept") is None


def test_a_summary_has_the_median_the_spread_and_the_ratio_to_the_floor() -> None:
    assert figures.summary(samples(sidecar=[3.0, 1.0, 2.0], floor_kept=[2.0, 2.0, 1.0]))["kubelet_p50"] == {
        "sidecar": {"median": 2.0, "min": 1.0, "max": 3.0, "floor": "floor-kept", "ratio": 1.5},
        "floor-kept": {"median": 2.0, "min": 1.0, "max": 2.0, "floor": None, "ratio": None},
    }


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("kubelet_p50", "sidecar", "floor-kept", at_most=1.15), 1.15, True),
        (Target("kubelet_p50", "sidecar", "floor-kept", at_most=1.15), 1.16, False),
        (Target("keepalive_64_rate", "sidecar", "floor-kept", at_least=1.3), 1.3, True),
        (Target("keepalive_64_rate", "sidecar", "floor-kept", at_least=1.3), 1.29, False),
    ],
)
def test_a_target_is_a_limit_on_one_side(target: Target, value: float, met: bool) -> None:
    assert target.met(value) is met


def test_targets_apply_to_their_versions_of_python() -> None:
    def limits(python: tuple[int, int]) -> list[float]:
        verdicts = figures.verdicts({}, python)
        return [t.at_most for t, _ in verdicts if (t.figure, t.program) == ("start_cpu", "sidecar")]

    assert [limits((3, minor)) for minor in (11, 13, 14, 15)] == [[0.35], [0.35], [], [0.2]]


def test_the_table_shows_targets_that_are_met_missed_and_not_measured() -> None:
    text = figures.table(samples(sidecar=[1.0], sidecar_dials=[9.0], floor_kept=[1.0], floor_fresh=[1.0]), (3, 11))

    assert "≤ 1.15 × floor-kept         1.000 met" in text
    assert "≤ 1.15 × floor-fresh        9.000 NOT met" in text
    assert "not measured" in text


def test_the_sidecar_is_compared_with_a_peer_in_all_figures_that_both_have() -> None:
    seen = samples(sidecar=[2.0, 6.0, 3.0], peer=[1.0, 2.0, 2.0]) | {
        "start_cpu": {"sidecar": [0.13], "peer": [0.01], "check": [0.1]},
        "idle_cpu": {"sidecar": [3.3], "peer": [0.0]},
        "growth_rss": {"sidecar": [1.0]},
    }

    assert figures.beside_peer(seen).splitlines()[2:] == [
        "| New connection for each request: median | 3 | 2 | ms | 2.00 |",
        "| CPU to the first 200, or to the end | 0.13 | 0.01 | s | 13.00 |",
    ]


def test_without_a_peer_there_is_no_comparison() -> None:
    assert figures.beside_peer(samples(sidecar=[2.0])) == ""


def test_targets_and_floors_are_names_of_figures_and_programs() -> None:
    programs = {*servers(["python"], ["peer"]), "floor-import", "check", "check-file", "settings-file", "tomllib"}

    assert {target.figure for target in TARGETS} <= set(FIGURES)
    assert {target.program for target in TARGETS} | {target.floor for target in TARGETS} - {""} <= programs
    assert {name for figure in FIGURES.values() for pair in figure.beside.items() for name in pair} <= programs


def test_memory_is_read_from_the_rollup() -> None:
    text = "55e0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  61440 kB\nPss:  1024 kB\nPss_Anon: 1 kB\nAnonymous:  512 kB\n"

    assert figures.memory(text) == {"rss": 60.0, "pss": 1.0, "anonymous": 0.5}


def test_import_times_are_summed_by_module_and_by_package() -> None:
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       500 |        500 |   grpc.aio._call\n"
        'I0101 00:00:00.000000       1 main.go:1] "import time: 9 | 9 | not one"\n'
        "import time:      2000 |       2500 | quart\n"
        "import time:      1000 |       1500 | grpc\n"
    )

    modules = figures.imports(text)

    assert list(modules.items()) == [("quart", 2.0), ("grpc", 1.0), ("grpc.aio._call", 0.5)]
    assert figures.by_package(modules) == {"quart": 2.0, "grpc": 1.5}


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 \r\ncontent-length: 0\r\ndate: now\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    ],
)
def test_a_response_is_complete_when_its_body_is(data: bytes, whole: bool) -> None:
    assert load.whole(data) is whole


def test_a_response_other_than_200_is_an_error() -> None:
    with pytest.raises(load.UnexpectedError, match="500 Internal Server Error.*why"):
        load.whole(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nwhy")


@pytest.mark.parametrize("floor", sorted(BENCH.glob("floor_*.py")), ids=lambda path: path.stem)
def test_a_floor_is_short(floor: Path) -> None:
    assert len(floor.read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", ["sidecar", "floor-fresh", "floor-kept"])
def test_a_program_is_measured_while_the_driver_is_ready(name: str, socket_path: str) -> None:
    """Programs that respond 200 whatever the driver's state would be wrong floors for a program that calls the driver."""
    command = servers([sys.executable], [])[name]
    with driver_process(socket_path) as driver, Caller() as caller, Running(name, command, socket_path) as program:
        program.first_200()
        one_by_one = caller.obey(program, load.Order(program.port, requests=5))
        side_by_side = caller.obey(program, load.Order(program.port, 4, requests=20))
        assert driver.stdin is not None
        driver.stdin.write("not-ready\n")
        driver.stdin.flush()

        with pytest.raises(ProgramError, match=f"{name} under load: answered 'HTTP/1.1 500"):
            caller.obey(program, load.Order(program.port, seconds=20))

    assert (len(one_by_one["latencies"]), len(side_by_side["latencies"])) == (5, 20)


def test_the_load_generator_reconnects_when_a_server_ends_a_connection() -> None:
    """Hypercorn does so after 1000, unless it is configured otherwise."""
    command = servers([sys.executable], [])["floor-ok"]

    with Caller() as caller, Running("floor-ok", command, "/none") as program:
        program.first_200()
        report = caller.obey(program, load.Order(program.port, 1, requests=1100))

    assert len(report["latencies"]) == 1100


def test_cpu_memory_and_wakeups_are_those_of_the_program() -> None:
    """The program has used CPU in a thread that has ended, and now sleeps."""
    code = (
        "import threading, time\n"
        "def work():\n"
        "    while time.thread_time() < 0.2: pass\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "kept = bytearray(b'x') * (50 << 20); print('done', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )

    with Running("sleeper", [sys.executable, "-c", code], "/none") as program:
        eventually(lambda: "done" in program.output(), 30)
        before = program.wakeups()
        eventually(lambda: program.wakeups() > before + 5, 30)
        assert program.cpu() >= 0.2
        assert program.memory()["rss"] > program.memory()["anonymous"] > 50


def test_an_error_of_a_program_has_its_name_and_output() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('cannot because of this')"]

    with Running("peer", command, "/none") as program, pytest.raises(ProgramError, match="(?s)peer ended.*because of this"):
        program.first_200()
    with pytest.raises(ProgramError, match="(?s)peer ended with exit code 1.*because of this"):
        once("peer", command)
    with pytest.raises(ProgramError, match="peer: cannot start /no/such"):
        Running("peer", shlex.split("/no/such {port}"), "/none")


def test_a_chart_has_a_bar_for_each_program_of_each_result() -> None:
    def result(version: str, **programs: list[float]) -> plot.Result:
        python = {"version": version, "arguments": ["-X", "lazy_imports=all"]}
        return {"python": python, "figures": figures.summary(samples(**programs))}

    results = [result("3.11.7", sidecar=[1.0, 3.0], floor_kept=[1.0, 1.0]), result("3.15.0", sidecar=[4.0])]

    bars = list(plot.bars_of("kubelet_p50", results))

    assert [(bar.label, bar.value, bar.least, bar.most, bar.note) for bar in bars] == [
        ("sidecar, 3.11.7 lazy_imports=all", 2.0, 1.0, 3.0, "  (2.00 × floor-kept)"),
        ("sidecar, 3.15.0 lazy_imports=all", 4.0, 4.0, 4.0, ""),
        ("floor-kept, 3.11.7 lazy_imports=all", 1.0, 1.0, 1.0, ""),
    ]
    drawn = ElementTree.fromstring(plot.chart("a < b", bars))
    _background, *rectangles = drawn.iter("{http://www.w3.org/2000/svg}rect")
    assert [float(each.attrib["width"]) for each in rectangles] == [170.0, 340.0, 85.0]
