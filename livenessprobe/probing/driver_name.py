"""Asks for the driver's name in the background: at the start, and after the driver was away or its socket was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.identity import GET_PLUGIN_INFO, Found, Identity
from livenessprobe.driver.result import Reason
from livenessprobe.klog.log import get_logger
from livenessprobe.metrics import UNKNOWN_DRIVER, Metrics

log = get_logger(__file__, "main")
log_connection = get_logger(__file__, "connection")

NAME_MAX = 128
"""Characters of a name that are kept; CSI allows 63."""
TIMEOUT_SECONDS = 10.0
"""For connecting and for GetPluginInfo, at least; no request waits for the name."""
STILL_CONNECTING_SECONDS = 10.0
PAUSE_SECONDS, PAUSE_MAX_SECONDS = 0.1, 1.0
"""Between attempts: the first pause, doubled each time, and the longest; also the time for which a name is not asked for again."""


class DriverName:
    """The name that records, metrics and the health file show; `changed` is called when it has become another."""

    def __init__(self, identity: Identity, probe_path: str, metrics: Metrics, changed: Callable[[], object]) -> None:
        self.text = UNKNOWN_DRIVER
        self.since: float | None = None
        """When the driver first told this name, in the loop's time; None until it does."""
        self.probe_timeout = 0.0
        """Seconds; may be changed at any time."""
        self._is_csi = probe_path.startswith("/csi.")
        """A service that is probed with a method outside CSI may have no GetPluginInfo."""
        self._changed = changed
        self._identity = identity
        self._metrics = metrics
        self._named_socket: object = None
        """The socket file that the driver was reached through when it told its name."""
        self._was_lost = False
        self._not_before = 0.0
        """When the driver may be asked again (the loop's time); nothing shortens that, or each probe might lead to a call."""
        self._pause = PAUSE_SECONDS
        """The pause after the next call that fails."""
        self._wanted = asyncio.Event()
        self._wanted.set()

    def probed(self, found: Found) -> None:
        """A Probe has ended: after it was unreachable, or on another socket, the driver may have another name."""
        lost = not found.connected or found.result.reason is Reason.CONNECTION_LOST
        is_back = self._was_lost and not lost
        if is_back or (found.connected and found.socket != self._named_socket):
            self._wanted.set()
        self._was_lost = lost

    async def run(self) -> None:
        """Ask for the name whenever it may have changed; runs until cancelled."""
        while self._is_csi:
            await self._wanted.wait()
            self._wanted.clear()
            await self._learn()

    async def _learn(self) -> None:
        loop = asyncio.get_running_loop()
        address = self._identity.dialer.address.text
        log_connection.v(5).info("Connecting", address=address)
        still_connecting = loop.time() + STILL_CONNECTING_SECONDS
        pause, announced = PAUSE_SECONDS, False
        while True:
            await asyncio.sleep(self._not_before - loop.time())
            timeout = max(self.probe_timeout, TIMEOUT_SECONDS)
            try:
                async with self._identity.connected(timeout) as connection:
                    if not announced:
                        log.info("Calling CSI driver to discover driver name")
                        announced = True
                    started = loop.time()
                    answer = await self._identity.get_plugin_info(connection, timeout)
                    self._metrics.operation(GET_PLUGIN_INFO, answer.code, loop.time() - started)
            except NotConnected as error:
                if loop.time() >= still_connecting:
                    cause = {"reason": error.reason.value, "detail": error.sentence}
                    log_connection.info("Still connecting", address=address, **cause)
                    still_connecting = loop.time() + STILL_CONNECTING_SECONDS
                # A probe that reaches the driver ends the pause.
                await _nap(self._wanted, pause)
                pause = min(pause * 2, PAUSE_MAX_SECONDS)
                continue
            if answer.err is None:
                self._not_before, self._pause = loop.time() + PAUSE_MAX_SECONDS, PAUSE_SECONDS
                self._named_socket = answer.socket
                self._named(answer.name)
                return
            log.error("Failed to get CSI driver name", err=answer.err)
            self._not_before, self._pause = loop.time() + self._pause, min(self._pause * 2, PAUSE_MAX_SECONDS)

    def _named(self, name: str) -> None:
        before, self.text = self.text, shown(name)
        self._metrics.name_driver(self.text)
        log.info("CSI driver name", driver=name[:NAME_MAX])  # also if it is the same: the call was announced
        if self.text != before or before == UNKNOWN_DRIVER:
            self.since = asyncio.get_running_loop().time()
            self._changed()
        self._wanted.clear()


def shown(name: str) -> str:
    """`name` in a form that is fit for records and metric labels."""
    return "".join(each if each.isprintable() else "?" for each in name[:NAME_MAX])


async def _nap(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, which clears it, or for `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
