"""
The CSI Identity service over gRPC: is the driver ready, what is its name.

The only room that knows gRPC.  A call has two phases, and telling them apart is what reasons rest on: first a connection
(a fresh channel until it is READY), then the RPC on it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# gRPC's core prints its own lines unless told so before it is loaded; its findings reach us as errors anyway.
os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc
import grpc.aio
from google.protobuf import wrappers_pb2  # noqa: F401  csi_pb2 needs its descriptor, also under lazy imports
from google.protobuf.message import DecodeError, Message

from livenessprobe import __version__
from livenessprobe.csi import csi_pb2
from livenessprobe.endpoint import CSIAddress
from livenessprobe.health import (
    CALL_TIMED_OUT,
    NO_TIME,
    NOT_READY,
    READY,
    ProbeResult,
    Reason,
    rpc_error,
    unreachable,
)
from livenessprobe.klog import get_logger
from livenessprobe.metrics import Metrics

log = get_logger(__file__, "connection")
main_log = get_logger(__file__, "main")

PROBE = "/csi.v1.Identity/Probe"
GET_PLUGIN_INFO = "/csi.v1.Identity/GetPluginInfo"
REDIAL_SECONDS = 0.08
"""Pause between attempts to reach a driver."""
_CUT_SHORT_SECONDS = 0.5
"""A dial that had less time than this before the deadline proves nothing by not being done."""
NAME_TIMEOUT = 10.0
"""Seconds for GetPluginInfo, at least; nobody waits for it."""
_MILLISECONDS_MAX = (1 << 31) - 1
_FOREVER = 10.0**8
"""Seconds; gRPC's timeout header has eight digits."""

# Go's spelling of the codes (google.golang.org/grpc/codes).
_CODES = {
    code: "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "") for code in grpc.StatusCode
} | {grpc.StatusCode.OK: "OK"}

State = grpc.ChannelConnectivity
SocketIdentity = tuple[int, int, int]


class DriverError(Exception):
    """The driver's name could not be learnt; the text is upstream's `err`."""


class NotConnected(Exception):
    """No connection; says why."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


@dataclass(slots=True)
class Attempt:
    """One Probe for one or more callers: until when, and what to say if time runs out.  Times are the loop's."""

    started: float
    deadline: float
    redial_until: float
    so_far: ProbeResult = NO_TIME
    connected: bool = False
    """Whether the driver was reached at all."""


@dataclass(slots=True)
class _Connection:
    channel: grpc.aio.Channel
    socket: SocketIdentity | None
    opened: float
    closing: asyncio.TimerHandle | None = field(default=None)

    async def call(self, method: str, request: Message, timeout: float | None) -> bytes:
        invoke = self.channel.unary_unary(method)
        answer: bytes = await invoke(request.SerializeToString(), timeout=timeout)
        return answer


