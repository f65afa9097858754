"""The pages of the whole process: admitted clients, loaded modules, and no cost for health."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually, free_port, never_reading
from tests.support.http import raw

PAGES = ("/statusz", "/flagz", "/")
NOT_FOUND = (404, "404 page not found\n")
FORMATS = ("text/plain", "text/html", "application/json")


def own_address() -> str:
    """An address of this machine that is not loopback; skips the test if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))  # sends nothing
        except OSError:
            pytest.skip("there is no address but loopback")
        address: str = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("there is no address but loopback")
    return address


def get_from(host: str, port: int, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    got = {name.lower(): value for name, value in response.getheaders() if name.lower() != "date"}
    connection.close()
    return response.status, body, got


@pytest.mark.parametrize("pages", ["local", "all", "off"])
def test_a_client_that_is_not_on_loopback_sees_pages_only_if_all_may(pages: str, driver: FakeDriver, sidecar: Start) -> None:
    """A stranger's 404 is that of any unknown path, so that it tells nothing."""
    address, port = own_address(), free_port()
    process = sidecar(f"--http-endpoint=:{port}", f"--pages={pages}", port=port)
    process.await_name()

    for path in PAGES:
        stranger, local = get_from(address, port, path), get_from("127.0.0.1", port, path)
        assert stranger[0] == (200 if pages == "all" else 404)
        assert local[0] == (404 if pages == "off" else 200)
        if pages != "all":
            assert stranger == get_from(address, port, "/nowhere")


def test_no_header_makes_a_stranger_local(driver: FakeDriver, sidecar: Start) -> None:
    address, port = own_address(), free_port()
    process = sidecar(f"--http-endpoint=:{port}", port=port)
    process.await_name()

    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Host", "X-Forwarded-Host"):
        assert get_from(address, port, "/statusz", **{name: "127.0.0.1"})[0] == 404


def test_a_host_name_of_the_web_gets_the_same_404(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--pages=all")
    process.await_name()

    for path in PAGES:
        answer = process.get(path, Host="evil.example")
        assert (answer.status, answer.body) == NOT_FOUND
        assert process.get(path, Host=f"localhost:{process.port}").status == 200
    assert raw(process.port, b"GET /statusz HTTP/1.0\r\n\r\n", 1).startswith(b"HTTP/1.0 200 OK")


def test_pages_on_a_unix_socket_are_local(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    path = folder / "http.sock"
    process = sidecar(f"--http-endpoint=unix://{path}", await_http=False)
    eventually(path.exists, 20)
    process.await_name()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /statusz HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert client.recv(64).startswith(b"HTTP/1.1 200 OK")


def test_pages_are_on_every_listener_and_the_index_where_metrics_are(driver: FakeDriver, sidecar: Start) -> None:
    health, metrics = free_port(), free_port()
    process = sidecar(f"--health-port={health}", f"--metrics-address=127.0.0.1:{metrics}", port=health)
    process.await_name()

    found = {(port, path): get_from("127.0.0.1", port, path)[:2] for port in (health, metrics) for path in PAGES}

    assert {status for (_, path), (status, _) in found.items() if path != "/"} == {200}
    assert found[health, "/"] == NOT_FOUND  # as recorded of the Go program
    assert found[metrics, "/"][1].splitlines()[3:] == ["/flagz", "/metrics", "/statusz"]


@pytest.mark.parametrize("path", ["/statusz", "/flagz"])
def test_with_a_health_port_alone_the_first_page_loads_quart_once_and_health_goes_on(
    path: str, driver: FakeDriver, sidecar: Start
) -> None:
    port = free_port()
    process = sidecar(f"--health-port={port}", port=port, environ={"PYTHONVERBOSE": "1"})
    process.await_name()
    assert process.get().status == 200
    assert process.get("/statusz", Host="evil.example").status == 404
    assert "import 'quart'" not in process.log()

    answers: list[int] = []
    viewers = [threading.Thread(target=lambda: answers.append(process.get(path).status)) for _ in range(5)]
    for viewer in viewers:
        viewer.start()
    slowest = 0.0
    while any(viewer.is_alive() for viewer in viewers):
        health = process.get()
        assert health.status == 200
        slowest = max(slowest, health.seconds)
    assert answers == [200] * 5
    assert slowest < 1.0  # of a second in which Quart is imported, on a machine that has other work too
    assert process.log().count("import 'quart.app'") == 1
    eventually(lambda: "load Quart" not in process.threads(), 20)


def test_no_view_loads_a_template_engine_or_a_command_line_library() -> None:
    """Neither does Quart, nor does a view load any module but those of this program and of Python."""
    code = """
import asyncio, sys
from livenessprobe.metrics import Metrics
from livenessprobe.settings.model import InForce
from livenessprobe.web.health import Health, Known
from livenessprobe.web.routes import Routes
from tests.probing.scripted import Driver, make
from tests.values import load_all
from livenessprobe.probing.callers import Callers
from types import SimpleNamespace
from livenessprobe.web.app import create_lean_app
from tests.web.test_app import ask

async def main():
    prober, metrics = make(Driver()), Metrics(0.0)
    callers = Callers(prober, metrics)
    known = Known(prober, callers, SimpleNamespace(in_force=InForce(load_all())), 0.0)
    app = create_lean_app(Health(callers, metrics, Routes(True, "/metrics", "all"), known=known), metrics)
    assert await ask(app, "/metrics") == 200
    before = set(sys.modules)
    for path in ("/statusz", "/flagz", "/"):
        for accept in ("text/plain", "text/html", "application/json"):
            assert await ask(app, path, accept=accept) == 200
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(*loaded, *{"jinja2.environment", "click.core"} & set(sys.modules))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {*done.stdout.split()} <= {"livenessprobe", *sys.stdlib_module_names}


def test_a_page_never_asks_the_driver(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    assert process.get().status == 200

    for path in PAGES:
        for accept in FORMATS:
            assert process.get(path, Accept=accept).status == 200

    assert (driver.probes, driver.names_asked) == (1, 1)
    assert process.metric("livenessprobe_driver_up") == 1


@pytest.mark.parametrize(
    ("path", "hidden", "statuses"),
    [
        ("/statusz", "/statusz", [200, 200]),
        ("/", "/flagz,/statusz", [200, 200]),
        ("/metrics", "", [200, 200]),
    ],
)
def test_a_metrics_path_that_hides_pages_is_one_warning(
    path: str, hidden: str, statuses: list[int], driver: FakeDriver, sidecar: Start
) -> None:
    process = sidecar(f"--metrics-path={path}")
    process.await_name()

    kinds = {page: "# HELP" in process.get(page).body for page in ("/flagz", "/statusz")}

    assert ",".join(page for page, is_metrics in kinds.items() if is_metrics) == hidden
    warnings = process.records("The metrics path hides pages")
    assert warnings == ([f'metricsPath="{path}" pages="{hidden}" advice="choose another --metrics-path"'] if hidden else [])


def test_a_page_that_nobody_reads_leaves_no_task_behind(driver: FakeDriver, sidecar: Start) -> None:
    """Its connection is closed like any other whose client does not read."""
    process = sidecar("--http-idle-timeout=3s")
    process.await_name()
    process.get("/statusz")
    before = process.metric("livenessprobe_tasks")

    page = b"GET /statusz HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n"
    with never_reading(process, page * 2000) as answered:
        assert answered < 1900
        eventually(lambda: process.metric("livenessprobe_tasks") <= before)
    assert process.get().status == 200


def test_a_reload_shows_on_the_pages(folder: Path, driver: FakeDriver, sidecar: Start) -> None:
    file = folder / "settings.toml"
    file.write_text("")
    process = sidecar(f"--config={file}")
    process.await_name()
    process.write(file, 'probe_timeout = "7s"\npages = "off"\n')
    process.await_log('"Setting needs a restart"')

    assert "\nprobe-timeout=7s\n" in process.get("/flagz").body
    assert "\nFinding: Settings of the file wait for a restart of this container: pages\n" in process.get("/statusz").body
    process.write(file, "nonsense")
    process.await_log('"Settings file ignored; the previous settings stay"')
    body = json.loads(process.get("/statusz", Accept="application/json").body)
    assert any(finding.startswith(f"The settings file is ignored: {file}: ") for finding in body["findings"])


def test_a_kubelet_that_is_impatient_is_a_finding(driver: FakeDriver, sidecar: Start) -> None:
    driver.hang = True
    process = sidecar("--probe-timeout=3s")
    process.await_name()
    with socket.create_connection(("127.0.0.1", process.port)) as kubelet:
        kubelet.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.35\r\n\r\n")
        time.sleep(1.1)  # its timeoutSeconds
    process.await_metric("livenessprobe_callers_gone_total", 1)

    text = process.get("/statusz").body

    what = "The kubelet hung up before the probe timeout, so it never sees the reason of a failure"
    way_out = "set timeoutSeconds of the liveness probe above --probe-timeout"
    assert re.search(rf"\nFinding: {what} \(after 1\.\d+s of 3s\): {way_out}\n", text)
    assert "Kubelet: 1 failed answers in a row" in text


def shown(process: Sidecar) -> str:
    return process.get("/statusz").body.partition("Who asks:\n")[2]


def test_callers_choose_no_number_of_entries(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    for number in range(30):
        assert process.get(User_Agent=f"agent-{number}" + "<" * 8_000).status == 200

    lines = [line for line in shown(process).splitlines() if "agent-" in line]

    assert len(lines) == 8
    assert max(map(len, lines)) < 250
    assert "22 requests of other callers" in shown(process)
