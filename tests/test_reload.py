"""Changes of the settings file while the sidecar runs: which take effect, which are refused, and what is logged."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from livenessprobe import reload as reload_module
from livenessprobe.metrics import Metrics
from livenessprobe.reload import Reloader
from livenessprobe.settings import file as file_module
from livenessprobe.settings.file import FileContent
from livenessprobe.settings.model import Loaded, Settings
from tests.support import (
    Answer,
    ConfigMap,
    Content,
    FakeDriver,
    Relay,
    Sidecar,
    Start,
    eventually,
    free_port,
    nothing,
    request,
)
from tests.values import load_all

TIMEOUT = "livenessprobe_probe_timeout_seconds"
GOOD = "livenessprobe_config_last_reload_successful"
SINCE = "livenessprobe_config_last_reload_success_timestamp_seconds"
HASH = "livenessprobe_config_hash"
SOON = 15.0
"""Seconds; far longer than a reload takes, for busy machines."""


@pytest.fixture
def mounted(folder: Path) -> Callable[..., ConfigMap]:
    """`mounted(content)` is a ConfigMap mounted in the test's folder."""
    return lambda content=nothing: ConfigMap(folder / "config", content)


@pytest.fixture
def follow(sidecar: Start) -> Start:
    """Starts sidecars that look at the file of a ConfigMap ten times a second."""
    return lambda config, *arguments, **options: sidecar(
        f"--config={config.path}", "--config-poll-interval=100ms", *arguments, **options
    )


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


def await_figure(process: Sidecar, series: str, value: float, seconds: float = SOON) -> None:
    eventually(lambda: process.metric(series) == value, seconds)


def swap_and_wait(process: Sidecar, config: ConfigMap, content: Content) -> None:
    """Swap, and wait until the new content is in force."""
    before = process.metric(HASH)
    config.swap(content)
    eventually(lambda: process.metric(HASH) != before, SOON)


def read_again(process: Sidecar) -> None:
    """Have unchanged settings read again; when this returns, all earlier records are in the log."""
    sentence = "Settings file read again; nothing changed"
    before = process.log().count(sentence)
    process.sighup()
    eventually(lambda: process.log().count(sentence) > before, SOON)


def records(process: Sidecar, message: str) -> list[str]:
    """The text after `message` in each record with that message, in text format."""
    return [line.partition(f'] "{message}" ')[2] for line in process.log().splitlines() if f'] "{message}"' in line]


# --- swaps


def test_a_swap_takes_effect_in_less_than_ten_seconds(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], sidecar: Start
) -> None:
    config = mounted('probe_timeout = "2m"\n')
    process = sidecar(f"--config={config.path}")
    process.await_name()
    driver.hang = True
    assert process.metric(TIMEOUT) == 120

    config.swap('probe_timeout = "700ms"\n')
    await_figure(process, TIMEOUT, 0.7, 10)
    answer = process.get(timeout=60)

    assert (answer.status, answer.reason) == (500, "deadline")
    assert answer.seconds >= 0.7


def _link_to_itself(path: Path) -> None:
    os.symlink(path.name, path)


FAULTS: tuple[tuple[Content, str], ...] = (
    ('probe_timeot = "9s"\n', "line 1: probe_timeot is not a setting; did you mean probe_timeout?"),
    ("", "is empty; a file of comments alone says that the defaults are meant"),
    ('probe_timeout = "9s"\nconnection_reuse = "', "is not TOML: "),
    (b'\xef\xbb\xbfprobe_timeout = "9s"\n', "begins with a byte order mark"),
    (b'probe_timeout = "9s" # \xff\n', "is not UTF-8: invalid start byte at byte 23"),
    ('probe_timeout = "9s"\nnonsense = 1\n', "line 2: nonsense is not a setting"),
    ('probe_timeout = "9s"\n' + "#" * (1 << 20), "is larger than 1048576 bytes"),
    (os.mkfifo, "is not a regular file"),
    (nothing, "No such file or directory"),
    (os.mkdir, "Is a directory"),
    (_link_to_itself, "Too many levels of symbolic links"),
    ("probe_timeout = 9\n", "probe_timeout is the number 9; write a duration"),
    ('probe_timeout = "9s"\nv = "-"\n', 'line 2, key v = \\"-\\": '),
    ('probe_timeout = "9s"\nmetrics_address = ":1"\n', "Only one of `--metrics-address` and `--http-endpoint`"),
)


