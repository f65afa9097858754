"""
`livenessprobe demo`: shows the sidecar with an example driver, without a cluster.

The driver and the sidecar are separate processes, so that SIGKILL makes a crash and SIGSTOP a hang.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPResponse

from livenessprobe.driver.address import AddressError
from livenessprobe.process import memory, signals, threads
from livenessprobe.settings import command_line
from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.web.listener import ListenError, listen

HELP = """\
  r  the driver is ready          c  it crashes (SIGKILL)
  n  it says: not ready           h  it hangs (SIGSTOP)
  s  it is slow (2 s)             b  it comes back
  p  only probe                   q  quit
"""
RESPONSE_SECONDS = 30.0
"""The longest wait for a response of the sidecar."""


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
        given = command_line.parse(arguments).values()
        endpoint = given.get("http-endpoint") or _free_endpoint()
    except command_line.HelpRequested:
        print("Usage: livenessprobe demo [flags of livenessprobe]\nKeys, each followed by Enter:\n" + HELP)
        return 0
    except (command_line.FlagError, ListenError, AddressError) as error:
        hint = error.hint if isinstance(error, command_line.FlagError) else ""
        print(f"livenessprobe demo: {error}{hint}", file=sys.stderr)
        return 2
    if fault := threads.fault():  # where no thread can be started, no process can either (posix_spawn)
        print(f"livenessprobe demo: {fault}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="livenessprobe-demo") as folder:
        socket = os.path.join(folder, "csi.sock")
        driver = _Driver(socket)
        command = [sys.executable, "-m", "livenessprobe", f"--csi-address={socket}", f"--http-endpoint={endpoint}"]
        sidecar = subprocess.Popen([*command, *arguments], env=environ, stdin=subprocess.DEVNULL)
        try:
            return _run_session(driver, sidecar, f"http://{endpoint}")
        except (KeyboardInterrupt, SystemExit):
            return 0
        finally:
            sidecar.terminate()
            sidecar.wait()
            driver.crash()


def _free_endpoint() -> str:
    for endpoint in ("127.0.0.1:9808", "127.0.0.1:0"):
        try:
            with listen(parse_listen_address(endpoint)) as found:
                return f"127.0.0.1:{found.getsockname()[1]}"
        except ListenError:
            continue  # 9808 may be taken by a sidecar of a cluster on this machine
    raise ListenError("no port is free on 127.0.0.1")


def _run_session(driver: _Driver, sidecar: subprocess.Popen[bytes], url: str) -> int:
    """Act on the keys until `q`, or until the sidecar ends after standard input has ended; returns the exit code."""
    if not _await_first_response(sidecar, url):
        return sidecar.wait()
    print(
        f"\nTry it:  curl -i {url}/healthz\n         curl {url}/metrics\n\nKeys, each followed by Enter:\n{HELP}", flush=True
    )
    _show_health(url)
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
            print(f"{key!r} is none of r n s c h b p q\n{HELP}")
            continue
        actions[key]()
        time.sleep(0.2)  # the driver does not confirm a command, so give it time to act
        _show_health(url)
    return sidecar.wait()  # standard input is closed: serve until stopped


def _await_first_response(sidecar: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + RESPONSE_SECONDS
    while time.monotonic() < end and sidecar.poll() is None:
        try:
            with _get_health(url):
                return True
        except OSError:
            time.sleep(0.05)
    return False


def _get_health(url: str) -> HTTPResponse | urllib.error.HTTPError:
    """The response of /healthz, whatever its status; raises OSError if there is none."""
    try:
        response: HTTPResponse = urllib.request.urlopen(f"{url}/healthz", timeout=RESPONSE_SECONDS)  # noqa: S310  our own URL
    except urllib.error.HTTPError as error:
        return error
    return response


def _show_health(url: str) -> None:
    started = time.monotonic()
    try:
        with _get_health(url) as response:
            body = response.read().decode(errors="replace")
    except OSError as error:
        print(f"GET /healthz -> {error}")
        return
    reason = "" if response.status == 200 else f" [{response.headers.get('X-Livenessprobe-Reason')}]"
    print(f"GET /healthz -> {response.status} after {time.monotonic() - started:.3f}s{reason}: {body}", flush=True)
