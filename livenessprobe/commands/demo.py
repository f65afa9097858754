"""
`livenessprobe demo`: shows the sidecar with an example driver, without a cluster.

The driver and the sidecar are separate processes, so that SIGKILL makes a crash and SIGSTOP a hang.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

from livenessprobe.process import memory, signals, threads
from livenessprobe.settings import command_line
from livenessprobe.settings.layers import overlay
from livenessprobe.settings.listen_address import ListenAddress, join_host_port, parse_listen_address
from livenessprobe.settings.load import load
from livenessprobe.settings.model import Loaded
from livenessprobe.web.listener import ListenError, look_up

USAGE = """\
Usage: livenessprobe demo [flags of livenessprobe]
It listens on 127.0.0.1:9808, or on a free port, unless --http-endpoint=host:port, --http-endpoint=unix:///path or
--health-port=port say otherwise.
"""
HELP = """\
  r  the driver is ready          c  it crashes (SIGKILL)
  n  it says: not ready           h  it hangs (SIGSTOP)
  s  it is slow (2 s)             b  it comes back
  p  only probe                   q  quit
"""
RESPONSE_SECONDS = 30.0
"""The longest wait for a response of the sidecar."""
QUICK_SECONDS = 0.3
"""A response that takes longer is announced, or the demo would look hung."""
_GREEN, _RED = 32, 31


class _Target(NamedTuple):
    """Where a listener of the sidecar is reached."""

    host: str
    port: int
    socket: str = ""
    """Path of a unix socket, in place of host and port."""

    def curl(self, path: str) -> str:
        """The arguments with which curl gets `path`."""
        if self.socket:
            return f"--unix-socket {self.socket} http://localhost{path}"
        return f"http://{join_host_port(self.host, str(self.port))}{path}"

    def connect(self) -> HTTPConnection:
        """A connection; raises OSError."""
        connection = HTTPConnection(self.host, self.port or None, timeout=RESPONSE_SECONDS)
        if sys.platform != "win32" and self.socket:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(RESPONSE_SECONDS)
            connection.sock.connect(self.socket)
        else:
            connection.connect()
        return connection


class _Driver:
    """The example driver as a process."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "livenessprobe.commands.example_driver", self._socket]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # a pipe was asked for
        self._process.stdout.readline()

    def send(self, command: str) -> None:
        if self._process.stdin is None or self._process.poll() is not None:
            return
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has just ended; the next probe will show it

    def hang(self) -> None:
        if sys.platform != "win32" and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def crash(self) -> None:
        self._process.kill()
        self._process.communicate()

    def come_back(self) -> None:
        """Continue a stopped process and make it ready, or start a new one."""
        if self._process.poll() is not None:
            self._start()
        elif sys.platform != "win32":
            self._process.send_signal(signal.SIGCONT)
            self.send("ready")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the demo; `arguments` are flags for the sidecar, `environ` its variables.  Returns the exit code."""
    if sys.platform == "win32":
        print("livenessprobe demo needs unix signals; run it on Linux or in WSL", file=sys.stderr)
        return 1
    memory.enable_collection()
    signals.install_early(lambda *_: sys.exit(0))  # so that `finally` clauses end both processes
    try:
        return _main(arguments, environ)
    except (KeyboardInterrupt, SystemExit):
        return 0


def _main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    with tempfile.TemporaryDirectory(prefix="livenessprobe-demo") as folder, ExitStack() as held:
        socket_path = os.path.join(folder, "csi.sock")
        try:
            values = {"csi-address": socket_path, **command_line.parse(arguments).values()}
            loaded, values = _with_endpoint(values, environ, held)
            targets = _targets(loaded)
        except command_line.HelpRequested:
            _say(f"{USAGE}Keys, each followed by Enter:\n{HELP}")
            return 0
        except (command_line.FlagError, ListenError) as error:
            return _refuse(f"{error}{error.hint if isinstance(error, command_line.FlagError) else ''}")
        if loaded.mistakes:
            return _refuse(*(mistake.sentence for mistake in loaded.mistakes))
        if fault := threads.fault():  # where no thread can be started, no process can either (posix_spawn)
            print(f"livenessprobe demo: {fault}", file=sys.stderr)
            return 1
        driver = _Driver(socket_path)
        command = [sys.executable, "-m", "livenessprobe", *(f"--{name}={value}" for name, value in values.items())]
        sidecar = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)
        try:
            return _run_session(driver, sidecar, *targets, colours=_has_colours(environ))
        finally:
            sidecar.terminate()
            sidecar.wait()
            driver.crash()


def _refuse(*sentences: str) -> int:
    print("\n".join(f"livenessprobe demo: {sentence}" for sentence in sentences), file=sys.stderr)
    return 2


def _with_endpoint(values: dict[str, str], environ: Mapping[str, str], held: ExitStack) -> tuple[Loaded, dict[str, str]]:
    """
    The settings by `values` and `environ`, with a port that is known beforehand; and the values that make them.

    A port that is chosen here is kept from other demos until `held` is closed.
    """
    loaded = load(values, environ, merger=overlay)
    if loaded.mistakes:
        return loaded, values
    if all(loaded.raw[key].source.startswith("default") for key in ("http_endpoint", "health_port", "metrics_address")):
        values = {**values, "http-endpoint": _free_endpoint(held)}
    elif loaded.settings.http.port.strip("0") == "" and not loaded.settings.http.path:
        port = _free_port(loaded.settings.http, held)
        by_port = {"health-port": str(port)}
        by_endpoint = {"http-endpoint": join_host_port(loaded.settings.http.host, str(port))}
        values = {**values, **(by_endpoint if loaded.raw["http_endpoint"].text else by_port)}
    else:
        return loaded, values
    return load(values, environ, merger=overlay), values


def _free_endpoint(held: ExitStack) -> str:
    for endpoint in ("127.0.0.1:9808", "127.0.0.1:0"):
        try:
            return f"127.0.0.1:{_free_port(parse_listen_address(endpoint), held)}"
        except ListenError:
            continue  # 9808 may be taken by a sidecar of a cluster on this machine
    raise ListenError("no port is free on 127.0.0.1")


def _free_port(address: ListenAddress, held: ExitStack) -> int:
    """A free port for `address`, which a socket in `held` keeps for this demo's sidecar; raises ListenError."""
    found = look_up(address)
    assert found is not None  # a unix socket has no port
    holder = held.enter_context(socket.socket(found.family, socket.SOCK_STREAM))
    try:
        if found.family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not found.dual_stack)
        holder.bind(found.sockaddr)
    except OSError as error:
        raise ListenError(f"listen tcp {found.text}: bind: {error.strerror}") from None
    port = int(holder.getsockname()[1])
    if sys.platform == "linux":
        # Bound without the option, the socket had the port for itself, and no other demo gets it; with the option on both
        # sides, the sidecar may listen on it (inet_csk_bind_conflict).
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        holder.close()
    return port


