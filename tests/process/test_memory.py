"""The garbage collector while the process serves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

FULL = """
import gc
from livenessprobe.process import memory

memory.before_imports()
modules = [[] for _ in range(200_000)]
memory.before_serving()
before = gc.get_stats()[2]["collections"]
kept = [[] for _ in range(10_000)]
print(gc.get_stats()[2]["collections"] - before)
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="its collector may work in increments, which are no full collections"
)
def test_full_collections_run_however_much_was_loaded_before() -> None:
    """The loaded modules would put it off until there are a quarter as many new objects."""
    done = subprocess.run([sys.executable, "-c", FULL], cwd=ROOT, capture_output=True, text=True, check=True)

    assert int(done.stdout) >= 1
