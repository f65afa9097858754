"""
`livenessprobe demo`: an example driver and the sidecar beside it, for someone who has no cluster.

Both are processes of their own, so that a crash is a SIGKILL and a hang is a SIGSTOP.
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
from collections.abc import Mapping, Sequence

from livenessprobe.driver.address import AddressError
from livenessprobe.process import memory, signals
from livenessprobe.settings import command_line
from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.web.listener import ListenError, listen

HELP = """\
  r  the driver is ready          c  it crashes (SIGKILL)
  n  it says: not ready           h  it hangs (SIGSTOP)
  s  it is slow (2 s)             b  it comes back
  p  only probe                   q  quit
"""
ENDPOINTS = ("127.0.0.1:9808", "127.0.0.1:0")
PATIENCE = 30.0


class _Driver:
    """The example driver's process."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "livenessprobe.commands.example_driver", self._socket]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # a pipe was asked for
        self._process.stdout.readline()

    def order(self, text: str) -> None:
        """Tell a running driver how to behave."""
        if self._process.stdin is None or self._process.poll() is not None:
            return
        try:
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it died in between; the next probe will show it

    def hang(self) -> None:
        """Stop it where it is."""
        if sys.platform != "win32" and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)

    def crash(self) -> None:
        """End it without a chance to clean up."""
        self._process.kill()
        self._process.communicate()

    def come_back(self) -> None:
        """Go on, or start again."""
        if self._process.poll() is not None:
            self._start()
        elif sys.platform != "win32":
            self._process.send_signal(signal.SIGCONT)
            self.order("ready")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the demo; `arguments` are flags for the sidecar, `environ` its variables.  Returns the exit code."""
    if sys.platform == "win32":
        print("livenessprobe demo needs unix signals; run it on Linux or in WSL", file=sys.stderr)
        return 1
    memory.collect()
    signals.early(signals.unwind)  # there are processes to end
    try:
        given = command_line.parse(arguments).values()
        endpoint = given.get("http-endpoint") or _free_endpoint()
    except command_line.HelpRequested:
        print("Usage: livenessprobe demo [flags of livenessprobe]\nKeys, each followed by Enter:\n" + HELP)
        return 0
    except (command_line.FlagError, ListenError, AddressError) as error:
        print(f"livenessprobe demo: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="livenessprobe-demo") as folder:
        socket = os.path.join(folder, "csi.sock")
        driver = _Driver(socket)
        command = [sys.executable, "-m", "livenessprobe", f"--csi-address={socket}", f"--http-endpoint={endpoint}"]
        sidecar = subprocess.Popen([*command, *arguments], env=environ, stdin=subprocess.DEVNULL)
        try:
            return _converse(driver, sidecar, f"http://{endpoint}")
        except (KeyboardInterrupt, SystemExit):
            return 0
        finally:
            sidecar.terminate()
            sidecar.wait()
            driver.crash()


def _free_endpoint() -> str:
    for endpoint in ENDPOINTS:
        try:
            with listen(parse_listen_address(endpoint)) as found:
                return f"127.0.0.1:{found.getsockname()[1]}"
        except ListenError:
            continue  # 9808 is taken, by a cluster's sidecar perhaps
    raise ListenError("no port is free on 127.0.0.1")


def _converse(driver: _Driver, sidecar: subprocess.Popen[bytes], url: str) -> int:
    if not _await_first_answer(sidecar, url):
        return sidecar.wait()
    print(
        f"\nTry it:  curl -i {url}/healthz\n         curl {url}/metrics\n\nKeys, each followed by Enter:\n{HELP}", flush=True
    )
    _show(url)
    for line in sys.stdin:
        match line.strip():
            case "r":
                driver.order("ready")
            case "n":
                driver.order("not-ready")
            case "s":
                driver.order("slow 2")
            case "h":
                driver.hang()
            case "c":
                driver.crash()
            case "b":
                driver.come_back()
            case "q":
                return 0
            case "p" | "":
                pass
            case other:
                print(f"{other!r} is none of r n s c h b p q\n{HELP}")
                continue
        time.sleep(0.2)  # an order has no answer; give the driver time to take it
        _show(url)
    return sidecar.wait()  # nobody at the keyboard: serve until stopped


def _await_first_answer(sidecar: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and sidecar.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE):  # noqa: S310  our own URL
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.05)
    return False


def _show(url: str) -> None:
    started = time.monotonic()
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE) as response:  # noqa: S310  our own URL
            status, reason, body = response.status, "", response.read()
    except urllib.error.HTTPError as error:
        status, reason, body = error.code, f" [{error.headers.get('X-Livenessprobe-Reason')}]", error.read()
    except OSError as error:
        print(f"GET /healthz -> {error}")
        return
    print(
        f"GET /healthz -> {status} after {time.monotonic() - started:.3f}s{reason}: {body.decode(errors='replace')}",
        flush=True,
    )
