"""The sidecar and the example driver as processes on Windows: forms of addresses, driver faults, stops, ports."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    pytest.skip("only Windows has these paths; `make test-windows` runs this under wine", allow_module_level=True)

import grpc._cython

from livenessprobe.commands.example_driver import NAME
from tests.support import ROOT, Start, driver_process, eventually, free_port

SOCKET = "C:\\csi\\csi.sock"
STAND_IN = (Path(grpc._cython.__file__).parent / "afunix.dll").exists()
"""Whether unix sockets are simulated by files and TCP, as under wine."""

FORMS = {
    # In manifests: azure-disk, azure-file, smb, gce-pd, vsphere, portworx in YAML without double quotes …
    "unix://C:\\\\csi\\\\csi.sock": "C:\\\\csi\\\\csi.sock",
    # … and with double quotes, as in secrets-store;
    "unix://C:\\csi\\csi.sock": "C:\\csi\\csi.sock",
    # ebs, and vsphere's liveness probe: a path on the drive of the working directory;
    "unix:/csi/csi.sock": "/csi/csi.sock",
    "/csi/csi.sock": "/csi/csi.sock",
    # other forms that users write.
    "unix:///csi/csi.sock": "/csi/csi.sock",
    "unix://C:/csi/csi.sock": "C:/csi/csi.sock",
    "unix:///C:/csi/csi.sock": "C:/csi/csi.sock",
    "unix:C:\\csi\\csi.sock": "C:\\csi\\csi.sock",
    "unix:C:/csi/csi.sock": "C:/csi/csi.sock",
    "C:\\csi\\csi.sock": "C:\\csi\\csi.sock",
}
"""Addresses, and the bytes that must reach the system, which are those of the Go program."""


@pytest.fixture
def on_drive_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory as in a container."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir("C:\\")


@pytest.fixture
def example(on_drive_c: None) -> Iterator[subprocess.Popen[str]]:
    """The example driver at SOCKET."""
    os.makedirs("C:\\csi", exist_ok=True)
    with driver_process(f"unix://{SOCKET}") as process:
        yield process
    with contextlib.suppress(OSError):
        os.unlink(SOCKET)


def order(driver: subprocess.Popen[str], text: str) -> None:
    assert driver.stdin is not None
    driver.stdin.write(f"{text}\n")
    driver.stdin.flush()


def test_the_driver_is_probed_and_its_faults_are_reported(
    example: subprocess.Popen[str], sidecar: Start, folder: Path
) -> None:
    """With the address that most manifests have."""
    process = sidecar("--csi-address=unix://C:\\\\csi\\\\csi.sock", "--unreachable-grace=0s", "--v=5")
    process.await_name()

    assert (process.get().status, process.get().body) == (200, "ok")
    assert (
        process.metric(
            f'csi_sidecar_operations_seconds_count{{driver_name="{NAME}",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe"}}'
        )
        == 2
    )
    assert process.metric("process_start_time_seconds") > 1e9

    order(example, "not-ready")
    eventually(lambda: process.get().reason == "not_ready")

    example.kill()
    example.wait()
    assert os.path.lexists(SOCKET), "a killed driver leaves its socket"
    eventually(lambda: (process.get().status, process.get().reason) == (500, "refused"))

    os.unlink(SOCKET)
    assert process.get().reason == "socket_missing"

    with driver_process(f"unix://{SOCKET}"):
        assert process.get().status == 200
    assert "\r" not in process.log()


@pytest.mark.parametrize("address", FORMS)
def test_every_form_of_address_reaches_the_driver(address: str, example: subprocess.Popen[str], folder: Path) -> None:
    if STAND_IN and FORMS[address].startswith("/"):
        pytest.skip("wine treats /csi as a folder of Linux; only real Windows can show this form")
    noted = folder / "paths"
    # A process of ours keeps variables of Python alone.
    environ = os.environ | {"PYTHON_AFUNIX_LOG": str(noted)}
    command = [sys.executable, "-m", "livenessprobe", "check", f"--csi-address={address}", "--probe-timeout=20s"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "healthy: ok")
    if STAND_IN:
        assert set(noted.read_text().splitlines()) == {FORMS[address]}


# These stops cannot be sent from outside, and wine cannot tell the size of another process: a thread inside does both.
INSIDE = """
import signal, sys, threading, time, urllib.request
from livenessprobe.__main__ import main
from tests.windows.system import SHUT_DOWN, commit_size, console_event

def requests():
    while True:
        try:
            urllib.request.urlopen({url!r} + "/metrics").read()
            break
        except OSError:
            time.sleep(0.1)
    threading.Timer({after}, lambda: {then}).start()
    answer = urllib.request.urlopen({url!r} + "/healthz")
    print(answer.status, answer.read(), flush=True)

threading.Thread(target=requests).start()
sys.argv = ["livenessprobe", *{arguments!r}]
sys.exit(main())
"""


def run_with_thread_inside(then: str, after: float = 1.0) -> subprocess.CompletedProcess[str]:
    """Run a sidecar with a thread inside that sends one request, and runs `then` after `after` seconds."""
    port = free_port()
    arguments = [f"--csi-address={SOCKET}", f"--http-endpoint=127.0.0.1:{port}", "--probe-timeout=20s"]
    code = INSIDE.format(url=f"http://127.0.0.1:{port}", after=after, then=then, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("stop", ["signal.raise_signal(signal.SIGBREAK)", "console_event(SHUT_DOWN)"])
def test_a_stop_lets_an_open_request_finish(stop: str, example: subprocess.Popen[str]) -> None:
    """The second is how a container ends: Windows kills the process as soon as its handler returns."""
    order(example, "slow 3")

    done = run_with_thread_inside(stop)

    assert (done.returncode, done.stdout) == (0, "200 b'ok'\n"), done.stderr


def test_its_committed_memory_is_below_the_limit_of_many_manifests(example: subprocess.Popen[str]) -> None:
    """Azure's charts allow 150 MiB, including Windows' own processes.  Under wine the number is wine's."""
    done = run_with_thread_inside("(print(commit_size()), signal.raise_signal(signal.SIGTERM))", after=3)

    answer, size = done.stdout.splitlines()
    print(f"commit size: {int(size) / 2**20:.1f} MiB")
    assert answer == "200 b'ok'"
    assert 20 << 20 < int(size) < 128 << 20


def test_a_second_sidecar_on_the_same_port_exits_with_1(on_drive_c: None, sidecar: Start) -> None:
    first = sidecar()
    second = sidecar(f"--http-endpoint=127.0.0.1:{first.port}", await_http=False)

    assert second.wait(60) == 1
    assert "Only one usage of each socket address" in second.log()
    assert first.get().status == 500


def test_the_settings_file_is_polled(example: subprocess.Popen[str], sidecar: Start, folder: Path) -> None:
    """Windows has no SIGHUP."""
    file = folder / "settings.toml"
    file.write_text("probe_timeout = '2s'\n")
    process = sidecar(f"--csi-address={SOCKET}", f"--config={file}", "--config-poll-interval=200ms")
    assert process.metric("livenessprobe_probe_timeout_seconds") == 2

    file.write_text("probe_timeout = '4s'\n")
    eventually(lambda: process.metric("livenessprobe_probe_timeout_seconds") == 4)
