"""`livenessprobe check` as a process: exit codes, one line of output, and no library loaded without need."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from livenessprobe.probing import health_file
from tests.conformance.raw_driver import RawDriver
from tests.support import COMMAND, ROOT, FakeDriver, Start, command, eventually, free_port, not_on_windows
from tests.support.container import with_limits

HEALTHY, USAGE, NOT_CONNECTED, CALL_FAILED, NOT_READY, NO_MEMORY = range(6)
"""The exit codes, as docs/probing.md has them."""


check = functools.partial(command, "check")


# --- the driver

Arrange = Callable[[FakeDriver, Path], object]


def _slow_words(driver: FakeDriver, _: Path) -> None:
    driver.status = (grpc.StatusCode.INTERNAL, "first line\nsecond line\r\n\tthird")


ANSWERS: dict[str, tuple[Arrange, int, str]] = {
    "ready": (lambda driver, _: setattr(driver, "ready", True), HEALTHY, "healthy: ok"),
    "ready left out": (lambda driver, _: None, HEALTHY, "healthy: ok"),
    "not ready": (
        lambda driver, _: setattr(driver, "ready", False),
        NOT_READY,
        "not_ready: driver responded but is not ready",
    ),
    "an error": (
        lambda driver, _: setattr(driver, "status", (grpc.StatusCode.UNAVAILABLE, "backend gone")),
        CALL_FAILED,
        "driver_error: rpc error: code = Unavailable desc = backend gone",
    ),
    "an error in lines": (
        _slow_words,
        CALL_FAILED,
        "driver_error: rpc error: code = Internal desc = first line second line third",
    ),
    "no such method": (
        lambda driver, _: setattr(driver, "status", (grpc.StatusCode.UNIMPLEMENTED, "no")),
        CALL_FAILED,
        "unimplemented: rpc error: code = Unimplemented desc = no",
    ),
    "hung": (
        lambda driver, _: setattr(driver, "hang", True),
        CALL_FAILED,
        "deadline: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    ),
    "gone": (lambda driver, _: driver.stop(), NOT_CONNECTED, "socket_missing: PATH does not exist"),
    "a file": (
        lambda driver, _: (driver.stop(), Path(driver.path).touch()),
        NOT_CONNECTED,
        "not_a_socket: PATH is a file, not a socket",
    ),
    "a folder": (
        lambda driver, _: (driver.stop(), os.mkdir(driver.path)),
        NOT_CONNECTED,
        "not_a_socket: PATH is a folder, not a socket",
    ),
}
"""The driver's behaviour, the exit code, and the beginning of the line."""


@pytest.mark.parametrize("state", ANSWERS)
def test_the_exit_code_tells_the_state_of_the_driver(driver: FakeDriver, folder: Path, state: str) -> None:
    arrange, code, line = ANSWERS[state]
    arrange(driver, folder)

    done = check(f"--csi-address={driver.path}", "--probe-timeout=1s")

    assert (done.code, done.err) == (code, "")
    assert done.out.startswith(line.replace("PATH", driver.path))
    assert done.out.count("\n") == 1 and done.out.endswith("\n")


