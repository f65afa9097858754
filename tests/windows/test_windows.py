"""What is different on Windows: accepting, the console, the clock, sockets, streams.  Run by `make test-windows`."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform != "win32":
    pytest.skip("Windows alone has these; `make test-windows` runs them under wine", allow_module_level=True)

from livenessprobe.probing import health_file
from livenessprobe.process import cpus, signals, termination, windows
from livenessprobe.process.start_time import process_start_time
from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.web.listener import ListenError, listen
from tests.support import ROOT, eventually
from tests.windows.system import CLOSED, LOGGED_OFF, SHUT_DOWN

# --- accepting


async def resets_survived(times: int) -> bool:
    """Whether a server still answers after so many clients have reset their connections as soon as they were made."""
    listener = listen(parse_listen_address("127.0.0.1:0"))
    address = listener.getsockname()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok")
        writer.close()

    def be_rude() -> None:
        for _ in range(times):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH", 1, 0))
                client.connect(address)

    def ask() -> bool:
        try:
            with socket.create_connection(address, timeout=5) as client:
                return client.recv(2) == b"ok"
        except OSError:
            return False

    server = await asyncio.start_server(answer, sock=listener)
    rude = threading.Thread(target=be_rude)
    rude.start()
    rude.join()  # the loop accepts nothing meanwhile
    await asyncio.sleep(0.2)
    answered = await asyncio.to_thread(ask)
    server.close()
    return answered


def run_in(loop: Callable[[], asyncio.AbstractEventLoop], main: object) -> object:
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(main)  # type: ignore[arg-type]
    finally:
        gc.collect()  # asyncio closes no socket whose connection could not be accepted


@pytest.mark.filterwarnings(
    "ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"
)
def test_a_listener_outlives_clients_that_reset(caplog: pytest.LogCaptureFixture) -> None:
    assert run_in(windows.event_loop, resets_survived(50)) is True
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore")
def test_asyncio_alone_loses_its_listener() -> None:
    """CPython issue 93821.  When this fails, it is mended, and `windows.event_loop` can go."""
    assert run_in(asyncio.ProactorEventLoop, resets_survived(50)) is False


def test_a_listener_that_fails_for_good_ends_the_process() -> None:
    async def fail() -> None:
        context = {"message": "Accept failed on a socket", "exception": OSError("no network")}
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_exception_handler, context)
        await asyncio.sleep(10)

    with pytest.raises(SystemExit) as ended:
        run_in(windows.event_loop, fail())
    assert ended.value.code == 1


def test_accepting_can_be_cancelled() -> None:
    async def main() -> list[socket.socket]:
        listener = listen(parse_listen_address("127.0.0.1:0"))
        accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listener))
        await asyncio.sleep(0.1)
        accepting.cancel()
        await asyncio.wait({accepting}, timeout=5)
        assert accepting.cancelled()
        listener.close()
        return []

    run_in(windows.event_loop, main())


# --- sockets


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_EXCLUSIVEADDRUSE, None])
def test_nobody_else_gets_a_port_that_we_have(option: int | None) -> None:
    with listen(parse_listen_address("127.0.0.1:0")) as ours, socket.socket() as other:
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError):
            other.bind(ours.getsockname())


def test_a_port_that_is_taken_is_told_in_gos_words() -> None:
    with listen(parse_listen_address("127.0.0.1:0")) as ours:
        port = ours.getsockname()[1]
        with pytest.raises(ListenError) as refused:
            listen(parse_listen_address(f"127.0.0.1:{port}"))
    assert str(refused.value) == (
        f"listen tcp 127.0.0.1:{port}: bind: "
        "Only one usage of each socket address (protocol/network address/port) is normally permitted."
    )


@pytest.mark.parametrize("text", [":0", "0.0.0.0:0", "[::]:0"])
def test_wildcards_listen_for_both_families(text: str) -> None:
    with listen(parse_listen_address(text)) as ours:
        port = ours.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5):
                pass


def test_unix_sockets_to_listen_on_are_refused() -> None:
    """CPython for Windows has none."""
    with pytest.raises(ListenError, match="use host:port"):
        listen(parse_listen_address("unix:///csi/health.sock"))


# --- the console


@pytest.mark.parametrize("event", [CLOSED, LOGGED_OFF, SHUT_DOWN])
def test_the_end_of_the_console_stops_us_and_is_held_up_until_we_are_done(event: int) -> None:
    """Windows ends a process when its handlers have returned.  This one says when it is done itself, with 7."""
    code = f"""
import asyncio, sys
from tests.windows.system import console_event
from livenessprobe.process import signals, windows
from livenessprobe.process.start_time import process_start_time

async def main():
    with signals.control() as control:
        handled = console_event({event})
        await asyncio.wait_for(control.stop.wait(), 10)
        await asyncio.sleep(1)
        return 8 if handled() else 7

with asyncio.Runner(loop_factory=windows.event_loop) as runner:
    sys.exit(runner.run(main()))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 7


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGBREAK"])
async def test_signals_stop_us(name: str) -> None:
    import signal

    with signals.control() as control:
        signal.raise_signal(getattr(signal, name))
        await asyncio.wait_for(control.stop.wait(), 5)


# --- the process


def test_the_start_time_is_that_of_this_process_in_whole_seconds() -> None:
    code = "from livenessprobe.process.start_time import process_start_time; print(process_start_time())"
    before = time.time()
    time.sleep(1.1)
    after = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True).stdout

    assert process_start_time() <= before
    assert before < float(after) <= time.time()
    assert float(after) % 1 == 0


def test_there_is_no_quota_to_ask_for_but_cpus() -> None:
    assert cpus.present() == os.cpu_count()


# --- files and streams


def test_standard_output_is_utf8_with_plain_newlines_where_it_is_redirected(folder: Path) -> None:
    """Windows' own would be code page 1252, and `\\r\\n`."""
    command = [sys.executable, "-m", "livenessprobe", "config", "--csi-address=unix:///csi/caf\u00e9-\u2713.sock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)

    assert b"\r" not in done.stdout
    assert b"caf\\u00e9" in done.stdout or "café".encode() in done.stdout


def test_records_are_utf8_with_plain_newlines() -> None:
    code = "from livenessprobe.klog import log as klog; klog.get_logger('x').info('caf\u00e9 \u2713'); klog.flush()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)

    assert done.stderr.endswith('] "café ✓"\n'.encode())
    assert b"\r" not in done.stderr


def test_last_words_are_left_where_the_kubelet_mounts_them(folder: Path) -> None:
    path = folder / "termination-log"
    path.write_bytes(b"")

    assert termination.leave(str(path), "the driver is down") == ""
    assert path.read_bytes() == b"the driver is down\n"


def test_a_reader_of_the_health_file_does_not_cost_it(folder: Path) -> None:
    """Windows lets nobody replace a file that somebody reads."""
    path = str(folder / "health")
    health_file.write(path, "first", 60)
    reader = open(path, "rb")  # noqa: SIM115
    threading.Timer(0.1, reader.close).start()

    health_file.write(path, "second", 60)

    assert health_file.read(path) == "second"
    eventually(lambda: reader.closed)
