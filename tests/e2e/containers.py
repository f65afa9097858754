"""The image in containers, as manifests run it: its limits, its users, and the commands that users give it."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.e2e import drivers, image, podman
from tests.e2e.host import CACHE, Failed, get, run, say, wait_for
from tests.e2e.podman import Container
from tests.whole.test_goaway import CODES, Place, Server

if TYPE_CHECKING:
    from tests.e2e.drivers import Driver

HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--pids-limit=64")
PATIENCE = 60
"""Seconds for a sidecar to respond."""


def mounted(driver: Driver) -> str:
    return f"--volume={driver.folder}:/csi:ro"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def sidecar(driver: Driver, *arguments: str, options: tuple[str, ...] = HARDENED) -> Iterator[tuple[str, Container]]:
    """The URL of a sidecar beside `driver` once it responds, and its container."""
    port = free_port()
    endpoint = ("--csi-address=/csi/csi.sock", f"--http-endpoint=127.0.0.1:{port}")
    with Container(image.ready(), *endpoint, *arguments, options=(*options, mounted(driver))) as container:
        url = f"http://127.0.0.1:{port}"
        wait_for_answer(url, container)
        yield url, container


def wait_for_answer(url: str, container: Container, seconds: float = PATIENCE) -> int:
    """The first status of /healthz."""

    def look() -> int:
        if not container.running:
            raise Failed(f"the sidecar ended:\n{container.log()[-2000:]}")
        return get(f"{url}/healthz", 5)[0]

    return wait_for("a response of the sidecar", look, seconds, 0.05)


# --- users and commands


def stage_uid() -> None:
    """Under another uid: 200, but a socket that only root may use is reported as such."""
    options = (*HARDENED, "--user=65532:65532")
    with drivers.example() as driver, sidecar(driver, "--unreachable-grace=0s", options=options) as (url, container):
        driver.socket.chmod(0o755)
        status, body = get(f"{url}/healthz")
        say(f"socket of root: {status} {body}")
        if status != 500 or "ermission" not in body:
            raise Failed("a socket without write permission is not reported as such")
        driver.socket.chmod(0o777)
        wait_for("200", lambda: get(f"{url}/healthz")[0] == 200, 5)
        say("socket of all users: 200")
        if owner := {Path(f"/proc/{container.pid}").stat().st_uid} - {65532}:
            raise Failed(f"the process runs as {owner}")


def stage_smoke() -> None:
    """The test that Chainguard publishes: `curl -I` gives 200, and 500 once the driver has stopped."""

    def head(url: str) -> str:
        return run("curl", "--silent", "--head", "--max-time", "10", f"{url}/healthz").splitlines()[0].strip()

    with drivers.example() as driver, sidecar(driver, options=(mounted(driver),)) as (url, container):
        before = head(url)
        driver.end()
        after = head(url)
        say(f"with the driver: {before}; without: {after}")
        if (before, after) != ("HTTP/1.1 200 OK", "HTTP/1.1 500 Internal Server Error"):
            raise Failed(container.log())


def stage_longhorn() -> None:
    """Longhorn's documented use: its variables, and `exec: cat /tmp/health` as the liveness probe."""
    settings = (
        "--env=CSI_ENDPOINT=unix:///csi/csi.sock",
        "--env=LIVENESS_PROBE_INTERVAL=1s",
        "--env=LIVENESS_PROBE_RETRIES=2",
    )
    options = (*HARDENED, "--tmpfs=/tmp:size=1m", *settings)
    with drivers.example() as driver:
        with Container(image.ready(), f"--health-port={free_port()}", options=(*options, mounted(driver))) as container:
            wait_for("cat to succeed", lambda: container.execute("cat", "/tmp/health")[0] == 0, 20)
            say(f"cat /tmp/health: {container.execute('cat', '/tmp/health')[1].strip()}")
            driver.signal(signal.SIGSTOP)
            wait_for("cat to fail", lambda: container.execute("cat", "/tmp/health")[0] == 1, 20)
            say("driver stopped: cat fails")
            driver.signal(signal.SIGCONT)
            wait_for("cat to succeed again", lambda: container.execute("cat", "/tmp/health")[0] == 0, 20)


HOSTILE = {
    "PYTHONPATH": "/csi",
    "PYTHONHOME": "/nowhere",
    "PYTHONSTARTUP": "/csi/x.py",
    "PYTHONINSPECT": "1",
    "PYTHON_LAZY_IMPORTS": "none",
    "PYTHONUSERBASE": "/csi",
    "GRPC_POLL_STRATEGY": "none",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp",
    "PROMETHEUS_MULTIPROC_DIR": "/nosuch",
}


