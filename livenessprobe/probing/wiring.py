"""Looks once at the wiring of the sidecar itself, and logs what is wrong with it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from livenessprobe.klog.log import get_logger
from livenessprobe.probing import advice
from livenessprobe.probing.askers import Askers
from livenessprobe.process import cgroup, memory, network
from livenessprobe.settings.model import Settings

log = get_logger(__file__)


class Container(NamedTuple):
    """What the operating system tells of this container."""

    memory_limit: int | None = None
    """Bytes."""
    read_ahead: int = memory.READ_AHEAD
    """Of the disk with the interpreter, in bytes."""
    host_network: bool | None = None
    """None if it is not known."""


def look() -> Container:
    """What is known of the container of this process."""
    limit = cgroup.memory()
    return Container(None if limit is None else limit.limit, memory.read_ahead(), network.is_of_host())


async def watch(settings: Settings, askers: Askers, container: Container) -> None:
    """
    Log a memory limit that is too low, and once a lack of requests although health is served where no kubelet reaches it.

    Ends after that, in NOBODY_ASKS_SECONDS.
    """
    limit = container.memory_limit
    if limit is not None and (found := advice.memory_limit(limit, settings, container.read_ahead)):
        log.warning("The memory limit is too low", detail=found.what, advice=found.way_out)
    await asyncio.sleep(advice.NOBODY_ASKS_SECONDS)
    found = advice.unreachable_listener(settings, host_network=container.host_network)
    if found and not askers.known:
        log.warning("Nobody has asked for health", detail=found.what, advice=found.way_out)
