"""The wiring of the sidecar itself: what is logged once of a listener that nobody reaches and of a low memory limit."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from livenessprobe.probing.askers import Askers
from livenessprobe.probing.wiring import Container, look, watch
from tests.support import FakeDriver, Start, not_on_windows
from tests.support.container import with_limits
from tests.values import make_settings
from tests.virtual import loop, virtual

MIB = 1 << 20
KUBELET = ("10.0.0.1", "kube-probe/1.33", "/healthz")
LOOPBACK = {"http_endpoint": "127.0.0.1:9808"}
POD = Container(host_network=False)
UNREACHED = (
    'W "Nobody has asked for health" detail="health is served on 127.0.0.1:9808, which the kubelet does not reach from outside the '
    'pod" advice="set --http-endpoint=:9808, or hostNetwork: true for the pod and host: 127.0.0.1 in the kubelet\'s probe"'
)


@pytest.mark.parametrize(
    ("texts", "container", "said"),
    [
        (LOOPBACK, POD, [UNREACHED]),
        ({"http_endpoint": "localhost:9808"}, POD, [UNREACHED.replace("127.0.0.1:9808", "localhost:9808")]),
        (LOOPBACK, Container(), [UNREACHED]),  # where nothing is known of the network
        (LOOPBACK, Container(host_network=True), []),
        (LOOPBACK | {"health_file": "/tmp/health"}, POD, []),
        ({}, POD, []),
        ({"http_endpoint": "unix:///run/health.sock"}, POD, []),
    ],
)
@virtual
async def test_nobody_asks_on_loopback(
    texts: dict[str, str], container: Container, said: list[str], logged: list[str]
) -> None:
    started = loop().time()

    await watch(make_settings(**texts), Askers(), container)

    assert logged == said
    assert loop().time() - started == 120  # then it ends


@virtual
async def test_one_request_within_two_minutes_is_enough(logged: list[str]) -> None:
    askers = Askers()
    task = asyncio.create_task(watch(make_settings(**LOOPBACK), askers, POD))
    await asyncio.sleep(119)
    askers.came(KUBELET, loop().time())
    await task

    assert logged == []


@pytest.mark.parametrize(
    ("limit", "texts", "need"),
    [
        (26 * MIB, {}, 27),
        (27 * MIB, {}, None),
        (29 * MIB, LOOPBACK, 30),
        (30 * MIB, LOOPBACK, None),
        (29 * MIB, {"metrics_address": ":9999"}, 30),
        (None, {}, None),
    ],
)
@virtual
async def test_a_memory_limit_below_what_is_needed(
    limit: int | None, texts: dict[str, str], need: int | None, logged: list[str]
) -> None:
    """Metrics need Quart, and that needs memory."""
    task = asyncio.create_task(watch(make_settings(**texts), Askers(), Container(limit, host_network=True)))
    await asyncio.sleep(0)
    task.cancel()

    told = f'detail="the memory limit is {(limit or 0) / MIB:.1f} MiB, and the sidecar needs {need} MiB to answer in time"'
    way_out = f'advice="set resources.limits.memory of the sidecar to {need}Mi or more"'
    assert logged == ([f'W "The memory limit is too low" {told} {way_out}'] if need else [])


@virtual
async def test_a_disk_that_reads_far_ahead_needs_more(logged: list[str]) -> None:
    container = Container(40 * MIB, read_ahead=8 * MIB, host_network=True)
    task = asyncio.create_task(watch(make_settings(), Askers(), container))
    await asyncio.sleep(0)
    task.cancel()

    assert "the sidecar needs 42 MiB" in "".join(logged)


def test_this_container_can_be_looked_at() -> None:
    found = look()

    assert found.read_ahead > 0
    assert found.memory_limit is None or found.memory_limit > 0


@not_on_windows("it has no control groups")
def test_a_sidecar_says_it_at_its_start(driver: FakeDriver, sidecar: Start, folder: Path) -> None:
    prefix = with_limits(folder, limit=20 * MIB, used=MIB)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    process = sidecar(prefix=prefix)
    process.await_log('"The memory limit is too low"')

    assert process.get().status == 200
    assert len(process.lines("The memory limit is too low")) == 1
