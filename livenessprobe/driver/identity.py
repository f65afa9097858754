"""The CSI Identity service: asks a driver whether it is ready, and for its name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from livenessprobe.csi import csi_pb2
from livenessprobe.driver.connection import CallFailed, Connection, Dialer
from livenessprobe.driver.diagnosis import BYTES_BEHIND, SECOND_MESSAGE, NotConnected, hung_mount, judge
from livenessprobe.driver.methods import HEALTH_CHECK, PROBE
from livenessprobe.driver.result import (
    CALL_TIMED_OUT,
    DEADLINE,
    NOT_READY,
    OUT_OF_TIME,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.driver.socket_file import SocketIdentity
from livenessprobe.klog.log import get_logger

log = get_logger(__file__, "connection")
main_log = get_logger(__file__, "main")

GET_PLUGIN_INFO = "/csi.v1.Identity/GetPluginInfo"
REDIAL_SECONDS = 0.08
"""Pause between attempts to reach a driver."""
CUT_SHORT_SECONDS = 0.5
"""A dial cut off by the deadline sooner than this says nothing about the driver."""


class PluginInfo(NamedTuple):
    """The result of GetPluginInfo."""

    name: str
    err: str | None
    """Why there is no name, in upstream's words."""
    code: str
    """The gRPC code in Go's spelling, for the metric."""
    socket: SocketIdentity | None = None
    """The socket file of the connection that the name came from."""


class Question(NamedTuple):
    """One Probe: its method and its deadlines.  Times are the loop's."""

    deadline: float
    redial_until: float
    """Until when an unreachable driver is dialled again."""
    method: str = PROBE
    service: str = ""
    """What gRPC's health check is asked about."""
    driver_name: str = ""
    """For the record of the call."""
    unreachable: ProbeResult | None = None
    """Why an earlier Probe did not connect; reported if this one has too little time to find out more."""


class Found(NamedTuple):
    """What a Probe has found: its result once it has ended; until then, what to report if time runs out now."""

    result: ProbeResult
    connected: bool = False
    """Whether the driver was reached; until then the Probe is connecting."""
    socket: SocketIdentity | None = None
    """The socket file that the driver was reached through, where the system tells."""
    refused: bool = False
    """Whether the driver has not looked at the call, as its HTTP/2 says."""


Update = Callable[[Found], object]
"""Takes what a Probe has found so far."""


