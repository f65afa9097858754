"""The states of a driver: how a test makes each, and which results a probe may have in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.conformance.raw_driver import RawDriver
from tests.machine.drivers import RAW, GrpcDriver, ProcessDriver, wire
from tests.machine.frames import ALWAYS, BESIDE, DRAINS, FRAMES, UNSEEN, greet_with, respond_with
from tests.machine.model import Outcome, Socket, turned_away
from tests.support import fuse
from tests.support.frames import FrameDriver

CODES = (
    "OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied ResourceExhausted "
    "FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss Unauthenticated"
)
MESSAGES: dict[str, bytes] = {
    "plain": b"backend is down",
    "empty": b"",
    "lines": b'one\ntwo\r\nE1121 08:00:00.000000 1 main.go:1] "forged" err="x"\n',
    "control": bytes(range(1, 32)) + b"\x7f\x1b[31mred",
    "latin": "Rücken → 日本".encode(),
    "invalid": b"\xff\xfe broken \xc3\x28 \xed\xa0\x80",
    "percent": b"100% %41 %zz",
    "quotes": b'"} {"a": \\ <b>&',
    "long": b"x" * 10_000,
    "empty_lines": b"\n" * 5_000,
    "removed": b"Stream removed (forged)",
    "http": b"Received http2 header with status: 503",
    "closed": b"failed to connect to all addresses; last error: UNKNOWN: Socket closed",
}
LIKE_THE_LIBRARY = {"removed", "http"}
"""Messages in the library's own words; the sidecar takes such an error for the library's."""
NAMES = ("grpc.csi.test", "renamed.csi.test", 'odd"name\n\x1b[0m.test')
LATER, LATEST = 1.2, 1.6
"""Seconds; well above each probe timeout in use."""
SOONER = 0.06
"""Well below each probe timeout in use."""


@dataclass(frozen=True, slots=True)
class Expect:
    """The results that a probe may have, how long it takes, and what the sidecar responds."""

    outcomes: frozenset[Outcome]
    wait: str = "none"
    """
    How long a response takes: "none", "unreached" (the grace for an unreachable driver), "timeout" (the probe timeout),
    or "any".
    """
    body: bytes | None = None
    """The body of /healthz, if only one is possible."""
    name: str = ""
    """The driver's name, if the sidecar can learn it."""
    delay: float = 0.0
    late: frozenset[Outcome] = frozenset()
    """Further results that are right if this machine stood still."""


REFUSED = frozenset({Outcome("connection_lost"), Outcome("protocol_error", False)})
"""The results of a call, or of a dial, that there was no time to make again."""


def found(*reasons: str | None, reached: bool | None = True, **more: Any) -> Expect:
    either = (True, False) if reached is None else (reached,)
    return Expect(frozenset(Outcome(reason, each) for reason in reasons for each in either), **more)


def unreached(*reasons: str, **more: Any) -> Expect:
    return found(*reasons, reached=False, wait="unreached", **more)