@contextlib.contextmanager
def _left_over(path: str) -> Iterator[None]:
    """The socket file of a driver that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    yield


@contextlib.contextmanager
def _wire(kind: str, path: str) -> Iterator[None]:
    driver = RawDriver({"listen": f"unix:{path}", "wire": kind})
    try:
        yield
    finally:
        driver.stop()


NO_DRIVERS: dict[str, tuple[Callable[[str], contextlib.AbstractContextManager[None]], str]] = {
    "killed": (_left_over, "refused: nobody listens on PATH"),
    "silent": (lambda path: _wire("silent", path), "deadline: the driver at unix://PATH accepts connections but"),
    "HTTP/1": (lambda path: _wire("http1", path), "protocol_error: PATH answers in HTTP/1, not gRPC"),
    "garbage": (lambda path: _wire("garbage", path), "protocol_error: PATH does not speak gRPC"),
    "hangs up": (lambda path: _wire("accept_close", path), "protocol_error: PATH closes every connection"),
}


@pytest.mark.parametrize("kind", NO_DRIVERS)
def test_a_server_that_is_no_grpc_driver_counts_as_not_connected(socket_path: str, kind: str) -> None:
    no_driver, line = NO_DRIVERS[kind]
    with no_driver(socket_path):
        done = check(f"--csi-address={socket_path}", "--probe-timeout=1s")

    assert (done.code, done.err) == (NOT_CONNECTED, "")
    assert done.out.startswith(line.replace("PATH", socket_path))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a socket of another user needs root to make")
def test_a_socket_without_permission_counts_as_not_connected(driver: FakeDriver) -> None:
    os.chmod(driver.path, 0o600)
    os.chown(driver.path, 65534, 65534)
    done = check(f"--csi-address={driver.path}", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    assert (done.code, done.out.partition(":")[0]) == (NOT_CONNECTED, "permission_denied")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--probe-timout=1s"], "flag provided but not defined: -probe-timout"),
        (["--probe-timeout=1"], 'invalid value "1" for flag -probe-timeout'),
        (["--output=yaml"], "--output=yaml: write text or json"),
        (["--wait=soon"], 'invalid value "soon" for flag -wait'),
        (["unix:///csi/csi.sock"], "'unix:///csi/csi.sock' is no flag"),
        (["--url=https://localhost:9808/healthz"], "--url=https://localhost:9808/healthz: write http://host:port"),
        (["--url=http://localhost:123456"], "write http://host:port"),
        (["--url=http://[::1"], "write http://host:port"),
        (["--csi-address=csi.sock"], '"csi.sock" is neither a path nor host:port'),
        (["--probe-path=/csi.v1.Controller/DeleteVolume"], "DeleteVolume may change a volume"),
    ],
)
def test_a_wrong_command_line_has_an_exit_code_of_its_own(arguments: list[str], sentence: str) -> None:
    done = check(*arguments)
    assert (done.code, done.out) == (USAGE, "")
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_help_exits_with_0() -> None:
    done = check("--help")
    assert done.code == HEALTHY
    assert "-url" in done.out and "-wait" in done.out and "-csi-address" in done.out
    assert "check [flags]:\n  Probe once" in done.out


def test_a_refusal_has_the_way_out_and_all_mistakes() -> None:
    flag = check("--prob-timeout=3s")
    variables = check("--csi-address=", LIVENESSPROBE_V="x")

    assert (flag.code, variables.code) == (USAGE, USAGE)
    assert flag.err == ("livenessprobe check: flag provided but not defined: -prob-timeout; did you mean --probe-timeout?\n")
    assert [line.partition(": ")[2][:15] for line in variables.err.splitlines()] == ["Invalid setting", "Failed to estab"]


def test_json_output_has_the_result_the_reason_and_the_address(driver: FakeDriver) -> None:
    good = json.loads(check(f"--csi-address={driver.path}", "--output=json").out)
    driver.ready = False
    bad = json.loads(check(f"--csi-address={driver.path}", "--output=json").out)
    for said in (good, bad):
        assert 0 < said.pop("seconds") < 3
    asked = f"unix://{driver.path}"
    assert good == {"healthy": True, "exit_code": 0, "reason": None, "message": "ok", "asked": asked}
    message = "driver responded but is not ready"
    assert bad == {"healthy": False, "exit_code": 4, "reason": "not_ready", "message": message, "asked": asked}


def test_wait_succeeds_once_the_driver_has_started(socket_path: str) -> None:
    driver = FakeDriver(socket_path)
    timer = threading.Timer(1, driver.start)
    timer.start()
    done = check(f"--csi-address={socket_path}", "--wait=30s")
    timer.join()
    driver.stop()
    assert (done.code, done.out) == (HEALTHY, "healthy: ok\n")
    assert 1 < done.seconds < 20


def test_wait_reports_the_last_reason_when_it_runs_out(driver: FakeDriver) -> None:
    """The reason is not the timeout of a last probe that had no time left: the driver needs 0.5 s to respond."""
    driver.ready, driver.delay = False, 0.5
    done = check(f"--csi-address={driver.path}", "--wait=3s")  # two probes and their pauses take 1.4 s
    assert (done.code, done.out) == (NOT_READY, "not_ready: driver responded but is not ready\n")
    assert 3 <= done.seconds < 10
    assert driver.probes >= 2


def test_wait_without_a_driver_lasts_as_long_as_its_value(socket_path: str) -> None:
    done = check(f"--csi-address={socket_path}", "--wait=5s")
    assert (done.code, done.out.partition(":")[0]) == (NOT_CONNECTED, "socket_missing")
    assert 5 <= done.seconds < 20
    assert check(f"--csi-address={socket_path}").seconds < 5  # without --wait: one probe, and no grace


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_check_ended_by_a_signal_does_not_exit_with_0(driver: FakeDriver, number: signal.Signals) -> None:
    driver.hang = True
    words = (*COMMAND, "check", f"--csi-address={driver.path}", "--probe-timeout=30s")
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    eventually(lambda: driver.in_flight == 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert err == ""


def test_settings_come_from_variables_and_the_file_too(driver: FakeDriver, folder: Path) -> None:
    file = folder / "settings.toml"
    file.write_text(f'csi_address = "{driver.path}"\nprobe_timeout = "700ms"\n')
    assert check(LIVENESSPROBE_CSI_ADDRESS=driver.path).code == HEALTHY
    assert check(CSI_ENDPOINT=f"unix://{driver.path}").code == HEALTHY
    assert check(f"--endpoint=unix://{driver.path}", "--retries=3", "--interval=10s").code == HEALTHY
    assert check(f"--config={file}").code == HEALTHY
    assert driver.probes == 4
    driver.hang = True
    assert check(f"--config={file}").code == CALL_FAILED
    assert check(LIVENESSPROBE_CONFIG=str(file), LIVENESSPROBE_CSI_ADDRESS=f"{folder}/none").code == NOT_CONNECTED
    assert driver.times[-1] - driver.times[-2] >= 0  # that check reached no driver
    assert driver.probes == 5
    assert check(f"--csi-address={driver.path}", LIVENESSPROBE_PROBE_TIMEOUT="soon").code == USAGE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("v = 0\nprobe_timout = '1s'\n", "FILE: line 2: probe_timout is not a setting; did you mean probe_timeout?"),
        ("v = 0\nprobe_timeout = 1s\n", 'FILE: is not TOML: Expected newline or end of document after a statement (at line 2, '
         'column 18); write probe_timeout = "1s"'),
        (None, "FILE: No such file or directory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_settings_file_that_is_ignored_is_told_on_stderr(
    driver: FakeDriver, folder: Path, content: str | None, said: str, output: str
) -> None:
    """Its own output and the exit code are those without the file."""
    file = folder / "settings.toml"
    if content is not None:
        file.write_text(content)
    words = (f"--csi-address={driver.path}", f"--output={output}")

    done = check(*words, f"--config={file}")

    assert done.err == f"livenessprobe check: the settings file is ignored: {said.replace('FILE', str(file))}\n"
    assert done.code == HEALTHY
    assert re.sub("[0-9.]+", "N", done.out) == re.sub("[0-9.]+", "N", check(*words).out)
    assert check(*words, f"--config={file}", "--config-strict").code == USAGE


def test_another_method_can_be_asked(driver: FakeDriver) -> None:
    driver.methods = {"/grpc.health.v1.Health/Check": lambda request: b"\x08\x01" if request == b"\n\1x" else b"\x08\x02"}
    arguments = (f"--csi-address={driver.path}", "--probe-path=/grpc.health.v1.Health/Check")
    assert check(*arguments).code == NOT_READY
    assert check(*arguments, "--health-service=x").code == HEALTHY


# --- a sidecar


def test_a_check_through_the_sidecar_has_the_result_of_the_driver(socket_path: str, folder: Path, sidecar: Start) -> None:
    """With the same exit codes and words as a check of the driver itself."""
    process = sidecar("--unreachable-grace=0s", "--probe-timeout=1s")
    for state, (arrange, code, line) in ANSWERS.items():
        with FakeDriver(socket_path) as driver:
            arrange(driver, folder)
            done = check(f"--url=http://127.0.0.1:{process.port}/healthz", "--probe-timeout=1s")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(socket_path)
        assert (state, done.code, done.err) == (state, code, "")
        assert done.out.startswith(line.replace("PATH", socket_path))
        assert re.search(r" \(driver (fake\.csi\.test|unknown-driver), probed in \d\.\d{3}s\)\n$", done.out)
        assert done.out.count("\n") == 1


def test_a_driver_that_uses_the_words_of_the_sidecar_does_not_choose_the_exit_code(
    driver: FakeDriver, sidecar: Start
) -> None:
    """The exit code follows the fields of the JSON, not the text."""
    process = sidecar()
    process.await_name()
    for words in ("livenessprobe: internal error: ", "nobody listens on /csi/csi.sock", "driver responded but is not ready"):
        driver.status = (grpc.StatusCode.INTERNAL, words)
        done = check(f"--url=http://127.0.0.1:{process.port}")
        assert (done.code, done.out.partition(":")[0]) == (CALL_FAILED, "driver_error")


@pytest.mark.parametrize("path", ["", "/", "/healthz", "/readyz", "/livez", "/startupz", "/readyz?verbose"])
def test_json_output_of_a_check_through_the_sidecar_names_the_driver(driver: FakeDriver, sidecar: Start, path: str) -> None:
    process = sidecar()
    process.await_name()
    driver.delay = 0.3
    url = f"http://127.0.0.1:{process.port}{path}"
    said = json.loads(check(f"--url={url}", "--output=json").out)
    assert 0.3 <= said.pop("probe_seconds") <= said.pop("seconds") < 5
    assert said == {
        "healthy": True, "exit_code": 0, "reason": None, "message": "ok", "asked": url, "driver": "fake.csi.test",
    }  # fmt: skip


def test_a_long_message_of_the_driver_is_no_fault_of_the_sidecar(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    driver.status = (grpc.StatusCode.INTERNAL, "\x7f" * 7000)
    done = check(f"--url=http://127.0.0.1:{process.port}")
    assert (done.code, done.out.partition(":")[0]) == (CALL_FAILED, "driver_error")


def test_a_check_through_the_sidecar_reports_a_server_that_is_no_driver(socket_path: str, sidecar: Start) -> None:
    process = sidecar("--unreachable-grace=0s", "--probe-timeout=1s")
    for kind, (no_driver, line) in NO_DRIVERS.items():
        with no_driver(socket_path):
            done = check(f"--url=http://127.0.0.1:{process.port}", "--probe-timeout=1s")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket_path)
        assert (kind, done.code, done.err) == (kind, NOT_CONNECTED, "")
        assert done.out.startswith(line.replace("PATH", socket_path))


def test_a_sidecar_can_be_asked_by_its_socket_and_on_other_paths(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    path = folder / "health.sock"
    by_socket = sidecar(f"--http-endpoint=unix://{path}")
    by_port = sidecar()
    by_socket.await_log("ServeMux listening")
    url = f"http://127.0.0.1:{by_port.port}"
    assert check(f"--url=unix://{path}").code == HEALTHY
    driver.ready = False
    done = check(f"--url=unix://{path}", "--output=json")
    assert (done.code, json.loads(done.out)["asked"]) == (NOT_READY, f"unix://{path}")
    assert check(f"--url={url}/livez").code == HEALTHY
    done = check(f"--url={url}/readyz")
    assert (done.code, done.out.count("\n")) == (NOT_READY, 1)
    for path in ("/nowhere", "/metrics"):
        done = check(f"--url={url}{path}")
        assert (done.code, done.out.partition(":")[0], done.out.count("\n")) == (CALL_FAILED, "not_a_sidecar", 1)
        assert len(done.out) < 300  # not the whole page


def test_a_sidecar_that_does_not_run_counts_as_not_connected(folder: Path) -> None:
    for url in (f"http://127.0.0.1:{free_port()}/healthz", f"unix://{folder}/none.sock"):
        done = check(f"--url={url}")
        assert (done.code, done.out.partition(":")[0]) == (NOT_CONNECTED, "unreachable")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x00\x01\x02 no HTTP at all\r\n\r\n", "connection_lost"),
        (b"", "connection_lost"),
        (None, "deadline"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nno\r\n", "protocol_error"),
        (b"HTTP/1.1 503 Oh\r\nX-Livenessprobe-Reason: who knows\r\nContent-Length: 0\r\n\r\n", "protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX-Livenessprobe-Reason: healthy\r\nContent-Length: 2\r\n\r\n[]", "protocol_error"),
        (b"HTTP/1.1 500 Oh\r\nX-Livenessprobe-Reason: internal\r\nContent-Length: 3\r\n\r\nbug", "internal"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "not_a_sidecar"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}', "not_a_sidecar"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n", "not_a_sidecar"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "not_a_sidecar"),
    ],
)
def test_a_server_that_is_no_sidecar_counts_as_a_failed_call(answer: bytes | None, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                if answer is None:
                    connection.recv(4096)  # until the client gives up
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = check(f"--url=http://127.0.0.1:{server.getsockname()[1]}/healthz", "--probe-timeout=100ms")
        thread.join()
    assert (done.code, done.out.partition(":")[0], done.err) == (CALL_FAILED, reason, "")
    assert done.out.count("\n") == 1


# --- a health file


def test_a_health_file_is_believed_until_it_expires(folder: Path) -> None:
    path = str(folder / "health")
    health_file.write(path, "fake.csi.test", 60)
    done = check(f"--health-file={path}")
    assert (done.code, done.out) == (HEALTHY, f"healthy: fake.csi.test by {path}\n")
    health_file.write(path, "fake.csi.test", 60, age=61)
    done = check(f"--health-file={path}")
    assert (done.code, done.out.partition(":")[0]) == (NOT_READY, "stale_file")
    assert "has expired" in done.out
    for content, sentence in {None: "does not exist", "": "is not a health file", "[]\n": "is not a health file"}.items():
        os.unlink(path) if content is None else Path(path).write_text(content)
        done = check(f"--health-file={path}")
        assert (done.code, done.err, done.out.partition(":")[0]) == (NOT_READY, "", "not_ready")
        assert sentence in done.out


# --- loaded modules

MIB = 1 << 20


def inside(folder: Path, left: int, first: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A command in front of another, for which `left` MiB of the memory limit are left and process 1 has these words."""
    prefix = with_limits(folder, limit=64 * MIB, used=(64 - left) * MIB)
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in first))
    mount = ("sh", "-c", f'mount --bind {folder}/cmdline /proc/1/cmdline && exec "$@"', "sh")
    if subprocess.run([*prefix, *mount, "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    return (*prefix, *mount)


@not_on_windows("control groups are Linux's")
@pytest.mark.parametrize("ready", [True, False])
def test_without_memory_for_grpc_the_sidecar_beside_is_asked(
    driver: FakeDriver, folder: Path, sidecar: Start, ready: bool
) -> None:
    driver.ready = ready
    process = sidecar("--probe-timeout=2s")
    process.await_name()
    flags = (f"--csi-address=unix://{driver.path}", f"--http-endpoint=127.0.0.1:{process.port}")
    prefix = inside(folder, 7, ("/usr/bin/python3", "-IS", "/app/bin/livenessprobe", *flags))

    done = check(f"--csi-address={driver.path}", "--output=json", prefix=prefix)

    told = json.loads(done.out)
    assert (done.code, told["asked"]) == (HEALTHY if ready else NOT_READY, f"http://127.0.0.1:{process.port}")
    assert (told["driver"], done.err) == ("fake.csi.test", "")


@not_on_windows("control groups are Linux's")
@pytest.mark.parametrize(
    "words",
    [
        ("/bin/driver", "--csi-address=PATH"),
        ("/livenessprobe", "check", "--csi-address=PATH"),
        ("/livenessprobe", "--csi-address=/csi/another.sock"),
        ("/livenessprobe", "--csi-address=PATH", "--health-service=x", "--probe-path=/grpc.health.v1.Health/Check"),
        ("/livenessprobe", "--nosuch"),
        (),
    ],
)
def test_without_memory_for_grpc_no_other_answer_is_taken(driver: FakeDriver, folder: Path, words: tuple[str, ...]) -> None:
    prefix = inside(folder, 7, tuple(word.replace("PATH", driver.path) for word in words))

    done = check(f"--csi-address={driver.path}", prefix=prefix)

    assert (done.code, done.err, driver.probes) == (NO_MEMORY, "", 0)
    assert done.out == (
        "no_memory: it needs 8 MiB here, 7 MiB are left of the memory limit of 64 MiB, and beyond it the kernel kills the "
        "sidecar too; raise resources.limits.memory of the sidecar\n"
    )


@not_on_windows("control groups are Linux's")
@pytest.mark.parametrize(
    ("words", "needed"),
    [(("check",), 5), (("check", "--url=http://127.0.0.1:1"), 5), (("doctor",), 7), (("status",), 9)],
)
def test_without_memory_for_itself_a_command_does_nothing(folder: Path, words: tuple[str, ...], needed: int) -> None:
    done = command(*words, prefix=inside(folder, needed - 1))

    assert (done.code, done.out) == (NO_MEMORY, "")
    told = f"livenessprobe {words[0]}: it needs {needed} MiB here, {needed - 1} MiB are left of the memory limit of 64 MiB"
    assert done.err.startswith(told)
    assert command("--help", prefix=inside(folder, 0)).code == HEALTHY


HEAVY = ("quart", "hypercorn", "h11", "dynaconf", "prometheus_client", "rich")


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--csi-address=SOCKET"], ("http.client",)),
        (["--csi-address=SOCKET", "--config=FILE"], ("http.client",)),
        (["--url=http://127.0.0.1:1"], ("grpc", "google", "asyncio", "_ssl")),
        (["--health-file=/nowhere"], ("grpc", "google", "asyncio", "http.client", "_ssl")),
    ],
)
def test_check_loads_no_library_that_it_does_not_need(
    driver: FakeDriver, folder: Path, arguments: list[str], more: tuple[str, ...]
) -> None:
    (folder / "settings.toml").write_text("v = 0\n")
    given = [
        argument.replace("SOCKET", driver.path).replace("FILE", str(folder / "settings.toml")) for argument in arguments
    ]
    code = "\n".join(
        (
            "import os, sys",
            "os._exit = sys.exit",
            "from livenessprobe.__main__ import main",
            f"sys.argv = ['livenessprobe', 'check', *{given!r}]",
            "try:",
            "    main()",
            "except SystemExit:",
            f"    print(sorted(set({HEAVY + more!r}) & set(sys.modules)))",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
