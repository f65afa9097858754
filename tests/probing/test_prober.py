"""The prober: Probes that requests share, their deadlines, and the report of each request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from livenessprobe.driver.address import CSIAddress, parse_csi_address
from livenessprobe.driver.connection import Dialer
from livenessprobe.driver.identity import Identity, Question
from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    DEADLINE,
    NO_TIME,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
)
from livenessprobe.driver.socket_file import SocketIdentity, look
from livenessprobe.klog import log as klog
from livenessprobe.klog.format import Options
from livenessprobe.metrics import Metrics
from livenessprobe.probing.advice import STOOD_STILL_SECONDS
from livenessprobe.probing.prober import Prober
from livenessprobe.probing.standing import Standing
from tests.probing.scripted import BROKEN, FOREVER, Driver, at_once, by_itself, make, metric, timed
from tests.values import make_settings
from tests.virtual import loop, virtual

# --- a probe for each request


@virtual
async def test_without_an_interval_each_request_probes() -> None:
    driver = Driver(0.1)
    prober = make(driver)
    async with by_itself(prober):
        for asked in range(1, 21):
            driver.result = READY if asked % 2 else BROKEN
            assert await timed(prober.check()) == (0.1, driver.result.reason)
            assert len(driver.questions) == asked


@virtual
async def test_ended_probes_use_no_memory() -> None:
    """Otherwise a sidecar would grow over months."""
    prober = make(Driver())

    for _ in range(3):
        await prober.check()
    await asyncio.sleep(0)
    assert not prober._flights


@virtual
async def test_parallel_requests_share_one_probe() -> None:
    driver = Driver(1.0)
    prober = make(driver)
    answers = await asyncio.gather(*(timed(prober.check(), later / 10) for later in range(10)))
    assert answers == [(round(1 - later / 10, 6), None) for later in range(10)]
    assert len(driver.questions) == 1
    assert metric(prober, "livenessprobe_shared_probes_total") == 9


@virtual
async def test_a_caller_that_joins_a_hung_probe_has_its_own_timeout() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="3s")
    answers = await asyncio.gather(timed(prober.check()), timed(prober.check(), 2))
    assert answers == [(3.0, Reason.DEADLINE), (3.0, Reason.DEADLINE)]
    assert driver.seconds_given == [3, 3]
    assert driver.most_in_flight == 1


@virtual
async def test_a_late_caller_gets_the_response_to_the_second_probe() -> None:
    driver = Driver()
    script = iter([FOREVER, 1.5])
    driver.script = lambda: (next(script), READY)
    prober = make(driver, probe_timeout="3s")
    answers = await asyncio.gather(*(timed(prober.check(), later) for later in range(3)))
    assert answers == [(3.0, Reason.DEADLINE), (3.0, Reason.DEADLINE), (2.5, None)]


# --- callers that hang up


async def impatient(prober: Prober, patience: float, pause: float, seconds: float) -> None:
    """For so many `seconds` callers come one after another, each of which hangs up after its `patience`."""
    end = loop().time() + seconds
    while loop().time() < end:
        caller = asyncio.create_task(prober.check())
        await asyncio.wait({caller}, timeout=patience)
        caller.cancel()
        await asyncio.sleep(pause)


@pytest.mark.parametrize("patience", [0.0, 0.125, 0.5, 1.0, 2.0, 2.9375, 3.0])
@pytest.mark.parametrize("pause", [0.0, 0.0625, 1.0])
@pytest.mark.parametrize("interval", ["0s", "5s"])
@virtual
async def test_a_hung_driver_fails_once_in_each_probe_timeout_however_impatient_its_callers_are(
    patience: float, pause: float, interval: str
) -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="3s", interval=interval)
    async with by_itself(prober):
        began = loop().time()
        await impatient(prober, patience, max(pause, 0.03125), 60)
        passed = loop().time() - began
    failures = metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}')
    period = 3.0 if interval == "0s" else 5.0
    assert passed / (period + pause) - 2 <= failures <= passed / 3
    assert driver.most_in_flight == 1
    assert all(given == pytest.approx(3) for given in driver.seconds_given if given > 0.5)
    assert (metric(prober, "livenessprobe_driver_up"), metric(prober, "livenessprobe_healthy")) == (0, 0)


@virtual
async def test_an_abandoned_probe_goes_on_and_is_joined() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="30s")
    callers = [asyncio.create_task(prober.check()) for _ in range(3)]
    await asyncio.sleep(1)
    for caller in callers:
        caller.cancel()
    await asyncio.sleep(9)
    assert driver.in_flight == 1
    driver.seconds = 0.5
    # The driver lost the first call; this caller has time for another.
    assert await timed(prober.check()) == (20.5, None)
    assert len(driver.questions) == 2
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1


@virtual
async def test_the_result_of_an_abandoned_probe_counts() -> None:
    """A kubelet that hangs up before the probe timeout must not hide that the driver hangs."""
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="3s")
    caller = asyncio.create_task(prober.check())
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.sleep(3)
    assert prober.standing.result == CALL_TIMED_OUT
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1


@virtual
async def test_a_replaced_socket_makes_a_second_probe_and_cancels_the_first_if_it_has_no_caller() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="30s")
    for number in range(5):
        driver.socket = (1, number, 1)
        caller = asyncio.create_task(prober.check())
        await asyncio.sleep(0.1)
        caller.cancel()
        await asyncio.sleep(0.1)
        assert driver.in_flight == 1
    assert len(driver.questions) == 5
    assert prober.standing == Standing()  # nothing has ended yet
    await asyncio.sleep(30)
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == 1


@virtual
async def test_a_third_probe_takes_the_place_of_the_oldest_whose_callers_join_it() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="30s")
    callers = []
    for number in range(4):
        driver.socket, driver.seconds = (1, number, 1), FOREVER if number < 3 else 1.0
        callers.append(asyncio.create_task(timed(prober.check())))
        await asyncio.sleep(1)
        assert driver.in_flight <= 2
    # The first caller joined the third probe, the second caller the fourth; the third probe still hangs.
    hung = (30.0, Reason.DEADLINE)
    assert [await caller for caller in callers] == [hung, (3.0, None), hung, (1.0, None)]
    assert len(driver.questions) == 4
    assert prober.standing.result == READY  # the late result of a driver that is gone does not count


@virtual
async def test_a_request_that_hangs_up_does_not_end_a_scheduled_probe() -> None:
    driver = Driver(2.0)
    prober = make(driver, interval="10s", probe_timeout="3s")
    async with by_itself(prober):
        began = loop().time()
        caller = asyncio.create_task(prober.check())
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.sleep(1.5)
        assert prober.standing.ready.report == READY
        assert driver.ended == [began + 2]


@pytest.mark.parametrize("interval", ["0s", "10s"])
@pytest.mark.parametrize("timeout", ["0s", "-1s"])
@virtual
async def test_with_a_timeout_of_zero_the_driver_is_not_probed(interval: str, timeout: str) -> None:
    driver = Driver()
    prober = make(driver, interval=interval, probe_timeout=timeout)
    async with by_itself(prober):
        assert await timed(prober.check()) == (0.0, Reason.DEADLINE)
        await asyncio.sleep(100)
        assert at_once(prober.check()).ready.report == NO_TIME
        assert driver.questions == []
        assert metric(prober, "livenessprobe_last_probe_duration_seconds") == 0
        prober.adopt(make_settings(interval=interval, probe_timeout="3s"))
        await asyncio.sleep(10)
        assert (await prober.check()).ready.report == READY


@virtual
async def test_a_driver_with_a_new_socket_has_not_started_until_it_is_ready() -> None:
    driver = Driver()
    prober = make(driver)
    assert (await prober.check()).started is True
    driver.result = NOT_READY
    assert (await prober.check()).started is True
    driver.socket = (1, 2, 2)
    assert (await prober.check()).started is False
    driver.result = READY
    assert (await prober.check()).started is True


@virtual
async def test_a_late_result_of_a_replaced_driver_reaches_its_callers_and_does_not_count() -> None:
    driver = Driver(2.0, BROKEN)
    prober = make(driver)
    early = asyncio.create_task(prober.check())
    await asyncio.sleep(1)
    driver.socket, driver.seconds, driver.result = (1, 2, 2), 0.5, READY
    assert await timed(prober.check()) == (0.5, None)
    told = await early
    assert (told.ready.report, told.at) == (BROKEN, loop().time())
    assert prober.standing.ready.report == READY
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="driver_error"}') == 1
    operations = 'csi_sidecar_operations_seconds_sum{driver_name="unknown-driver",grpc_status_code="Internal",'
    assert metric(prober, operations + 'method_name="/csi.v1.Identity/Probe"}') == 2


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), MemoryError(), RecursionError("deep")])
@virtual
async def test_an_internal_error_is_a_result(error: Exception) -> None:
    driver = Driver()
    prober = make(driver, interval="10s")

    def fault() -> tuple[float, ProbeResult]:
        raise error

    driver.script = fault
    async with by_itself(prober):
        assert await timed(prober.check()) == (0.0, Reason.INTERNAL)
        await asyncio.sleep(100)
    assert len(driver.questions) in (10, 11)  # and probing goes on


# --- a driver that cannot be reached


@pytest.mark.parametrize(("grace", "looks"), [(0.0, 1), (1.0, 13), (3.0, 38)])
@virtual
async def test_a_missing_socket_is_looked_for_every_80_ms(tmp_path: Path, grace: float, looks: int) -> None:
    seen = []
    began = loop().time()

    def watched(address: CSIAddress) -> SocketIdentity | None:
        seen.append(loop().time() - began)
        assert len(seen) < 100  # without a pause the virtual clock would stand still
        return look(address)

    dialer = Dialer(parse_csi_address(str(tmp_path / "csi.sock"), "linux"), lambda: None, watched)
    dialer.socket_file._is_local = True  # virtual time does not wait for a thread
    found = await Identity(dialer).probe(Question(began + 10, began + grace))
    assert found.result.reason is Reason.SOCKET_MISSING
    assert loop().time() - began == pytest.approx(grace)
    assert seen == pytest.approx([0.08 * number for number in range(looks)])


@pytest.mark.parametrize(
    ("grace", "callers", "answers", "probes"),
    [
        ("3s", [0], [(3.0, Reason.REFUSED)], 1),
        ("0s", [0], [(0.0, Reason.REFUSED)], 1),
        ("1s", [0], [(1.0, Reason.REFUSED)], 1),
        # A caller that joins late has its own grace, and dials for the rest of it.
        ("1s", [0, 0.5], [(1.0, Reason.REFUSED), (1.0, Reason.REFUSED)], 2),
        ("3s", [0, 2], [(3.0, Reason.REFUSED), (3.0, Reason.REFUSED)], 2),
    ],
)
@virtual
async def test_an_unreachable_driver_is_dialled_for_as_long_as_each_caller_has_grace(
    grace: str, callers: list[float], answers: list[tuple[float, Reason | None]], probes: int
) -> None:
    driver = Driver()
    driver.listens = False

    assert await asked(driver, callers, probe_timeout="3s", unreachable_grace=grace) == answers
    assert len(driver.questions) == probes


@virtual
async def test_a_driver_that_starts_within_the_grace_is_reported_at_once() -> None:
    driver = Driver()
    driver.listens = False
    prober = make(driver, probe_timeout="3s", unreachable_grace="2s")
    asking = [asyncio.create_task(timed(prober.check(), later)) for later in (0.0, 1.5)]
    await asyncio.sleep(2.5)
    driver.listens = True
    assert [await each for each in asking] == [(2.0, Reason.REFUSED), (1.0, None)]


@virtual
async def test_the_reason_of_an_earlier_probe_is_kept_if_the_next_finds_none() -> None:
    driver = Driver()
    driver.listens = False
    prober = make(driver, probe_timeout="3s")
    asking = [asyncio.create_task(timed(prober.check(), later)) for later in (0.0, 0.75)]
    await asyncio.sleep(2.99)
    driver.dials_hang = True
    assert [await each for each in asking] == [(3.0, Reason.REFUSED), (3.0, Reason.REFUSED)]
    assert len(driver.questions) == 2


@virtual
async def test_a_late_callers_rest_of_time_is_no_second_failure() -> None:
    """A caller that joins at the end of a probe has too little time left to find anything out."""
    driver = Driver()
    prober = make(driver, probe_timeout="3s", failure_threshold="2")
    await prober.check()
    driver.listens = False
    answers = await asyncio.gather(timed(prober.check()), timed(prober.check(), 0.25))
    assert answers == [(3.0, None), (3.0, None)]
    assert prober.standing.ready.failures == 1
    assert len(driver.questions) == 3
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="refused"}') == 1
    await asyncio.sleep(1)
    assert await timed(prober.check()) == (3.0, Reason.REFUSED)


HANGS, AWAY = (FOREVER, READY), None


@pytest.mark.parametrize(
    ("timeout", "later", "rest", "failures"),
    [
        # The time left is less than half a second, and less than half the timeout.
        (3.0, 0.25, HANGS, 1),
        # Otherwise the second probe has the whole timeout.
        (3.0, 0.5, HANGS, 2),
        (3.0, 0.75, HANGS, 2),
        (0.5, 0.1875, HANGS, 1),
        (0.5, 0.25, HANGS, 2),
        (3.0, 0.25, AWAY, 1),
        (3.0, 0.5, AWAY, 2),
        # A response counts, however soon it comes.
        (3.0, 0.25, (0.0, BROKEN), 2),
        (3.0, 0.25, (0.0, READY), 0),
    ],
)
@virtual
async def test_a_timeout_is_counted_once(
    timeout: float, later: float, rest: tuple[float, ProbeResult] | None, failures: int
) -> None:
    """`rest` is the driver's behaviour in the time that a late caller has left when the hung probe ends."""
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout=f"{timeout}s")
    asking = [asyncio.create_task(prober.check()), asyncio.create_task(timed(prober.check(), later))]
    await asyncio.sleep(timeout - 0.01)
    if rest is None:
        driver.listens = False
    else:
        driver.seconds, driver.result = rest
    await asyncio.wait(asking)
    await asyncio.sleep(timeout)
    assert prober.standing.ready.failures == failures
    assert len(driver.questions) == 2


