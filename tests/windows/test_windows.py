"""Differences on Windows: accepting, the console, the clock, sockets, streams.  Run by `make test-windows`."""

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
    pytest.skip("only Windows has these; `make test-windows` runs them under wine", allow_module_level=True)

from livenessprobe.probing import health_file
from livenessprobe.process import cpus, signals, termination, windows
from livenessprobe.process.start_time import process_start_time
from livenessprobe.settings.listen_address import parse_listen_address
from livenessprobe.web.listener import ListenError, listen
from tests.support import ROOT, eventually
from tests.windows.system import CLOSED, LOGGED_OFF, SHUT_DOWN

# --- accepting


async def resets_survived(times: int) -> bool:
    """Whether a server still responds after `times` clients have reset their connections immediately."""
    listener = listen(parse_listen_address("127.0.0.1:0"))
    address = listener.getsockname()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok")
        writer.close()

    def reset_connections() -> None:
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
    resetting = threading.Thread(target=reset_connections)
    resetting.start()
    resetting.join()  # the loop accepts nothing meanwhile
    await asyncio.sleep(0.2)
    answered = await asyncio.to_thread(ask)
    server.close()
    return answered


def run_in(loop: Callable[[], asyncio.AbstractEventLoop], main: object) -> object:
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(main)  # type: ignore[arg-type]
    finally:
        gc.collect()  # asyncio does not close sockets whose connections could not be accepted


@pytest.mark.filterwarnings(
    "ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"
)
def test_a_listener_outlives_clients_that_reset(caplog: pytest.LogCaptureFixture) -> None:
    assert run_in(windows.event_loop, resets_survived(50)) is True
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore")
def test_asyncio_alone_loses_its_listener() -> None:
    """CPython issue 93821.  When this test fails, the issue is fixed, and `windows.event_loop` can go."""
    assert run_in(asyncio.ProactorEventLoop, resets_survived(50)) is False


def test_a_permanent_failure_of_a_listener_ends_the_process() -> None:
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
def test_no_other_process_can_bind_our_port(option: int | None) -> None:
    with listen(parse_listen_address("127.0.0.1:0")) as ours, socket.socket() as other:
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError):
            other.bind(ours.getsockname())


def test_a_port_in_use_is_refused_in_gos_words() -> None:
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


def test_listening_on_a_unix_socket_is_refused() -> None:
    """CPython for Windows has no unix sockets."""
    with pytest.raises(ListenError, match="use host:port"):
        listen(parse_listen_address("unix:///csi/health.sock"))


# --- the console


@pytest.mark.parametrize("event", [CLOSED, LOGGED_OFF, SHUT_DOWN])
def test_a_console_event_stops_the_process_and_waits_until_it_has_ended(event: int) -> None:
    """Windows ends a process when its handlers have returned.  This process ends itself first, with 7."""
    code = f"""
import asyncio, sys
from tests.windows.system import console_event
from livenessprobe.process import signals, windows
from livenessprobe.process.start_time import process_start_time

async def main():
    with signals.as_events() as events:
        handled = console_event({event})
        await asyncio.wait_for(events.stop.wait(), 10)
        await asyncio.sleep(1)
        return 8 if handled() else 7

with asyncio.Runner(loop_factory=windows.event_loop) as runner:
    sys.exit(runner.run(main()))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 7


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGBREAK"])
async def test_signals_stop_the_process(name: str) -> None:
    import signal

    with signals.as_events() as events:
        signal.raise_signal(getattr(signal, name))
        await asyncio.wait_for(events.stop.wait(), 5)


# --- the process


def test_the_start_time_is_that_of_this_process_in_whole_seconds() -> None:
    code = "from livenessprobe.process.start_time import process_start_time; print(process_start_time())"
    before = time.time()
    time.sleep(1.1)
    after = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True).stdout

    assert process_start_time() <= before
    assert before < float(after) <= time.time()
    assert float(after) % 1 == 0


def test_all_cpus_count_since_there_is_no_quota() -> None:
    assert cpus.available() == os.cpu_count()


# --- files and streams


def test_redirected_standard_output_is_utf8_with_plain_newlines(folder: Path) -> None:
    """
    Windows' default would be code page 1252, and `\\r\
    `.
    """
    command = [sys.executable, "-m", "livenessprobe", "config", "--csi-address=unix:///csi/caf\u00e9-\u2713.sock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)

    assert b"\r" not in done.stdout
    assert b"caf\\u00e9" in done.stdout or "café".encode() in done.stdout


def test_records_are_utf8_with_plain_newlines() -> None:
    code = "from livenessprobe.klog import log as klog; klog.get_logger('x').info('caf\u00e9 \u2713'); klog.flush()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)

    assert done.stderr.endswith('] "café ✓"\n'.encode())
    assert b"\r" not in done.stderr


def test_a_termination_message_is_written_to_the_mounted_file(folder: Path) -> None:
    path = folder / "termination-log"
    path.write_bytes(b"")

    assert termination.write_message(str(path), "the driver is down") == ""
    assert path.read_bytes() == b"the driver is down\n"


def test_a_health_file_that_is_being_read_is_replaced_afterwards(folder: Path) -> None:
    """On Windows a file cannot be replaced while another process reads it."""
    path = str(folder / "health")
    health_file.write(path, "first", 60)
    reader = open(path, "rb")  # noqa: SIM115
    threading.Timer(0.1, reader.close).start()

    health_file.write(path, "second", 60)

    assert health_file.read(path) == "second"
    eventually(lambda: reader.closed)