class World:
    """A folder with a CSI socket, at which different drivers take turns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mount = folder / "csi"
        self.mount.mkdir()
        self.address = self.mount / "csi.sock"
        self._pool = folder / "pool"
        self._pool.mkdir()
        self._at = ""
        """The name of the pool's socket that is at the address."""
        self._serial = 0
        self._frozen = False
        self._unmount: Callable[[], None] | None = None
        """Ends the hung file system over the folder, if there is one."""
        self.grpc = GrpcDriver(str(self._pool / "grpc"), NAMES[0])
        self.grpc.start()
        self.raw = wire(self._pool / "raw")
        self.named = wire(self._pool / "named")
        """Each time that it is at the address, its socket is new, so that it is asked its name."""
        self.frames = FrameDriver(str(self._pool / "frames"))
        self._wires: dict[str, RawDriver] = {}
        self._process = self._start_process()
        self._others: list[socket.socket] = []
        self.expect = self.enter("missing", False)
        self.socket: Socket = None

    def close(self) -> None:
        self._reset()
        self.grpc.reset()
        self.grpc.stop()
        for driver in (self.raw, self.named, *self._wires.values()):
            driver.stop()
        self.frames.close()
        for each in self._others:
            each.close()
        self._process.kill()

    def enter(self, state: str, anew: bool, *arguments: Any) -> Expect:
        """Bring about `state`; with `anew` on a new socket even if the present one could stay."""
        if state == "hung_mount" and self._unmount:
            return self.expect
        self._reset()
        if anew:
            self._clear()
        self.expect = STATES[state](self, *arguments)
        self.socket = None if self._unmount else self._look()
        return self.expect

    def _look(self) -> Socket:
        try:
            status = os.stat(self.address)
            return status.st_dev, status.st_ino, status.st_ctime_ns
        except OSError:
            return None

    # --- placing

    def _reset(self) -> None:
        if self._unmount:  # first of all: until then this process would hang, too
            self._unmount()
            self._unmount = None
        if self.mount.is_dir():
            os.chmod(self.mount, 0o700)
        if self._frozen:
            self._process.process.send_signal(signal.SIGCONT)
            self._frozen = False

    def _clear(self) -> None:
        self._at = ""
        if not self.mount.is_dir() or self.mount.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.mount)
            self.mount.mkdir()
        if self.address.is_dir() and not self.address.is_symlink():
            shutil.rmtree(self.address)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)

    def _put(self, source: str, link: bool = False) -> None:
        """Put the pool's socket `source` at the address."""
        if self._at == source:
            return
        if not self._at:
            self._clear()
        self._at = source
        new = self.mount / "new"
        if link:
            os.symlink(self._pool / source, new)
        else:
            os.link(self._pool / source, new)
        os.rename(new, self.address)

    def _start_process(self) -> ProcessDriver:
        self._serial += 1
        return ProcessDriver(str(self._pool / f"process{self._serial}"))

    def _put_process(self) -> None:
        self._process.serving()
        self._put(Path(self._process.path).name)

    def _wire(self, kind: str) -> None:
        if kind not in self._wires:
            self._wires[kind] = wire(self._pool / kind, kind)
        self._put(kind)

    def _bind(self, type_: int = socket.SOCK_STREAM) -> socket.socket:
        self._clear()
        for each in self._others:
            each.close()
        self._others = [socket.socket(socket.AF_UNIX, type_)]
        self._others[0].bind(str(self.address))
        return self._others[0]

    # --- states

    def library(self, ready: bool | None, delay: float, padding: int, link: bool) -> Expect:
        """A driver on the grpc library that responds."""
        self.grpc.reset()
        self.grpc.ready, self.grpc.delay, self.grpc.padding = ready, delay, padding
        self._put("grpc", link)
        name = self.grpc.name
        if delay >= LATER:
            return found("deadline", wait="timeout", name=name)
        if padding > 4 << 20:
            return found("protocol_error", name=name)
        if ready is False:
            return found("not_ready", name=name, body=b"driver responded but is not ready", delay=delay)
        return found(None, name=name, body=b"ok", delay=delay)

    def library_hangs(self) -> Expect:
        self.grpc.reset()
        self.grpc.hang = True
        self._put("grpc")
        body = b"rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        return found("deadline", wait="timeout", body=body, name=self.grpc.name)

    def library_error(self, code: int, message: str) -> Expect:
        self.grpc.reset()
        status = next(each for each in grpc.StatusCode if each.value[0] == code)
        text = MESSAGES[message].decode(errors="replace")
        self.grpc.status = status, text
        self._put("grpc")
        return self._error(code, message, text.encode(), self.grpc.name)

    def library_restarts(self, name: int) -> Expect:
        self.grpc.reset()
        self.grpc.stop()
        if self._at == "grpc":
            self._clear()
        self.grpc.name = NAMES[name]
        self.grpc.start()
        return self.library(None, 0.0, 0, False)

    def raw_answers(self, ready: bool | None, extra: dict[str, Any]) -> Expect:
        self.raw.behave({"probe": {"ready": ready, **extra}})
        self._put("raw")
        delay = extra.get("delay_s", 0.0)
        if delay >= LATER:
            return found("deadline", wait="timeout")
        if ready is False:
            return found("not_ready", name=RAW, body=b"driver responded but is not ready", delay=delay)
        return found(None, name=RAW, body=b"ok", delay=delay)

    def raw_error(self, code: int, message: str) -> Expect:
        self.raw.behave({"probe": {"status": code, "message_hex": MESSAGES[message].hex()}})
        self._put("raw")
        return self._error(code, message, MESSAGES[message], RAW)

    def _error(self, code: int, message: str, text: bytes, name: str) -> Expect:
        spelled = CODES.split()[code] if code < 17 else "Unknown"
        reasons = {"unimplemented" if code == 12 else "driver_error"}
        if message in LIKE_THE_LIBRARY:
            reasons = {"protocol_error"} | ({"connection_lost"} if spelled == "Unavailable" else set())
        return found(*reasons, body=f"rpc error: code = {spelled} desc = ".encode() + text, name=name)

    def raw_breaks(self, behaviour: dict[str, Any], reasons: list[str]) -> Expect:
        self.raw.behave({"probe": behaviour})
        self._put("raw")
        return found(*reasons, name=RAW)

    def wire(self, kind: str, reasons: list[str], wait: str) -> Expect:
        self._wire(kind)
        return found(*reasons, reached=None if kind.startswith("goaway") else False, wait=wait)

    def goes_away(self, place: str, code: int) -> Expect:
        """A ready driver that sends a GOAWAY with `code` beside each response."""
        respond_with(self.frames, lambda call: BESIDE[place](call, code))
        self._put("frames")
        return found(None, name=FRAMES, body=b"ok")

    def turns_away(self, refusal: str, code: int, every: int) -> Expect:
        """A driver that has not looked at the calls of each such connection."""
        respond_with(self.frames, lambda call: UNSEEN[refusal](call, code), every)
        self._put("frames")
        return found(turned_away(in_a_row=2 if every == ALWAYS else 1), name="" if every == ALWAYS else FRAMES, late=REFUSED)

    def drains(self, how: str, code: int) -> Expect:
        """A driver of which each third connection drains from its beginning."""
        greet_with(self.frames, DRAINS[how](code))
        self._put("frames")
        return found(turned_away(in_a_row=1), name=FRAMES, late=REFUSED)

    def names(self, behaviour: dict[str, Any], name: str) -> Expect:
        """A ready driver whose GetPluginInfo is like that; `name` is what can be learned from it."""
        self.named.reset()
        self.named.behave({"plugin_info": behaviour})
        self._put("named")
        return found(None, body=b"ok", name=name)

    def process(self) -> Expect:
        self._put_process()
        return found(None, body=b"ok", name="process.csi.test")

    def frozen(self) -> Expect:
        self._put_process()
        self._process.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.process.pid, os.WSTOPPED)  # until then some threads may still answer
        self._frozen = True
        return found("deadline", reached=None, wait="timeout")

    def killed(self) -> Expect:
        self._put_process()
        self._process.kill()
        self._process = self._start_process()
        self._at = "killed"
        return unreached("refused", body=f"nobody listens on {self.address}: the driver is down or starting".encode())

    def hung_mount(self) -> Expect:
        """A file system that hangs is mounted over the driver's folder, whatever is there."""
        if not self.mount.is_dir() or self.mount.is_symlink():
            self._clear()
        self._unmount = fuse.mount(self.mount)
        body = f"{self.address} cannot be looked at: its file system does not respond; "
        way_out = "on the node, look for a dead FUSE or NFS mount there, and unmount it (umount -l)"
        return found("hung_mount", reached=False, wait="timeout", body=(body + way_out).encode())

    def missing(self) -> Expect:
        self._clear()
        return unreached("socket_missing")

    def folder_missing(self) -> Expect:
        self._clear()
        self.mount.rmdir()
        return unreached("socket_missing")

    def folder_is_a_file(self) -> Expect:
        self._clear()
        self.mount.rmdir()
        self.mount.write_text("")
        return unreached("socket_missing")

    def dangling(self) -> Expect:
        self._clear()
        os.symlink("nowhere", self.address)
        return unreached("socket_missing")

    def loop(self) -> Expect:
        self._clear()
        os.symlink("csi.sock", self.address)
        return unreached("unreachable", body=f"{self.address}: Too many levels of symbolic links".encode())

    def a_file(self) -> Expect:
        self._clear()
        self.address.write_text("no socket")
        return unreached("not_a_socket")

    def a_folder(self) -> Expect:
        self._clear()
        (self.address / "deep").mkdir(parents=True)
        return unreached("not_a_socket")

    def a_pipe(self) -> Expect:
        self._clear()
        os.mkfifo(self.address)
        return unreached("not_a_socket")

    def datagrams(self) -> Expect:
        self._bind(socket.SOCK_DGRAM)
        return unreached("not_a_socket")

    def stale(self) -> Expect:
        self._bind()
        return unreached("refused")

    def never_accepts(self) -> Expect:
        self._bind().listen(4096)
        return found("deadline", reached=False, wait="timeout")

    def backlog_full(self) -> Expect:
        self._bind().listen(0)
        while True:
            each = socket.socket(socket.AF_UNIX)
            self._others.append(each)
            each.setblocking(False)
            try:
                each.connect(str(self.address))
            except BlockingIOError:
                return found("unreachable", "deadline", reached=False, wait="any")

    def forbidden_socket(self) -> Expect:
        self._bind().listen(16)
        os.chmod(self.address, 0)
        return unreached("permission_denied")

    def forbidden_folder(self) -> Expect:
        self._put("raw")
        os.chmod(self.mount, 0)
        return unreached("permission_denied")


STATES: dict[str, Callable[..., Expect]] = {
    name: value
    for name, value in vars(World).items()
    if callable(value) and not name.startswith("_") and name not in ("close", "enter")
}
PERMISSIONS = ("forbidden_socket", "forbidden_folder")