class Identity:
    """Asks one driver.  Not for concurrent `probe` calls; `get_plugin_info` has connections of its own."""

    def __init__(self, dialer: Dialer) -> None:
        self.dialer = dialer
        self._suspects: set[str] = set()
        """Methods whose last call had no response within its time."""

    # --- Probe

    def is_same_socket(self, found: Found) -> bool:
        """Whether the socket file at the address is the same as when a Probe connected through it."""
        try:
            return not found.connected or not self.dialer.has_changed(found.socket)
        except NotConnected:
            return False

    async def probe(self, question: Question, update: Update = lambda _: None) -> Found:
        """
        Ask the driver whether it is ready: over a connection kept from an earlier Probe if there is one, else over a new one.

        Every outcome is a result; only cancellation comes out as an exception.  Ends at `question.deadline`.
        """
        if not self.dialer.socket_file.is_local():
            update(Found(question.unreachable or self._hung_mount()))
        kept = await self.dialer.kept(question.deadline)
        if kept is not None:
            found = await self._ask(kept, question, update)
            if found.result.reason not in (Reason.CONNECTION_LOST, Reason.PROTOCOL_ERROR):
                return found
            # It was closed or used up before this call, perhaps because the driver was restarted: this says nothing about now.
        found = await self._ask_anew(question, update)
        if found.refused:
            # Go makes such a call again.  A second refusal is the result, or nothing would bound the connections to this driver.
            again = await self._ask_anew(question, update)
            found = found if again.result.reason in OUT_OF_TIME and not again.connected else again
        if found.result.reason is Reason.CONNECTION_LOST and self.dialer.address.logs_lost_connections:
            log.error("Lost connection", address=self.dialer.address.text, **found.result.cause)
        return found

    async def _ask_anew(self, question: Question, update: Update) -> Found:
        """Ask over a new connection."""
        log.v(5).info("Connecting", address=self.dialer.address.text)
        connection = await self._connect(question, update)
        return Found(connection) if isinstance(connection, ProbeResult) else await self._ask(connection, question, update)

    async def _connect(self, question: Question, update: Update) -> Connection | ProbeResult:
        """A new connection; if none is made until `question.redial_until`, the reason, and not before that time."""
        end = min(question.redial_until, question.deadline)
        unreached = question.unreachable
        hung = unreachable(Reason.DEADLINE, self.dialer.hung().sentence, timed_out=True)
        repeated = False
        while True:
            dialled = _now()
            try:
                if not self.dialer.socket_file.is_local():
                    update(Found(unreached or self._hung_mount()))
                socket = await self.dialer.look(question.deadline)
                update(Found(unreached or hung))
                return await self.dialer.dial(socket, question.deadline)
            except NotConnected as error:
                now = _now()
                cut_short = error.reason in OUT_OF_TIME and now - dialled <= CUT_SHORT_SECONDS
                if unreached is None or not cut_short:
                    unreached = unreachable(error.reason, error.sentence, timed_out=now >= question.deadline)
                    update(Found(unreached))
                if now + REDIAL_SECONDS >= end and (repeated or not error.again):
                    break
                repeated = repeated or error.again
            await asyncio.sleep(REDIAL_SECONDS)
        await asyncio.sleep(end - _now())  # upstream reports it only when the time is up
        return unreached if question.redial_until < question.deadline else unreached._replace(err=DEADLINE)

    def _hung_mount(self) -> ProbeResult:
        """What is reported if time runs out during a look at the socket file."""
        failure = hung_mount(self.dialer.address.name)
        return unreachable(failure.reason, failure.sentence, timed_out=True)

    async def _ask(self, connection: Connection, question: Question, update: Update) -> Found:
        """Make the call, then keep the connection for the next Probe, or close it if the driver gave no answer."""
        connected = Found(CALL_TIMED_OUT, connected=True, socket=connection.socket)
        update(connected)
        main_log.v(5).info("Sending probe request to CSI driver", driver=question.driver_name)
        alive = False
        try:
            result, refused = await self._call(connection, question)
            alive = result.alive
        finally:
            if alive:
                self.dialer.keep(connection)
            else:
                self.dialer.pause()
                await self.dialer.drop(connection)
        return connected._replace(result=result, refused=refused)

    async def _call(self, connection: Connection, question: Question) -> tuple[ProbeResult, bool]:
        """The result, and whether the driver has not looked at the call."""
        method = _method(question.method, question.service)
        log.v(5).info("GRPC call", method=question.method, request=method.shown)
        shown, refused = None, False
        try:
            # gRPC sends the deadline to the driver and keeps it; the timer is for a fault of gRPC.
            answer = await self._answer(connection, question.method, method.request, question.deadline, told=True)
            result, shown = method.read(answer)
        except CallFailed as error:
            result, refused = self._judge(error, question.deadline)
        except DecodeError:
            result = UNPARSABLE
        self._log_response(shown, result.err)
        return result, refused

    async def _answer(self, connection: Connection, method: str, request: bytes, deadline: float, *, told: bool) -> bytes:
        """
        The message of the response; raises CallFailed.  Whether the driver is `told` the deadline depends on the method.

        A unary call waits in vain for the end of a response that has bytes behind its message.  So after a call without a
        response the next is made as a stream first, which sees a second message at once.  But a stream also takes a wrong
        message for a right one, so only a unary call decides that a response is good.
        """
        timer = max(deadline, _now() + 0.001) + (0.5 if told else 0)  # with a deadline that gRPC keeps, for a fault of gRPC
        ends_as_stream = False
        try:
            async with asyncio.timeout_at(timer):
                if method in self._suspects:
                    began = _now()
                    messages = await connection.stream(method, request, _left(deadline) if told else None)
                    if len(messages) != 1:
                        raise CallFailed("OK", SECOND_MESSAGE if messages else "")
                    ends_as_stream = _left(deadline) > 2 * (_now() - began)  # else the unary call may just be slow
                answer = await connection.call(method, request, _left(deadline) if told else None)
        except TimeoutError:
            failure = CallFailed("DEADLINE_EXCEEDED", DEADLINE)
        except CallFailed as error:
            failure = error
        else:
            self._suspects.discard(method)
            return answer
        if _is_timeout(failure, deadline):
            self._suspects.add(method)
            if ends_as_stream:
                failure = CallFailed("OK", BYTES_BEHIND)
        raise failure

    def _judge(self, failure: CallFailed, deadline: float) -> tuple[ProbeResult, bool]:
        """The result of a failed call, and whether the driver has not looked at the call."""
        # At the deadline the message is ours; a driver that sends DeadlineExceeded does so earlier, and keeps its message.
        if _is_timeout(failure, deadline):
            return CALL_TIMED_OUT, False
        verdict = judge(failure.code, failure.words, failure.phase, self.dialer.address)
        reason = Reason.DRIVER_ERROR if verdict.reason is Reason.DEADLINE else verdict.reason
        return rpc_error(reason, verdict.code, verdict.sentence), verdict.again

    def _log_response(self, response: Message | None, err: str | None) -> None:
        if (verbose := log.v(5)).enabled:
            verbose.info("GRPC response", response="{}" if response is None else _compact_json(response), err=err)

    # --- GetPluginInfo

    @asynccontextmanager
    async def connected(self, timeout: float) -> AsyncIterator[Connection]:
        """A connection of its own, for `get_plugin_info`; raises NotConnected."""
        deadline = _now() + timeout
        connection = await self.dialer.dial(await self.dialer.look(deadline), deadline)
        try:
            yield connection
        finally:
            await self.dialer.drop(connection)

    async def get_plugin_info(self, connection: Connection, timeout: float) -> PluginInfo:
        """The driver's name; every failure is a result too.  A refused call is made once more on a fresh connection."""
        deadline = _now() + timeout
        info, refused = await self._ask_name(connection, deadline)
        if refused:
            self.dialer.pause()
            try:
                async with self.connected(deadline - _now()) as fresh:
                    info, _ = await self._ask_name(fresh, deadline)
            except NotConnected:
                pass  # the refusal is the result
        return info

    async def _ask_name(self, connection: Connection, deadline: float) -> tuple[PluginInfo, bool]:
        """The driver's name, and whether the driver has not looked at the call."""
        log.v(5).info("GRPC call", method=GET_PLUGIN_INFO, request="{}")
        request, response = csi_pb2.GetPluginInfoRequest().SerializeToString(), csi_pb2.GetPluginInfoResponse()
        failure, refused = None, False
        try:
            # Upstream sends no deadline with this call, and some drivers look at it.
            response.ParseFromString(await self._answer(connection, GET_PLUGIN_INFO, request, deadline, told=False))
        except CallFailed as error:
            failure, refused = self._judge(error, deadline)
        except DecodeError:
            failure = UNPARSABLE
        if failure is not None:
            self._log_response(None, failure.err)
            return PluginInfo("", failure.err, failure.code, connection.socket), refused
        self._log_response(response, None)
        return PluginInfo(response.name, None if response.name else "driver name is empty", "OK", connection.socket), False


