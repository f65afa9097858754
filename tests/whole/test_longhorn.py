"""Flags and variables of Longhorn's image, as its documents have them."""

from __future__ import annotations

import fcntl
import json
import queue
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, command, eventually


@cache
def config(*arguments: str, **environ: str) -> dict[str, object]:
    """The settings in force of a sidecar that is started with these arguments and variables."""
    return {key: row["value"] for key, row in json.loads(command("config", *arguments, **environ).out)["settings"].items()}


DOCUMENTED = {
    "flags": (["--interval=10s", "--timeout=3s", "--probe-path=/csi.v1.Identity/Probe"], {}),
    "flags with retries": (["--interval=10s", "--timeout=3s", "--retries=3", "--probe-path=/csi.v1.Identity/Probe"], {}),
    "variables": (
        [],
        {
            "LIVENESS_PROBE_INTERVAL": "10s",
            "LIVENESS_PROBE_TIMEOUT": "3s",
            "LIVENESS_PROBE_PATH": "/csi.v1.Identity/Probe",
            "LIVENESS_PROBE_RETRIES": "3",
        },
    ),
}
"""`--endpoint` or CSI_ENDPOINT is added, and names the test's socket."""


@pytest.fixture
def tmp_health() -> Iterator[Path]:
    """/tmp/health; a lock keeps other test runs on this machine away."""
    path = Path("/tmp/health")
    with open("/tmp/health of livenessprobe's tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.unlink(missing_ok=True)
        yield path
        path.unlink(missing_ok=True)


def _longhorn(way: str, socket_path: str, **quicker: str) -> tuple[list[str], dict[str, str]]:
    """The documented settings in one of their forms, with other times if given."""
    arguments, environ = DOCUMENTED[way]
    if environ:
        environ = {name: quicker.get(name.rpartition("_")[2].lower(), text) for name, text in environ.items()}
        return [], environ | {"CSI_ENDPOINT": f"unix://{socket_path}"}
    given = [argument.partition("=") for argument in arguments]
    return [
        f"--endpoint=unix://{socket_path}",
        *(f"{name}={quicker.get(name.removeprefix('--'), text)}" for name, _, text in given),
    ], {}


def _cat(path: Path) -> int:
    return subprocess.run(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_documented_lists_run_as_written(driver: FakeDriver, tmp_health: Path, way: str) -> None:
    arguments, environ = _longhorn(way, driver.path)
    process = Sidecar(tuple(arguments), environ)
    try:
        eventually(lambda: _cat(tmp_health) == 0)
        assert process.get().status == 200
        assert driver.probes == 1  # a scheduled probe; the request makes none
        assert process.stop() == 0
        assert _cat(tmp_health) == 1
    finally:
        process.kill()


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_retries_are_counted_before_the_file_is_removed(driver: FakeDriver, folder: Path, way: str) -> None:
    file = folder / "health"
    orders: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def obey() -> None:
        driver.ready = orders.get(timeout=30)

    driver.on_probe = obey
    arguments, environ = _longhorn(way, driver.path, interval="200ms", timeout="20s")
    process = Sidecar((*arguments, f"--health-file={file}"), environ)
    try:
        there = []
        for number, ready in enumerate([True, False, False, False, True], 1):
            eventually(lambda number=number: driver.probes == number)
            orders.put(ready)
            eventually(lambda number=number: driver.probes == number + 1)
            if number in (1, 4, 5):
                eventually(lambda number=number: (_cat(file) == 0) == (number != 4))
            there.append(_cat(file) == 0)
        driver.on_probe = lambda: None
        orders.put(True)
        assert there == [True, True, True, False, True]
    finally:
        process.kill()


def test_longhorns_defaults_are_those_it_documents() -> None:
    keys = ("csi_address", "interval", "probe_timeout", "failure_threshold", "health_file", "probe_path")
    documented = {
        "csi_address": "unix:///csi/csi.sock",
        "interval": "10s",
        "probe_timeout": "3s",
        "failure_threshold": 3,
        "health_file": "/tmp/health",
        "probe_path": "/csi.v1.Identity/Probe",
    }
    for settings in (config("--retries=3"), config("--timeout=3s"), config(LIVENESS_PROBE_INTERVAL="10s")):
        assert {key: settings[key] for key in keys} == documented


def test_csi_endpoint_alone_changes_the_address_and_nothing_else(driver: FakeDriver) -> None:
    plain, settings = config(), config(CSI_ENDPOINT=f"unix://{driver.path}")
    changed = {key: value for key, value in settings.items() if value != plain[key]}
    assert changed == {"csi_address": f"unix://{driver.path}"}


def test_the_interval_alone_changes_the_interval_and_nothing_else(folder: Path) -> None:
    (folder / "settings.toml").write_text('interval = "10s"\n')
    plain = config()
    for settings in (
        config("--interval=10s"),
        config(LIVENESSPROBE_INTERVAL="10s"),
        config(f"--config={folder}/settings.toml"),
    ):
        changed = {key: value for key, value in settings.items() if value != plain[key] and key != "config"}
        assert changed == {"interval": "10s"}
