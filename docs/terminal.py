"""For the pictures of this folder: runs a program in a pseudo-terminal, and draws a terminal's output as an SVG."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

COLUMNS = 116
SHOWS_SECONDS = 30.0


class Terminal:
    """A program in a pseudo-terminal of COLUMNS columns."""

    def __init__(self, command: tuple[str, ...], rows: int = 50) -> None:
        self.output = ""
        self._main, program = pty.openpty()
        fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}  # unbuffered, lines are written in pieces
        self._process = subprocess.Popen(
            command, stdin=program, stdout=program, stderr=program, env=environ, start_new_session=True
        )
        os.close(program)

    def press(self, key: str) -> None:
        """Types `key` and Enter; the terminal echoes both, unless the program forbids it."""
        os.write(self._main, f"{key}\n".encode())

    def wait_until(self, shown: Callable[[str], object]) -> None:
        """Reads output until `shown(output)` is true; TimeoutError after SHOWS_SECONDS."""
        end = time.monotonic() + SHOWS_SECONDS
        while not shown(self.output):
            if not self._read(end - time.monotonic()):
                raise TimeoutError(f"the terminal shows something else:\n{self.output}")

    def read_until(self, end: float) -> None:
        """Reads output until `end` (monotonic clock)."""
        while (left := end - time.monotonic()) > 0:
            self._read(left)

    def read_rest(self) -> None:
        """Reads output until there is none for a moment."""
        while self._read(0.3):
            pass

    def end(self) -> None:
        """Presses `q` and waits for the program's end."""
        self.press("q")
        self._process.wait(SHOWS_SECONDS)
        os.close(self._main)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._main], [], [], max(0.0, seconds))
        if ready:
            self.output += os.read(self._main, 65536).decode(errors="replace").replace("\r\n", "\n")
        return bool(ready)


def drawn(title: str, name: str, *shown: Text) -> str:
    """An SVG of the texts, `name` in its ids, which fetches nothing: the viewer's own monospace font is used."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for text in shown:
        console.print(text)
    svg = console.export_svg(title=title, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)  # or some viewers drop the blanks at the start of a line
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")
