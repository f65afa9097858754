"""The steps of a walk that are about the driver's name."""

from __future__ import annotations

import time

from tests.machine.watch import Watch


class Names(Watch):
    """The steps, and what must follow from each."""

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
            if not self._settings.interval:
                self._ask("/healthz")
            time.sleep(0.02)

    def _count_of(self, series: str) -> float:
        return sum(
            value for each, value in self._process.figures().items() if each.startswith(series) and "Identity/Probe" in each
        )
