"""The CSI Identity service: is the driver ready, what is its name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from livenessprobe.csi import csi_pb2
from livenessprobe.driver.connection import CallFailed, Connection, Dialer, SocketIdentity
from livenessprobe.driver.diagnosis import NotConnected
from livenessprobe.driver.methods import HEALTH_CHECK, PROBE
from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    NO_TIME,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.klog.log import get_logger

log = get_logger(__file__, "connection")
main_log = get_logger(__file__, "main")

GET_PLUGIN_INFO = "/csi.v1.Identity/GetPluginInfo"
REDIAL_SECONDS = 0.08
"""Pause between attempts to reach a driver."""
CUT_SHORT_SECONDS = 0.5
"""A dial that had less time than this before the deadline proves nothing by not being done."""


class PluginInfo(NamedTuple):
    """The result of GetPluginInfo."""

    name: str
    err: str | None
    """Why there is no name, in upstream's words."""
    code: str
    """The gRPC code in Go's spelling, for the metric."""


@dataclass(slots=True)
class Attempt:
    """One Probe for one or more callers: until when, and what to say if time runs out.  Times are the loop's."""

    started: float
    deadline: float
    redial_until: float
    method: str = PROBE
    service: str = ""
    """What gRPC's health check is asked about."""
    driver_name: str = ""
    """For the record of the call."""
    so_far: ProbeResult = NO_TIME
    connected: bool = False
    """Whether the driver was reached at all."""
    socket: SocketIdentity | None = None
    """The socket file it was reached through, where the system tells."""

    def renew(self, now: float) -> None:
        """Begin anew at `now`, with all the time there was."""
        passed = now - self.started
        self.started, self.deadline, self.redial_until = now, self.deadline + passed, self.redial_until + passed
        self.so_far, self.connected, self.socket = NO_TIME, False, None


class Identity:
    """Asks one driver.  Not for concurrent `probe` calls; `get_plugin_info` has connections of its own."""

    def __init__(self, dialer: Dialer) -> None:
        self.dialer = dialer

    # --- Probe

    def still_leads_there(self, attempt: Attempt) -> bool:
        """Whether the socket file that `attempt` has reached the driver through is still the one at the address."""
        try:
            return not attempt.connected or self.dialer.look_at_socket() == attempt.socket
        except NotConnected:
            return False

    async def probe(self, attempt: Attempt) -> ProbeResult:
        """
        Ask the driver whether it is ready, dialling until `attempt.redial_until`.

        Every outcome is a result; only cancellation comes out as an exception.  Ends at `attempt.deadline`.
        """
        kept = await self.dialer.kept()
        if kept is not None:
            result = await self._probe_on(kept, attempt)
            if result.reason not in (Reason.CONNECTION_LOST, Reason.PROTOCOL_ERROR):
                return result
            # It was gone or used up before we used it, perhaps as the driver was restarted: that says nothing about now.
            attempt.connected, attempt.so_far = False, NO_TIME
        log.v(5).info("Connecting", address=self.dialer.address.text)
        # For who cannot wait until the first dial has ended.
        hung = unreachable(Reason.DEADLINE, self.dialer.hung().sentence, patience_spent=True)
        if attempt.so_far is NO_TIME:
            attempt.so_far = hung
        while True:
            dialled = _now()
            try:
                connection = await self.dialer.dial(attempt.deadline)
            except NotConnected as error:
                now = _now()
                # The last dial may be cut short by the deadline; then what the one before it found says more.
                if attempt.so_far is hung or error.reason is not Reason.DEADLINE or now - dialled > CUT_SHORT_SECONDS:
                    attempt.so_far = unreachable(error.reason, error.sentence, patience_spent=now >= attempt.deadline)
                if now + REDIAL_SECONDS >= min(attempt.redial_until, attempt.deadline):
                    return await _give_up(attempt)
                await asyncio.sleep(REDIAL_SECONDS)
            else:
                break
        result = await self._probe_on(connection, attempt)
        if result.reason is Reason.CONNECTION_LOST and self.dialer.address.logs_lost_connections:
            log.error("Lost connection", address=self.dialer.address.text)
        return result

    async def _probe_on(self, connection: Connection, attempt: Attempt) -> ProbeResult:
        attempt.connected, attempt.socket = True, connection.socket
        attempt.so_far = CALL_TIMED_OUT
        main_log.v(5).info("Sending probe request to CSI driver", driver=attempt.driver_name)
        result = None
        try:
            result = await self._ask_ready(connection, attempt)
        finally:
            if result is not None and result.reason in _KEEPS_CONNECTION:
                self.dialer.keep(connection)
            else:
                self.dialer.came_to_nothing()
                await self.dialer.drop(connection)
        return result

    async def _ask_ready(self, connection: Connection, attempt: Attempt) -> ProbeResult:
        question = _question(attempt.method, attempt.service)
        log.v(5).info("GRPC call", method=attempt.method, request=question.shown)
        left = max(attempt.deadline - _now(), 0.001)
        try:
            # The deadline goes to the driver too; the timer here is for a library that would not keep it.
            async with asyncio.timeout(left + 0.5):
                result, shown = question.read(await connection.call(attempt.method, question.request, left))
        except CallFailed as error:
            # At the deadline the words are ours; a driver's own DeadlineExceeded comes earlier and keeps its message.
            timed_out = error.code == "DeadlineExceeded" and _now() >= attempt.deadline - 0.001
            reason = Reason.DRIVER_ERROR if error.reason is Reason.DEADLINE else error.reason
            result, shown = CALL_TIMED_OUT if timed_out else rpc_error(reason, error.code, error.details), None
        except TimeoutError:
            result, shown = CALL_TIMED_OUT, None
        except DecodeError:
            result, shown = UNPARSABLE, None
        self._log_response(shown, result.err)
        return result

    def _log_response(self, response: Message | None, err: str | None) -> None:
        if (verbose := log.v(5)).enabled:
            verbose.info("GRPC response", response="{}" if response is None else _compact_json(response), err=err)

    # --- GetPluginInfo

    @asynccontextmanager
    async def dialled(self, timeout: float) -> AsyncIterator[Connection]:
        """A connection of its own, for `get_plugin_info`; raises NotConnected."""
        connection = await self.dialer.dial(_now() + timeout)
        try:
            yield connection
        finally:
            await self.dialer.drop(connection)

    async def get_plugin_info(self, connection: Connection, timeout: float) -> PluginInfo:
        """The driver's name; every failure is a result too."""
        log.v(5).info("GRPC call", method=GET_PLUGIN_INFO, request="{}")
        response, failure = csi_pb2.GetPluginInfoResponse(), None
        try:
            # Upstream sends no deadline with this call, and some drivers look at it.
            async with asyncio.timeout(timeout):
                answer = await connection.call(GET_PLUGIN_INFO, csi_pb2.GetPluginInfoRequest().SerializeToString(), None)
            response.ParseFromString(answer)
        except TimeoutError:
            failure = CALL_TIMED_OUT
        except CallFailed as error:
            failure = rpc_error(error.reason, error.code, error.details)
        except DecodeError:
            failure = UNPARSABLE
        if failure is not None:
            self._log_response(None, failure.err)
            return PluginInfo("", failure.err, failure.code)
        self._log_response(response, None)
        return PluginInfo(response.name, None if response.name else "driver name is empty", "OK")


