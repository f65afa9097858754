"""The termination message: whatever ends the process, one line says why, in the file that the kubelet shows."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support import FakeDriver, Start, command, injected
from tests.support.names import AT_ONCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def message(folder: Path) -> Path:
    """The file that a kubelet would have made."""
    path = folder / "termination"
    path.touch()
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_clean_stop_it_tells_the_signal_and_how_long_the_driver_was_healthy(
    number: int, message: Path, driver: FakeDriver, sidecar: Start
) -> None:
    process = sidecar(f"--termination-log={message}")
    process.await_name()
    assert process.get().status == 200

    process.signal(number)

    assert process.wait() == 0
    assert re.fullmatch(rf"stopped by {signal.Signals(number).name}, driver healthy for \d+s\n", message.read_text())


def test_after_a_clean_stop_it_tells_why_the_driver_is_unhealthy(message: Path, socket_path: str, sidecar: Start) -> None:
    process = sidecar(f"--termination-log={message}", AT_ONCE)
    body = process.get().body

    assert process.stop() == 0

    assert re.fullmatch(r"stopped by SIGTERM, driver unhealthy for \d+s: socket_missing: .*\n", message.read_text())
    assert body in message.read_text()


def test_before_the_first_probe_it_says_so(message: Path, driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(f"--termination-log={message}")

    assert process.stop() == 0

    assert re.fullmatch(r"stopped by SIGTERM, driver not probed for \d+s\n", message.read_text())


def test_a_signal_before_the_event_loop_runs_is_told(message: Path, folder: Path) -> None:
    code = "import sys, os, signal\nfrom livenessprobe.settings import load\nold = load.load\n"
    code += "load.load = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM) or old(*a, **k)"
    # cli imports the function by its name, so the replacement must come first.
    done = command(f"--termination-log={message}", "--csi-address=/nowhere.sock", **injected(folder, code))

    assert done.code == 0
    assert message.read_text() == "stopped by SIGTERM\n"


def test_sigquit_is_told(message: Path, driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(f"--termination-log={message}")
    process.await_name()
    assert process.get().status == 200

    process.signal(signal.SIGQUIT)

    assert process.wait() == 2
    assert message.read_text().startswith("ended by SIGQUIT; the stacks of all threads are in the log, driver healthy for ")


def test_a_taken_port_is_told(message: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command(f"--http-endpoint={address}", f"--termination-log={message}")

    assert done.code == 1
    assert message.read_text().startswith(f"Failed to start http server: listen tcp {address}: bind: address already in use")
    assert message.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "told"),
    [
        (["--probe-path=/x"], {}, 1, 'Invalid setting: flag --probe-path = "/x": '),
        (["--probe-timeout=x"], {}, 2, 'invalid value "x" for flag -probe-timeout: parse error'),
        (["--nosuch"], {}, 2, "flag provided but not defined: -nosuch"),
        ([], {"LIVENESSPROBE_INTERVAL": "1ms"}, 2, 'Invalid setting: variable LIVENESSPROBE_INTERVAL = "1ms": '),
        (
            ["--http-endpoint=nocolon"],
            {},
            1,
            "Failed to start http server: listen tcp: address nocolon: missing port in address",
        ),
    ],
)
@pytest.mark.parametrize("by", ["flag", "variable", "default"])
def test_refused_settings_are_told(
    by: str, arguments: list[str], environ: dict[str, str], code: int, told: str, message: Path, folder: Path
) -> None:
    """In the file that a flag or variable names; by default where a kubelet expects it."""
    given = [f"--termination-log={message}"] if by == "flag" else []
    if by == "variable":
        environ = environ | {"LIVENESSPROBE_TERMINATION_LOG": str(message)}
    if by == "default":
        path = f"from livenessprobe.process import termination as t\nt.DEFAULT_PATH = {str(message)!r}\n"
        environ = environ | injected(folder, f"{path}t.expect.__defaults__ = (t.DEFAULT_PATH,)")

    done = command(*given, *arguments, **environ)

    assert done.code == code
    assert message.read_text().startswith(told)
    assert message.read_text().count("\n") == 1


def test_a_fault_of_the_sidecar_is_told(message: Path, folder: Path) -> None:
    code = "from livenessprobe.process import threads\ndef fault(): raise ZeroDivisionError('oh')\nthreads.fault = fault"

    done = command(f"--termination-log={message}", **injected(folder, code))

    assert done.code == 1
    assert message.read_text() == "fault of the sidecar's own: ZeroDivisionError('oh')\n"


def test_the_first_cause_is_kept(message: Path, driver: FakeDriver, sidecar: Start) -> None:
    driver.ready = False
    process = sidecar(f"--termination-log={message}", "--exit-on-failure", "--interval=100ms")

    assert process.wait() == 3

    assert message.read_text().startswith(f"CSI driver at unix://{driver.path} failed 1 probes in a row: not_ready: ")


def test_a_missing_file_is_never_created(folder: Path, driver: FakeDriver, sidecar: Start) -> None:
    """A kubelet makes the file; without a kubelet the message has no reader."""
    process = sidecar(f"--termination-log={folder}/missing")
    assert process.get().status == 200

    assert process.stop() == 0

    assert not (folder / "missing").exists()
    assert command(f"--termination-log={folder}/missing", "--probe-path=/x").code == 1
    assert not (folder / "missing").exists()


def test_an_empty_path_is_nowhere(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--termination-log=")
    assert process.get().status == 200

    assert process.stop() == 0
    assert "Termination log" not in process.log()


@pytest.mark.parametrize("words", [("check",), ("config",), ("status",), ("--version",), ("--help",)])
def test_a_command_beside_the_sidecar_leaves_no_message(words: tuple[str, ...], message: Path) -> None:
    """It may run in the sidecar's container, as an exec probe does."""
    command(*words, "--csi-address=/nowhere.sock", "--probe-timeout=10ms", LIVENESSPROBE_TERMINATION_LOG=str(message))
    command(*words, "--nosuch", LIVENESSPROBE_TERMINATION_LOG=str(message))

    assert message.read_text() == ("" if words[0] in ("check", "config", "status") else message.read_text())


def test_a_disk_that_hangs_does_not_keep_the_process_from_ending(folder: Path, driver: FakeDriver, sidecar: Start) -> None:
    code = f"""
import os, time
real = os.open
def slow(path, *rest, **named):
    if path == {str(folder / "hung")!r}:
        time.sleep(60)
    return real(path, *rest, **named)
os.open = slow
"""
    process = sidecar(f"--termination-log={folder}/hung", environ=injected(folder, code))
    process.await_name()

    assert process.stop(8) == 0
    assert 'err="' + f'{folder}/hung: its file system does not respond"' in process.log()
