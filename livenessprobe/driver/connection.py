"""
Connections to the driver over gRPC: dials, calls, and keeps a connection for the next Probe.

A call has two phases, which have different reasons for a failure: first a connection (a fresh channel until it is READY),
then the RPC on it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

# gRPC's core prints lines of its own unless this is set before it is loaded; its faults are raised as errors all the same.
os.environ["GRPC_VERBOSITY"] = "NONE"

import grpc
import grpc.aio

from livenessprobe import __version__
from livenessprobe.driver.address import CSIAddress
from livenessprobe.driver.diagnosis import NotConnected, Phase, judge, no_descriptors, stale_mount
from livenessprobe.driver.result import Reason
from livenessprobe.driver.socket_file import Look, SocketFile, SocketIdentity, is_mount_point, look

_MILLISECONDS_MAX = (1 << 31) - 1
QUIET_SECONDS = 0.05
"""Pause after a connection that failed: a driver that fails each connection sees at most 20 a second."""
LOOK_SECONDS = 0.1
"""How often a dial without an answer looks whether the socket file is still the same."""
DESCRIPTORS = 12
"""Descriptors that must be free before gRPC is started: it takes eight, and ends the process if it gets none."""
_FOREVER = 10.0**8
"""Seconds; gRPC's timeout header has eight digits."""

State = grpc.ChannelConnectivity


class CallFailed(Exception):
    """An RPC that failed, for `diagnosis.judge`: grpcio's name of the code, its words, and how far the connection had come."""

    def __init__(self, code: str, words: str, phase: Phase = Phase.CALL) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code
        self.words = words
        self.phase = phase


@dataclass(slots=True)
class Connection:
    """One channel, the socket file it was dialled through, and the loop's time when it was opened."""

    channel: grpc.aio.Channel
    socket: SocketIdentity | None
    opened: float
    closing: asyncio.TimerHandle | None = field(default=None)

    async def call(self, method: str, request: bytes, timeout: float | None) -> bytes:
        """The bytes of the response; raises CallFailed.  `timeout`, if there is one, is sent to the driver as its deadline."""
        call = self.channel.unary_unary(method)(request, timeout=timeout and min(timeout, _FOREVER))
        try:
            response: bytes | None = await call
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        finally:
            _forget(call)
        if response is None:  # the call succeeded, but its message was missing or cut off
            raise CallFailed("OK", "")
        return response

    async def stream(self, method: str, request: bytes, timeout: float | None) -> list[bytes]:
        """
        The messages of the response, read one by one until it ends or a second has come; raises CallFailed.

        Reads a response that `call` waits on in vain, as it has bytes behind its message; but takes it for a complete one.
        """
        call = self.channel.unary_stream(method)(request, timeout=timeout and min(timeout, _FOREVER))
        messages: list[bytes] = []
        try:
            while len(messages) < 2 and (message := await call.read()) is not grpc.aio.EOF:
                messages.append(message)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        finally:
            call.cancel()
            _forget(call)
        return messages

    def _failure(self, error: grpc.aio.AioRpcError) -> CallFailed:
        phase = Phase.CALL if self.channel.get_state() is State.READY else Phase.LOST
        return CallFailed(error.code().name, _undecodable.original(error.details() or ""), phase)


def _forget(call: grpc.aio.Call) -> None:
    # A call and its task refer to each other.  In grpcio 1.83 a closed channel keeps its connection open as long as one of
    # its calls exists, which would be until the garbage collector runs.
    if call.done():
        vars(call).clear()


