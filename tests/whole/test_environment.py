"""Variables that a pod sets for its own programs, and that libraries of the sidecar read."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from livenessprobe.driver.address import parse_csi_address
from livenessprobe.process.environment import foreign
from tests.support import ROOT, FakeDriver, Sidecar, driver_process, eventually, free_port, not_on_windows

Start = Callable[..., Sidecar]

pytestmark = not_on_windows("the environment of C")

# --- each name in the libraries


def packages(name: str, found: set[str]) -> set[str]:
    """The names of the installed package and of those it needs, added to `found`."""
    if name in found:
        return found
    with contextlib.suppress(PackageNotFoundError):
        requirements = distribution(name).requires or []
        found.add(name)
        for each in requirements:
            if "extra ==" not in each and (needed := re.match(r"[\w.-]+", each)):
                packages(re.sub(r"[-_.]+", "-", needed[0]).lower(), found)
    return found


IN_SOURCE = re.compile(r"""["']([A-Z_][A-Z0-9_]{2,}|[a-z_]+_proxy)["']""")
IN_LIBRARY = re.compile(rb"(?<=\0)([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[a-z_]+_proxy)(?=\0)")
KNOWN = {
    *("GRPC_POLL_STRATEGY", "GRPC_TRACE", "GRPC_EXPERIMENTS", "GRPC_DNS_RESOLVER", "GRPC_ADDRESS_HTTP_PROXY"),
    *("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "PROMETHEUS_MULTIPROC_DIR", "AUTO_CAST_FOR_DYNACONF"),
    *("QUART_DEBUG", "WERKZEUG_SERVER_FD", "FORCE_COLOR", "SSL_CERT_FILE", "no_grpc_proxy"),
}
"""The search must find these."""
LOADED_WITH = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")
"""Read before the first line of this program runs."""


def names() -> set[str]:
    """Every word in the code and in the strings of the libraries that may be the name of a variable."""
    found: set[str] = set()
    for package in packages("livenessprobe", set()) - {"livenessprobe"}:
        for path in (Path(str(each.locate())) for each in distribution(package).files or []):
            if path.suffix == ".py" and re.search("environ|getenv", text := path.read_text("utf-8", "replace")):
                found |= set(IN_SOURCE.findall(text))
            elif path.suffix in (".so", ".pyd"):
                found |= {each.decode() for each in IN_LIBRARY.findall(path.read_bytes())}
    return found


def settings_of_a_user(name: str) -> bool:
    return name.startswith(("LIVENESSPROBE_", "LIVENESS_PROBE_", "CSI_", *LOADED_WITH)) or name in ("PATH", "HOME")


def test_it_serves_with_each_variable_that_a_library_might_read(driver: FakeDriver, sidecar: Start) -> None:
    found = names()
    assert found >= KNOWN
    # A linker stores a string only once if another one ends with it.
    found |= {name[at.start() + 1 :] for name in found for at in re.finditer("_", name)} - {""}
    environ = {name: "x" for name in found if not settings_of_a_user(name)}
    assert len(environ) > 1000

    process = sidecar("--connection-reuse=0s", environ=environ)
    process.await_name()

    assert (process.get().status, process.get("/metrics").status) == (200, 200)
    driver.ready = False
    assert process.get().reason == "not_ready"
    assert [line for line in process.log().splitlines() if not re.match(r"[IWE]\d{4} ", line)] == []
    assert not os.path.exists(ROOT / "x")


# --- variables that ended the process, or sent it elsewhere

FATAL = [
    {"GRPC_POLL_STRATEGY": "none"},
    {"GRPC_EXPERIMENTS": "x", "GRPC_TRACE": "all", "GRPC_VERBOSITY": "DEBUG"},
    {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp"},
    {"PROMETHEUS_MULTIPROC_DIR": "/nosuch"},
    {"PROMETHEUS_MULTIPROC_DIR": "{folder}"},
    {"AUTO_CAST_FOR_DYNACONF": "x", "SETTINGS_FILE_FOR_DYNACONF": "/nosuch.py"},
]


@pytest.fixture(params=FATAL, ids=lambda each: next(iter(each)))
def fatal(request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    return {name: text.format(folder=folder / "empty") for name, text in request.param.items()}


def test_a_variable_of_a_library_has_no_effect(
    fatal: dict[str, str], driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    process = sidecar(environ=fatal)
    process.await_name()

    assert (process.get().status, process.get("/metrics").status) == (200, 200)
    assert [line for line in process.log().splitlines() if not re.match(r"[IWE]\d{4} ", line)] == []
    assert list((folder / "empty").iterdir()) == []


def test_a_variable_of_a_library_has_no_effect_on_check(fatal: dict[str, str], driver: FakeDriver) -> None:
    command = [sys.executable, "-m", "livenessprobe", "check", f"--csi-address={driver.path}"]

    done = subprocess.run(command, cwd=ROOT, env=os.environ | fatal, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "healthy: ok\n", "")


def test_a_variable_of_a_library_has_no_effect_on_the_example_driver(
    fatal: dict[str, str], socket_path: str, sidecar: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in fatal.items():
        monkeypatch.setenv(name, text)

    with driver_process(socket_path):
        assert sidecar().get().status == 200


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    """The address of a listener that never answers, and that must have no connection at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_no_variable_sends_a_driver_on_tcp_to_a_proxy(sidecar: Start) -> None:
    port = free_port()
    with proxy() as elsewhere, FakeDriver(f"127.0.0.1:{port}"):
        target = parse_csi_address(f"tcp://127.0.0.1:{port}", sys.platform).target
        environ = {
            "GRPC_ADDRESS_HTTP_PROXY": elsewhere,
            "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": f"127.0.0.1,127.0.0.1/32,0.0.0.0/0,{target}",
            **dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY"), f"http://{elsewhere}"),
        }

        process = sidecar(f"--csi-address=tcp://127.0.0.1:{port}", environ=environ)

        assert process.get().status == 200


def test_the_demo_asks_its_sidecar_without_a_proxy_and_gives_it_its_variables() -> None:
    """Its driver and its own requests are to be as free of such variables as the sidecar is."""
    with proxy() as elsewhere:
        environ = {"http_proxy": f"http://{elsewhere}", "GRPC_POLL_STRATEGY": "none", "LIVENESSPROBE_V": "5"}
        done = subprocess.run(
            [sys.executable, "-m", "livenessprobe", "demo", f"--http-endpoint=127.0.0.1:{free_port()}"],
            cwd=ROOT,
            env=os.environ | environ,
            input="p\nq\n",
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert re.findall(r"GET /healthz -> (\S+)", done.stdout) == ["200", "200"]
    assert '"Sending probe request to CSI driver"' in done.stderr


# --- the order of things

NOTE_AT_FIRST_IMPORT = """
import sys, ctypes

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*sys.stdlib_module_names, "livenessprobe"} or Finder not in map(type, sys.meta_path):
            return None
        sys.meta_path[:] = [each for each in sys.meta_path if type(each) is not Finder]
        environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
        names, at = [], 0
        while environ[at] is not None:
            names.append(environ[at].partition(b"=")[0].decode())
            at += 1
        with open(FILE, "w") as file:
            file.write(" ".join([name, *names]))

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("command", [(), ("check",), ("config",)])
def test_only_allowed_variables_are_there_when_the_first_library_is_imported(
    command: tuple[str, ...], driver: FakeDriver, folder: Path
) -> None:
    """In the environment of C, which libraries read by getenv."""
    (folder / "sitecustomize.py").write_text(NOTE_AT_FIRST_IMPORT.replace("FILE", repr(str(folder / "seen"))))
    arguments = [f"--csi-address={driver.path}", f"--http-endpoint=unix://{folder}/http"]
    environ = {
        "PYTHONPATH": f"{folder}:{ROOT}",
        "GRPC_TRACE": "x",
        "LIVENESSPROBE_V": "5",
        "TZ": "UTC",
        "X": "1",
        "LC_X": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "livenessprobe", *command, *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: (folder / "seen").exists() and (folder / "seen").read_text())
    finally:
        process.kill()
        process.wait()

    first, *left = (folder / "seen").read_text().split()

    # The module that imports gRPC sets this one, so that gRPC writes no lines of its own.
    assert foreign(left, sys.platform) == (["GRPC_VERBOSITY"] if first == "grpc" else [])
    assert {"PYTHONPATH", "TZ", "LC_X"} <= set(left)
