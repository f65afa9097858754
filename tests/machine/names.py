"""The steps of a walk that are about the driver's name."""

from __future__ import annotations

import time
from typing import Any

from tests.machine.inputs import SLACK
from tests.machine.model import most_names
from tests.machine.watch import Watch

LEARNED_SECONDS = 1.1
"""Within this time a driver's name is known once the driver tells it."""


class Names(Watch):
    """The steps, and what must follow from each."""

    def _step_name_fails(self, behaviour: dict[str, Any], seconds: float, name: str) -> None:
        """A ready driver tells no name for `seconds`, however often it is probed, and then `name`."""
        began = time.monotonic()
        self._enter("names", True, behaviour, "")
        while time.monotonic() < began + seconds:
            self._probe()
        asked = sum(call.method == "GetPluginInfo" for call in self._world.named.seen().calls)
        if asked > (most := most_names(time.monotonic() - began)):
            self._fail(f"a driver without a name was asked for it {asked} times, but at most {most} are expected")
        self._world.enter("names", False, {"name": name}, name)
        told = time.monotonic()
        self._step_name()
        if time.monotonic() - told > LEARNED_SECONDS + SLACK + 2 * self._stalls.worst:
            self._fail(f"{name} was known only after {time.monotonic() - told:.3f}s")

    def _step_name(self) -> None:
        """The sidecar must learn the present name of the driver."""
        name = self._world.expect.name
        if not name:
            return
        label = "".join(each if each.isprintable() else "?" for each in name).replace("\\", r"\\").replace('"', r"\"")
        series = f'csi_sidecar_operations_seconds_count{{driver_name="{label}",'
        before = self._count_of(series)
        end = time.monotonic() + 20
        while self._count_of(series) == before:
            if time.monotonic() > end:
                self._fail(f"the sidecar does not learn the driver's name {name!r}")
            self._probe()

    def _probe(self) -> None:
        if not self._settings.interval:
            self._ask("/healthz")
        time.sleep(0.02)

    def _count_of(self, series: str) -> float:
        return sum(
            value for each, value in self._process.figures().items() if each.startswith(series) and "Identity/Probe" in each
        )
