"""Which changed settings take effect while the whole process runs, and which need a restart."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ConfigMap, FakeDriver, Mount, Relay, Sidecar, Start, eventually, free_port
from tests.support.names import GOOD, SOON, TIMEOUT


@pytest.fixture
def by_file() -> Iterator[Start]:
    """Starts sidecars with no flag that the file could set, since a flag would win over the file."""
    started: list[Sidecar] = []

    def start(config: ConfigMap, port: int) -> Sidecar:
        started.append(Sidecar((f"--config={config.path}", "--config-poll-interval=100ms"), port=port))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def restart_needed(process: Sidecar) -> set[str]:
    series = re.compile(r'livenessprobe_config_restart_needed\{key="(.*)"\}')
    return {match[1] for name, value in process.figures().items() if (match := series.fullmatch(name)) and value == 1}


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_changed_addresses_need_a_restart_and_the_other_changes_take_effect(
    driver: FakeDriver, folder: Path, mounted: Mount, by_file: Start
) -> None:
    port, other_port = free_port(), free_port()
    old = f'csi_address = "{driver.path}"\nhttp_endpoint = "127.0.0.1:{port}"\n'
    new = f'csi_address = "{folder}/other.sock"\nhttp_endpoint = "127.0.0.1:{other_port}"\nprobe_timeout = "5s"\n'
    config = mounted(old)
    process = by_file(config, port)
    process.await_name()
    with FakeDriver(str(folder / "other.sock")) as other:
        config.swap(new)
        process.await_metric(TIMEOUT, 5)

        assert restart_needed(process) == {"csi_address", "http_endpoint"}
        assert process.metric(GOOD) == 1
        before = driver.probes
        for _ in range(3):
            assert process.get().status == 200
        assert (driver.probes - before, other.probes) == (3, 0)
        assert not _connects(other_port)
        config.swap(old)
        process.await_metric(TIMEOUT, 3)

        assert restart_needed(process) == set()
        assert process.get().status == 200
        assert (other.probes, other.names_asked) == (0, 0)
    process.read_again()
    assert process.records("Setting needs a restart") == [
        f'key="csi_address" running="{driver.path}" wanted="{folder}/other.sock" '
        f'source="file {config.path}, line 1, key csi_address"',
        f'key="http_endpoint" running="127.0.0.1:{port}" wanted="127.0.0.1:{other_port}" '
        f'source="file {config.path}, line 2, key http_endpoint"',
    ]
    changed = [record.split(" source=")[0] for record in process.records("Setting changed")]
    assert changed[0] == 'key="probe_timeout" old="3s" new="5s"'
    assert all("address" not in record and "endpoint" not in record for record in changed)


def test_changed_ports_and_threads_need_a_restart(driver: FakeDriver, mounted: Mount, by_file: Start) -> None:
    health, numbers, other_health, other_numbers = (free_port() for _ in range(4))
    common = f'csi_address = "{driver.path}"\n'
    old = f'{common}health_port = {health}\nmetrics_address = "127.0.0.1:{numbers}"\n'
    new = f'{common}health_port = {other_health}\nmetrics_address = "127.0.0.1:{other_numbers}"\nautomaxprocs = true\n'
    config = mounted(old)
    process = by_file(config, health)
    eventually(lambda: _connects(numbers))
    process.port = numbers
    assert restart_needed(process) == set()

    config.swap(new)
    eventually(lambda: restart_needed(process) == {"health_port", "metrics_address", "automaxprocs"}, SOON)
    assert _connects(health) and not _connects(other_health) and not _connects(other_numbers)
    config.swap(old)
    eventually(lambda: restart_needed(process) == set(), SOON)


def test_settings_for_after_a_restart_may_contradict_the_running_ones(
    driver: FakeDriver, mounted: Mount, by_file: Start
) -> None:
    """Metrics may be at /healthz on a listener of their own, but this process has one listener for both."""
    port = free_port()
    common = f'csi_address = "{driver.path}"\n'
    config = mounted(f'{common}http_endpoint = "127.0.0.1:{port}"\n')
    process = by_file(config, port)

    config.swap(f'{common}metrics_address = "127.0.0.1:{free_port()}"\nmetrics_path = "/healthz"\nprobe_timeout = "9s"\n')
    process.await_metric(TIMEOUT, 9)

    assert process.metric(GOOD) == 1
    assert restart_needed(process) == {"http_endpoint", "metrics_address", "metrics_path"}


def test_paths_files_and_limits_need_a_restart(driver: FakeDriver, folder: Path, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    process.swap(
        config,
        f'metrics_path = "/numbers"\nhealth_file = "{folder}/health"\nlog_file = "{folder}/x.log"\nlogtostderr = false\n'
        'probe_path = "/grpc.health.v1.Health/Check"\nhttp_max_header_bytes = 1024\nexit_on_failure = true\nv = 5\n',
    )
    answer = process.get(x_pad="y" * 2000)
    process.await_log("Sending probe request to CSI driver")

    assert (answer.status, answer.body) == (200, "ok")
    assert (process.get("/metrics").status, process.get("/numbers").status) == (200, 404)
    assert sorted(path.name for path in folder.iterdir()) == ["config", "csi.sock"]
    assert restart_needed(process) == {
        "exit_on_failure",
        "health_file",
        "http_max_header_bytes",
        "log_file",
        "logtostderr",
        "metrics_path",
        "probe_path",
    }


def test_flags_and_variables_still_win_over_new_content(driver: FakeDriver, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 1\n")
    process = follow(config, "--probe-timeout=4s", environ={"LIVENESSPROBE_METRICS_PATH": "/metrics", "CSI_ENDPOINT": "/x"})

    process.swap(config, 'probe_timeout = "9s"\nmetrics_path = "/other"\ncsi_address = "/y"\nv = 2\n')

    assert process.metric(TIMEOUT) == 4
    assert process.get("/other").status == 404
    assert process.get().status == 200
    assert restart_needed(process) == set()
    process.read_again()
    assert [record.split()[0] for record in process.records("Setting changed")] == ['key="v"']


def test_verbosity_is_live(driver: FakeDriver, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()
    asked = "Sending probe request to CSI driver"
    process.get()
    process.read_again()
    assert asked not in process.log()

    process.swap(config, "v = 5\n")
    process.get()
    process.await_log(asked)

    process.swap(config, "# quiet again\n")
    process.read_again()
    before = process.log().count(asked)
    process.get()
    process.read_again()
    assert process.log().count(asked) == before


def test_verbosity_by_file_is_live(driver: FakeDriver, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    process.swap(config, 'vmodule = ["connection=5"]\n')
    process.get()
    process.await_log('"GRPC response"')
    assert "Sending probe request" not in process.log()

    process.swap(config, 'vmodule = "main=5"\n')
    process.read_again()
    before = process.log().count('"GRPC response"')
    process.get()
    process.await_log("Sending probe request")
    process.read_again()
    assert process.log().count('"GRPC response"') == before


def test_the_log_format_is_live(driver: FakeDriver, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    process.swap(config, 'logging_format = "json"\n')
    process.await_log('"key":"logging_format"')
    changed = json.loads(next(line for line in process.log().splitlines() if line.startswith("{")))
    del changed["ts"], changed["caller"]
    source = f"file {config.path}, line 1, key logging_format"
    assert changed == {
        "msg": "Setting changed",
        "v": 0,
        "key": "logging_format",
        "old": "text",
        "new": "json",
        "source": source,
    }

    process.swap(config, 'logging_format = "text"\n')
    process.read_again()
    lines = process.log().splitlines()
    forms = "".join("j" if line.startswith("{") else "t" for line in lines)
    assert re.fullmatch("t+j+t+", forms)
    assert '] "Settings file read again; nothing changed"' in lines[-1]


def test_the_reuse_of_connections_is_live(relay: Relay, mounted: Mount, follow: Start) -> None:
    config = mounted('connection_reuse = "0s"\n')
    process = follow(config, f"--csi-address={relay.path}")
    process.await_name()
    eventually(lambda: relay.open == 0)

    def dials() -> int:
        before = relay.total
        for _ in range(10):
            assert process.get().status == 200
        return relay.total - before

    assert dials() == 10
    process.swap(config, 'connection_reuse = "10m"\n')
    assert dials() == 1
    assert dials() == 0
    process.swap(config, 'connection_reuse = "0s"\n')
    assert dials() == 10
    eventually(lambda: relay.open == 0)


def test_the_grace_is_live(socket_path: str, mounted: Mount, follow: Start) -> None:
    config = mounted('probe_timeout = "5m"\n')
    process = follow(config)

    process.swap(config, 'probe_timeout = "5m"\nunreachable_grace = "0s"\n')
    assert process.get(timeout=60).reason == "socket_missing"

    process.swap(config, 'probe_timeout = "5m"\nunreachable_grace = "2s"\n')
    answer = process.get(timeout=60)
    assert answer.reason == "socket_missing"
    assert answer.seconds >= 1.9


def test_a_live_change_leaves_the_log_in_its_file(driver: FakeDriver, folder: Path, mounted: Mount, follow: Start) -> None:
    config = mounted("v = 0\n")
    file = folder / "x.log"
    process = follow(config, "--logtostderr=false", f"--log_file={file}", "--stderrthreshold=FATAL")
    asked = "Sending probe request to CSI driver"

    process.swap(config, "v = 5\n")
    process.get()

    eventually(lambda: asked in file.read_text())
    assert asked not in process.log()
    assert process.descriptors().count(str(file)) == 1


def test_the_poll_interval_is_live(mounted: Mount, sidecar: Start) -> None:
    def content(interval: str, timeout: int) -> str:
        return f'config_poll_interval = "{interval}"\nprobe_timeout = "{timeout}s"\n'

    config = mounted(content("1h", 4))
    process = sidecar(f"--config={config.path}")

    config.swap(content("100ms", 5))
    process.sighup()
    process.await_metric(TIMEOUT, 5)
    config.swap(content("0s", 6))
    process.await_metric(TIMEOUT, 6)
    config.swap(content("100ms", 7))
    time.sleep(1)
    assert process.metric(TIMEOUT) == 6
    process.sighup()
    process.await_metric(TIMEOUT, 7)
    config.swap(content("100ms", 8))
    process.await_metric(TIMEOUT, 8)