@virtual
async def test_the_name_is_asked_for_again_when_the_driver_has_been_away() -> None:
    driver = Driver()
    prober = make(driver)
    wanted = prober.driver_name._wanted
    prober.driver_name._named_socket = driver.socket

    async def asks_for_the_name(result: ProbeResult = READY, *, listens: bool = True) -> bool:
        wanted.clear()
        driver.result, driver.listens = result, listens
        await prober.check()
        return wanted.is_set()

    assert not await asks_for_the_name()
    assert not await asks_for_the_name(BROKEN)
    assert not await asks_for_the_name(listens=False)
    assert await asks_for_the_name()
    assert not await asks_for_the_name()
    assert not await asks_for_the_name(rpc_error(Reason.CONNECTION_LOST, "Unavailable", "Socket closed"))
    assert await asks_for_the_name(NOT_READY)
    assert not await asks_for_the_name()
    driver.socket = (1, 2, 2)
    assert await asks_for_the_name()


# --- what is logged


@virtual
async def test_each_failure_and_each_change_of_the_report_is_logged(logged: list[str]) -> None:
    driver = Driver()
    prober = make(driver)
    prober.driver_name.text = "csi.example.com"
    for later, result in (
        (0.0, READY),
        (10.0, BROKEN),
        (10.0, BROKEN),
        (10.0, NOT_READY),
        (41.2501, READY),
        (10.0, READY),
        (10.0, NOT_READY),
        (0.5, READY),
    ):
        await asyncio.sleep(later)
        driver.result = result
        await prober.check()
    broken = "rpc error: code = Internal desc = disk on fire"
    not_ready = [
        'E "Driver responded but is not ready" reason="not_ready" detail="driver responded but is not ready"',
        'W "CSI driver is unhealthy" driver="csi.example.com" reason="not_ready" detail="driver responded but is not ready"',
    ]
    assert logged == [
        f'E "Health check failed" err="{broken}" reason="driver_error"',
        f'W "CSI driver is unhealthy" driver="csi.example.com" reason="driver_error" detail="{broken}"',
        f'E "Health check failed" err="{broken}" reason="driver_error"',
        *not_ready,
        'I "CSI driver is healthy again" driver="csi.example.com" unhealthyFor="1m1.25s"',
        *not_ready,
        'I "CSI driver is healthy again" driver="csi.example.com" unhealthyFor="500ms"',
    ]


