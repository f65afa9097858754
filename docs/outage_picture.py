"""
Draws docs/outage_statusz.svg and docs/outage_watch.svg: an outage, as `/statusz` and `livenessprobe watch` show it.

`make outage-picture` runs it, on Linux: a driver is healthy, slow, hung (SIGSTOP) and killed (SIGKILL), and a driver of another
name takes its place, while a client with a kubelet's user agent requests `/healthz`.  Both show the real output, except for the
temporary folder of the socket, the port, and dates, which would differ from machine to machine.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.text import Text

from docs.terminal import Terminal, drawn
from tests.support import FakeDriver, Sidecar, driver_process

FOLDER = Path(__file__).parent
PERIOD = 2.0
"""Seconds between two requests of the kubelet."""
ASKED_SECONDS = 0.9
"""The watch asks every 0.5 s."""
ROWS = 14
KUBELET = "kube-probe/1.35"


class Outage:
    """A sidecar with a watch on a terminal, and a driver's socket in `folder`."""

    def __init__(self, folder: str) -> None:
        self.socket = f"{folder}/csi.sock"
        self._folder = folder
        self.sidecar = Sidecar((f"--csi-address={self.socket}", "--probe-timeout=1s"))
        url = f"http://127.0.0.1:{self.sidecar.port}"
        self._watch = Terminal((sys.executable, "-m", "livenessprobe", "watch", "--every=500ms", url), ROWS)
        self._next = time.monotonic()

    def ask(self, times: int) -> None:
        """Requests `/healthz` once in each PERIOD; returns after the last response."""
        for _ in range(times):
            self._watch.read_until(self._next)
            self._next += PERIOD
            self.sidecar.get(User_Agent=KUBELET)

    def page(self) -> str:
        """The status page."""
        return self._without_traces(self.sidecar.get("/statusz").body)

    def frame(self) -> str:
        """What the terminal shows once the watch has asked, with ANSI colours."""
        self._watch.read_until(time.monotonic() + ASKED_SECONDS)
        _, found, frame = self._watch.output.rpartition("\x1b[H")
        assert found, self._watch.output
        return self._without_traces(frame)

    def end(self) -> None:
        """Ends watch and sidecar."""
        self._watch.end()
        self.sidecar.kill()

    def _without_traces(self, text: str) -> str:
        text = text.replace(self._folder, "/csi").replace(f":{self.sidecar.port}", ":9808")
        text = re.sub(r"\d{4}-\d\d-\d\d(?=[ T]\d\d:)", "2026-01-02", text)
        return re.sub(r"\w{3} \w{3} [ \d]\d (\d\d:\d\d:\d\d UTC) \d{4}", r"Fri Jan  2 \1 2026", text)


def main() -> None:
    """Runs the outage and draws both pictures."""
    with tempfile.TemporaryDirectory(prefix="lp") as folder:
        outage = Outage(folder)
        try:
            with driver_process(outage.socket) as driver:
                outage.ask(8)
                print("slow 0.7", file=driver.stdin, flush=True)
                outage.ask(2)
                driver.send_signal(signal.SIGSTOP)
                outage.ask(1)
                hung = outage.frame()
            outage.ask(1)
            page = outage.page()
            with FakeDriver(outage.socket, "back.csi.example"):
                outage.ask(3)
                back = outage.frame()
        finally:
            outage.end()
    draw("statusz", "curl http://127.0.0.1:9808/statusz", page)
    draw("watch", "livenessprobe watch http://127.0.0.1:9808", hung, "", "… and after the outage:", "", back)


def draw(name: str, command: str, *outputs: str) -> None:
    """Draws what `command` printed."""
    shown = [Text.from_ansi(output.rstrip()) for output in outputs]
    svg = drawn(command, f"outage-{name}", Text(f"$ {command}", style="bold"), *shown)
    (FOLDER / f"outage_{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
