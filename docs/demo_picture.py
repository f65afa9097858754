"""
Draws docs/demo.svg: runs `livenessprobe demo` in a pseudo-terminal, presses its keys, and draws the terminal's output.

`make demo-picture` runs it, on Linux.  The picture shows the output as it was printed, except for the temporary folder of the
socket, the port if 9808 was taken, and dates and process numbers, which would differ from machine to machine.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.text import Text

from docs.terminal import Terminal, drawn

PICTURE = Path(__file__).parent / "demo.svg"
KEYS = ("p", "n", "r", "h", "b", "c", "b")
"""The keys that are pressed, in this order; `q` ends the demo."""
FLAG = "--probe-timeout=1s"
COMMAND = (sys.executable, "-m", "livenessprobe", "demo", FLAG)


def recorded() -> str:
    """The output of one demo, with ANSI colours."""
    terminal = Terminal(COMMAND)
    try:
        wait_for(terminal, 1)
        for count, key in enumerate(KEYS, 2):
            terminal.press(key)
            wait_for(terminal, count)
        return terminal.output
    finally:
        terminal.end()


def wait_for(terminal: Terminal, answers: int) -> None:
    """Reads output until the demo has shown `answers` results of /healthz, and log records that are written just after."""
    terminal.wait_until(lambda output: len(re.findall(r"GET /healthz -> .*\n", output)) >= answers)
    terminal.read_rest()


def without_traces(output: str) -> str:
    """`output` without the values that name this machine or this moment."""
    output = re.sub(r"[^\s\"=]*/livenessprobe-demo\w*/", "/csi/", output)
    output = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9808", output)
    return re.sub(r"([IWE])\d{4} (\d\d:\d\d:\d\d\.\d{6}) +\d+ ", r"\g<1>0102 \2       1 ", output)


if __name__ == "__main__":
    output = without_traces(recorded())
    command = Text(f"$ make run ARGS={FLAG}", style="bold")
    PICTURE.write_text(drawn("livenessprobe demo", "demo", command, Text.from_ansi(output.rstrip())), encoding="utf-8")