class Traffic:
    """Requests a path at a steady rate, half of the time on kept connections; use it as a context manager."""

    THREADS = 4

    def __init__(self, process: Sidecar, path: str, per_second: float) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.seconds = 0.0
        self._process = process
        self._path = path
        self._pause = self.THREADS / per_second
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.THREADS)]

    def __enter__(self) -> Traffic:
        self.seconds = -time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds += time.monotonic()

    def _ask(self, number: int) -> None:
        due = time.monotonic() + self._pause * number / self.THREADS
        kept = http.client.HTTPConnection("127.0.0.1", self._process.port, timeout=40)
        with contextlib.closing(kept):
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += self._pause
                try:
                    self.answers.append(
                        request(kept, self._path, "GET", {}) if number % 2 else self._process.get(self._path)
                    )
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))


def test_a_hundred_swaps_under_load_fail_no_request_and_bad_files_change_nothing(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "1m"\n')
    process = follow(config)
    process.await_name()
    faults = iter(FAULTS)
    hashes = {60.0: {process.metric(HASH)}}
    swapped = 0
    with Traffic(process, "/healthz", 50) as health, Traffic(process, "/metrics", 4) as scrapes:
        for number in range(100):
            before, timeout = process.figures(), 10.0 + number % 25
            config.swap(f'probe_timeout = "{timeout:.0f}s"\n')
            await_figure(process, TIMEOUT, timeout)
            after = process.figures()
            assert (after[TIMEOUT], after[GOOD]) == (timeout, 1)
            assert after[SINCE] > before[SINCE]
            hashes.setdefault(timeout, set()).add(after[HASH])
            swapped += 1
            if number % 7 == 3 and (fault := next(faults, None)):
                config.swap(fault[0])
                await_figure(process, GOOD, 0)
                process.await_log(fault[1])
                in_force = process.figures()
                assert [in_force[name] for name in (TIMEOUT, HASH, SINCE)] == [
                    after[name] for name in (TIMEOUT, HASH, SINCE)
                ]
        assert next(faults, None) is None

    assert swapped == 100
    assert health.failures == scrapes.failures == []
    assert {(answer.status, answer.body, answer.headers["content-length"]) for answer in health.answers} == {
        (200, "ok", "2")
    }
    assert len(health.answers) > 25 * health.seconds  # half of the requested rate, for busy machines
    assert {answer.status for answer in scrapes.answers} == {200}
    # Equal content has an equal hash and other content another, and no scrape has a timeout together with another
    # content's hash.
    assert all(len(seen) == 1 for seen in hashes.values())
    assert len(set.union(*hashes.values())) == len(hashes) == 26
    in_force_together = {(timeout, *seen) for timeout, seen in hashes.items()}
    assert {(_value(answer, TIMEOUT), _value(answer, HASH)) for answer in scrapes.answers} <= in_force_together
    eventually(lambda: process.log().count('"Setting changed" key="probe_timeout"') == 100)
    eventually(lambda: process.log().count('"Settings file passed over') == len(FAULTS))


def _value(answer: Answer, series: str) -> float:
    return next(float(line.split()[1]) for line in answer.body.splitlines() if line.startswith(f"{series} "))


def test_after_a_bad_file_the_previous_content_is_good_again(mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = follow(config)
    before = process.figures()
    config.swap("probe_timeout = \n")
    await_figure(process, GOOD, 0)

    config.swap('probe_timeout = "4s"\n')
    await_figure(process, GOOD, 1)

    after = process.figures()
    assert (after[HASH], after[TIMEOUT]) == (before[HASH], 4)
    assert after[SINCE] > before[SINCE]
    assert records(process, "Setting changed") == []


def test_edits_in_place_and_renames_over_the_file_take_effect(folder: Path, sidecar: Start) -> None:
    file = folder / "settings.toml"
    file.write_text('probe_timeout = "4s"\n')
    process = sidecar(f"--config={file}", environ={"LIVENESSPROBE_CONFIG_POLL_INTERVAL": "100ms"})
    stamp = file.stat()

    file.write_text('probe_timeout = "5s"\n')
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # neither the time nor the size has changed
    await_figure(process, TIMEOUT, 5)

    (folder / "new").write_text('probe_timeout = "6s"\n')
    os.rename(folder / "new", file)
    await_figure(process, TIMEOUT, 6)


# --- SIGHUP


def test_sighup_reads_the_file_when_polling_is_off(mounted: Callable[..., ConfigMap], sidecar: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = sidecar(f"--config={config.path}", "--config-poll-interval=0s")
    config.swap('probe_timeout = "5s"\n')
    time.sleep(1)
    assert process.metric(TIMEOUT) == 4

    process.sighup()
    await_figure(process, TIMEOUT, 5)


def test_sighup_logs_the_error_of_a_bad_file_again(mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted("v = 1\n")
    process = follow(config)
    config.swap("w = 1\n")
    await_figure(process, GOOD, 0)

    process.sighup()

    eventually(lambda: len(records(process, "Settings file passed over; the settings in force stay")) == 2, SOON)


@pytest.mark.skipif(os.path.exists("/etc/livenessprobe"), reason="the default file may be there")
def test_sighup_without_a_settings_file_is_logged_and_changes_nothing(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.sighup()
    process.await_log('"SIGHUP received, and there is no settings file" file="/etc/livenessprobe/settings.toml"')

    assert process.get().status == 200
    figures = process.figures()
    assert (figures[GOOD], figures[HASH], figures[TIMEOUT]) == (1, 0, 3)
    assert "\nE" not in process.log()


def test_many_sighups_do_no_harm(driver: FakeDriver, mounted: Callable[..., ConfigMap], sidecar: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = sidecar(f"--config={config.path}", "--config-poll-interval=0s")
    with Traffic(process, "/healthz", 20) as health:
        for seconds in range(10, 40):
            config.swap(f'probe_timeout = "{seconds}s"\n')
            for _ in range(20):
                process.sighup()
        await_figure(process, TIMEOUT, 39)

    assert {answer.status for answer in health.answers} == {200}
    assert health.failures == []
    assert "\nE" not in process.log()


# --- records


def test_only_changed_settings_are_logged_each_once(mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted('connection_reuse = "60s"\nunreachable_grace = "0s"\nstderrthreshold = 2\nv = 1\n')
    process = follow(config)

    swap_and_wait(
        process,
        config,
        '# A comment.\nprobe_timeout = "5s"\nconnection_reuse = "1m"\nunreachable_grace = "0s"\n'
        'vmodule = ["prober=2", "conn*=3"]\n',
    )
    read_again(process)

    at = f"file {config.path}"
    assert sorted(records(process, "Setting changed")) == [
        f'key="probe_timeout" old="3s" new="5s" source="{at}, line 2, key probe_timeout"',
        'key="v" old=1 new=0 source="default"',
        f'key="vmodule" old=[] new=["prober=2","conn*=3"] source="{at}, line 5, key vmodule"',
    ]


def test_a_grace_that_follows_the_timeout_is_logged_too(mounted: Callable[..., ConfigMap], follow: Start) -> None:
    """Records show the values in force, as `livenessprobe config` does."""
    config = mounted('probe_timeout = "3s"\n')
    process = follow(config)

    swap_and_wait(process, config, 'probe_timeout = "5s"\n')
    read_again(process)

    assert records(process, "Setting changed") == [
        f'key="probe_timeout" old="3s" new="5s" source="file {config.path}, line 1, key probe_timeout"',
        'key="unreachable_grace" old="3s" new="5s" source="default"',
    ]


def restart_needed(process: Sidecar) -> set[str]:
    series = re.compile(r'livenessprobe_config_restart_needed\{key="(.*)"\}')
    return {match[1] for name, value in process.figures().items() if (match := series.fullmatch(name)) and value == 1}


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_changed_addresses_need_a_restart_and_the_other_changes_take_effect(
    driver: FakeDriver, folder: Path, mounted: Callable[..., ConfigMap], by_file: Start
) -> None:
    port, other_port = free_port(), free_port()
    old = f'csi_address = "{driver.path}"\nhttp_endpoint = "127.0.0.1:{port}"\n'
    new = f'csi_address = "{folder}/other.sock"\nhttp_endpoint = "127.0.0.1:{other_port}"\nprobe_timeout = "5s"\n'
    config = mounted(old)
    process = by_file(config, port)
    process.await_name()
    with FakeDriver(str(folder / "other.sock")) as other:
        config.swap(new)
        await_figure(process, TIMEOUT, 5)

        assert restart_needed(process) == {"csi_address", "http_endpoint"}
        assert process.metric(GOOD) == 1
        before = driver.probes
        for _ in range(3):
            assert process.get().status == 200
        assert (driver.probes - before, other.probes) == (3, 0)
        assert not _connects(other_port)
        config.swap(old)
        await_figure(process, TIMEOUT, 3)

        assert restart_needed(process) == set()
        assert process.get().status == 200
        assert (other.probes, other.names_asked) == (0, 0)
    read_again(process)
    assert records(process, "Setting needs a restart") == [
        f'key="csi_address" running="{driver.path}" wanted="{folder}/other.sock" '
        f'source="file {config.path}, line 1, key csi_address"',
        f'key="http_endpoint" running="127.0.0.1:{port}" wanted="127.0.0.1:{other_port}" '
        f'source="file {config.path}, line 2, key http_endpoint"',
    ]
    changed = [record.split(" source=")[0] for record in records(process, "Setting changed")]
    assert changed[0] == 'key="probe_timeout" old="3s" new="5s"'
    assert all("address" not in record and "endpoint" not in record for record in changed)


def test_changed_ports_and_threads_need_a_restart(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], by_file: Start
) -> None:
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
    driver: FakeDriver, mounted: Callable[..., ConfigMap], by_file: Start
) -> None:
    """Metrics may be at /healthz on a listener of their own, but this process has one listener for both."""
    port = free_port()
    common = f'csi_address = "{driver.path}"\n'
    config = mounted(f'{common}http_endpoint = "127.0.0.1:{port}"\n')
    process = by_file(config, port)

    config.swap(f'{common}metrics_address = "127.0.0.1:{free_port()}"\nmetrics_path = "/healthz"\nprobe_timeout = "9s"\n')
    await_figure(process, TIMEOUT, 9)

    assert process.metric(GOOD) == 1
    assert restart_needed(process) == {"http_endpoint", "metrics_address", "metrics_path"}


def test_paths_files_and_limits_need_a_restart(
    driver: FakeDriver, folder: Path, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    swap_and_wait(
        process,
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


# --- precedence


def test_flags_and_variables_still_win_over_new_content(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted("v = 1\n")
    process = follow(config, "--probe-timeout=4s", environ={"LIVENESSPROBE_METRICS_PATH": "/metrics", "CSI_ENDPOINT": "/x"})

    swap_and_wait(process, config, 'probe_timeout = "9s"\nmetrics_path = "/other"\ncsi_address = "/y"\nv = 2\n')

    assert process.metric(TIMEOUT) == 4
    assert process.get("/other").status == 404
    assert process.get().status == 200
    assert restart_needed(process) == set()
    read_again(process)
    assert [record.split()[0] for record in records(process, "Setting changed")] == ['key="v"']


# --- each live setting


def test_verbosity_is_live(driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()
    asked = "Sending probe request to CSI driver"
    process.get()
    read_again(process)
    assert asked not in process.log()

    swap_and_wait(process, config, "v = 5\n")
    process.get()
    process.await_log(asked)

    swap_and_wait(process, config, "# quiet again\n")
    read_again(process)
    before = process.log().count(asked)
    process.get()
    read_again(process)
    assert process.log().count(asked) == before


def test_verbosity_by_file_is_live(driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    swap_and_wait(process, config, 'vmodule = ["connection=5"]\n')
    process.get()
    process.await_log('"GRPC response"')
    assert "Sending probe request" not in process.log()

    swap_and_wait(process, config, 'vmodule = "main=5"\n')
    read_again(process)
    before = process.log().count('"GRPC response"')
    process.get()
    process.await_log("Sending probe request")
    read_again(process)
    assert process.log().count('"GRPC response"') == before


def test_the_log_format_is_live(driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted("v = 0\n")
    process = follow(config)
    process.await_name()

    swap_and_wait(process, config, 'logging_format = "json"\n')
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

    swap_and_wait(process, config, 'logging_format = "text"\n')
    read_again(process)
    lines = process.log().splitlines()
    forms = "".join("j" if line.startswith("{") else "t" for line in lines)
    assert re.fullmatch("t+j+t+", forms)
    assert '] "Settings file read again; nothing changed"' in lines[-1]


def test_the_reuse_of_connections_is_live(
    driver: FakeDriver, folder: Path, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    relay = Relay(str(folder / "relay.sock"), driver.path)
    config = mounted('connection_reuse = "0s"\n')
    process = follow(config, f"--csi-address={folder}/relay.sock")
    process.await_name()
    eventually(lambda: relay.open == 0)

    def dials() -> int:
        before = relay.total
        for _ in range(10):
            assert process.get().status == 200
        return relay.total - before

    assert dials() == 10
    swap_and_wait(process, config, 'connection_reuse = "10m"\n')
    assert dials() == 1
    assert dials() == 0
    swap_and_wait(process, config, 'connection_reuse = "0s"\n')
    assert dials() == 10
    eventually(lambda: relay.open == 0)
    relay.close()


def test_the_grace_is_live(socket_path: str, mounted: Callable[..., ConfigMap], follow: Start) -> None:
    config = mounted('probe_timeout = "5m"\n')
    process = follow(config)

    swap_and_wait(process, config, 'probe_timeout = "5m"\nunreachable_grace = "0s"\n')
    assert process.get(timeout=60).reason == "socket_missing"

    swap_and_wait(process, config, 'probe_timeout = "5m"\nunreachable_grace = "2s"\n')
    answer = process.get(timeout=60)
    assert answer.reason == "socket_missing"
    assert answer.seconds >= 1.9


def test_a_live_change_leaves_the_log_in_its_file(
    driver: FakeDriver, folder: Path, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted("v = 0\n")
    file = folder / "x.log"
    process = follow(config, "--logtostderr=false", f"--log_file={file}", "--stderrthreshold=FATAL")
    asked = "Sending probe request to CSI driver"

    swap_and_wait(process, config, "v = 5\n")
    process.get()

    eventually(lambda: asked in file.read_text())
    assert asked not in process.log()
    assert process.descriptors().count(str(file)) == 1


def test_the_poll_interval_is_live(mounted: Callable[..., ConfigMap], sidecar: Start) -> None:
    def content(interval: str, timeout: int) -> str:
        return f'config_poll_interval = "{interval}"\nprobe_timeout = "{timeout}s"\n'

    config = mounted(content("1h", 4))
    process = sidecar(f"--config={config.path}")

    config.swap(content("100ms", 5))
    process.sighup()
    await_figure(process, TIMEOUT, 5)
    config.swap(content("0s", 6))
    await_figure(process, TIMEOUT, 6)
    config.swap(content("100ms", 7))
    time.sleep(1)
    assert process.metric(TIMEOUT) == 6
    process.sighup()
    await_figure(process, TIMEOUT, 7)
    config.swap(content("100ms", 8))
    await_figure(process, TIMEOUT, 8)


# --- requests in flight


def test_a_lowered_timeout_does_not_shorten_an_open_request(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "2m"\n')
    process = follow(config)
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(process.get, timeout=100)
        eventually(lambda: driver.in_flight == 1)
        swap_and_wait(process, config, 'probe_timeout = "500ms"\n')

        impatient = process.get(timeout=60)
        time.sleep(1)
        assert not patient.done()
        driver.release.set()

        assert (patient.result().status, patient.result().body) == (200, "ok")
    assert (impatient.status, impatient.reason) == (500, "deadline")


def test_a_raised_timeout_does_not_prolong_an_open_request(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "3s"\n')
    process = follow(config)
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(2) as pool:
        impatient = pool.submit(process.get, timeout=60)
        eventually(lambda: driver.in_flight == 1)
        swap_and_wait(process, config, 'probe_timeout = "2m"\n')
        patient = pool.submit(process.get, timeout=100)

        assert (impatient.result().status, impatient.result().reason) == (500, "deadline")
        eventually(lambda: driver.probes == 2)  # the later caller's own probe
        time.sleep(0.5)
        assert not patient.done()
        driver.release.set()
        assert patient.result().status == 200


def test_sigterm_finishes_a_request_that_began_under_a_longer_timeout(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "2m"\n')
    process = follow(config)
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(process.get, timeout=100)
        eventually(lambda: driver.in_flight == 1)
        swap_and_wait(process, config, 'probe_timeout = "100ms"\n')

        process.signal(signal.SIGTERM)
        time.sleep(3)  # longer than the new timeout and the grace that SIGTERM adds to it
        driver.release.set()

        assert open_request.result().status == 200
    assert process.wait() == 0


# --- files that appear, disappear and grow


def test_a_bad_file_at_the_start_takes_effect_once_it_is_corrected(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "9s"\nprobe_timeot = "9s"\n')
    process = follow(config)
    process.await_log('"Settings file passed over; running on flags, environment and defaults"')
    figures = process.figures()
    assert (figures[GOOD], figures[HASH], figures[TIMEOUT]) == (0, 0, 3)

    config.swap('probe_timeout = "9s"\n')
    await_figure(process, TIMEOUT, 9)

    assert process.metric(GOOD) == 1
    eventually(lambda: process.log().count("passed over") == 1)


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_a_named_file_may_appear_disappear_and_appear_again(folder: Path, sidecar: Start, folder_is_there: bool) -> None:
    path = folder / "config" / "settings.toml"
    config = ConfigMap(folder / "config") if folder_is_there else None
    process = sidecar(f"--config={path}", "--config-poll-interval=100ms")
    process.await_log(f'running on flags, environment and defaults" err="{path}: No such file or directory"')
    assert process.metric(GOOD) == 0

    if config is None:
        config = ConfigMap(folder / "config", 'probe_timeout = "9s"\n')
    else:
        config.swap('probe_timeout = "9s"\n')
    await_figure(process, TIMEOUT, 9)
    assert process.metric(GOOD) == 1

    config.remove()
    await_figure(process, GOOD, 0)
    assert process.metric(TIMEOUT) == 9
    process.await_log(f'the settings in force stay" err="{path}: No such file or directory"')

    config.swap('probe_timeout = "9s"\n')
    await_figure(process, GOOD, 1)


def test_with_config_strict_a_bad_file_does_not_end_a_running_sidecar(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = follow(config, "--config-strict")

    config.swap("probe_timeot = 1\n")
    await_figure(process, GOOD, 0)

    process.await_log(f'err="{config.path}: line 1: probe_timeot is not a setting')
    assert (process.metric(TIMEOUT), process.get().status) == (4, 200)
    config.swap('probe_timeout = "5s"\n')
    await_figure(process, TIMEOUT, 5)


def test_a_file_written_in_parts_takes_effect_once_it_is_complete(folder: Path, sidecar: Start) -> None:
    file = folder / "settings.toml"
    versions = [
        [f'probe_timeout = "{n}s"\n', *["# " + "-" * 70 + "\n"] * 20, "unreachable_", 'grace = "', '0s"\n', f"v = {n}\n"]
        for n in (3, 4)
    ]
    file.write_text("".join(versions[0]))
    process = sidecar(f"--config={file}", "--config-poll-interval=100ms")
    swift = 0
    for number in range(1, 12):
        before, was = process.log(), (3, 4)[(number - 1) % 2]
        n = (3, 4)[number % 2]
        pause = _write_in_parts(file, versions[number % 2])
        await_figure(process, TIMEOUT, n)
        eventually(lambda: process.metric(GOOD) == 1, SOON)
        read_again(process)
        if pause < 0.15:  # otherwise the machine made a pause that looks like the end of the file
            swift += 1
            told = process.log()[len(before) :]
            assert re.findall('"Setting changed" (.*) source', told) == [
                f'key="probe_timeout" old="{was}s" new="{n}s"',
                f'key="v" old={was} new={n}',
            ]
            assert "passed over" not in told
        if swift == 3:
            return
    pytest.skip("this machine is too busy to write a file without pauses")


def _write_in_parts(file: Path, parts: list[str]) -> float:
    """Write `parts` with short pauses; the longest pause in seconds."""
    stamps = [time.monotonic()]
    with file.open("w") as out:
        for part in parts:
            out.write(part)
            out.flush()
            stamps.append(time.monotonic())
            time.sleep(0.03)
    return max(after - before for before, after in zip(stamps, stamps[1:], strict=False))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_fifty_reloads_leave_no_descriptor_and_no_thread_behind(
    driver: FakeDriver, mounted: Callable[..., ConfigMap], follow: Start
) -> None:
    config = mounted('probe_timeout = "9s"\n')
    process = follow(config)
    process.await_name()

    def reload(times: int) -> None:
        for number in range(times):
            swap_and_wait(process, config, f'probe_timeout = "{10 + number % 2}s"\n')
            assert process.get().status == 200

    reload(4)
    time.sleep(2)  # until connections of requests and probes are closed
    open_before, threads = len(process.descriptors()), len(process.threads())
    reload(50 - 2 * len(FAULTS))
    for content, _ in FAULTS:
        config.swap(content)
        await_figure(process, GOOD, 0)
        time.sleep(0.3)  # a lasting fault is looked at several times
        config.swap('probe_timeout = "9s"\n')
        await_figure(process, GOOD, 1)

    eventually(lambda: len(process.descriptors()) <= open_before)
    assert len(process.threads()) <= threads + 3  # gRPC's threads come and go


# --- with scripted loading and applying


class Scripted:
    """A Reloader on a file; `load` and `apply` can be made to raise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = Metrics()
        self.adopted: list[Settings] = []
        self.hangup = asyncio.Event()
        self.break_load: Exception | None = None
        self.break_apply: Exception | None = None
        self.told: list[tuple[str, object, object]] = []
        self.reloader = Reloader(load_all(), str(path), self.load, self.apply, self.metrics)

    def load(self, file: FileContent) -> Loaded:
        if self.break_load is not None:
            raise self.break_load
        return load_all(file=file.content, path=file.path)

    def apply(self, settings: Settings) -> None:
        if self.break_apply is not None:
            raise self.break_apply
        self.adopted.append(settings)

    def figure(self, series: str) -> float:
        lines = self.metrics.expose().body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{series} "))

    @contextlib.asynccontextmanager
    async def watching(self, *, polled: bool):  # type: ignore[no-untyped-def]
        task = asyncio.create_task(self.reloader.watch(self.hangup, polled=polled))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON):
            while not what():
                await asyncio.sleep(0.01)


@pytest.fixture
def scripted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setattr(reload_module, "SETTLE_SECONDS", 0.02)
    scripted = Scripted(folder / "config" / "settings.toml")
    monkeypatch.setattr(reload_module, "_tell", lambda change: scripted.told.append((change.key, change.old, change.new)))
    return scripted


CONTENT = 'probe_timeout = "{}s"\nunreachable_grace = "0s"\nconfig_poll_interval = "100ms"\n'


async def test_the_default_file_is_polled_after_a_sighup_has_found_it(scripted: Scripted) -> None:
    """The folder of the default file did not exist at the start, so the file is not polled."""
    async with scripted.watching(polled=False):
        scripted.path.parent.mkdir()
        scripted.path.write_text(CONTENT.format(7))
        await asyncio.sleep(0.3)
        assert scripted.adopted == []

        scripted.hangup.set()
        await scripted.until(lambda: [settings.probe_timeout for settings in scripted.adopted] == [7])
        scripted.path.write_text(CONTENT.format(8))
        await scripted.until(lambda: [settings.probe_timeout for settings in scripted.adopted] == [7, 8])
        scripted.path.unlink()
        await scripted.until(lambda: scripted.figure(GOOD) == 0)


@pytest.mark.parametrize("part", ["break_load", "break_apply"])
async def test_an_internal_error_keeps_the_old_settings_and_watching_goes_on(scripted: Scripted, part: str) -> None:
    scripted.path.parent.mkdir()
    async with scripted.watching(polled=False):
        scripted.path.write_text(CONTENT.format(7))
        scripted.hangup.set()
        await scripted.until(lambda: len(scripted.adopted) == 1)
        scripted.told.clear()
        setattr(scripted, part, ZeroDivisionError("oops"))
        scripted.path.write_text(CONTENT.format(8))
        scripted.hangup.set()
        await scripted.until(lambda: scripted.figure(GOOD) == 0)
        assert ([settings.probe_timeout for settings in scripted.adopted], scripted.told) == ([7], [])

        setattr(scripted, part, None)
        scripted.hangup.set()
        await scripted.until(lambda: scripted.figure(GOOD) == 1)
        assert scripted.adopted[-1].probe_timeout == 8
        assert scripted.told == [("probe_timeout", "7s", "8s")]


async def test_a_file_that_never_stops_changing_is_read_nevertheless(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(10_000))
    monkeypatch.setattr(file_module, "read_file", lambda _: CONTENT.format(next(looks)).encode())
    async with scripted.watching(polled=False):
        scripted.hangup.set()
        await scripted.until(lambda: scripted.adopted)
