"""What is kept of probes and changes; and that the prober's metrics, records and history tell the same."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.result import NOT_READY, READY, ProbeResult, Reason, rpc_error
from livenessprobe.probing.history import CHANGES_MAX, PROBES_MAX, SENTENCE_MAX, Change, History, Probe
from tests.probing.scripted import BROKEN, Driver, make, metric
from tests.virtual import loop, virtual

RESULTS = st.sampled_from([READY, NOT_READY, BROKEN])


def test_a_history_begins_empty() -> None:
    history = History()

    assert (list(history.probes), list(history.changes)) == ([], [])
    assert (history.probes_total, history.changes_total, history.side_since) == (0, 0, 0.0)


def test_a_probe_is_kept_as_it_ended() -> None:
    history = History()

    history.probed(10.0, 0.5, None, 1)
    history.probed(20.0, 3.0, Reason.DEADLINE, 4)

    assert list(history.probes) == [Probe(10.0, 0.5, None, 1), Probe(20.0, 3.0, Reason.DEADLINE, 4)]
    assert history.probes_total == 2


def test_the_last_probes_are_kept() -> None:
    history = History()
    for number in range(PROBES_MAX + 7):
        history.probed(float(number), 0.0, None, 1)

    assert [probe.started for probe in history.probes] == [float(number) for number in range(7, PROBES_MAX + 7)]
    assert history.probes_total == PROBES_MAX + 7


def test_a_report_with_another_reason_is_a_change() -> None:
    history = History()
    for at, report in enumerate([READY, READY, NOT_READY, NOT_READY, BROKEN, READY]):
        history.reported(float(at), report, "d")

    assert list(history.changes) == [
        Change(0.0, None, "ok", "d"),
        Change(2.0, Reason.NOT_READY, NOT_READY.body, "d"),
        Change(4.0, Reason.DRIVER_ERROR, BROKEN.body, "d"),
        Change(5.0, None, "ok", "d"),
    ]
    assert history.changes_total == 4


@pytest.mark.parametrize(
    ("reports", "since"),
    [
        ([READY], 1.0),
        ([READY, READY], 1.0),
        ([NOT_READY, BROKEN], 1.0),
        ([NOT_READY, BROKEN, READY], 3.0),
        ([READY, NOT_READY, BROKEN], 2.0),
    ],
)
def test_another_reason_does_not_end_the_time_as_unhealthy(reports: list[ProbeResult], since: float) -> None:
    history = History()
    for at, report in enumerate(reports, 1):
        history.reported(float(at), report, "d")

    assert history.side_since == since


def test_the_last_changes_are_kept() -> None:
    history = History()
    for at in range(CHANGES_MAX + 3):
        history.reported(float(at), NOT_READY if at % 2 else READY, "d")

    assert [change.at for change in history.changes] == [float(at) for at in range(3, CHANGES_MAX + 3)]
    assert history.changes_total == CHANGES_MAX + 3


def test_a_long_message_is_cut() -> None:
    history = History()

    history.reported(1.0, rpc_error(Reason.DRIVER_ERROR, "Internal", "x" * 65536), "d")

    assert len(history.changes[0].sentence) == SENTENCE_MAX


@given(st.lists(RESULTS, max_size=300))
def test_neighbouring_changes_differ_and_the_last_one_is_in_force(results: list[ProbeResult]) -> None:
    history = History()
    for at, result in enumerate(results):
        history.reported(float(at), result, "d")

    reasons = [change.reason for change in history.changes]
    assert all(one is not other for one, other in zip(reasons, reasons[1:], strict=False))
    assert reasons[-1:] == [result.reason for result in results[-1:]]


# --- with the prober


@virtual
async def test_a_probe_counts_the_requests_that_shared_it_also_those_that_hung_up() -> None:
    prober = make(Driver(1.0))
    callers = [asyncio.create_task(prober.check()) for _ in range(3)]
    await asyncio.sleep(0.5)
    callers[0].cancel()

    await asyncio.wait(callers)

    assert list(prober.history.probes) == [Probe(1000.0, 1.0, None, 3)]


@virtual
async def test_without_time_to_ask_a_probe_is_kept_too() -> None:
    prober = make(Driver(), probe_timeout="0s")

    await prober.check()

    assert list(prober.history.probes) == [Probe(1000.0, 0.0, Reason.DEADLINE, 1)]


@given(st.lists(RESULTS, min_size=1, max_size=60), st.integers(1, 3), st.integers(1, 3))
@virtual
async def test_metrics_records_and_history_tell_the_same(results: list[ProbeResult], failure: int, success: int) -> None:
    driver = Driver(0.25)
    prober = make(driver, failure_threshold=str(failure), success_threshold=str(success))
    for result in results:
        driver.result = result
        await prober.check()
        await asyncio.sleep(10)

    history = prober.history
    failed = Counter(probe.reason for probe in history.probes if probe.reason is not None)
    for reason in Reason:
        assert metric(prober, f'livenessprobe_probe_failures_total{{reason="{reason.value}"}}') == failed[reason]
    assert metric(prober, "livenessprobe_healthy") == (history.changes[-1].reason is None)
    assert metric(prober, "livenessprobe_last_probe_duration_seconds") == history.probes[-1].seconds
    sides = [change.reason is None for change in history.changes]
    flips = [new for old, new in zip(sides, sides[1:], strict=False) if old != new]
    for to, side in (("healthy", True), ("unhealthy", False)):
        assert metric(prober, f'livenessprobe_health_changes_total{{to="{to}"}}') == flips.count(side)


@virtual
async def test_each_change_is_a_record_and_an_entry_of_the_history(logged: list[str]) -> None:
    driver = Driver()
    prober = make(driver)
    for result in (READY, BROKEN, BROKEN, NOT_READY, READY):
        driver.result = result
        await prober.check()
        await asyncio.sleep(10)

    records = [line for line in logged if "CSI driver is" in line]
    told = [found[1] if (found := re.search(r'reason="(\w+)"', line)) else None for line in records]
    changes = [change.reason and change.reason.value for change in prober.history.changes]
    assert changes == [None, *told]  # a driver that is healthy at first has no record
    assert prober.history.side_since == loop().time() - 10