@pytest.mark.parametrize(("verbosity", "said"), [(4, []), (5, ['I "Health check succeeded"'])])
@virtual
async def test_success_is_logged_at_verbosity_5(verbosity: int, said: list[str], logged: list[str]) -> None:
    klog.configure(Options(v=verbosity))
    try:
        await make(Driver()).check()
    finally:
        klog.configure(Options())

    assert logged == said


@virtual
async def test_an_internal_error_is_logged_and_returned(logged: list[str]) -> None:
    driver = Driver()
    driver.script = lambda: (1 / 0, READY)
    result = (await make(driver).check()).result

    fault = "ZeroDivisionError('division by zero')"
    assert result == ProbeResult(Reason.INTERNAL, f"livenessprobe: internal error: {fault}", "Health check failed", fault)
    assert logged[:2] == [
        f'E "Probe failed inside the sidecar" err="{fault}" reason="internal"',
        f'E "Health check failed" err="{fault}" reason="internal" detail="livenessprobe: internal error: {fault}"',
    ]


@pytest.mark.parametrize(
    ("stalled", "again"), [(0.0, False), (STOOD_STILL_SECONDS, False), (STOOD_STILL_SECONDS + 0.5, True), (100.0, True)]
)
@virtual
async def test_a_probe_during_which_the_process_stood_still_is_repeated(
    stalled: float, again: bool, logged: list[str]
) -> None:
    """The driver may have responded in time while the process could not read it."""

    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="3s")
    asking = asyncio.create_task(timed(prober.check()))
    await asyncio.sleep(1)
    driver.seconds = 0.25
    loop().stall(2 + stalled)
    took, reason = await asking
    assert len(driver.questions) == 1 + again
    assert [question.deadline - loop().time() for question in driver.questions[1:]] == [2.75] * again
    assert metric(prober, "livenessprobe_last_probe_duration_seconds") == (0.25 if again else 3 + stalled)
    assert took == round(3 + stalled + (0.25 if again else 0), 6)
    assert reason == (None if again else Reason.DEADLINE)
    note = [line for line in logged if "held back" in line]
    late = "750ms" if stalled < 2 else "1m40s"
    told = f'detail="the sidecar did not run for {late} when the time was up" advice="if the node was not suspended, see '
    told += 'whether it has CPU left: kubectl top node"'
    assert note == [f'W "This sidecar was held back while the probe ran; probing again" {told}'] * again
    assert metric(prober, 'livenessprobe_repeated_probes_total{cause="stood_still"}') == again