def stage_command() -> None:
    """`command: [/livenessprobe]`, exec probes, a terminal, foreign variables, SIGTERM."""
    variables = tuple(f"--env={name}={value}" for name, value in HOSTILE.items())
    with drivers.example() as driver:
        # If one of these were on the module path, it would end the process.
        for name in ("sitecustomize.py", "usercustomize.py", "signal.py", "socket.py", "x.py"):
            (driver.folder / name).write_text("import os\nos._exit(77)\n")
        options = (*HARDENED, "--entrypoint=/livenessprobe", "--workdir=/csi", *variables)
        with sidecar(driver, options=options) as (url, container):
            _expect("foreign variables", get(f"{url}/healthz"), (200, "ok"))
            _expect("foreign variables, metrics", get(f"{url}/metrics")[0], 200)
            name = Path(f"/proc/{container.pid}/comm").read_text().strip()
            _expect("the process's name", name, "livenessprobe")
            code, output = container.execute("/livenessprobe", "check", "--csi-address=/csi/csi.sock")
            _expect("exec check of a ready driver", (code, output.strip()), (0, "healthy: ok"))
            driver.order("not-ready")
            wait_for("500", lambda: get(f"{url}/healthz")[0] == 500, 5)
            code, _ = container.execute("/livenessprobe", "check", "--csi-address=/csi/csi.sock")
            _expect("exec check of a driver that is not ready", code, 4)
            _expect("the exit code after SIGTERM", container.stop(), 0)
    _expect("exit code with a shell as entrypoint", _once("--entrypoint=sh")[0], 127)
    _expect("the log is coloured on a terminal", "\x1b[" in _once("--tty", arguments=("--http-endpoint=bad",))[1], True)


def stage_stop() -> None:
    """SIGTERM and SIGINT at once after the start, as PID 1 with 0.02 CPU: the container ends with 0, without SIGKILL."""
    options = (*HARDENED, "--memory=96m", "--memory-swap=96m", "--cpus=0.02")
    for number in (signal.SIGTERM, signal.SIGINT):
        for pause in (0, 0.1, 0.5, 2):
            with Container(image.ready(), f"--http-endpoint=127.0.0.1:{free_port()}", options=options) as container:
                # Before that moment nothing of the image has run: a signal is lost, whatever the image holds.
                wait_for("the launcher", functools.partial(_blocks, container.pid, number), 10, pause=0)
                time.sleep(pause)
                os.kill(container.pid, number)
                started = time.monotonic()
                wait_for(f"the end after {number.name}", lambda: not container.running, 30)
                _expect(f"the exit code after {number.name}, {pause} s after the start", container.exit_code, 0)
                say(f"ended {time.monotonic() - started:.1f} s after the signal")


def _blocks(pid: int, number: signal.Signals) -> bool:
    """The process has blocked the signal, as the launcher does first of all."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigBlk"], 16) & 1 << number - 1)


def stage_old_runtime() -> None:
    """Under a seccomp profile that answers clone3 or prlimit64 with EPERM, as those of old container runtimes."""
    code, output = _once(_refusing("clone3"), "--network=host", arguments=(f"--http-endpoint=127.0.0.1:{free_port()}",))
    _expect("without threads: exit code and lines", (code, len(output.splitlines())), (1, 1))
    _expect(output.strip(), "the container runtime is too old" in output, True)
    with drivers.example() as driver, sidecar(driver, options=(*HARDENED, _refusing("prlimit64"))) as (url, _):
        _expect("without limits", get(f"{url}/healthz"), (200, "ok"))
        _expect("metrics", get(f"{url}/metrics")[0], 200)


def _refusing(call: str) -> str:
    rule = {"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    file = CACHE / f"without-{call}.json"
    file.write_text(json.dumps(profile))
    return f"--security-opt=seccomp={file}"


def stage_goaway() -> None:
    """A driver's GOAWAY frames with any error code, which gRPC's core survives only mended (image/mend_grpc.py)."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Server(f"{name}/csi.sock")
        with sidecar(SimpleNamespace(folder=folder), "--connection-reuse=0s") as (url, container):
            for server.place in (Place.BEFORE, Place.BEHIND):
                for server.code in CODES:
                    _expect(f"GOAWAY {server.code} {server.place.value}", get(f"{url}/healthz"), (200, "ok"))
            if not container.running:
                raise Failed(f"the sidecar ended:\n{container.log()[-2000:]}")
        server.close()
    say(f"{len(CODES)} codes, before and behind a response: 200")


def _once(*options: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and output of a container that ends by itself."""
    done = subprocess.run(
        ["podman", "run", "--rm", *options, image.IMAGE, *arguments],
        env=podman.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


def _expect(what: str, seen: object, wanted: object) -> None:
    say(f"{what}: {seen}")
    if seen != wanted:
        raise Failed(f"{what}: {seen}, expected {wanted}")