class _Method(NamedTuple):
    """A method's request, and how its response is read: as a result, and as the message for the log; None is empty there."""

    request: bytes
    shown: str
    read: Callable[[bytes], tuple[ProbeResult, Message | None]]
    """Raises DecodeError."""


@lru_cache(maxsize=2)
def _method(method: str, service: str) -> _Method:
    if method == PROBE:
        return _Method(csi_pb2.ProbeRequest().SerializeToString(), "{}", _read_probe)
    if method == HEALTH_CHECK:
        from livenessprobe.csi import grpc_health_pb2

        request = grpc_health_pb2.HealthCheckRequest(service=service)
        return _Method(request.SerializeToString(), _compact_json(request), _read_health_check)
    return _Method(b"", "{}", lambda _: (READY, None))


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


def _is_timeout(failure: CallFailed, deadline: float) -> bool:
    return failure.code == "DEADLINE_EXCEEDED" and _now() >= deadline - 0.001


def _left(deadline: float) -> float:
    return max(deadline - _now(), 0.001)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _compact_json(message: Message) -> str:
    """A response as upstream logs it: JSON with the names of the spec and sorted keys (protosanitizer, encoding/json)."""
    if isinstance(message, csi_pb2.ProbeResponse):
        value: dict[str, object] = {}
        if message.HasField("ready"):
            value["ready"] = {"value": True} if message.ready.value else {}
    else:
        value = {field.name: item for field, item in message.ListFields()}
        if "manifest" in value:
            value["manifest"] = dict(message.manifest)  # type: ignore[attr-defined]
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.translate(_ESCAPED)


_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "&<>\u2028\u2029"}
