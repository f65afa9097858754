"""The driver's name: asked for at the start, and again whenever it may have changed.  Nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.identity import NAME_TIMEOUT, DriverError, Identity
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import NAME_MAX, UNKNOWN_DRIVER, Metrics
from livenessprobe.settings.model import Settings

log = get_logger(__file__, "main")
log_connection = get_logger(__file__, "connection")

STILL_CONNECTING_SECONDS = 10.0
BACKOFF_MAX = 1.0


class NameLearner:
    """Keeps `metrics.driver_name` up to date."""

    def __init__(self, identity: Identity, settings: Settings, metrics: Metrics, noted: Callable[[], object]) -> None:
        self.settings = settings
        self._noted = noted
        self._identity = identity
        self._metrics = metrics
        self._named_peer: object = None
        self._wanted = asyncio.Event()
        self._wanted.set()

    def driver_is_back(self) -> None:
        """The driver has been away, and may come with another name."""
        self._wanted.set()

    def driver_reached(self) -> None:
        """If it was on another socket than the one it was named on, it may have another name."""
        if self._identity.dialer.peer != self._named_peer:
            self._wanted.set()

    async def run(self) -> None:
        """Ask whenever it is called for; runs until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            # What answers other questions than CSI's may have no name to tell.
            if self.settings.probe_path.startswith("/csi."):
                await self._learn()

    async def _learn(self) -> None:
        loop = asyncio.get_running_loop()
        log_connection.v(5).info("Connecting", address=self._identity.dialer.address.text)
        still_connecting = loop.time() + STILL_CONNECTING_SECONDS
        pause, announced = 0.1, False
        while True:
            patience = max(self.settings.probe_timeout, NAME_TIMEOUT)
            try:
                async with self._identity.dialled(patience) as connection:
                    if not announced:
                        log.info("Calling CSI driver to discover driver name")
                        announced = True
                    name = await self._identity.driver_name(connection, patience)
                    self._named_peer = connection.socket
                    self._named(name)
                    return
            except NotConnected:
                if loop.time() >= still_connecting:
                    log_connection.info("Still connecting", address=self._identity.dialer.address.text)
                    still_connecting = loop.time() + STILL_CONNECTING_SECONDS
            except DriverError as error:
                log.error("Failed to get CSI driver name", err=str(error))
            # A probe that reaches the driver ends the pause.
            await _nap(self._wanted, pause)
            pause = min(pause * 2, BACKOFF_MAX)

    def _named(self, name: str) -> None:
        before = self._metrics.driver_name
        if self._metrics.name_driver(name) != before or before == UNKNOWN_DRIVER:
            log.info("CSI driver name", driver=name[:NAME_MAX])
            self._noted()
        self._wanted.clear()


async def _nap(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
