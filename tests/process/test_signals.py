"""Signal handlers as the process sets them before anything else."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT


def test_handlers_are_installed_before_any_large_import() -> None:
    code = "import sys; from livenessprobe import __main__; from livenessprobe.process import signals; print(sorted({'asyncio', 'json', 'tomllib', 'grpc'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
    )


def test_sigquit_shows_the_stacks_after_handlers_were_set_twice() -> None:
    code = "import os, signal; from livenessprobe.process import signals; signals.install_early(); signals.install_early(); os.kill(os.getpid(), signal.SIGQUIT)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert "(most recent call first):" in done.stderr