@pytest.mark.parametrize(("stalled", "answer", "probes"), [(3.0, (3.0, Reason.DEADLINE), 0), (5.0, (5.25, None), 1)])
@virtual
async def test_a_probe_whose_deadline_has_passed_is_not_sent(
    stalled: float, answer: tuple[float, Reason | None], probes: int
) -> None:
    driver = Driver(0.25)
    prober = make(driver, probe_timeout="3s")
    asking = asyncio.create_task(timed(prober.check()))
    for _ in range(2):
        await asyncio.sleep(0)
    loop().stall(stalled)
    assert await asking == answer
    assert len(driver.questions) == probes


# --- callers with different deadlines


async def asked(driver: Driver, callers: Iterable[float], **values: str) -> list[tuple[float, Reason | None]]:
    """The times and reasons that callers get, each of which asks after its number of seconds."""
    prober = make(driver, **values)
    return await asyncio.gather(*(timed(prober.check(), later) for later in callers))


TIMED_OUT = Reason.DEADLINE


@hypothesis_settings(max_examples=150)
@given(st.floats(0, 11.9), st.lists(st.floats(0, 30), min_size=1, max_size=12))
@virtual
async def test_no_neighbour_makes_a_driver_fail_that_answers_within_the_timeout(
    seconds: float, callers: list[float]
) -> None:
    driver = Driver(seconds)

    for took, reason in await asked(driver, callers, probe_timeout="12s"):
        assert reason is None
        assert took <= seconds + 1e-6
    assert driver.most_in_flight == 1


