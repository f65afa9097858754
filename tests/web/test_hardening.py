"""Hostile clients on the port, hostile drivers on the socket, and a machine without free descriptors."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from livenessprobe.driver.result import MESSAGE_MAX
from livenessprobe.metrics import NAMES_MAX, OTHER_DRIVER, Metrics
from livenessprobe.process.watchdog import EVERY, LATE, Verdict
from tests.machine.drivers import Wire
from tests.support import ROOT, FakeDriver, Sidecar, Start, eventually, never_reading, raw, with_little_room


def injected(folder: Path, code: str) -> dict[str, str]:
    """The environment of a process that runs `code` before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


# --- the port

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"


def incomplete(port: int) -> socket.socket:
    """A client that has sent part of its request."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    return client


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection; unread bytes of a response do not count."""
    client.setblocking(False)
    try:
        return client.recv(65_536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_beyond_the_bound_those_longest_without_a_request_are_closed(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-max-connections=8")
    clients = []
    for _ in range(20):
        clients.append(incomplete(process.port))
        time.sleep(0.02)

    try:
        eventually(lambda: all(map(is_closed, clients[:12])))
        assert not any(map(is_closed, clients[-6:]))
        assert process.get().status == 200
        assert process.metric("livenessprobe_http_connections_closed_total") >= 12
    finally:
        for client in clients:
            client.close()


def test_a_burst_of_complete_requests_is_answered_completely(driver: FakeDriver, sidecar: Start) -> None:
    """All requests arrive before the sidecar reads the first, and they are more than may be open without a request."""
    process = sidecar("--http-max-connections=2")
    driver.delay = 0.5
    process.signal(signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", process.port), 10)) for _ in range(60)]
        for client in clients:
            client.sendall(GET + b"Connection: close\r\n\r\n")
        process.signal(signal.SIGCONT)

        answers = [client.makefile("rb").read() for client in clients]

    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


def test_a_good_client_is_answered_while_others_hold_connections_and_send_garbage(
    driver: FakeDriver, sidecar: Start
) -> None:
    process = sidecar()
    stop = threading.Event()

    def attack() -> None:
        held: list[socket.socket] = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                held.append(incomplete(process.port))
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", process.port), 5) as client:
                client.sendall(b"\0\xff" * 50 + b"\r\n\r\n")
            if len(held) > 300:
                held.pop(0).close()
        for client in held:
            client.close()

    attackers = [threading.Thread(target=attack) for _ in range(3)]
    for attacker in attackers:
        attacker.start()
    try:
        answers = [process.get() for _ in range(100)]
    finally:
        stop.set()
        for attacker in attackers:
            attacker.join()

    assert {(answer.status, answer.body) for answer in answers} == {(200, "ok")}
    # All these connections are closed afterwards.
    eventually(lambda: len(process.descriptors()) < 22)


def test_an_incomplete_request_times_out(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-idle-timeout=1s")
    client = incomplete(process.port)

    with client:
        eventually(lambda: is_closed(client))

    assert process.get().status == 200


def test_a_client_that_never_reads_times_out(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-idle-timeout=1s")
    client = with_little_room(process)
    client.setblocking(False)

    def is_cut_off() -> bool:
        try:
            client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        except BlockingIOError:
            return False  # the send buffer is full
        except OSError:
            return True
        return False

    with client:
        eventually(is_cut_off, 30)

    assert process.get().status == 200
    assert "exception" not in process.log()


def test_responses_that_are_never_read_leave_no_task_behind(driver: FakeDriver, sidecar: Start) -> None:
    """Neither a response without space in the buffer, nor the last one, which is handed over whole and waits to be sent."""
    process = sidecar("--http-idle-timeout=3s")
    process.await_name()
    process.get("/metrics")
    metrics = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    before = process.metric("livenessprobe_tasks")

    with never_reading(process, metrics * 2000) as room:
        assert room < 1900
        eventually(lambda: process.metric("livenessprobe_tasks") <= before)
    # Exactly as many, so that the last response waits to be sent.
    with never_reading(process, metrics * (room - 1) + metrics[:-2] + b"Connection: close\r\n\r\n") as answered:
        assert answered == room
        assert process.metric("livenessprobe_tasks") > before
        eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_a_request_in_small_pieces_is_answered(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()

    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.002)
        answer = client.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01", b"400 Bad Request"),
        (b" GET /healthz HTTP/1.1", b"400 Bad Request"),
        (b"\r\n", b"400 Bad Request"),
        (b"nonsense\n", b"400 Bad Request"),
        (b"GET  /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"G(T /healthz HTTP/1.1\n", b"400 Bad Request"),
        (b"A" * 17_000, b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(
    driver: FakeDriver, sidecar: Start, sent: bytes, status: bytes
) -> None:
    process = sidecar()

    with socket.create_connection(("127.0.0.1", process.port), 10) as client:
        client.sendall(sent)
        answer = client.makefile("rb").read()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 " + status,
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(status),
        b"Connection: close",
    ]
    assert body == status


def test_http_max_header_bytes_bounds_the_headers(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-max-header-bytes=1024")

    assert process.get(X="a" * 500).status == 200
    assert process.get(X="a" * 1100).status == 431


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length : 5\r\n",
        b" Content-Length: 5\r\n",
        b"X: y\r\n folded\r\nContent-Length: 5\r\nContent-Length: 0\r\n",
        b"X\0: y\r\n",
        b"X: y\0\r\n",
    ],
)
def test_forms_of_request_smuggling_get_at_most_one_answer(driver: FakeDriver, sidecar: Start, head: bytes) -> None:
    """A proxy in front may see a second request in these bytes; the sidecar does not."""
    process = sidecar()
    smuggled = b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = raw(process.port, smuggled, 2)

    assert answer.count(b"HTTP/1.1 ") == 1
    assert re.match(rb"HTTP/1\.1 (400|501) ", answer), answer[:200]


# --- the driver


def test_driver_names_make_a_bounded_number_of_labels() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.name_driver(f"driver-{number}")
        metrics.operation("/csi.v1.Identity/Probe", "OK", 0.1)

    labels = set(re.findall(r'driver_name="([^"]*)"', metrics.expose().body.decode()))

    assert labels == {*(f"driver-{number}" for number in range(NAMES_MAX)), OTHER_DRIVER}
    metrics.name_driver("driver-3")  # a known name stays
    metrics.operation("/csi.v1.Identity/Probe", "OK", 0.1)
    series = r'\ncsi_sidecar_operations_seconds_count\{driver_name="driver-3".*\} 2\n'
    assert re.search(series, metrics.expose().body.decode())


@pytest.mark.parametrize("name", ["n" * 10_000, "n\x1b[31m" * 2000, "n\n\x1b[31m" * 2000])
def test_a_name_of_10_kb_is_cut_in_log_and_label(driver: FakeDriver, sidecar: Start, name: str) -> None:
    driver.name = name
    process = sidecar()
    process.await_name()

    assert process.get().status == 200
    assert len(process.log()) < 4000
    assert max(map(len, process.get("/metrics").body.splitlines())) < 400


def test_a_message_of_300_kb_is_cut(driver: FakeDriver, sidecar: Start) -> None:
    driver.status = (grpc.StatusCode.INTERNAL, "m" * 300_000)
    process = sidecar()

    answer = process.get()

    assert (answer.status, answer.reason) == (500, "driver_error")
    assert answer.body.endswith("mmm… (cut)".encode().decode("latin-1")) or answer.body.endswith("mmm… (cut)")
    assert MESSAGE_MAX < len(answer.body) < MESSAGE_MAX + 200


def test_a_compressed_response_beyond_grpcs_limit_is_a_protocol_error(socket_path: str, sidecar: Start) -> None:
    """
    A response that is too large without compression counts the same: it is not the driver's own error, which would
    count as alive.
    """
    driver = Wire(socket_path)
    driver.probe = {"headers": [("grpc-encoding", "gzip")], "flag": 1, "body_hex": gzip.compress(bytes(6 << 20)).hex()}
    process = sidecar()

    answer = process.get()
    driver.close()

    assert (answer.status, answer.reason) == (500, "protocol_error")


def test_a_driver_that_closes_every_connection_is_dialled_at_a_limited_rate(socket_path: str, sidecar: Start) -> None:
    accepted = 0
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen(1000)

    def close_each() -> None:
        nonlocal accepted
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                accepted += 1
                client.close()

    threading.Thread(target=close_each, daemon=True).start()
    process = sidecar("--unreachable-grace=0s", "--connection-reuse=0s")
    began, before = time.monotonic(), accepted
    with ThreadPoolExecutor(8) as pool:
        reasons = {answer.reason for answer in pool.map(lambda _: process.get(), range(200))}
    rate = (accepted - before) / (time.monotonic() - began)
    listener.close()

    assert reasons == {"protocol_error"}
    # Dials are at least 50 ms apart; the name request and the probes share that limit.
    assert rate < 25, rate


def test_a_driver_that_ends_each_connection_after_its_response_is_dialled_at_a_limited_rate(
    socket_path: str, sidecar: Start
) -> None:
    driver = Wire(socket_path)
    driver.probe = {"ready": None, "goaway_then_answer": 0}
    process = sidecar()
    process.await_name()

    before, began = process.metric("livenessprobe_driver_connections_total"), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = {answer.status for answer in pool.map(lambda _: process.get(), range(200))}
    dialled = process.metric("livenessprobe_driver_connections_total") - before
    seconds = time.monotonic() - began
    driver.close()

    assert answers == {200}
    assert dialled < 25 * seconds + 2


# --- the machine

FRESH = "--connection-reuse=0s"
"""Each probe dials."""


def limit_of_descriptors(process: Sidecar) -> tuple[str, ...]:
    """The soft and the hard limit."""
    limits = Path(f"/proc/{process.process.pid}/limits").read_text()
    return re.search(r"Max open files +(\S+) +(\S+)", limits).groups()


def test_few_descriptors_are_enough_for_many_clients(driver: FakeDriver, sidecar: Start) -> None:
    """The bound on connections follows the limit on descriptors, so that a probe always has some."""
    process = sidecar(FRESH, prefix=("sh", "-ec", 'ulimit -n 128; exec "$@"', "sh"))
    clients = []
    for _ in range(200):
        with contextlib.suppress(OSError):
            clients.append(incomplete(process.port))

    answers = [process.get(timeout=5) for _ in range(10)]

    assert limit_of_descriptors(process) == ("128", "128")
    assert {answer.status for answer in answers} == {200}
    assert "out of system resource" not in process.log()
    for client in clients:
        client.close()


def test_the_limit_of_descriptors_is_raised(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(prefix=("sh", "-c", 'ulimit -Sn 40; exec "$@"', "sh"))
    process.await_name()

    soft, hard = limit_of_descriptors(process)
    assert soft == hard != "40"


# --- the watchdog


@pytest.mark.parametrize(
    ("looks", "stuck"),
    [
        ([(EVERY, 0)] * 11, False),
        ([(EVERY, 0)] * 12, True),
        ([(EVERY, n) for n in range(1, 100)], False),
        ([(EVERY, 1)] * 13, True),  # it answered the first check, then no more
        ([(EVERY, 0)] * 11 + [(EVERY, 1)] + [(EVERY, 1)] * 11, False),
        ([(EVERY + LATE + 0.1, 0)] * 100, False),  # throttled: no check is on time
        ([(EVERY, 0)] * 11 + [(3600.0, 0)], False),  # stopped, and continued
        ([(EVERY, 0)] * 11 + [(3600.0, 0)] + [(EVERY, 0)] * 12, True),
        ([(EVERY + LATE - 0.1, 0)] * 11, True),
        ([(EVERY, 0)] * 11 + [(4.9, 0)], False),  # 59.9 s
        ([(EVERY, 0)] * 11 + [(EVERY + LATE + 0.1, 0)], False),
    ],
)
def test_the_watchdog_counts_silence_only_between_checks_that_were_on_time(
    looks: list[tuple[float, int]], stuck: bool
) -> None:
    now = 1000.0
    verdict = Verdict(due=now + EVERY, silent_since=now)
    said = []
    for later, beats in looks:
        now += later
        said.append(verdict.look(now, beats))

    assert said[-1] is stuck
    assert stuck or not any(said[:-1])


STUCK = """
import asyncio, os, signal, sys, time
from livenessprobe.process import watchdog
watchdog.EVERY, watchdog.PATIENCE = 0.05, {patience}
async def main():
    with watchdog.Watchdog(sys.argv[1]):
        await asyncio.sleep(0.3)
        {body}
asyncio.run(main())
"""


def run_stuck(folder: Path, body: str, patience: float = 0.5) -> tuple[int, str]:
    words = folder / "termination"
    process = subprocess.Popen([sys.executable, "-c", STUCK.format(body=body, patience=patience), str(words)], cwd=ROOT)
    code = process.wait(30)
    return code, words.read_text() if words.exists() else ""


def test_a_stuck_loop_ends_the_process_with_a_termination_message(folder: Path) -> None:
    code, words = run_stuck(folder, "time.sleep(60)")

    assert code == 4
    assert "event loop stuck" in words


def test_a_working_loop_does_not_end_the_process(folder: Path) -> None:
    assert run_stuck(folder, "await asyncio.sleep(2)") == (0, "")


def test_a_stopped_process_does_not_end_itself_when_continued(folder: Path) -> None:
    """Even if the loop was busy before the stop, and still is at the first check afterwards."""
    body = "time.sleep(0.3); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(0.3); await asyncio.sleep(0.3)"
    script = STUCK.format(body=body, patience=1.5)
    process = subprocess.Popen([sys.executable, "-c", script, str(folder / "words")], cwd=ROOT)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)

    assert process.wait(30) == 0


STUCK_SIDECAR = """
import time
from livenessprobe.process import watchdog
from livenessprobe.web import responses
watchdog.EVERY, watchdog.PATIENCE = 0.1, 2.0
responses.health = lambda report: time.sleep(60)
"""


def test_a_sidecar_with_a_stuck_loop_exits(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    words = folder / "termination"
    process = sidecar(f"--termination-log={words}", environ=injected(folder, STUCK_SIDECAR))
    process.await_name()

    with pytest.raises(OSError):
        process.get(timeout=20)

    assert process.wait() == 4
    assert words.read_text().startswith("livenessprobe: event loop stuck for 2s")
    process.await_log('"Event loop is stuck; exiting" seconds=2')
