"""The image's launcher: signals in the first moments of a PID 1, before Python runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, FakeDriver, eventually, free_port, not_on_windows

pytestmark = not_on_windows("its launcher is another one")

PROGRAM = f"""#!{sys.executable} -IS
import sys, time
time.sleep({{pause}})  # as where CPU is scarce
sys.path[:0] = {[str(ROOT), *(each for each in sys.path if each.endswith("site-packages"))]!r}
from livenessprobe.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Callable[[float], Path]:
    """Compiles the launcher of a program that Python takes `pause` seconds to start."""
    compiler = (
        shutil.which("cc") or shutil.which("gcc") or pytest.skip("there is no C compiler; `make e2e` tests the image's")
    )
    if subprocess.run(["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("unshare --pid is not permitted here")

    def make(pause: float) -> Path:
        program, binary = tmp_path / "program", tmp_path / "livenessprobe"
        program.write_text(PROGRAM.format(pause=pause))
        program.chmod(0o755)
        options = ["-O1", "-Wall", "-Wextra", "-Werror", f'-DPROGRAM="{program}"']
        subprocess.run([compiler, *options, "-o", binary, ROOT / "image/launcher.c"], check=True)
        return binary

    return make


@contextmanager
def as_pid_1(binary: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The launcher as PID 1 of a namespace, from the moment when it has blocked its signals: `unshare`, and that process."""
    command = ["unshare", "--pid", "--fork", "--kill-child", binary, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as parent:
        try:
            eventually(lambda: children(parent.pid))
            (child,) = children(parent.pid)
            eventually(lambda: all(is_in(child, "SigBlk", each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))
            yield parent, child
        finally:
            parent.kill()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_in(pid: int, field: str, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("after", [0, 0.02, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_any_moment_ends_pid_1(
    number: signal.Signals, after: float, launcher: Callable[[float], Path], socket_path: str
) -> None:
    """Python starts after 0.5 s here."""
    arguments = (f"--csi-address={socket_path}", f"--http-endpoint=127.0.0.1:{free_port()}")
    with as_pid_1(launcher(0.5), *arguments) as (parent, child):
        time.sleep(after)
        os.kill(child, number)

        output, _ = parent.communicate(timeout=20)

    assert (parent.returncode, "Traceback" in output) == (0, False)


def test_a_check_that_is_stopped_early_does_not_look_healthy(launcher: Callable[[float], Path], driver: FakeDriver) -> None:
    with as_pid_1(launcher(0.5), "check", f"--csi-address={driver.path}") as (parent, child):
        os.kill(child, signal.SIGTERM)

        output, _ = parent.communicate(timeout=20)

    assert (parent.returncode, output) == (128 + signal.SIGTERM, "")


def test_a_hangup_before_the_settings_are_watched_is_a_reload(
    launcher: Callable[[float], Path], driver: FakeDriver, folder: Path
) -> None:
    """The file may have been read before the signal."""
    (folder / "settings.toml").write_text("v = 1\n")
    arguments = (f"--csi-address={driver.path}", f"--http-endpoint=127.0.0.1:{free_port()}")
    with as_pid_1(launcher(0.2), *arguments, f"--config={folder}/settings.toml", "--config-poll-interval=0s") as (
        parent,
        child,
    ):
        os.kill(child, signal.SIGHUP)
        assert parent.stdout is not None
        record = next(line for line in parent.stdout if "Settings file" in line)
        os.kill(child, signal.SIGTERM)
        parent.communicate(timeout=20)

    assert '"Settings file read again; nothing changed"' in record
    assert parent.returncode == 0


def test_no_signal_stays_blocked(launcher: Callable[[float], Path], driver: FakeDriver) -> None:
    arguments = (f"--csi-address={driver.path}", f"--http-endpoint=127.0.0.1:{free_port()}")
    with as_pid_1(launcher(0), *arguments) as (parent, child):
        assert parent.stdout is not None
        next(line for line in parent.stdout if "ServeMux listening" in line)
        # The C library blocks all signals for a moment when it starts a thread.
        eventually(lambda: not any(is_in(child, "SigBlk", each) for each in signal.valid_signals() if each < 32))
        os.kill(child, signal.SIGTERM)
        parent.communicate(timeout=20)

    assert parent.returncode == 0


def test_a_program_that_is_missing_is_named(launcher: Callable[[float], Path]) -> None:
    binary = launcher(0)
    (binary.parent / "program").unlink()

    done = subprocess.run([binary], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (127, f"{binary.parent}/program: No such file or directory\n")
