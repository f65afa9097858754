"""Drivers that misbehave on demand, each on a socket of its own; a test moves one of the sockets to the CSI address."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tests.conformance.raw_driver import RawDriver
from tests.support import ROOT, FakeDriver

RAW = "raw.csi.test"


def wire(path: str | Path, kind: str = "h2", name: str = RAW) -> RawDriver:
    return RawDriver({"listen": f"unix:{path}", "wire": kind, "plugin_info": {"name": name}})


class GrpcDriver(FakeDriver):
    """A driver on the grpc library, whose responses may also be long."""

    padding = 0

    def _ready(self, request: bytes) -> bytes:
        found = super()._ready(request)
        if self.padding:  # an unknown field
            size, length = self.padding, b""
            while size > 127:
                length += bytes([size & 127 | 128])
                size >>= 7
            found += b"\x7a" + length + bytes([size]) + bytes(self.padding)
        return found

    def reset(self) -> None:
        """Ready at once again; calls that hang are released."""
        self.release.set()
        self.release = threading.Event()
        self.hang, self.ready, self.status, self.delay, self.padding = False, None, None, 0.0, 0


class ProcessDriver:
    """A ready driver as a process that can be stopped and killed."""

    def __init__(self, path: str) -> None:
        self.path = path
        command = [sys.executable, "-m", "tests.machine.drivers", path]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._serving = False

    def serving(self) -> None:
        """Wait until it serves."""
        if not self._serving:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == b"serving\n"
            self._serving = True

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    driver = wire(sys.argv[1], name="process.csi.test")
    print("serving", flush=True)
    threading.Event().wait()
