"""CSI drivers beside the sidecar: the example driver, a driver on grpc-go, and ember-csi from PyPI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e import containers, golang
from tests.e2e.host import ROOT, Failed, Skip, get, say, tools, wait_for

EMBER = (
    "ember-csi==0.9.1",
    "protobuf<3.21",  # its generated code needs such an old version
    "setuptools<70",  # it imports pkg_resources
    # imported by its fake backend, which is made for tests
    *("fixtures", "oslotest", "testtools", "ddt", "testscenarios"),
)


class Driver:
    """The process of a driver, and the folder with its socket."""

    def __init__(self, folder: Path, command: list[str | Path], environment: dict[str, str]) -> None:
        self.folder = folder
        self.socket = folder / "csi.sock"
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def order(self, order: str) -> None:
        """Send an order to the example driver, which reads orders from standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def is_there(self) -> bool:
        if self._process.poll() is not None:
            raise Failed(f"the driver ended with {self._process.returncode}:\n{self.log()[-2000:]}")
        return self.socket.is_socket()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@contextmanager
def _running(command: list[str | Path], **environment: str) -> Iterator[Driver]:
    """A driver's process; `{folder}` is filled in in the command and the environment."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        filled = [str(part).replace("{folder}", name) for part in command]
        driver = Driver(folder, filled, {key: value.replace("{folder}", name) for key, value in environment.items()})
        try:
            wait_for("the driver's socket", driver.is_there, 60)
            yield driver
        finally:
            driver.end()


def example() -> object:
    return _running([sys.executable, "-m", "livenessprobe.commands.example_driver", "{folder}/csi.sock"])


def on_grpc_go() -> object:
    return _running([golang.driver(), "-socket", "{folder}/csi.sock"])


def stage_go() -> None:
    """A driver on grpc-go, through all responses to Probe that the specification knows."""
    expected = [
        (200, "ok"),  # ready left out
        (200, "ok"),
        (500, "driver responded but is not ready"),
        (500, "rpc error: code = FailedPrecondition desc = the backend is missing"),
        (500, "rpc error: code = Unimplemented desc = no such method"),
        (500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
    ]
    with on_grpc_go() as driver, containers.sidecar(driver, "--probe-timeout=1s") as (url, _):
        seen = []
        for way in range(len(expected)):
            if way:
                driver.signal(signal.SIGUSR1)
                wait_for("the driver to change", lambda count=way: driver.log().count("now: ") == count, 5)
            seen.append(get(f"{url}/healthz"))
        for answer in seen:
            say(f"{answer[0]} {answer[1]}")
        if seen != expected:
            raise Failed(f"expected {expected}")
        driver.signal(signal.SIGUSR2)
        wait_for("200 again", lambda: get(f"{url}/healthz")[0] == 200, 5)
        if 'driver_name="go.csi.livenessprobe"' not in get(f"{url}/metrics")[1]:
            raise Failed("the metrics do not name the driver")


def stage_ember() -> None:
    """ember-csi from PyPI: a driver of another project, on Python 3.11."""
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None:
        raise Skip("ember-csi runs on no newer Python than 3.11, and there is no python3.11 here")
    programs = tools("ember", *EMBER, python=python)
    backend = {"name": "fake", "volume_driver": "cinder.tests.fake_driver.FakeLoggingVolumeDriver", "volume_group": "x"}
    names = {
        "project_id": "e2e",
        "user_id": "e2e",
        "root_helper": "env",
        "plugin_name": "e2e",
        "state_path": "{folder}/state",
    }
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CSI_ENDPOINT": "unix://{folder}/csi.sock",
        "CSI_MODE": "controller",
        "X_CSI_SPEC_VERSION": "1.0",
        "X_CSI_EMBER_CONFIG": json.dumps(names),
        "X_CSI_BACKEND_CONFIG": json.dumps(backend),
        "X_CSI_PERSISTENCE_CONFIG": json.dumps({"storage": "memory"}),
        "X_CSI_NODE_ID": json.dumps({"node_id": "e2e"}),
    }
    with _running([programs / "ember-csi"], **environment) as driver, containers.sidecar(driver) as (url, _):
        wait_for("200", lambda: get(f"{url}/healthz")[0] == 200, 20)
        label = wait_for("the driver's name", lambda: _name(get(f"{url}/metrics")[1]), 10)
        say(f"200; the driver's name is {label}")
        if label != "e2e.ember-csi.io":
            raise Failed(f"its name is e2e.ember-csi.io, the metrics say {label}")
        driver.signal(signal.SIGSTOP)
        status, body = get(f"{url}/healthz")
        say(f"stopped: {status} {body}")
        if (status, body) != (500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"):
            raise Failed("a stopped driver is not reported as stopped")
        driver.signal(signal.SIGCONT)
        wait_for("200 again", lambda: get(f"{url}/healthz")[0] == 200, 10)


def _name(metrics: str) -> str:
    names = {part.split('"')[0] for part in metrics.split('driver_name="')[1:]} - {"unknown-driver"}
    return names.pop() if names else ""