@pytest.mark.parametrize(
    ("seconds", "lowered", "answer"),
    [
        (10.0, "3s", (3.0, TIMED_OUT)),
        (FOREVER, "3s", (3.0, TIMED_OUT)),
        (FOREVER, "500ms", (0.5, TIMED_OUT)),
        (3.5, "3s", (2.5, None)),
    ],
)
@virtual
async def test_a_caller_after_the_timeout_was_lowered_gets_what_has_been_found_so_far(
    seconds: float, lowered: str, answer: tuple[float, Reason | None]
) -> None:
    driver = Driver(seconds)
    prober = make(driver, probe_timeout="12s")
    early = asyncio.create_task(timed(prober.check()))
    await asyncio.sleep(1)
    prober.adopt(make_settings(probe_timeout=lowered))
    assert await timed(prober.check()) == answer
    assert await early == ((seconds, None) if seconds < 12 else (12.0, TIMED_OUT))
    assert len(driver.questions) == 1
    assert metric(prober, 'livenessprobe_probe_failures_total{reason="deadline"}') == (seconds > 12)


@virtual
async def test_a_raised_timeout_does_not_prolong_an_open_request() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="3s")
    early = asyncio.create_task(timed(prober.check()))
    await asyncio.sleep(1)
    prober.adopt(make_settings(probe_timeout="12s"))
    assert await timed(prober.check()) == (12.0, TIMED_OUT)
    assert await early == (3.0, TIMED_OUT)


