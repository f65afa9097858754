"""Listeners of the whole process: which ports it opens, how many connections it holds, which it closes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import (
    FakeDriver,
    Sidecar,
    Start,
    eventually,
    free_port,
    incomplete,
    is_closed,
    never_reading,
    with_little_room,
)
from tests.support.names import GET, METRICS


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_connection_is_closed_when_its_client_closes_it(driver: FakeDriver, sidecar: Start) -> None:
    """Idle connections may stay for 75 s; a closed one must not, or a script with curl would use up the bound."""
    process = sidecar()
    process.await_name()
    before = len(process.descriptors())
    for _ in range(30):
        assert process.get().status == 200
    with socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        unfinished.sendall(b"GET /healthz HTTP/1.1\r\nHo")

    eventually(lambda: len(process.descriptors()) <= before)


def test_a_taken_port_exits_with_1_and_names_the_port(folder: Path, sidecar: Start) -> None:
    """With the process that holds it, and the way out; and an older health file is removed."""
    file = folder / "health"
    file.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = sidecar(f"--http-endpoint=127.0.0.1:{port}", f"--health-file={file}", await_http=False)
        assert process.wait() == 1
    name = Path("/proc/self/comm").read_text().strip() if sys.platform == "linux" else ""
    held = f"held by {name} (PID {os.getpid()})"
    assert process.log().endswith(
        f'"Failed to start http server" err="listen tcp 127.0.0.1:{port}: bind: address already in use" '
        f'detail="{held}; choose another with --http-endpoint"\n'
    )
    assert not file.exists()


def test_row_22_health_on_one_address_and_metrics_on_another(driver: FakeDriver, sidecar: Start) -> None:
    """Row 22 of docs/differences.md: each address is a 404 at the other's path."""
    numbers = free_port()
    process = sidecar(f"--metrics-address=127.0.0.1:{numbers}")
    health = process.port
    assert (process.get("/healthz").body, process.get("/metrics").status, process.get("/readyz").status) == ("ok", 404, 200)
    assert process.records("ServeMux listening") == [f'address="127.0.0.1:{health}"']
    assert process.records("Separate metrics ServeMux listening") == [f'address="127.0.0.1:{numbers}"']

    process.port = numbers

    assert process.metric("livenessprobe_driver_up") == 1
    assert (process.get("/healthz").status, process.get("/readyz").status) == (404, 404)


def test_row_22_one_address_for_both_is_one_listener(driver: FakeDriver, sidecar: Start) -> None:
    port = free_port()
    process = sidecar(f"--http-endpoint=127.0.0.1:{port}", f"--metrics-address=127.0.0.1:{port}", port=port)

    assert (process.get("/healthz").body, process.metric("livenessprobe_driver_up")) == ("ok", 1)
    assert process.lines("Separate metrics") == []


def test_row_22_health_port_and_http_endpoint_are_refused_as_by_the_go_program(sidecar: Start) -> None:
    process = sidecar("--health-port=1", "--metrics-address=:2", "--http-endpoint=:3", await_http=False)

    assert process.wait() == 1
    assert process.log().endswith('"Only one of `--health-port` and `--http-endpoint` can be explicitly set"\n')


