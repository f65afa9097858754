"""
A driver's GOAWAY frame with any error code, known to HTTP/2 or not, at any point of a call, never ends the process.

From 1.84 on gRPC's core calls abort() for codes from 13 to 254 (`image/mend_grpc.py`), so all calls are made in processes of
their own.  `make newest` and `make e2e` run these tests on the image's interpreter, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import pytest

from image import mend_grpc
from livenessprobe.driver import connection
from livenessprobe.driver.address import parse_csi_address
from livenessprobe.driver.diagnosis import NotConnected
from tests.conformance.raw_driver import SETTINGS, frame
from tests.support import ROOT, Sidecar, not_on_windows
from tests.support.frames import GET_PLUGIN_INFO, LAST_STREAM, PROBE, Call, FrameDriver, goaway, ready

pytestmark = not_on_windows("Python cannot listen on AF_UNIX there")

NAMED = 0xD
"""HTTP/2's last error code, HTTP_1_1_REQUIRED; gRPC's core has no name for it."""
CODES = (*range(256), 256 + NAMED, 70007, 2**31, 2**32 - 1)
"""70007 is what Apache httpd sends as a proxy; gRPC's core looks at the last eight bits."""
FEW = (0, 2, 11, NAMED, 14, 100, 254, 255, 70007, 2**31, 2**32 - 1)


class Place(Enum):
    """Where in a connection the frame is."""

    BEHIND_SETTINGS = "behind the server's SETTINGS"
    BEFORE = "before the response"
    BEHIND = "behind the response"
    INSTEAD = "instead of a response, and the call was not looked at"


class Server(FrameDriver):
    """A driver that is ready, and sends a GOAWAY with `code` on each connection."""

    def __init__(self, path: str) -> None:
        self.code = 0
        self.place = Place.BEHIND
        super().__init__(path, self._respond)
        self.greeting = self._greet

    def _greet(self, _connection: int) -> bytes:
        return frame(SETTINGS) + (goaway(LAST_STREAM, self.code) if self.place is Place.BEHIND_SETTINGS else b"")

    def _respond(self, call: Call) -> bytes:
        if self.place is Place.INSTEAD:
            return goaway(0, self.code)
        before = goaway(call.stream, self.code) if self.place is Place.BEFORE else b""
        behind = goaway(call.stream, self.code) if self.place is Place.BEHIND else b""
        return before + ready(call) + behind


@pytest.fixture
def server(socket_path: str) -> Iterator[Server]:
    running = Server(socket_path)
    yield running
    running.close()


# --- the sidecar


@pytest.mark.parametrize("place", [Place.BEFORE, Place.BEHIND])
def test_a_goaway_of_any_code_beside_a_response_is_a_healthy_driver(
    place: Place, server: Server, sidecar: Callable[..., Sidecar]
) -> None:
    process = sidecar("--connection-reuse=0s")
    process.await_name()
    server.place = place
    for server.code in CODES:
        response = process.get()
        assert (response.status, response.body) == (200, "ok"), (server.code, process.log())
    assert process.process.poll() is None


@pytest.mark.parametrize("place", [Place.BEHIND_SETTINGS, Place.INSTEAD])
def test_a_goaway_of_any_code_without_a_response_never_ends_the_process(
    place: Place, server: Server, sidecar: Callable[..., Sidecar]
) -> None:
    """Behind SETTINGS it may be read before or after the call is sent, and the call may succeed."""
    process = sidecar("--connection-reuse=0s", "--unreachable-grace=0s", "--probe-timeout=2s")
    process.await_name()
    server.place = place
    for server.code in FEW:
        response = process.get()
        assert response.status == 500 or place is Place.BEHIND_SETTINGS, server.code
    server.place = Place.BEHIND
    assert process.get().status == 200


# --- every call


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("method", [PROBE, GET_PLUGIN_INFO])
def test_a_goaway_of_any_code_is_the_same_for_each_call(method: str, place: Place, socket_path: str) -> None:
    """One process makes a call for each code; its last line names the code that ended it."""
    command = [sys.executable, "-m", "tests.whole.test_goaway", socket_path, method, place.name]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = child.stdout.splitlines()
    outcomes = {int(code): outcome for code, outcome in (line.split(" ", 1) for line in lines)}
    assert child.returncode == 0, (lines[-1:], child.stderr)
    assert tuple(outcomes) == CODES
    if place is not Place.BEHIND_SETTINGS:
        expected = "UNAVAILABLE" if place is Place.INSTEAD else "answered"
        assert {code: outcome for code, outcome in outcomes.items() if outcome != expected} == {}


