"""What looks wrong although the driver may be well, with the way out: for the log, the pages and the doctor.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.gotext import format_seconds
from livenessprobe.process.memory import ANONYMOUS, ANONYMOUS_WITH_METRICS, READ_AHEAD, needed
from livenessprobe.process.starvation import Cause, Lost
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.model import Settings

NOBODY_ASKS_SECONDS = 120.0
"""Seconds without a request for health until that is told."""
STOOD_STILL_SECONDS = 0.25
"""If the end of a timeout is noticed later than this, this process did not run, and could not have read a response."""
_MIB = 1 << 20


class Advice(NamedTuple):
    """What looks wrong, and a setting or a command that helps."""

    what: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.what}: {self.way_out}"


class HeldBack(NamedTuple):
    """What has held this process back, and what helps."""

    cause: Cause
    what: str
    way_out: str


IMPATIENT_KUBELET = Advice(
    "The kubelet hung up before the probe timeout, so it never sees the reason of a failure",
    "set timeoutSeconds of the liveness probe above --probe-timeout",
)


def is_loopback(address: ListenAddress) -> bool:
    """Whether only processes of the same network namespace reach `address`."""
    return not address.path and (address.host == "localhost" or (address.ip is not None and address.ip.is_loopback))


def unreachable_listener(settings: Settings, *, host_network: bool | None) -> Advice | None:
    """If no kubelet can reach the listener of health, unless it is not meant to."""
    if host_network or settings.health_file or not is_loopback(settings.http):
        return None
    return Advice(
        f"health is served on {settings.http.text}, which the kubelet does not reach from outside the pod",
        f"set --http-endpoint=:{settings.http.port}, or hostNetwork: true for the pod and host: 127.0.0.1 in the kubelet's probe",
    )


def nobody_asks(settings: Settings, *, host_network: bool | None) -> Advice:
    """The advice if there was no request for health since the start."""
    if found := unreachable_listener(settings, host_network=host_network):
        return found
    return Advice(
        f"nobody has asked for health, which is served on {settings.http.text}",
        f"set the port of the kubelet's probe to {settings.http.port or settings.http.text}, and its path to /healthz",
    )


def memory_limit(limit: int, settings: Settings, read_ahead: int = READ_AHEAD) -> Advice | None:
    """The advice if the memory limit, in bytes, is below the sidecar's need."""
    with_metrics = settings.metrics_on_http or settings.metrics is not None
    need = needed(ANONYMOUS_WITH_METRICS if with_metrics else ANONYMOUS, read_ahead)
    if limit >= need:
        return None
    enough = -(-need // _MIB)
    return Advice(
        f"the memory limit is {limit / _MIB:.1f} MiB, and the sidecar needs {enough} MiB to answer in time",
        f"set resources.limits.memory of the sidecar to {enough}Mi or more",
    )


def held_back(lost: Lost, seconds: float, late: float, pressure: int | None) -> HeldBack | None:
    """
    Whether a probe whose time has run out says nothing about the driver, since this process itself was held back.

    It took `seconds`, of which this process has `lost` some, and its end was noticed `late` by so many seconds.  `pressure` is
    that on memory, in percent, where it is known.
    """
    if lost.seconds < seconds / 2:
        if late <= STOOD_STILL_SECONDS:
            return None
        return HeldBack(
            Cause.STOOD_STILL,
            f"the sidecar did not run for {format_seconds(round(late, 3))} when the time was up",
            "if the node was not suspended, see whether it has CPU left: kubectl top node",
        )
    of = f"of {format_seconds(round(seconds, 3))}"
    if lost.throttled >= lost.disk:
        return HeldBack(
            Cause.CPU_LIMIT,
            f"the CPU limit held the sidecar back for {format_seconds(round(lost.throttled, 3))} {of}",
            "raise resources.limits.cpu of the sidecar, or remove it",
        )
    also = "" if pressure is None else f", at a memory pressure of {pressure} %"
    return HeldBack(
        Cause.DISK,
        f"the sidecar waited for its disk for {format_seconds(round(lost.disk, 3))} {of}{also}",
        "raise resources.limits.memory of the sidecar, so that its program stays in memory",
    )


def cpu_quota(quota: float) -> Advice | None:
    """If a CPU quota makes the start so slow that a kubelet may not wait for it."""
    if quota >= _QUOTA_MIN:
        return None
    return Advice(
        f"the CPU limit is {quota * 1000:.0f}m, so the sidecar takes about {format_seconds(round(_START_CPU / quota))} to start",
        f"set resources.limits.cpu of the sidecar to {_QUOTA_MIN * 1000:.0f}m, or remove it",
    )


_START_CPU = 0.3
"""Seconds of CPU until the first response (docs/performance.md)."""
_QUOTA_MIN = 0.1
