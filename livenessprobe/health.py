"""
What a probe found, said twice: in upstream's words and as a reason a person can act on; and what a run of probes adds up to.

Pure.  The rule is that of the kubelet's prober worker: a result is reported once it has been seen as often in a row as its
threshold says; until then the earlier report stands.  The first result is reported at once, having nothing earlier to
stand on.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Reason(str, Enum):
    """Why a probe failed; the values are header values and metric labels, so they never change."""

    SOCKET_MISSING = "socket_missing"
    NOT_A_SOCKET = "not_a_socket"
    PERMISSION_DENIED = "permission_denied"
    STALE_MOUNT = "stale_mount"
    REFUSED = "refused"
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    PROTOCOL_ERROR = "protocol_error"
    CONNECTION_LOST = "connection_lost"
    UNIMPLEMENTED = "unimplemented"
    DRIVER_ERROR = "driver_error"
    NOT_READY = "not_ready"
    INTERNAL = "internal"


class ProbeResult(NamedTuple):
    """
    One answer about the driver.  Without a reason it is ready.

    Text may hold surrogate escapes for bytes of the driver's that were no UTF-8.
    """

    reason: Reason | None = None
    body: str = "ok"
    """The body of /healthz."""
    record: str = "Health check succeeded"
    """Upstream's log message for it."""
    err: str | None = None
    """Upstream's `err` for that message."""
    code: str = "OK"
    """Its gRPC code in Go's spelling, for the metric."""

    @property
    def ready(self) -> bool:
        """Whether /healthz answers 200."""
        return self.reason is None

    @property
    def alive(self) -> bool:
        """Whether the driver answered the call at all, in whatever way."""
        return self.reason in _ANSWERS


_ANSWERS = (None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED)
READY = ProbeResult()
NOT_READY = ProbeResult(Reason.NOT_READY, "driver responded but is not ready", record="Driver responded but is not ready")
DEADLINE = "context deadline exceeded"
NO_TIME = ProbeResult(
    Reason.DEADLINE, DEADLINE, "Failed to establish connection to CSI driver", DEADLINE, "DeadlineExceeded"
)
"""The timeout had passed before the driver was asked, as with --probe-timeout=0."""


MESSAGE_MAX = 64 * 1024
"""Characters of a driver's message that are passed on."""


def rpc_error(reason: Reason, code: str, description: str) -> ProbeResult:
    """A failed call, in grpc-go's words; a driver's message that goes on for ever is cut."""
    if len(description) > MESSAGE_MAX:
        description = f"{description[:MESSAGE_MAX]}… (cut)"
    text = f"rpc error: code = {code} desc = {description}"
    return ProbeResult(reason, text, "Health check failed", text, code)


def unreachable(reason: Reason, sentence: str, *, patience_spent: bool) -> ProbeResult:
    """
    No connection, for `reason`.

    The log record stays upstream's where the whole timeout was spent, as upstream always does.
    """
    err = DEADLINE if patience_spent else sentence
    code = "DeadlineExceeded" if reason is Reason.DEADLINE else "Unavailable"
    return ProbeResult(reason, sentence, "Failed to establish connection to CSI driver", err, code)


CALL_TIMED_OUT = rpc_error(Reason.DEADLINE, "DeadlineExceeded", DEADLINE)


# --- a run of probes


class Thresholds(NamedTuple):
    """How many results of a kind in a row it takes to report that kind; 1 or more each."""

    failure: int = 1
    success: int = 1


class Health(NamedTuple):
    """One question about the driver, and the answer that stands."""

    good: bool | None = None
    """The last result; None before the first."""
    run: int = 0
    """How many results like the last one came in a row."""
    report: ProbeResult | None = None
    """What is reported: the newest result of the kind that stands."""
    stands: bool | None = None
    """Whether that is a good one."""

    def after(self, result: ProbeResult, thresholds: Thresholds, *, good: bool) -> Health:
        """The health once `result`, which is `good` or not, is known."""
        run = self.run + 1 if self.good == good else 1
        needed = thresholds.success if good else thresholds.failure
        if self.stands is None or self.stands == good or run >= needed:
            return Health(good, run, result, good)
        return Health(good, run, self.report, self.stands)

    @property
    def failures(self) -> int:
        """How many failures came in a row, up to the last result."""
        return 0 if self.good or self.good is None else self.run


class Standing(NamedTuple):
    """All that is reported of the driver."""

    ready: Health = Health()
    """For /healthz and /readyz."""
    alive: Health = Health()
    """For /livez."""
    started: bool = False
    """For /startupz: whether this driver has been ready once."""
    result: ProbeResult | None = None
    """The last result itself."""
    at: float = 0.0
    """When it came."""

    def after(self, result: ProbeResult, thresholds: Thresholds, at: float, *, new_driver: bool = False) -> Standing:
        """What is reported once `result` has come; `new_driver` if it is not the driver of before."""
        return Standing(
            ready=self.ready.after(result, thresholds, good=result.ready),
            alive=self.alive.after(result, thresholds, good=result.alive),
            started=result.ready or (self.started and not new_driver),
            result=result,
            at=at,
        )

    def is_fresh(self, now: float, lasts: float) -> bool:
        """Whether there is a result that is not older than it `lasts`."""
        return self.result is not None and now - self.at <= lasts