@virtual
async def test_a_report_before_the_end_of_a_probe_counts_for_no_other_caller() -> None:
    driver = Driver(10.0)
    prober = make(driver, probe_timeout="12s")
    early = asyncio.create_task(timed(prober.check()))
    await asyncio.sleep(1)
    prober.adopt(make_settings(probe_timeout="2s"))
    answers = await asyncio.gather(*(timed(prober.check(), later) for later in range(6)))
    assert answers == [(2.0, TIMED_OUT)] * 6
    assert prober.standing == Standing()
    assert await early == (10.0, None)
    assert prober.standing.result == READY


@virtual
async def test_at_the_end_the_longest_of_all_waits_is_waited_for() -> None:
    driver = Driver(FOREVER)
    prober = make(driver, probe_timeout="12s")
    assert prober.longest_wait() == 12
    caller = asyncio.create_task(prober.check())
    await asyncio.sleep(1)
    prober.adopt(make_settings(probe_timeout="3s"))
    assert prober.longest_wait() == 11
    await asyncio.sleep(10)
    assert prober.longest_wait() == 3  # for a new caller
    caller.cancel()
    prober.adopt(make_settings(probe_timeout="-1s"))
    await asyncio.sleep(0.1)
    assert prober.longest_wait() == 0


async def test_a_caller_gets_the_diagnosis_of_a_server_without_grpc(socket_path: str) -> None:
    """A stopped driver: the system accepts the connection, and the driver does not respond.  On a real socket, by the real clock."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        settings, metrics = make_settings(csi_address=socket_path, probe_timeout="300ms"), Metrics(0.0)
        dialer = Dialer(settings.csi_address, lambda: None)
        prober = Prober(Identity(dialer), settings, metrics)
        standing = await prober.check()
        await dialer.close()

    assert standing.ready.report is not None
    assert standing.ready.report.reason is Reason.DEADLINE
    assert "accepts connections but does not speak gRPC" in standing.ready.report.body
    assert standing.ready.report.err == DEADLINE