async def call_for_each_code(path: str, method: str, place: Place) -> None:
    """Print each code, and the outcome of a call on a connection of its own."""
    connection.QUIET_SECONDS = 0  # no pause after a failed call
    server = Server(path)
    server.place = place
    dialer = connection.Dialer(parse_csi_address(f"unix://{path}", sys.platform), lambda: None)
    for server.code in CODES:
        print(server.code, end=" ", flush=True)
        print(await outcome(dialer, method), flush=True)
    await dialer.close()


async def outcome(dialer: connection.Dialer, method: str) -> str:
    try:
        deadline = asyncio.get_running_loop().time() + 5
        dialled = await dialer.dial(await dialer.look(deadline), deadline)
    except NotConnected:
        return "not connected"
    try:
        await dialled.call(method, b"", 5)
    except connection.CallFailed as error:
        return error.code
    finally:
        await asyncio.sleep(0.001)  # let gRPC read a frame behind the response
        await dialer.drop(dialled)
    return "answered"


# --- the wheels for CPython 3.15


def test_the_lock_has_a_wheel_that_survives_or_is_mended() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {marker: version for version, marker in re.findall(r"^grpcio==(\S+) ; python_full_version (\S+)", lock, re.M)}
    assert locked.keys() == {"<", ">="}
    assert locked["<"].startswith("1.83.")
    assert locked[">="] == mend_grpc.GRPCIO


LIBRARY = "cygrpc.cpython-315-x86_64-linux-gnu.so"
BEFORE, AFTER = b"compare, jump, call", b"compare, stay, call"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed wheel whose library is BEFORE."""
    change = mend_grpc.Mend(hashlib.sha256(BEFORE).hexdigest(), 9, b"jump", b"stay", hashlib.sha256(AFTER).hexdigest())
    monkeypatch.setitem(mend_grpc.MENDS, LIBRARY, change)
    for file, content in (
        (f"grpc/_cython/{LIBRARY}", BEFORE),
        (
            f"grpcio-{mend_grpc.GRPCIO}.dist-info/RECORD",
            f"grpc/_cython/{LIBRARY},sha256=x,19\ngrpc/x.py,sha256=y,1\n".encode(),
        ),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(content)
    return tmp_path


def test_a_wheel_is_mended_once_and_says_so(wheel: Path) -> None:
    library = wheel / "grpc/_cython" / LIBRARY
    library.chmod(0o755)
    assert mend_grpc.mend(wheel) == f"{library} is mended"
    assert mend_grpc.mend(wheel) == f"{library} is mended already"
    assert library.read_bytes() == AFTER
    assert library.stat().st_mode & 0o777 == 0o755
    assert [file.name for file in library.parent.iterdir()] == [LIBRARY]
    folder = wheel / f"grpcio-{mend_grpc.GRPCIO}.dist-info"
    assert (folder / "RECORD").read_text() == (
        f"grpc/_cython/{LIBRARY},sha256=kOwwbemsswv5NHzlOijE-SgRrgbDSmbkOSIwB7mQ1HA,19\n"
        f"grpc/x.py,sha256=y,1\n{folder.name}/MODIFIED,,\n"
    )
    assert "modified by livenessprobe" in (folder / "MODIFIED").read_text()


@pytest.mark.parametrize("name", [LIBRARY, "cygrpc.cpython-315-riscv64-linux-gnu.so"])
def test_another_wheel_is_refused(name: str, wheel: Path) -> None:
    library = wheel / "grpc/_cython" / LIBRARY
    library.write_bytes(b"another build")
    library.rename(library.with_name(name))
    with pytest.raises(SystemExit, match=f"{name} is not of grpcio {mend_grpc.GRPCIO}'s wheel, so it cannot be mended"):
        mend_grpc.mend(wheel)


def test_wheels_of_other_interpreters_are_left_alone(wheel: Path) -> None:
    library = wheel / "grpc/_cython" / LIBRARY
    library.rename(library.with_name("cygrpc.cpython-314-x86_64-linux-gnu.so"))
    assert mend_grpc.mend(wheel).startswith("nothing to mend")


if __name__ == "__main__":
    asyncio.run(call_for_each_code(sys.argv[1], sys.argv[2], Place[sys.argv[3]]))
