"""`livenessprobe doctor` as a process: planted mistakes, a sound pod, what it prints, and that it changes nothing."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from livenessprobe.driver.result import WAYS_OUT, Reason
from livenessprobe.probing.advice import IMPATIENT_KUBELET
from tests.conformance.raw_driver import RawDriver
from tests.support import COMMAND, ROOT, FakeDriver, Sidecar, Start, command, eventually, free_port, not_on_windows
from tests.support.container import NEW_NETWORK, with_limits

pytestmark = not_on_windows("most of the mistakes are of Linux pods")

WELL, ERRORS, USAGE = range(3)
"""The exit codes, as docs/doctor.md has them."""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

doctor = functools.partial(command, "doctor")


class Found(NamedTuple):
    check: str
    mark: str
    what: str
    way_out: str
    page: str


class Pod:
    """A pod with a driver that is ready, in which a test plants a mistake."""

    def __init__(self, driver: FakeDriver, folder: Path, open_until_the_end: contextlib.ExitStack) -> None:
        self.driver = driver
        self.folder = folder
        self.port = free_port()
        self.csi_address = driver.path
        self.arguments: list[str] = []
        """Beside the address of the driver, and where to listen."""
        self.environ: dict[str, str] = {}
        self.listen = f"--http-endpoint=127.0.0.1:{self.port}"
        self.prefix: tuple[str, ...] = ()
        self.keep = open_until_the_end

    def examine(self) -> tuple[int, list[Found]]:
        """The exit code and the findings of a doctor in this pod."""
        address = [f"--csi-address={self.csi_address}"] if self.csi_address else []
        words = [*address, *([self.listen] if self.listen else []), *self.arguments, "--output=json"]
        done = doctor(*words, prefix=self.prefix, **self.environ)
        if self.prefix[:1] == ("unshare",) and not done.out:
            pytest.skip(f"no namespaces here: {done.err}")
        assert done.err == ""
        told = json.loads(done.out)
        return done.code, [Found(**each) for each in told["findings"]]


@pytest.fixture
def pod(driver: FakeDriver, folder: Path) -> Iterator[Pod]:
    with contextlib.ExitStack() as stack:
        yield Pod(driver, folder, stack)


# --- planted mistakes


def bend(**changes: object) -> Callable[[Pod], object]:
    """Set attributes of the pod."""
    return lambda pod: [setattr(pod, name, value) for name, value in changes.items()]


def misbehave(**changes: object) -> Callable[[Pod], object]:
    """Set attributes of the driver, and a short probe timeout."""

    def plant(pod: Pod) -> None:
        pod.arguments.append("--probe-timeout=1s")
        for name, value in changes.items():
            setattr(pod.driver, name, value)

    return plant


def slow(pod: Pod) -> None:
    pod.arguments.append("--probe-timeout=2s")
    pod.driver.delay = 1.1


def elsewhere(pod: Pod) -> None:
    """The driver's socket has another name than the address."""
    pod.csi_address = str(pod.folder / "csi-nfs.sock")


def in_a_folder_that_is_missing(pod: Pod) -> None:
    """The driver listens, under the path that the folder has in its own container."""
    pod.csi_address = "/nosuch/csi/" + os.path.basename(pod.driver.path)


def instead_of_the_socket(make: Callable[[str], object]) -> Callable[[Pod], object]:
    def plant(pod: Pod) -> None:
        pod.driver.stop()
        make(pod.driver.path)

    return plant


def killed(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)


def speaks(wire: str) -> Callable[[Pod], object]:
    def plant(pod: Pod) -> None:
        pod.driver.stop()
        other = RawDriver({"listen": f"unix:{pod.driver.path}", "wire": wire})
        pod.keep.callback(other.stop)

    return plant


def fails_sometimes(pod: Pod) -> None:
    driver = pod.driver
    driver.on_probe = lambda: setattr(driver, "ready", driver.probes % 2 == 1)


def forbidden(pod: Pod) -> None:
    os.chmod(pod.driver.path, 0o700)
    pod.folder.chmod(0o755)
    pod.prefix = NOBODY


