"""The driver's name: when it is asked for, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.identity import Found, PluginInfo
from livenessprobe.driver.methods import HEALTH_CHECK, PROBE
from livenessprobe.driver.result import NO_TIME, READY, Reason
from livenessprobe.metrics import Metrics
from livenessprobe.probing.driver_name import NAME_MAX, DriverName, shown
from tests.virtual import loop, virtual


class Driver:
    """Stands for an `Identity` whose driver gives these answers, one for each call; None refuses the connection."""

    def __init__(self, *answers: PluginInfo | None) -> None:
        self.dialer = SimpleNamespace(address=SimpleNamespace(text="unix:///csi/csi.sock"))
        self.socket = (1, 1, 1)
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []
        """When, and with which timeout."""

    @contextlib.asynccontextmanager
    async def connected(self, timeout: float) -> AsyncIterator[SimpleNamespace]:
        self.asked.append((loop().time(), timeout))
        if self.answers[0] is None:
            self.answers.pop(0)
            raise NotConnected(Reason.REFUSED, "nobody listens")
        yield SimpleNamespace(socket=self.socket)

    async def get_plugin_info(self, _connection: object, _timeout: float) -> PluginInfo | None:
        await asyncio.sleep(0.25)
        answer = self.answers.pop(0)
        return answer and answer._replace(socket=self.socket)


def named(name: str) -> PluginInfo:
    return PluginInfo(name, None, "OK")


def calls(metrics: Metrics) -> set[str]:
    """The labels of calls."""
    lines = metrics.expose().body.decode().splitlines()
    return {
        line.partition("{")[2].partition("}")[0] for line in lines if line.startswith("csi_sidecar_operations_seconds_sum")
    }


@virtual
async def test_the_name_is_asked_for_until_it_is_told_and_again_when_it_may_have_changed() -> None:
    failed = PluginInfo("", "rpc error", "Unavailable")
    driver = Driver(None, failed, named("one"), named("one"), named("two\n"))
    changed: list[str] = []
    metrics, began = Metrics(0.0), loop().time()
    name = DriverName(
        driver,  # type: ignore[arg-type]
        PROBE,
        metrics,
        lambda: changed.append(name.text),
    )
    name.probe_timeout = 15
    running = asyncio.create_task(name.run())
    assert name.text == "unknown-driver"
    await asyncio.sleep(60)
    # At once, 0.1 s after the failed dial, and 0.1 s after the failed call, with the larger timeout.
    assert [(round(at - began, 6), timeout) for at, timeout in driver.asked] == [(0, 15), (0.1, 15), (0.45, 15)]
    assert (name.text, changed) == ("one", ["one"])

    reached = Found(READY, connected=True, socket=driver.socket)
    name.probed(reached)
    await asyncio.sleep(60)
    assert len(driver.asked) == 3  # on the same socket
    name.probed(Found(NO_TIME))
    await asyncio.sleep(60)
    assert len(driver.asked) == 3  # it is away
    name.probed(reached)
    await asyncio.sleep(60)
    assert (name.text, changed) == ("one", ["one"])
    driver.socket = (1, 2, 3)
    name.probed(reached._replace(socket=driver.socket))
    await asyncio.sleep(60)
    assert (name.text, changed, driver.answers) == ("two?", ["one", "two?"], [])
    running.cancel()

    method = 'method_name="/csi.v1.Identity/GetPluginInfo"'
    assert calls(metrics) == {
        f'driver_name="unknown-driver",grpc_status_code="Unavailable",{method}',
        f'driver_name="unknown-driver",grpc_status_code="OK",{method}',
        f'driver_name="one",grpc_status_code="OK",{method}',
    }
    metrics.operation("P", "OK", 1.0)
    assert 'driver_name="two?",grpc_status_code="OK",method_name="P"' in calls(metrics)


@virtual
async def test_a_probe_that_reaches_the_driver_ends_the_pause() -> None:
    driver = Driver(*[None] * 8, named("d"))
    began, name = loop().time(), DriverName(driver, PROBE, Metrics(0.0), lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(name.run())
    await asyncio.sleep(4.6)
    assert [round(at - began, 6) for at, _ in driver.asked] == [0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5]
    name.probed(Found(READY, connected=True, socket=driver.socket))
    await asyncio.sleep(0.5)
    assert name.text == "d"
    running.cancel()


@virtual
async def test_after_a_failed_call_nothing_ends_the_pause() -> None:
    failed = PluginInfo("", "rpc error", "Unimplemented")
    driver = Driver(*[failed] * 6, None, failed, named("d"))
    began, name = loop().time(), DriverName(driver, PROBE, Metrics(0.0), lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(name.run())
    for number in range(1000):
        name.probed(Found(READY if number % 2 else NO_TIME, connected=bool(number % 2), socket=(1, 1, number)))
        await asyncio.sleep(0.01)
    # A call takes 0.25 s; then the pause is 0.1, 0.2, 0.4, 0.8 and 1 s.  The dial that fails at 6.0 s is repeated at once.
    starts = [round(at - began, 2) for at, _ in driver.asked]
    assert starts[:6] == [0, 0.35, 0.8, 1.45, 2.5, 3.75]
    assert [later - sooner for sooner, later in zip(starts[5:8], starts[6:9], strict=True)] == pytest.approx(
        [1.25, 0.01, 1.25], abs=0.02
    )
    assert name.text == "d"
    running.cancel()


@virtual
async def test_a_known_name_is_asked_for_at_most_once_a_second() -> None:
    driver = Driver(*[named("d")] * 5)
    name = DriverName(driver, PROBE, Metrics(0.0), lambda: None)  # type: ignore[arg-type]
    running, began = asyncio.create_task(name.run()), loop().time()
    for number in range(450):  # the socket file changes all the time
        name.probed(Found(READY, connected=True, socket=(1, 1, number)))
        await asyncio.sleep(0.01)
    assert [at - began for at, _ in driver.asked] == pytest.approx([0, 1.25, 2.5, 3.75], abs=0.02)
    running.cancel()


@virtual
async def test_each_announced_call_has_an_outcome(logged: list[str]) -> None:
    """Also if the name is the same as before."""
    driver = Driver(named("one"), named("one"), PluginInfo("", "rpc error", "Unavailable"), named("one"))
    name = DriverName(driver, PROBE, Metrics(0.0), lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(name.run())
    for number in (2, 3):
        await asyncio.sleep(60)
        driver.socket = (1, number, 1)
        name.probed(Found(READY, connected=True, socket=driver.socket))
    await asyncio.sleep(60)
    running.cancel()

    told = [
        'I "Calling CSI driver to discover driver name"',
        'I "CSI driver name" driver="one"',
    ]
    assert logged == [*told, *told, told[0], 'E "Failed to get CSI driver name" err="rpc error"', told[1]]


@virtual
async def test_a_name_that_cannot_be_asked_for_has_its_reason_in_the_log(logged: list[str]) -> None:
    driver = Driver(*[None] * 30)
    running = asyncio.create_task(DriverName(driver, PROBE, Metrics(0.0), lambda: None).run())  # type: ignore[arg-type]
    await asyncio.sleep(25)
    running.cancel()

    still = 'I "Still connecting" address="unix:///csi/csi.sock" reason="refused" detail="nobody listens"'
    assert logged == [still, still]


@virtual
async def test_a_service_that_is_no_csi_driver_is_not_asked() -> None:
    driver = Driver()
    await DriverName(driver, HEALTH_CHECK, Metrics(0.0), lambda: None).run()  # type: ignore[arg-type]
    assert driver.asked == []


@given(st.text())
def test_any_name_is_shown_short_and_printable(name: str) -> None:
    assert len(shown(name)) <= NAME_MAX
    assert shown(name).isprintable()