class Identity:
    """Speaks to one driver.  Not for concurrent `probe` calls; `driver_name` has connections of its own."""

    def __init__(self, address: CSIAddress, metrics: Metrics, reuse: float) -> None:
        self.address = address
        self.peer: SocketIdentity | None = None
        """The socket file last connected to, where the system tells them apart."""
        self._metrics = metrics
        self._reuse = reuse
        self._kept: _Connection | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._undecodable = _UndecodableMessages()

    async def close(self) -> None:
        """Close the connection that is kept for the next probe, if any."""
        await self._drop(self._take())
        await asyncio.gather(*self._closing)

    # --- Probe

    async def probe(self, attempt: Attempt) -> ProbeResult:
        """
        Ask the driver whether it is ready, dialling until `attempt.redial_until`.

        Every outcome is a result; only cancellation comes out as an exception.  Ends at `attempt.deadline`.
        """
        kept = await self._reusable()
        if kept is not None:
            result = await self._probe_on(kept, attempt)
            if result.reason is not Reason.CONNECTION_LOST:
                return result
            # It was gone before we used it, perhaps because the driver was restarted: that says nothing about now.
            attempt.connected, attempt.so_far = False, NO_TIME
        log.v(5).info("Connecting", address=self.address.text)
        while True:
            dialled = _now()
            try:
                connection = await self._connect(attempt.deadline)
            except NotConnected as error:
                now = _now()
                # The last dial may be cut short by the deadline; then what the one before it found says more.
                if attempt.so_far is NO_TIME or error.reason is not Reason.DEADLINE or now - dialled > _CUT_SHORT_SECONDS:
                    attempt.so_far = unreachable(error.reason, error.sentence, patience_spent=now >= attempt.deadline)
                if now + REDIAL_SECONDS >= min(attempt.redial_until, attempt.deadline):
                    return await _give_up(attempt)
                await asyncio.sleep(REDIAL_SECONDS)
            else:
                break
        result = await self._probe_on(connection, attempt)
        if result.reason is Reason.CONNECTION_LOST and self.address.logs_lost_connections:
            log.error("Lost connection", address=self.address.text)
        return result

    async def _probe_on(self, connection: _Connection, attempt: Attempt) -> ProbeResult:
        attempt.connected = True
        attempt.so_far = CALL_TIMED_OUT
        main_log.v(5).info("Sending probe request to CSI driver", driver=self._metrics.driver_name)
        result = None
        try:
            result = await self._ask_ready(connection, attempt)
        finally:
            if result is not None and result.reason in _KEEPS_CONNECTION:
                self._keep(connection)
            else:
                await self._drop(connection)
        return result

    async def _ask_ready(self, connection: _Connection, attempt: Attempt) -> ProbeResult:
        try:
            answer = await self._call(connection, PROBE, csi_pb2.ProbeRequest(), attempt.deadline)
        except grpc.aio.AioRpcError as error:
            return self._failed_call(connection, error, attempt.deadline)
        except TimeoutError:
            return CALL_TIMED_OUT
        response = csi_pb2.ProbeResponse()
        try:
            response.ParseFromString(answer)
        except DecodeError:
            self._log_response("{}", _UNPARSABLE.err)
            return _UNPARSABLE
        self._log_response(_compact_json(response), None)
        # "If not present, the caller SHALL assume that the plugin is in a ready state" (CSI spec, ProbeResponse).
        return READY if not response.HasField("ready") or response.ready.value else NOT_READY

    async def _call(self, connection: _Connection, method: str, request: Message, deadline: float) -> bytes:
        log.v(5).info("GRPC call", method=method, request="{}")
        left = max(deadline - _now(), 0.001)
        # The deadline goes to the driver too; the timer here is for a library that would not keep it.
        async with asyncio.timeout(left + 0.5):
            return await connection.call(method, request, min(left, _FOREVER))

    def _failed_call(self, connection: _Connection, error: grpc.aio.AioRpcError, deadline: float) -> ProbeResult:
        code, details = error.code(), self._undecodable.original(error.details() or "")
        timed_out = code is grpc.StatusCode.DEADLINE_EXCEEDED and _now() >= deadline - 0.001
        if timed_out:
            result = CALL_TIMED_OUT
        else:
            result = rpc_error(_reason_of(code, details, connection.channel.get_state()), _CODES[code], details)
        self._log_response("{}", result.err)
        return result

    def _log_response(self, response: str, err: str | None) -> None:
        log.v(5).info("GRPC response", response=response, err=err)

    # --- GetPluginInfo

    @asynccontextmanager
    async def dialled(self, timeout: float) -> AsyncIterator[_Connection]:
        """A connection of its own, for `driver_name`; raises NotConnected."""
        connection = await self._connect(_now() + timeout)
        try:
            yield connection
        finally:
            await self._drop(connection)

    async def driver_name(self, connection: _Connection, timeout: float) -> str:
        """The driver's name; raises DriverError with upstream's text."""
        log.v(5).info("GRPC call", method=GET_PLUGIN_INFO, request="{}")
        started, code = _now(), "OK"
        response = csi_pb2.GetPluginInfoResponse()
        try:
            # Upstream sends no deadline with this call, and some drivers look at it.
            async with asyncio.timeout(timeout):
                response.ParseFromString(await connection.call(GET_PLUGIN_INFO, csi_pb2.GetPluginInfoRequest(), None))
            err = None
        except TimeoutError:
            code, err = "DeadlineExceeded", CALL_TIMED_OUT.err
        except grpc.aio.AioRpcError as error:
            code = _CODES[error.code()]
            details = self._undecodable.original(error.details() or "")
            err = rpc_error(Reason.DRIVER_ERROR, code, details).err
        except DecodeError:
            code, err = "Internal", _UNPARSABLE.err
        self._log_response(_compact_json(response) if err is None else "{}", err)
        self._metrics.operation(GET_PLUGIN_INFO, code, _now() - started)
        if err is not None:
            raise DriverError(err)
        if not response.name:
            raise DriverError("driver name is empty")
        name: str = response.name
        return name

    # --- connections

    async def _connect(self, deadline: float) -> _Connection:
        """A fresh connection; raises NotConnected, at `deadline` at the latest."""
        socket = self._look_at_socket()
        self._metrics.connections.inc()
        connection = _Connection(grpc.aio.insecure_channel(self.address.target, self._options(deadline)), socket, _now())
        try:
            async with asyncio.timeout_at(deadline):
                state = connection.channel.get_state(try_to_connect=True)
                while state not in (State.READY, State.TRANSIENT_FAILURE, State.SHUTDOWN):
                    await connection.channel.wait_for_state_change(state)
                    state = connection.channel.get_state()
            if state is not State.READY:
                raise await self._explain(connection)
        except TimeoutError:
            await self._drop(connection)
            raise NotConnected(
                Reason.DEADLINE,
                f"the driver at {self.address.text} accepts connections but does not speak gRPC within the probe timeout: "
                "it is hung, stopped or overloaded",
            ) from None
        except BaseException:
            await self._drop(connection)
            raise
        self.peer = socket
        return connection

    def _options(self, deadline: float) -> list[tuple[str, object]]:
        # gRPC gives up connecting after 20 s whatever the deadline, unless its "minimum back-off" is longer.
        patience = min(int(max(deadline - _now(), 0) * 1000) + 1000, _MILLISECONDS_MAX)
        options: list[tuple[str, object]] = [
            # A fresh channel would silently borrow the live connection of another one, and a probe would then succeed on a
            # driver whose socket is gone (upstream issue 68).
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.min_reconnect_backoff_ms", patience),
            ("grpc.initial_reconnect_backoff_ms", patience),
            ("grpc.max_reconnect_backoff_ms", patience),
            ("grpc.max_metadata_size", 1 << 20),
            ("grpc.absolute_max_metadata_size", 1 << 20),
            ("grpc.primary_user_agent", f"livenessprobe/{__version__}"),
        ]
        if self.address.network != "tcp":
            # gRPC would send the percent-encoded path, which servers in Rust, Node and C# refuse.
            options.append(("grpc.default_authority", "localhost"))
        return options

    def _look_at_socket(self) -> SocketIdentity | None:
        """
        The identity of the socket file, None where there is none to tell.

        Raises NotConnected for what a dial would not survive: it is cheaper to see, and has a better reason.
        """
        if self.address.network != "unix":
            return None
        path = self.address.name
        try:
            found = os.lstat(path) if sys.platform == "win32" else os.stat(path)
        except OSError as error:
            raise _not_connected(error.errno, path) from None
        if sys.platform == "win32":
            return None
        if not stat.S_ISSOCK(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a file"
            raise NotConnected(Reason.NOT_A_SOCKET, f"{path} is {kind}, not a socket: the driver listens elsewhere")
        # The change time tells a new socket from an old one whose inode number it was given.
        return (found.st_dev, found.st_ino, found.st_ctime_ns)

    async def _explain(self, connection: _Connection) -> NotConnected:
        """Why the channel failed: the words are in the error of a call on it, which fails without dialling again."""
        try:
            await connection.call(PROBE, csi_pb2.ProbeRequest(), 1)
        except grpc.aio.AioRpcError as error:
            return _explanation(self.address, error.details() or "")
        return NotConnected(Reason.UNREACHABLE, f"the connection to {self.address.text} failed and came back; asking again")

    async def _reusable(self) -> _Connection | None:
        """The kept connection, if it is young and still leads to the same socket file."""
        kept = self._take()
        if kept is None:
            return None
        try:
            same = self._look_at_socket() == kept.socket
        except NotConnected:
            same = False
        if same and _now() - kept.opened < self._reuse and kept.channel.get_state() is State.READY:
            return kept
        await self._drop(kept)
        return None

    def _take(self) -> _Connection | None:
        kept, self._kept = self._kept, None
        if kept is not None and kept.closing is not None:
            kept.closing.cancel()
        return kept

    def _keep(self, connection: _Connection) -> None:
        """Leave `connection` for the next probe, until its time is up."""
        loop = asyncio.get_running_loop()
        connection.closing = loop.call_later(max(0, connection.opened + self._reuse - loop.time()), self._expire)
        self._kept = connection

    def _expire(self) -> None:
        if (kept := self._take()) is not None:
            closing = asyncio.get_running_loop().create_task(self._drop(kept), name="close connection")
            self._closing.add(closing)  # the loop itself holds tasks only weakly
            closing.add_done_callback(self._closing.discard)

    async def _drop(self, connection: _Connection | None) -> None:
        if connection is not None:
            await connection.channel.close()


_UNPARSABLE = rpc_error(
    Reason.PROTOCOL_ERROR,
    "Internal",
    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
)
_KEEPS_CONNECTION = (None, Reason.NOT_READY, Reason.DRIVER_ERROR, Reason.UNIMPLEMENTED)


def _now() -> float:
    return time.monotonic()


async def _give_up(attempt: Attempt) -> ProbeResult:
    """The driver was not reached; with upstream's patience, that is said only when the time is up."""
    end = min(attempt.redial_until, attempt.deadline)
    if (left := end - _now()) > 0:
        await asyncio.sleep(left)
    if attempt.redial_until < attempt.deadline:
        return attempt.so_far
    return unreachable(attempt.so_far.reason or Reason.UNREACHABLE, attempt.so_far.body, patience_spent=True)


def _reason_of(code: grpc.StatusCode, details: str, state: grpc.ChannelConnectivity) -> Reason:
    # "Stream removed (" is how grpcio begins when a stream ended without a status of the driver's.
    removed = details.startswith("Stream removed (")
    if code is grpc.StatusCode.UNAVAILABLE and (state is not State.READY or (removed and "RST_STREAM" not in details)):
        return Reason.CONNECTION_LOST
    if removed or details.startswith(("Received http2 header with status", "Compression bit set")):
        return Reason.PROTOCOL_ERROR
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Reason.UNIMPLEMENTED
    return Reason.DEADLINE if code is grpc.StatusCode.DEADLINE_EXCEEDED else Reason.DRIVER_ERROR


def _not_connected(number: int | None, path: str) -> NotConnected:
    """What an errno of looking at or connecting to a socket file means."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        missing = f"{path} does not exist: the driver is not running, or its folder is not mounted here"
        return NotConnected(Reason.SOCKET_MISSING, missing)
    if number in (errno.EACCES, errno.EPERM):
        return NotConnected(Reason.PERMISSION_DENIED, f"{path}: permission denied: run as the driver's user or as root")
    return NotConnected(Reason.UNREACHABLE, f"{path}: {os.strerror(number or 0)}")


def _explanation(address: CSIAddress, details: str) -> NotConnected:
    """A reason for gRPC's words about a connection that failed."""
    where = address.name
    words = details.rpartition("error: ")[2]
    if os.strerror(errno.ECONNREFUSED) in details:
        if address.network == "unix" and _is_mount_point(where):
            return NotConnected(
                Reason.STALE_MOUNT,
                f"{where} is itself a mount, and of a socket nobody listens on any more: mount the folder, not the file",
            )
        return NotConnected(Reason.REFUSED, f"nobody listens on {where}: the driver is down or starting")
    for number in (errno.EACCES, errno.ENOENT):
        if os.strerror(number) in details and address.network == "unix":
            return _not_connected(number, where)
    if os.strerror(errno.EPROTOTYPE) in details:
        return NotConnected(Reason.NOT_A_SOCKET, f"{where} is a socket of another kind than a stream")
    if "http1.x" in details:
        return NotConnected(
            Reason.PROTOCOL_ERROR, f"{where} answers in HTTP/1, not gRPC: this is not the driver's CSI socket"
        )
    if "HTTP/2" in details:
        return NotConnected(Reason.PROTOCOL_ERROR, f"{where} does not speak gRPC: this is not the driver's CSI socket")
    if os.strerror(errno.ECONNRESET) in details or "closed" in details.lower() or os.strerror(errno.EPIPE) in details:
        return NotConnected(Reason.PROTOCOL_ERROR, f"{where} closes every connection without a word of gRPC")
    if "resolving" in details or "lookup" in details:
        return NotConnected(Reason.UNRESOLVED, f"{where}: the name cannot be resolved")
    return NotConnected(Reason.UNREACHABLE, f"{where}: {words or details}")


def _is_mount_point(path: str) -> bool:
    """Whether the very file is a bind mount, as `docker run -v …/csi.sock:/csi/csi.sock` makes it (proc(5), mountinfo)."""
    escaped = path.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.split(" ")[4] == escaped for line in file)
    except (OSError, IndexError):
        return False


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


class _UndecodableMessages(logging.Filter):
    """
    The bytes of status messages that are no UTF-8.

    grpcio hands such a message over as Latin-1 and logs the bytes; the log call is the only place where they still are,
    and it happens right before the error is raised.  Without it we would show the Latin-1 reading.
    """

    LIMIT = 16

    def __init__(self) -> None:
        super().__init__()
        self._bytes: dict[str, bytes] = {}
        logging.getLogger("grpc._cython.cygrpc").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Remember the bytes; the record itself is noise."""
        if isinstance(record.args, tuple) and len(record.args) == 1 and isinstance(record.args[0], bytes):
            if len(self._bytes) >= self.LIMIT:
                self._bytes.clear()
            self._bytes[record.args[0].decode("latin-1")] = record.args[0]
            return False
        return True

    def original(self, details: str) -> str:
        """`details` with undecodable bytes as surrogate escapes."""
        raw = self._bytes.pop(details, None)
        return details if raw is None else raw.decode(errors="surrogateescape")