def _targets(loaded: Loaded) -> tuple[_Target, _Target | None]:
    """Where to ask for health, and where for metrics; raises ListenError for an unknown name or port."""
    settings = loaded.settings
    health = _target(settings.http)
    if settings.metrics_on_http:
        return health, health
    return health, None if settings.metrics is None else _target(settings.metrics)


def _target(address: ListenAddress) -> _Target:
    found = look_up(address)
    if found is None:
        return _Target("localhost", 0, address.path)
    host, port = found.sockaddr[:2]
    return _Target("127.0.0.1" if host in ("::", "0.0.0.0") else host, port)  # noqa: S104  the wildcard is left


def _run_session(
    driver: _Driver, sidecar: subprocess.Popen[bytes], health: _Target, metrics: _Target | None, *, colours: bool
) -> int:
    """Act on the keys until `q`, or until the sidecar ends after standard input has ended; returns the exit code."""
    if not _await_first_response(sidecar, health):
        return sidecar.wait()
    shown = f"\nTry it:  curl -i {health.curl('/healthz')}\n"
    if metrics is not None:
        shown += f"         curl {metrics.curl('/metrics')}\n"
    _say(f"{shown}\nKeys, each followed by Enter:\n{HELP}")
    _show_health(health, colours)
    actions: dict[str, Callable[[], None]] = {
        "r": lambda: driver.send("ready"),
        "n": lambda: driver.send("not-ready"),
        "s": lambda: driver.send("slow 2"),
        "h": driver.hang,
        "c": driver.crash,
        "b": driver.come_back,
        "p": lambda: None,
    }
    for line in sys.stdin:
        key = line.strip() or "p"
        if key == "q":
            return 0
        if key not in actions:
            _say(f"{key!r} is none of r n s c h b p q\n{HELP}")
            continue
        actions[key]()
        time.sleep(0.2)  # the driver does not confirm a command, so give it time to act
        _show_health(health, colours)
    _say("Standard input has ended: no more keys.  Driver and sidecar go on until SIGTERM or Ctrl-C.")
    return sidecar.wait()


def _await_first_response(sidecar: subprocess.Popen[bytes], health: _Target) -> bool:
    end = time.monotonic() + RESPONSE_SECONDS
    while time.monotonic() < end and sidecar.poll() is None:
        try:
            health.connect().close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def _show_health(health: _Target, colours: bool) -> None:
    started = time.monotonic()
    try:
        connection = health.connect()
        connection.request("GET", "/healthz")
        if not select.select([connection.sock], [], [], QUICK_SECONDS)[0]:
            _say("probing…")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        connection.close()
    except (OSError, HTTPException) as error:
        _say(f"GET /healthz -> {error!r}")
        return
    reason = "" if response.status == 200 else f" [{response.headers.get('X-Livenessprobe-Reason')}]"
    seconds = time.monotonic() - started
    status = _in_colour(response.status) if colours else str(response.status)
    _say(f"GET /healthz -> {status} after {seconds:.3f}s{reason}: {body}")


def _has_colours(environ: Mapping[str, str]) -> bool:
    return sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _in_colour(status: int) -> str:
    return f"\x1b[{_GREEN if status == 200 else _RED}m{status}\x1b[0m"


def _say(text: str) -> None:
    """Write whole lines at once, since the sidecar writes to the same terminal; end if no process reads them."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        sys.exit(0)
