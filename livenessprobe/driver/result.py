"""The result of one Probe: the Go program's messages, and a reason code such as `refused`.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Reason(str, Enum):
    """Why a Probe failed; the values are header values and metric labels, so they never change."""

    SOCKET_MISSING = "socket_missing"
    NOT_A_SOCKET = "not_a_socket"
    PERMISSION_DENIED = "permission_denied"
    STALE_MOUNT = "stale_mount"
    HUNG_MOUNT = "hung_mount"
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


WAYS_OUT: Mapping[Reason, str] = {
    Reason.SOCKET_MISSING: "see whether the driver runs: kubectl logs POD -c DRIVER; if it does, set --csi-address to the socket that "
    "it creates, and mount its folder into both containers",
    Reason.NOT_A_SOCKET: "set --csi-address to the socket that the driver creates",
    Reason.PERMISSION_DENIED: "set runAsUser of the sidecar to the user that owns the socket, or to 0",
    Reason.STALE_MOUNT: "mount the folder of the socket, not the socket file, and restart the pod: kubectl delete pod POD",
    Reason.HUNG_MOUNT: "restart the program that serves the file system, or mount the folder of --csi-address from a local disk",
    Reason.REFUSED: "see why the driver has stopped: kubectl logs POD -c DRIVER, with --previous once it was restarted",
    Reason.UNRESOLVED: "set --csi-address to a name that the cluster's DNS knows, or to the path of the driver's socket",
    Reason.UNREACHABLE: "see what keeps the driver from accepting: kubectl logs POD -c DRIVER",
    Reason.DEADLINE: "see what the driver waits for: kubectl logs POD -c DRIVER; if it is only slow, raise --probe-timeout, and "
    "timeoutSeconds of the kubelet's probe above it",
    Reason.PROTOCOL_ERROR: "set --csi-address to the socket on which the driver serves CSI over gRPC",
    Reason.CONNECTION_LOST: "see why the driver has closed the connection: kubectl logs POD -c DRIVER, with --previous once it was "
    "restarted",
    Reason.UNIMPLEMENTED: "set --probe-path to a method that the driver has",
    Reason.DRIVER_ERROR: "see what has failed in the driver: kubectl logs POD -c DRIVER",
    Reason.NOT_READY: "see what the driver waits for: kubectl logs POD -c DRIVER; if a restart does not help it, let the liveness "
    "probe ask /livez",
    Reason.INTERNAL: "restart the pod: kubectl delete pod POD; if the fault comes back, raise the limits of the sidecar",
}
"""A command or a setting that helps, for each reason; POD and DRIVER stand for the names of the pod and of the driver's container."""

OUT_OF_TIME = (Reason.DEADLINE, Reason.HUNG_MOUNT)
"""Reasons that only say that the time ran out; with more time the Probe might have ended otherwise."""

NOT_CONNECTED = "Failed to establish connection to CSI driver"
"""Upstream's log message for a driver that was not reached."""


class ProbeResult(NamedTuple):
    """
    What one Probe found out about the driver.  Without a reason it is ready.

    Text may hold surrogate escapes for bytes of the driver that were not UTF-8.
    """

    reason: Reason | None = None
    body: str = "ok"
    """The body of /healthz."""
    record: str = "Health check succeeded"
    """Upstream's log message."""
    err: str | None = None
    """Upstream's `err` beside that message."""
    code: str = "OK"
    """The gRPC code in Go's spelling, for the metric."""

    @property
    def ready(self) -> bool:
        """Whether /healthz responds with 200."""
        return self.reason is None

    @property
    def cause(self) -> dict[str, str]:
        """Why it failed, as pairs behind upstream's record: `reason`, and `detail` if `err` does not say the same."""
        if self.reason is None:
            return {}
        detail = {"detail": self.body} if self.body != self.err else {}
        return {"reason": self.reason.value, **detail}

    @property
    def alive(self) -> bool:
        """Whether the driver answered the call, even with an error."""
        return self.reason in (None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED)

    @property
    def connected(self) -> bool:
        """Whether there was a connection to the driver."""
        return self.record != NOT_CONNECTED


READY = ProbeResult()
NOT_READY = ProbeResult(Reason.NOT_READY, "driver responded but is not ready", record="Driver responded but is not ready")
DEADLINE = "context deadline exceeded"
NO_TIME = ProbeResult(Reason.DEADLINE, DEADLINE, NOT_CONNECTED, DEADLINE, "DeadlineExceeded")
"""The timeout had passed before the driver was asked, as with --probe-timeout=0."""


MESSAGE_MAX = 64 * 1024
"""Characters of a driver's message that are passed on."""


def rpc_error(reason: Reason, code: str, description: str) -> ProbeResult:
    """A failed call, in grpc-go's words; a driver's message is cut at MESSAGE_MAX."""
    if len(description) > MESSAGE_MAX:
        description = f"{description[:MESSAGE_MAX]}… (cut)"
    text = f"rpc error: code = {code} desc = {description}"
    return ProbeResult(reason, text, "Health check failed", text, code)


def unreachable(reason: Reason, sentence: str, *, timed_out: bool) -> ProbeResult:
    """
    No connection, for `reason`.

    If the whole timeout has passed, which upstream always waits for, the record has upstream's words.
    """
    err = DEADLINE if timed_out else sentence
    code = "DeadlineExceeded" if reason in OUT_OF_TIME else "Unavailable"
    return ProbeResult(reason, sentence, NOT_CONNECTED, err, code)


CALL_TIMED_OUT = rpc_error(Reason.DEADLINE, "DeadlineExceeded", DEADLINE)
