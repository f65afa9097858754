"""Flags and variables of Longhorn's image, as its documents have them."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually

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


def _longhorn(way: str, driver: FakeDriver, **quicker: str) -> tuple[list[str], dict[str, str]]:
    """The documented settings in one of their forms, with other times if given."""
    arguments, environ = DOCUMENTED[way]
    if environ:
        environ = {name: quicker.get(name.rpartition("_")[2].lower(), text) for name, text in environ.items()}
        return [], environ | {"CSI_ENDPOINT": f"unix://{driver.path}"}
    given = [argument.partition("=") for argument in arguments]
    changed = [f"{name}={quicker.get(name.removeprefix('--'), text)}" for name, _, text in given]
    return [f"--endpoint=unix://{driver.path}", *changed], {}


def _cat(path: Path) -> int:
    return subprocess.run(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@pytest.fixture
def longhorn() -> Iterator[Start]:
    """Starts sidecars without a flag of this program's own for the address."""
    with contextlib.ExitStack() as stack:

        def start(arguments: Sequence[str], environ: dict[str, str]) -> Sidecar:
            process = Sidecar(tuple(arguments), environ)
            stack.callback(process.kill)
            return process

        yield start


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_documented_lists_run_as_written(driver: FakeDriver, tmp_health: Path, longhorn: Start, way: str) -> None:
    process = longhorn(*_longhorn(way, driver))

    eventually(lambda: _cat(tmp_health) == 0)
    assert process.get().status == 200
    assert driver.probes == 1  # a scheduled probe; the request makes none
    assert process.stop() == 0
    assert _cat(tmp_health) == 1


@pytest.mark.parametrize("way", DOCUMENTED)
def test_longhorns_retries_are_counted_before_the_file_is_removed(
    driver: FakeDriver, folder: Path, longhorn: Start, way: str
) -> None:
    file = folder / "health"
    arguments, environ = _longhorn(way, driver, interval="200ms", timeout="20s")
    with driver.stepwise() as step:
        longhorn([*arguments, f"--health-file={file}"], environ)
        for ready, there in ((True, True), (False, True), (False, True), (False, False), (True, True)):
            step(ready)
            eventually(lambda there=there: (_cat(file) == 0) == there)