def relative(pod: Pod) -> None:
    pod.csi_address = os.path.relpath(pod.driver.path, ROOT)


def own_socket(pod: Pod) -> None:
    pod.csi_address, pod.listen = f"{pod.folder}/health.sock", f"--http-endpoint=unix://{pod.folder}/health.sock"
    killed(f"{pod.folder}/health.sock")


def taken(pod: Pod) -> None:
    pod.keep.enter_context(socket.create_server(("127.0.0.1", pod.port)))


def taken_by_a_web_server(pod: Pod) -> None:
    """As the Go program, it answers without the header of this one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", pod.port), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pod.keep.callback(server.server_close)
    pod.keep.callback(server.shutdown)


def metrics_taken(pod: Pod) -> None:
    port = free_port()
    pod.keep.enter_context(socket.create_server(("127.0.0.1", port)))
    pod.arguments.append(f"--metrics-address=127.0.0.1:{port}")


def privileged(pod: Pod) -> None:
    # A namespace without privilege: elsewhere the first port that needs none may be 0.
    pod.prefix, pod.listen, pod.csi_address = (
        (*NEW_NETWORK[:3], "--net", *NOBODY_IN_IT),
        "--http-endpoint=:80",
        "127.0.0.1:1",
    )


NOBODY_IN_IT = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def a_settings_file(text: str) -> Callable[[Pod], object]:
    def plant(pod: Pod) -> None:
        (pod.folder / "settings.toml").write_text(text)
        pod.arguments.append(f"--config={pod.folder}/settings.toml")

    return plant


def adds(*arguments: str) -> Callable[[Pod], object]:
    return lambda pod: pod.arguments.extend(each.replace("FOLDER", str(pod.folder)) for each in arguments)


def on_loopback_of_a_pod(pod: Pod) -> None:
    pod.prefix = NEW_NETWORK


def limits(**given: object) -> Callable[[Pod], object]:
    return lambda pod: setattr(pod, "prefix", with_limits(pod.folder, **given))


MIB = 1 << 20


class Planted(NamedTuple):
    """A mistake, and the finding about it: its check and mark, and parts of what it says, way out included."""

    plant: Callable[[Pod], object]
    check: str
    mark: str
    says: tuple[str, ...]


MISTAKES: dict[str, Planted] = {
    # the socket
    "the socket has another name": Planted(
        elsewhere, "socket", "error", ("socket_missing", "beside it is the socket", "/csi.sock", "set --csi-address")
    ),
    "the folder is not mounted": Planted(
        in_a_folder_that_is_missing,
        "socket",
        "error",
        (
            "/nosuch/csi does not exist either",
            "in this network a process listens on",
            "mount its folder into both containers",
        ),
    ),
    "the address is the folder": Planted(
        lambda pod: setattr(pod, "csi_address", str(pod.folder)),
        "socket",
        "error",
        ("not_a_socket", "is a folder, not a socket"),
    ),
    "a file instead of the socket": Planted(
        instead_of_the_socket(lambda path: Path(path).touch()),
        "socket",
        "error",
        ("not_a_socket", "is a file, not a socket"),
    ),
    "a variable is not expanded": Planted(
        bend(csi_address="$(ADDRESS)/csi.sock"), "socket", "error", ("the container has no variable ADDRESS",)
    ),
    "a relative path": Planted(relative, "socket", "warning", ("relative to the working directory", "the whole path")),
    "the sidecar's own socket": Planted(
        own_socket, "socket", "error", ("both --csi-address and where this sidecar itself",)
    ),
    "a path that is too long": Planted(
        bend(csi_address="/" + "x" * 120), "settings", "error", ("121 bytes long", "under a shorter path")
    ),
    "two slashes": Planted(bend(csi_address="unix://csi/csi.sock"), "settings", "error", ("unix:///csi/csi.sock",)),
    "an address of Windows": Planted(bend(csi_address="C:\\csi\\csi.sock"), "settings", "error", ("is a Windows path",)),
    "an empty variable": Planted(adds("--csi-address="), "settings", "error", ("a variable may be empty",)),
    # the driver
    "a driver that was killed": Planted(
        instead_of_the_socket(killed),
        "driver",
        "error",
        ("refused: nobody listens on", "kubectl logs POD -c DRIVER, with --previous"),
    ),
    "a hung driver": Planted(
        misbehave(hang=True),
        "driver",
        "error",
        ("1 of 1 probes failed: deadline:", "what the driver waits for: kubectl logs"),
    ),
    "a slow driver": Planted(
        slow, "driver", "warning", ("probes took 1.", "the probe timeout is 2s", "raise --probe-timeout")
    ),
    "a driver that is not ready": Planted(
        misbehave(ready=False), "driver", "error", ("5 of 5 probes failed: not_ready:", "/livez")
    ),
    "a driver that is ready sometimes": Planted(fails_sometimes, "driver", "error", ("2 of 5 probes failed: not_ready:",)),
    "a driver with an error": Planted(
        misbehave(status=(grpc.StatusCode.INTERNAL, "backend\ngone")),
        "driver",
        "error",
        ("driver_error: rpc error: code = Internal desc = backend gone", "kubectl logs POD -c DRIVER"),
    ),
    "a method that the driver lacks": Planted(
        adds("--probe-path=/grpc.health.v1.Health/Check"), "driver", "error", ("unimplemented:", "set --probe-path")
    ),
    "a driver without a name": Planted(
        misbehave(name=""), "driver", "warning", ("does not tell its name: driver name is empty", "GetPluginInfo")
    ),
    "another socket's protocol": Planted(
        speaks("http1"), "driver", "error", ("protocol_error:", "answers in HTTP/1, not gRPC")
    ),
    "a socket of garbage": Planted(speaks("garbage"), "driver", "error", ("protocol_error:", "serves CSI over gRPC")),
    "a socket of another user": Planted(
        forbidden,
        "driver",
        "error",
        ("permission_denied", "of user 0 with mode 0700, and this process is user 65534", "runAsUser"),
    ),
    "nothing behind the TCP address": Planted(
        bend(csi_address="127.0.0.1:1"), "driver", "error", ("refused: nobody listens on",)
    ),
    "a name that nobody knows": Planted(
        bend(csi_address="csi.invalid:1"), "driver", "error", ("unresolved:", "cluster's DNS")
    ),
    # where to listen
    "a port with a host": Planted(
        bend(listen="--health-port=localhost:29613"), "settings", "error", ("write the port alone: 29613", "--http-endpoint")
    ),
    "a port that is taken": Planted(
        taken,
        "port",
        "error",
        ("bind: address already in use", f"(PID {os.getpid()})", "choose another with --http-endpoint"),
    ),
    "a port that a web server has": Planted(
        taken_by_a_web_server, "port", "error", ("no header X-Livenessprobe-Reason", "choose another with")
    ),
    "a port for metrics that is taken": Planted(
        metrics_taken, "port", "error", ("prometheus metrics endpoint", "--metrics-address")
    ),
    "an address of another machine": Planted(
        bend(listen="--http-endpoint=192.0.2.1:9808"), "port", "error", ("no network interface of this pod has the address",)
    ),
    "a port of root": Planted(privileged, "port", "error", ("NET_BIND_SERVICE",)),
    "a socket in a folder that is missing": Planted(
        bend(listen="--http-endpoint=unix:///nosuch/health.sock"),
        "port",
        "error",
        ("listen unix /nosuch/health.sock: bind:",),
    ),
    "both addresses of health": Planted(adds("--health-port=9999"), "settings", "error", ("Only one of",)),
    "a port that is none": Planted(
        bend(listen="--health-port=healthz"), "port", "error", ("unknown port", "a port is a number")
    ),
    "loopback in a pod": Planted(
        on_loopback_of_a_pod,
        "network",
        "error",
        ("does not reach from outside the pod", "hostNetwork: true", "--http-endpoint=:"),
    ),
    # settings
    "a flag that does not exist": Planted(
        adds("--probe-timout=3s"), "settings", "error", ("did you mean --probe-timeout?",)
    ),
    "a flag of no command": Planted(adds("--v=x", "--interval=5s"), "settings", "error", ('invalid value "x"', "correct")),
    "a bad variable": Planted(
        bend(environ={"LIVENESSPROBE_INTERVAL": "soon"}), "settings", "error", ("LIVENESSPROBE_INTERVAL", "soon")
    ),
    "a variable that does not exist": Planted(
        bend(environ={"LIVENESSPROBE_INTERVALL": "5s"}), "settings", "warning", ("LIVENESSPROBE_INTERVAL?",)
    ),
    "a variable that is never read": Planted(
        bend(environ={"ADDRESS": "/csi/csi.sock"}, csi_address=""),
        "variables",
        "warning",
        ('variable ADDRESS = "/csi/csi.sock" is not read', "add --csi-address=$(ADDRESS)"),
    ),
    "a settings file with a typo": Planted(
        a_settings_file('probe_timout = "3s"\n'), "settings", "error", ("settings.toml", "probe_timeout")
    ),
    "a settings file that is no TOML": Planted(
        a_settings_file("probe_timeout: 3s\n"), "settings", "error", ("settings.toml",)
    ),
    "an argument without a dash": Planted(adds("interval=5s"), "settings", "warning", ("not read: interval=5s",)),
    "no time for probes": Planted(adds("--probe-timeout=0s"), "effects", "error", ("fail at once",)),
    "a path of metrics nobody serves": Planted(
        lambda pod: (adds("--metrics-path=/m")(pod), setattr(pod, "listen", f"--health-port={pod.port}")),
        "effects",
        "warning",
        ("no listener serves metrics", "set --metrics-address"),
    ),
    "log files that are not written": Planted(
        adds("--log_dir=FOLDER"), "effects", "warning", ("has no effect: the log goes to stderr", "--logtostderr=false")
    ),
    "a threshold for a log to stderr": Planted(adds("--stderrthreshold=1"), "effects", "warning", ("has no effect",)),
    "a flag of old releases": Planted(adds("--connection-timeout=5s"), "effects", "warning", ("deprecated", "remove it")),
    "a grace beyond the timeout": Planted(
        adds("--unreachable-grace=9s"), "effects", "warning", ("cut to the probe timeout",)
    ),
    "a service for another method": Planted(adds("--health-service=csi"), "effects", "warning", ("takes no service",)),
    "a health file in a folder that is missing": Planted(
        adds("--health-file=FOLDER/nosuch/health"), "files", "error", ("does not exist", "mount an emptyDir")
    ),
    "a health file that is a folder": Planted(adds("--health-file=FOLDER"), "files", "error", ("no plain file",)),
    # the machine
    "a memory limit that is too low": Planted(
        limits(limit=20 * MIB, used=2 * MIB),
        "memory",
        "error",
        ("the memory limit is 20.0 MiB", "set resources.limits.memory of the sidecar to "),
    ),
    "memory that is used up": Planted(
        limits(limit=128 * MIB, used=121 * MIB),
        "driver",
        "unknown",
        ("not probed: a probe from here takes 8 MiB, 7 MiB are left",),
    ),
    "a CPU limit that is too low": Planted(
        limits(cpu="2000 100000"), "cpu", "warning", ("the CPU limit is 20m", "about 15s to start", "100m")
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(pod: Pod, name: str) -> None:
    planted = MISTAKES[name]
    planted.plant(pod)

    code, findings = pod.examine()

    text = {" ".join(each) for each in findings if (each.check, each.mark) == (planted.check, planted.mark)}
    assert any(all(part in each for part in planted.says) for each in text), findings
    assert code == (ERRORS if any(each.mark == "error" for each in findings) else WELL)
    assert all(each.way_out for each in findings if each.mark in ("error", "warning") and each.check != "sidecar")


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 25


# --- a sound pod, and a sidecar that runs


def test_nothing_is_wrong_with_a_sound_pod(pod: Pod) -> None:
    code, findings = pod.examine()

    assert (code, {each.mark for each in findings}) == (WELL, {"ok"})
    assert {each.check for each in findings} >= {"settings", "socket", "driver", "port"}
    driver = next(each for each in findings if each.check == "driver")
    assert driver.what.startswith("fake.csi.test: 5 probes took ")
    assert pod.driver.probes == 5


def test_nothing_is_wrong_beside_a_sidecar_that_runs(pod: Pod, sidecar: Start) -> None:
    process = sidecar(port=pod.port, *[pod.listen])  # noqa: B026
    process.await_name()
    assert process.get().status == 200

    code, findings = pod.examine()

    assert (code, {each.mark for each in findings}) == (WELL, {"ok"})
    said = [each.what for each in findings if each.check in ("port", "sidecar")]
    assert said == [f"127.0.0.1:{pod.port} is that of a sidecar, which runs", "it reports fake.csi.test as healthy"]


def test_settings_that_differ_from_those_of_the_sidecar_are_named(pod: Pod, sidecar: Start) -> None:
    process = sidecar(pod.listen, "--probe-timeout=2s", "--vmodule=prober=5", port=pod.port)
    process.await_name()

    pod.arguments.append("--failure-threshold=3")
    _, findings = pod.examine()

    (finding,) = [each for each in findings if each.check == "sidecar" and each.mark == "warning"]
    assert finding.what == (
        'it has other settings: --failure-threshold is "1" there and "3" here, --probe-timeout is "2s" there and "3s" here, '
        '--unreachable-grace is "2s" there and "3s" here, --vmodule is "prober=5" there and "" here'
    )
    assert "give the doctor the arguments of the sidecar" in finding.way_out


@pytest.mark.parametrize("pages", ["local", "off"])
def test_without_memory_for_a_probe_the_sidecar_is_asked(pod: Pod, sidecar: Start, pages: str) -> None:
    """Not for its page, whose first view takes memory there; /readyz probes the driver, and /statusz would not."""
    process = sidecar(pod.listen, f"--pages={pages}", port=pod.port)
    process.await_name()
    pod.driver.ready = False
    process.get()
    probes = pod.driver.probes
    pod.arguments.append(f"--pages={pages}")
    limits(limit=128 * MIB, used=121 * MIB)(pod)

    code, findings = pod.examine()

    said = {each.check: each for each in findings}
    assert code == ERRORS
    assert said["driver"].mark == "unknown"
    assert said["sidecar"].what == "it reports not_ready: driver responded but is not ready"
    assert said["sidecar"].way_out == WAYS_OUT[Reason.NOT_READY]
    assert pod.driver.probes - probes == 1


def test_without_memory_for_a_probe_grpc_is_not_loaded(pod: Pod) -> None:
    limits(limit=128 * MIB, used=125 * MIB)(pod)
    code = "import sys; from livenessprobe.commands.doctor import command as c; c.main(sys.argv[1:], {}); print('grpc' in sys.modules)"
    words = [*pod.prefix, sys.executable, "-c", code, f"--csi-address={pod.csi_address}", pod.listen]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    if not done.stdout:
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert done.stdout.splitlines()[-1] == "False"


# --- what it prints, and what it leaves alone


def test_each_finding_is_one_line(pod: Pod) -> None:
    pod.driver.status = (grpc.StatusCode.INTERNAL, "first\nsecond \x1b[31m")

    done = doctor(f"--csi-address={pod.csi_address}", pod.listen)

    *lines, last = done.out.splitlines()
    assert done.code == ERRORS
    assert all(re.match(r"\[[-+!?]\] [a-z]+: \S", line) for line in lines)
    assert last == "1 error, 0 warnings"
    (error,) = [line for line in lines if line.startswith("[-]")]
    assert "Internal desc = first second" in error
    assert f"; to do: {WAYS_OUT[Reason.DRIVER_ERROR]} (docs/reasons.md#driver_error)" in error
    assert "\x1b" not in done.out


def test_the_last_line_of_a_sound_pod(pod: Pod) -> None:
    done = doctor(f"--csi-address={pod.csi_address}", pod.listen)

    assert (done.code, done.err, done.out.splitlines()[-1]) == (WELL, "", "nothing wrong was found")


def test_an_output_that_does_not_exist() -> None:
    done = doctor("--output=xml")

    assert (done.code, done.out, done.err) == (USAGE, "", "livenessprobe doctor: --output=xml: write text or json\n")


def test_help() -> None:
    done = doctor("--help")

    assert done.code == WELL
    assert "doctor [flags]:" in done.out
    assert "-output text" in done.out


def test_a_stale_socket_to_listen_on_stays(pod: Pod) -> None:
    """The sidecar would replace it."""
    path = f"{pod.folder}/health.sock"
    killed(path)
    before = os.stat(path).st_ino
    pod.listen = f"--http-endpoint=unix://{path}"

    code, findings = pod.examine()

    assert code == WELL
    assert any(each.check == "port" and each.what.endswith("is free") for each in findings)
    assert stat.S_ISSOCK(os.stat(path).st_mode) and os.stat(path).st_ino == before


def test_a_full_pipe_and_a_closed_one_are_no_fault(pod: Pod) -> None:
    words = [*COMMAND, "doctor", f"--csi-address={pod.csi_address}", pod.listen]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()

    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == WELL


# --- one story in three places


class Fault(NamedTuple):
    """A fault, and the words for its cause and its cure, which stand in the log, on the page and in the doctor's findings."""

    plant: Callable[[Pod], object]
    cause: str
    cure: str