class _Question(NamedTuple):
    """A request, and what its answer says: a result, and the answer for the log; None is empty there."""

    request: bytes
    shown: str
    read: Callable[[bytes], tuple[ProbeResult, Message | None]]
    """Raises DecodeError."""


@lru_cache(maxsize=2)
def _question(method: str, service: str) -> _Question:
    if method == PROBE:
        return _Question(csi_pb2.ProbeRequest().SerializeToString(), "{}", _read_probe)
    if method == HEALTH_CHECK:
        from livenessprobe.csi import grpc_health_pb2

        request = grpc_health_pb2.HealthCheckRequest(service=service)
        return _Question(request.SerializeToString(), _compact_json(request), _read_health_check)
    return _Question(b"", "{}", lambda _: (READY, None))


def _read_probe(answer: bytes) -> tuple[ProbeResult, Message]:
    response = csi_pb2.ProbeResponse.FromString(answer)
    # "If not present, the caller SHALL assume that the plugin is in a ready state" (CSI spec, ProbeResponse).
    ready = not response.HasField("ready") or response.ready.value
    return (READY if ready else NOT_READY), response


def _read_health_check(answer: bytes) -> tuple[ProbeResult, Message]:
    """Only SERVING is healthy (grpc/doc/health-checking.md)."""
    from livenessprobe.csi import grpc_health_pb2

    response = grpc_health_pb2.HealthCheckResponse.FromString(answer)
    serving = response.status == grpc_health_pb2.HealthCheckResponse.SERVING
    return (READY if serving else NOT_READY), response


UNPARSABLE = rpc_error(
    Reason.PROTOCOL_ERROR,
    "Internal",
    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
)
_KEEPS_CONNECTION = (None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _give_up(attempt: Attempt) -> ProbeResult:
    """The driver was not reached; with upstream's patience, that is said only when the time is up."""
    end = min(attempt.redial_until, attempt.deadline)
    if (left := end - _now()) > 0:
        await asyncio.sleep(left)
    if attempt.redial_until < attempt.deadline:
        return attempt.so_far
    return unreachable(attempt.so_far.reason or Reason.UNREACHABLE, attempt.so_far.body, patience_spent=True)


def _compact_json(message: Message) -> str:
    """A CSI answer as upstream logs it: JSON with the names of the spec (protosanitizer), as encoding/json prints it."""
    if isinstance(message, csi_pb2.ProbeResponse):
        value: dict[str, object] = {}
        if message.HasField("ready"):
            value["ready"] = {"value": True} if message.ready.value else {}
    else:
        value = {field.name: item for field, item in message.ListFields()}
        if "manifest" in value:
            value["manifest"] = dict(sorted(dict(message.manifest).items()))  # type: ignore[attr-defined]
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
