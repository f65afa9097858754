"""Fixtures: a mounted ConfigMap and a sidecar that follows it; a relay in front of the driver, and a sidecar that dials it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import ConfigMap, FakeDriver, Relay, Sidecar, Start, eventually, nothing


@pytest.fixture
def mounted(folder: Path) -> Callable[..., ConfigMap]:
    """`mounted(content)` is a ConfigMap mounted in the test's folder."""
    return lambda content=nothing: ConfigMap(folder / "config", content)


@pytest.fixture
def follow(sidecar: Start) -> Start:
    """Starts sidecars that look at the file of a ConfigMap ten times a second."""
    return lambda config, *arguments, **options: sidecar(
        f"--config={config.path}", "--config-poll-interval=100ms", *arguments, **options
    )


@pytest.fixture
def relay(driver: FakeDriver, folder: Path) -> Iterator[Relay]:
    relay = Relay(str(folder / "relay.sock"), driver.path)
    yield relay
    relay.close()


@pytest.fixture
def behind_relay(relay: Relay, sidecar: Start) -> Start:
    """Starts sidecars that dial the relay; each has asked the driver's name, and has no connection open."""

    def start(*arguments: str) -> Sidecar:
        process = sidecar(f"--csi-address={relay.path}", *arguments)
        process.await_name()
        eventually(lambda: relay.open == 0)
        return process

    return start