class Dialer:
    """Connects to one driver, and keeps a connection for the next Probe for `reuse` seconds."""

    def __init__(self, address: CSIAddress, on_dial: Callable[[], object], look: Look = look) -> None:
        self.address = address
        self.socket_file = SocketFile(address, look)
        self.reuse = 0.0
        """Seconds for which a connection may serve Probes; may be changed at any time."""
        self._on_dial = on_dial
        self._quiet_until = 0.0
        self._idle_channel: grpc.aio.Channel | None = None
        self._kept: Connection | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def look(self, deadline: float) -> SocketIdentity | None:
        """
        Wait until a dial may begin; the identity of the socket file, for `dial`.

        Raises NotConnected if a dial could not succeed, at `deadline` (the loop's time) at the latest.
        """
        if (quiet := min(self._quiet_until, deadline) - asyncio.get_running_loop().time()) > 0:
            await self.socket_file.look(deadline)
            await asyncio.sleep(quiet)
        return await self.socket_file.look(deadline)

    async def dial(self, socket: SocketIdentity | None, deadline: float) -> Connection:
        """A fresh connection, right after a `look` has found `socket`; raises NotConnected, at `deadline` at the latest."""
        self._keep_grpc_running()
        self._on_dial()
        now = asyncio.get_running_loop().time()
        channel = grpc.aio.insecure_channel(self.address.target, self._options(deadline - now))
        try:
            async with asyncio.timeout_at(deadline):
                state = await self._final_state(channel, socket)
            if state is not State.READY:
                raise await self._explain(Connection(channel, socket, now))
        except TimeoutError:
            self.pause()
            await channel.close()
            raise self.hung() from None
        except BaseException:
            self.pause()
            await channel.close()
            raise
        return Connection(channel, socket, now)

    def _keep_grpc_running(self) -> None:
        """
        Hold a channel that never connects until this dialer is closed.

        Without a channel gRPC ends its threads and pollers, and starts them again for each dial: 2.2 ms of CPU instead of 1.0.
        Worse, it then calls abort() if it gets no descriptor for them, and blocks the loop if it gets no thread.  With one, a
        dial takes one descriptor and no thread, and the idle threads cost 0.03 % of a CPU.
        """
        if self._idle_channel is None:
            _refuse_without_descriptors(self.address)
            self._idle_channel = grpc.aio.insecure_channel(self.address.target, [("grpc.use_local_subchannel_pool", 1)])

    def pause(self) -> None:
        """A connection has failed: delay the next dial."""
        self._quiet_until = asyncio.get_running_loop().time() + QUIET_SECONDS

    def hung(self) -> NotConnected:
        """The failure of a dial without an answer until its deadline."""
        return NotConnected(
            Reason.DEADLINE,
            f"the driver at {self.address.text} accepts connections but does not speak gRPC within the probe timeout: "
            "it is hung, stopped or overloaded",
        )

    async def _final_state(self, channel: grpc.aio.Channel, socket: SocketIdentity | None) -> grpc.ChannelConnectivity:
        """The state in which connecting ends; raises NotConnected once another socket file has taken the place of `socket`."""
        state = State.IDLE
        while state not in (State.READY, State.TRANSIENT_FAILURE, State.SHUTDOWN):
            change = asyncio.ensure_future(channel.wait_for_state_change(state))
            if state is State.IDLE:
                # Connect only after the wait for a change has begun: a driver may close the connection at once, and the channel is idle again.
                await asyncio.sleep(0)
                channel.get_state(try_to_connect=True)
            try:
                while not change.done():
                    await asyncio.wait({change}, timeout=LOOK_SECONDS)
                    if not change.done() and self.has_changed(socket):
                        raise NotConnected(Reason.REFUSED, f"{self.address.name} was replaced while it was dialled")
            finally:
                change.cancel()
            state = channel.get_state()
            if state is State.IDLE:  # connected and closed between two looks; gRPC does not connect again by itself
                raise self._not_connected("UNAVAILABLE", "", Phase.GREETED)
        return state

    def _options(self, left: float) -> list[tuple[str, object]]:
        # gRPC gives up connecting after 20 s whatever the deadline, unless its "minimum back-off" is longer.
        backoff = min(int(max(left, 0) * 1000) + 1000, _MILLISECONDS_MAX)
        options: list[tuple[str, object]] = [
            # A new channel would otherwise use the live connection of another channel, and a Probe would succeed on a driver
            # whose socket is gone (upstream issue 68).
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.min_reconnect_backoff_ms", backoff),
            ("grpc.initial_reconnect_backoff_ms", backoff),
            ("grpc.max_reconnect_backoff_ms", backoff),
            ("grpc.max_metadata_size", 1 << 20),
            ("grpc.absolute_max_metadata_size", 1 << 20),
            ("grpc.primary_user_agent", f"livenessprobe/{__version__}"),
        ]
        if self.address.network != "tcp":
            # gRPC would send the percent-encoded path, which servers in Rust, Node and C# refuse.
            options.append(("grpc.default_authority", "localhost"))
        return options

    def has_changed(self, socket: SocketIdentity | None) -> bool:
        """
        Whether the socket file is another than `socket`; raises NotConnected if there is none.

        False if a look might hang: then only the next Probe finds out.
        """
        return self.socket_file.is_local() and self.socket_file.look_in_place() != socket

    async def _explain(self, connection: Connection) -> NotConnected:
        """Why the channel failed: a call on it fails at once, without another dial, and its error has gRPC's words."""
        try:
            await connection.call("/csi.v1.Identity/Probe", b"", 1)
        except CallFailed as error:
            return self._not_connected(error.code, error.words, Phase.DIAL)
        return NotConnected(Reason.UNREACHABLE, f"the connection to {self.address.text} failed and came back; asking again")

    def _not_connected(self, code: str, words: str, phase: Phase) -> NotConnected:
        verdict = judge(code, words, phase, self.address)
        if verdict.reason is Reason.REFUSED and self.address.network == "unix" and is_mount_point(self.address.name):
            return stale_mount(self.address.name)
        return NotConnected(verdict.reason, verdict.sentence, again=verdict.again)

    async def kept(self, deadline: float) -> Connection | None:
        """
        The kept connection, if it is open, no older than `reuse`, and its socket file is still at the address.

        Ends at `deadline` (the loop's time) at the latest.
        """
        kept = self._take()
        if kept is None:
            return None
        try:
            same = await self.socket_file.look(deadline) == kept.socket
        except NotConnected:
            same = False
        ready = kept.channel.get_state() is State.READY
        if same and asyncio.get_running_loop().time() - kept.opened < self.reuse and ready:
            return kept
        if same and not ready:  # a driver that closes the connection after each response is dialled with a pause, too
            self._quiet_until = max(self._quiet_until, kept.opened + QUIET_SECONDS)
        await self.drop(kept)
        return None

    def _take(self) -> Connection | None:
        kept, self._kept = self._kept, None
        if kept is not None and kept.closing is not None:
            kept.closing.cancel()
        return kept

    def keep(self, connection: Connection) -> None:
        """Keep `connection` for the next Probe, and close it when it is older than `reuse`."""
        if self._kept is not None:
            self._expire()
        loop = asyncio.get_running_loop()
        connection.closing = loop.call_later(max(0, connection.opened + self.reuse - loop.time()), self._expire)
        self._kept = connection

    def _expire(self) -> None:
        if (kept := self._take()) is not None:
            closing = asyncio.get_running_loop().create_task(self.drop(kept), name="close connection")
            self._closing.add(closing)  # the loop has only weak references to tasks
            closing.add_done_callback(self._closing.discard)

    async def drop(self, connection: Connection) -> None:
        """Close `connection`."""
        await connection.channel.close()

    async def close(self) -> None:
        """Close the kept connection, and wait until all are closed."""
        if (kept := self._take()) is not None:
            await self.drop(kept)
        await asyncio.gather(*self._closing)
        self.socket_file.close()
        if self._idle_channel is not None:
            await self._idle_channel.close()
            self._idle_channel = None


def _refuse_without_descriptors(address: CSIAddress) -> None:
    """Raises NotConnected if there are too few descriptors for gRPC, which would call abort() (grpcio 1.85, eventfd)."""
    taken: list[int] = []
    try:
        while len(taken) < DESCRIPTORS:
            taken += os.pipe()
    except OSError as error:
        raise no_descriptors(address, error.errno or 0) from None
    finally:
        for descriptor in taken:
            os.close(descriptor)


class _UndecodableMessages(logging.Filter):
    """
    Recovers the bytes of status messages that are not UTF-8.

    grpcio decodes such a message as Latin-1 in the error that it raises.  Right before that it logs the bytes, which are
    nowhere else.
    """

    LIMIT = 16

    def __init__(self) -> None:
        super().__init__()
        self._bytes: dict[str, bytes] = {}
        logging.getLogger("grpc._cython.cygrpc").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Remember the bytes, and drop the record."""
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


_undecodable = _UndecodableMessages()
