"""Fixtures: a scripted driver on a real socket, the sidecar as a process, what is logged, a clean environment."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings

from livenessprobe.klog import log
from livenessprobe.klog.format import Options, render_text
from tests.support import FakeDriver, Sidecar

# Machines are shared and noisy: a slow example is not a failure.  `make fuzz` asks for more examples.
hypothesis_settings.register_profile("project", deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")))
# `make mutate` runs the tests once for each mutant: always with the same examples, and without shrinking failures.
hypothesis_settings.register_profile(
    "mutants", deadline=None, max_examples=40, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
hypothesis_settings.load_profile("project")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Under `make mutate` only the tests of the mutated module run: these must notice its faults, though others reach it."""
    module = os.environ.get("MUTATED_MODULE")
    if module is None:
        return None  # False would collect files that pytest ignores by default
    *package, name = module.split(".")
    folder = Path(__file__).parent.joinpath(*package)
    tests = {folder / f"test_{name}.py", *folder.glob(f"test_{name}_*.py")}
    return not any(file.is_relative_to(collection_path) for file in tests) or None


@pytest.fixture(autouse=True, scope="session")
def lazy_imports() -> None:
    """With LAZY=1 every process that a test starts imports lazily, as in the image; pytest itself cannot import lazily."""
    if os.environ.get("LAZY"):
        os.environ["PYTHON_LAZY_IMPORTS"] = "all"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes variables that the sidecar or its libraries read."""
    for name in list(os.environ):
        if (
            name.startswith(("LIVENESSPROBE_", "CSI_", "LIVENESS_PROBE_"))
            or "DYNACONF" in name
            or name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="lp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def socket_path(folder: Path) -> str:
    return str(folder / "csi.sock")


@pytest.fixture
def driver(socket_path: str) -> Iterator[FakeDriver]:
    """A driver that is ready."""
    with FakeDriver(socket_path) as driver:
        yield driver


@pytest.fixture
def sidecar(socket_path: str) -> Iterator[Callable[..., Sidecar]]:
    """Starts sidecars on the test's socket, and stops them at the end of the test."""
    started: list[Sidecar] = []

    def start(*arguments: str, **options: object) -> Sidecar:
        if not any(argument.startswith("--csi-address") for argument in arguments):
            arguments = (f"--csi-address={socket_path}", *arguments)
        process = Sidecar(arguments, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every record as "SEVERITY message", without time, process and source; nothing is folded."""
    bare, lines = Options(skip_headers=True), list[str]()
    monkeypatch.setattr(log._sink, "put", lambda record: lines.append(f"{record.severity} {render_text(record, bare)}"))
    return lines
