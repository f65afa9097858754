"""The driver's name: when it is asked for, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace

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
        return self.answers.pop(0)


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
    # At once, after 0.1 s and after 0.2 s more, with the larger timeout.
    assert [(round(at - began, 6), timeout) for at, timeout in driver.asked] == [(0, 15), (0.1, 15), (0.55, 15)]
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
