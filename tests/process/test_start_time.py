"""When this process started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from livenessprobe.metrics import Metrics
from livenessprobe.process.start_time import process_start_time
from tests.support import ROOT


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")
def test_the_start_time_is_that_of_this_process() -> None:
    """It is not the time of the call: it stays."""
    first = process_start_time()
    second = process_start_time()

    assert first == second
    (line,) = re.findall(r"^process_start_time_seconds (\S+)$", Metrics().expose().body.decode(), re.MULTILINE)
    assert float(line) == pytest.approx(first, rel=1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="tests/windows has its own; no other system tells")
def test_a_new_process_has_just_started() -> None:
    """The kernel counts from the boot, in hundredths of a second, and tells the boot in whole seconds."""
    before = time.time()
    code = "from livenessprobe.process.start_time import process_start_time; print(process_start_time())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert before - 1.5 <= float(output) <= time.time() + 1.5
