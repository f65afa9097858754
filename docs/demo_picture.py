"""
Draws docs/demo.svg: runs `livenessprobe demo` in a pseudo-terminal, presses its keys, and draws the terminal's output.

`make demo-picture` runs it, on Linux.  The picture shows the output as it was printed, except for the temporary folder of the
socket, the port if 9808 was taken, and dates and process numbers, which would differ from machine to machine.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "demo.svg"
COLUMNS = 116
KEYS = ("p", "n", "r", "h", "b", "c", "b")
"""The keys that are pressed, in this order; `q` ends the demo."""
ANSWER_SECONDS = 30.0
FLAG = "--probe-timeout=1s"
COMMAND = (sys.executable, "-m", "livenessprobe", "demo", FLAG)


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.output = ""
        self._main, program = pty.openpty()
        fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}  # unbuffered, lines are written in pieces
        self._process = subprocess.Popen(
            command, stdin=program, stdout=program, stderr=program, env=environ, start_new_session=True
        )
        os.close(program)

    def press(self, key: str) -> None:
        """Types `key` and Enter; the terminal echoes both."""
        os.write(self._main, f"{key}\n".encode())

    def wait_for(self, answers: int) -> None:
        """Reads output until the demo has shown `answers` results of /healthz; TimeoutError after ANSWER_SECONDS."""
        end = time.monotonic() + ANSWER_SECONDS
        while len(re.findall(r"GET /healthz -> .*\n", self.output)) < answers:
            if not self._read(end - time.monotonic()):
                raise TimeoutError(f"the demo has not answered:\n{self.output}")
        self._read_rest()

    def end(self) -> None:
        """Quits the demo and waits for its end."""
        self.press("q")
        self._process.wait(ANSWER_SECONDS)
        os.close(self._main)

    def _read_rest(self) -> None:
        """Reads log records that are written just after the result."""
        while self._read(0.3):
            pass

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._main], [], [], max(0.0, seconds))
        if ready:
            self.output += os.read(self._main, 65536).decode(errors="replace").replace("\r\n", "\n")
        return bool(ready)


def recorded() -> str:
    """The output of one demo, with ANSI colours."""
    terminal = Terminal(COMMAND)
    try:
        terminal.wait_for(1)
        for count, key in enumerate(KEYS, 2):
            terminal.press(key)
            terminal.wait_for(count)
        return terminal.output
    finally:
        terminal.end()


def without_traces(output: str) -> str:
    """`output` without the values that name this machine or this moment."""
    output = re.sub(r"[^\s\"=]*/livenessprobe-demo\w*/", "/csi/", output)
    output = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9808", output)
    return re.sub(r"([IWE])\d{4} (\d\d:\d\d:\d\d\.\d{6}) +\d+ ", r"\g<1>0102 \2       1 ", output)


def drawn(output: str) -> str:
    """An SVG of `output` that fetches nothing: the viewer's own monospace font is used."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ make run ARGS={FLAG}", style="bold"))
    console.print(Text.from_ansi(output.rstrip()))
    svg = console.export_svg(title="livenessprobe demo", unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)  # or some viewers drop the blanks at the start of a line
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")


if __name__ == "__main__":
    PICTURE.write_text(drawn(without_traces(recorded())), encoding="utf-8")