def test_health_on_a_unix_socket(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    path = folder / "health.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    process = sidecar(f"--http-endpoint=unix://{path}")
    process.await_log("ServeMux listening")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(GET + b"Connection: close\r\n\r\n")
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")


def test_beyond_the_bound_those_longest_without_a_request_are_closed(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-max-connections=8")
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(20):
            clients.append(stack.enter_context(incomplete(process.port)))
            time.sleep(0.02)

        eventually(lambda: all(map(is_closed, clients[:12])))
        assert not any(map(is_closed, clients[-6:]))
        assert process.get().status == 200
        assert process.metric("livenessprobe_http_connections_closed_total") >= 12


def test_a_burst_of_complete_requests_is_answered_completely(driver: FakeDriver, sidecar: Start) -> None:
    """All requests arrive before the sidecar reads the first, and they are more than may be open without a request."""
    process = sidecar("--http-max-connections=2")
    driver.delay = 0.1
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

    with incomplete(process.port) as client:
        eventually(lambda: is_closed(client))

    assert process.get().status == 200


def test_a_client_that_never_reads_times_out(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--http-idle-timeout=1s")
    client = with_little_room(process)
    client.setblocking(False)

    def is_cut_off() -> bool:
        try:
            client.send(METRICS * 100)
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
    before = process.metric("livenessprobe_tasks")

    with never_reading(process, METRICS * 2000) as room:
        assert room < 1900
        eventually(lambda: process.metric("livenessprobe_tasks") <= before)
    # Exactly as many, so that the last response waits to be sent.
    with never_reading(process, METRICS * (room - 1) + METRICS[:-2] + b"Connection: close\r\n\r\n") as answered:
        assert answered == room
        assert process.metric("livenessprobe_tasks") > before
        eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_a_client_that_disconnects_after_pipelined_requests_is_noticed(driver: FakeDriver, sidecar: Start) -> None:
    """After the first response: until then it may have closed only its side, and wait for all responses."""
    process = sidecar("--probe-timeout=20s")
    process.await_name()
    before = process.metric("livenessprobe_tasks")
    driver.hang = True

    for _ in range(5):
        with socket.create_connection(("127.0.0.1", process.port), 5) as client:
            client.sendall((GET + b"\r\n") * 60)
            eventually(lambda: driver.in_flight == 1)

    driver.release.set()
    eventually(lambda: process.metric("livenessprobe_callers_gone_total") == 5)
    eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_full_of_requests_accepting_pauses_and_no_new_request_is_lost(driver: FakeDriver, sidecar: Start) -> None:
    """The kernel holds the clients; descriptors are left for the driver."""
    process = sidecar("--http-max-connections=4", "--probe-timeout=20s")
    process.await_name()
    before = len(process.descriptors())
    driver.hang = True
    clients = []
    for _ in range(200):
        clients.append(socket.create_connection(("127.0.0.1", process.port), 20))
        clients[-1].sendall(GET + b"Connection: close\r\n\r\n")
    eventually(lambda: driver.in_flight == 1)
    process.await_idle()

    assert len(process.descriptors()) < before + 12
    driver.hang = False
    driver.release.set()
    for client in clients:
        with client, client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nok")
    assert process.metric("livenessprobe_http_connections_closed_total") == 0


def test_clients_that_send_requests_without_pause_do_not_block_others(driver: FakeDriver, sidecar: Start) -> None:
    """Once the bound is reached, a connection is closed after its response."""
    process = sidecar("--http-max-connections=1")
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", process.port), 20) as client:
                while not over.is_set():
                    client.sendall((b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n") * 20)
                    if not client.recv(65536):
                        break

    with ThreadPoolExecutor(20) as pool:
        for _ in range(20):
            pool.submit(ask)
        time.sleep(0.5)
        try:
            answers = [process.get(timeout=5).status for _ in range(5)]
        finally:
            over.set()

    assert answers == [200] * 5


def unread(process: Sidecar, requests: bytes) -> socket.socket:
    """A client that has sent `requests` and reads nothing."""
    client = with_little_room(process)
    client.setblocking(False)
    client.send(requests)
    return client


def test_clients_that_do_not_read_are_closed_to_make_room(driver: FakeDriver, sidecar: Start) -> None:
    """They count as connections without a request, and the connection that has not read for longest is closed first."""
    process = sidecar("--http-max-connections=2")
    process.get("/metrics")
    with unread(process, METRICS * 2000) as first:
        process.await_idle()  # the buffers are full; asking for a metric would take the other place
        with unread(process, METRICS * 2000):
            process.await_idle()
            eventually(lambda: process.metric("livenessprobe_http_connections_closed_total") >= 1, 20)
            assert process.get().status == 200
        eventually(lambda: is_closed(first))


def test_a_client_that_half_closes_and_does_not_read_is_dropped(driver: FakeDriver, sidecar: Start) -> None:
    """Quart then cancels the request in the middle of a response."""
    process = sidecar("--http-idle-timeout=4s")
    process.await_name()
    process.get("/metrics")
    before = process.metric("livenessprobe_tasks")

    with unread(process, METRICS * 400) as client:
        eventually(lambda: process.metric("livenessprobe_tasks") > before)
        process.await_idle()  # the buffers are full
        client.shutdown(socket.SHUT_WR)

        eventually(lambda: process.metric("livenessprobe_tasks") <= before)


def test_a_refusal_behind_unread_responses_closes_the_connection(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """After some numbers of responses there is no space for the refusal at first."""
    path = f"{folder}/http.sock"
    process = sidecar(f"--http-endpoint=unix://{path}")
    process.await_log("ServeMux listening")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for count, client in enumerate(clients):
            client.settimeout(10)
            client.connect(path)
            client.sendall(METRICS * count + b"BAD\r\n\r\n")
        process.await_idle()  # the buffers are full

        for count, client in enumerate(clients):
            assert client.makefile("rb").read().endswith(b"400 Bad Request"), count
