"""The log of a process: levels, records of libraries, a terminal, a full queue."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT, not_on_windows

SCRIPT = """
import logging, sys
from livenessprobe.klog import format as klogfmt, log as klog, writer
klog.capture_library_records()
log = klog.get_logger("/x/prober.py", "main")
{body}
klog.flush()
"""


def run(body: str, **options: object) -> list[str]:
    """The log of a process that runs `body`, without the headers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [line.partition("] ")[2] or line for line in done.stderr.splitlines()]


def test_verbosity_by_either_name_of_a_file() -> None:
    """`--vmodule` matches a logger by its own file name and by upstream's."""
    body = """
for vmodule in ((), (("main", 5),), (("prober", 5),), (("other", 9),)):
    klog.configure(klogfmt.Options(v=2, vmodule=vmodule))
    log.v(2).info("two"); log.v(5).info("five"); log.v(6).info("six")
"""
    assert run(body) == ['"two"', '"two"', '"five"', '"two"', '"five"', '"two"']


def test_records_of_libraries_have_our_format_and_tracebacks_need_v_5() -> None:
    body = """
for v in (0, 5):
    klog.configure(klogfmt.Options(v=v))
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("lib").exception("it %s", "broke")
logging.getLogger("lib").warning("odd %d", "not a number")
logging.getLogger("lib").info("unseen")
"""
    lines = run(body)
    assert lines[0] == '"it broke" err="ZeroDivisionError(\'division by zero\')" logger="lib"'
    assert lines[1] == '"it broke" err=<'
    assert "\tTraceback (most recent call last):" in lines
    assert lines[-1] == '"odd %d" logger="lib"'


def test_json_mode_is_json_throughout() -> None:
    """Verbosity above 127 included, which the Go program cuts to 8 bits."""
    body = 'klog.configure(klogfmt.Options(v=200, logging_format="json")); log.v(150).info("a"); log.error("b", err="c")'
    first, second = run(body)
    assert '"msg":"a","v":150}' in first
    assert second.endswith('"msg":"b","err":"c"}')
    assert '"v"' not in second


@not_on_windows("no pseudo-terminals")
@pytest.mark.parametrize("value", ["[red]x[/red]", "[/csi]", "x" * 500])
def test_a_terminal_gets_colour_and_unchanged_text(value: str) -> None:
    """rich would interpret markup, and wrap at 80 columns."""
    pty = pytest.importorskip("pty", exc_type=ImportError)

    code = SCRIPT.format(body=f'klog.configure(klogfmt.Options()); log.error("m", err={value!r})')
    leader, follower = pty.openpty()
    environ = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=follower, env=environ) as process:
        os.close(follower)
        output = b""
        try:
            while data := os.read(leader, 65536):
                output += data
        except OSError:
            pass  # Linux reports EIO when the other end is closed
        assert process.wait() == 0
    os.close(leader)
    assert f'"m" err="{value}"'.encode() in output.replace(b"\x1b[0m", b"").replace(b"\x1b[31m", b"")
    assert b"\x1b[" in output
    assert output.count(b"\n") == 1


def test_rich_is_not_loaded_without_a_terminal() -> None:
    assert run('klog.configure(klogfmt.Options()); log.info(str("rich" in sys.modules))') == ['"False"']


def test_when_the_queue_is_full_records_are_dropped_and_counted() -> None:
    """An unread pipe blocks the writing thread at the first record; as many records as the limit wait behind it."""
    body = """
import os, time
reader, written = os.pipe()
sink = writer.Sink(os.fdopen(written, "w"))
def put(text):
    sink.put(klogfmt.Record("I", 0, text, (), None, ("f", 1)))
put("x" * (1 << 20))
while sink._lines:
    time.sleep(0.01)
for _ in range(writer.QUEUE_LIMIT):
    put("y")
log.info(str(sink.dropped))
for _ in range(7):
    put("z")
log.info(str(sink.dropped))
got = b""
while got.count(b"\\n") < 1 + writer.QUEUE_LIMIT:
    got += os.read(reader, 1 << 20)
put("after")
got += os.read(reader, 1 << 20)
log.info(str([got.count(b'"' + each) for each in (b"x", b"y", b"z", b"after")]))
"""
    assert run(body) == ['"0"', '"7"', '"[1, 4096, 0, 1]"']


def test_long_records_fill_the_queue_sooner() -> None:
    body = """
import os
reader, written = os.pipe()
sink = writer.Sink(os.fdopen(written, "w"))
for number in range(200):
    sink.put(klogfmt.Record("E", 0, f"{number}" + "x" * 100_000, (), None, ("f", 1)))
waiting = sum(len(line) for _, line in sink._lines)
log.info(str((sink.dropped > 100, waiting < writer.QUEUE_CHARACTERS + 200_000)))
"""
    assert run(body) == ['"(True, True)"']