def impatient(pod: Pod) -> None:
    """A kubelet that waits for 1 s, beside a probe timeout of 3 s."""
    pod.driver.hang = True
    with socket.create_connection(("127.0.0.1", pod.port)) as kubelet:
        kubelet.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.35\r\n\r\n")
        eventually(lambda: pod.driver.in_flight)
        kubelet.settimeout(1)
        with contextlib.suppress(TimeoutError):
            kubelet.recv(1)


FAULTS: dict[str, Fault] = {
    "killed": Fault(
        instead_of_the_socket(killed), "nobody listens on PATH: the driver is down or starting", WAYS_OUT[Reason.REFUSED]
    ),
    "gone": Fault(
        lambda pod: pod.driver.stop(),
        "PATH does not exist: the driver is not running, or its folder is not mounted here",
        WAYS_OUT[Reason.SOCKET_MISSING],
    ),
    "hung": Fault(
        lambda pod: setattr(pod.driver, "hang", True),
        "code = DeadlineExceeded desc = context deadline exceeded",
        WAYS_OUT[Reason.DEADLINE],
    ),
    "not ready": Fault(
        lambda pod: setattr(pod.driver, "ready", False), "driver responded but is not ready", WAYS_OUT[Reason.NOT_READY]
    ),
    "impatient": Fault(impatient, IMPATIENT_KUBELET.what, IMPATIENT_KUBELET.way_out),
}


@pytest.mark.parametrize("name", FAULTS)
def test_cause_and_cure_stand_in_the_log_on_the_page_and_in_the_findings(pod: Pod, sidecar: Start, name: str) -> None:
    fault = FAULTS[name]
    pod.arguments.append("--probe-timeout=3s" if name == "impatient" else "--probe-timeout=500ms")
    process: Sidecar = sidecar(pod.listen, *pod.arguments, port=pod.port)
    process.await_name()
    fault.plant(pod)
    if name == "impatient":
        process.await_log(IMPATIENT_KUBELET.what)
    else:
        for _ in range(6):  # the record of the change is not among the last ones then
            assert process.get().status == 500

    log = "\n".join(process.log().splitlines()[-5:])
    page = "\n".join(process.get("/statusz").body.splitlines()[:15])
    _, findings = pod.examine()

    cause = fault.cause.replace("PATH", pod.csi_address)
    said = [" ".join(each) for each in findings if each.mark in ("error", "warning")]
    for words in (cause, fault.cure):
        assert words in log
        assert words in page
        assert any(words in each for each in said), said
