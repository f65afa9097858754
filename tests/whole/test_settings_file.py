"""Changes of the settings file while the whole process runs: which take effect, which are refused, and what is logged."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import (
    Answer,
    ConfigMap,
    Content,
    FakeDriver,
    Mount,
    Sidecar,
    Start,
    eventually,
    free_port,
    nothing,
    request,
)
from tests.support.names import GOOD, HASH, SINCE, SOON, TIMEOUT


@pytest.mark.parametrize(
    "line",
    [
        'http_endpoint = "127.0.0.1:99999"',
        'http_endpoint = "no.such.host.invalid:1"',
        'http_endpoint = "127.0.0.1:no-such-port"',
        'http_endpoint = "127.0.0.1:ht\\u0000tp"',
        'http_endpoint = "unix:///tmp/a\\u0000b"',
        'log_file = "/tmp/a\\u0000b"',
        'metrics_address = "127.0.0.1:99999"',
    ],
)
def test_a_bad_line_in_the_settings_file_does_not_stop_the_process(folder: Path, sidecar: Start, line: str) -> None:
    (folder / "settings.toml").write_text(f"{line}\n")
    process = sidecar(f"--health-port={free_port()}", f"--config={folder}/settings.toml", await_http=False)
    process.await_log("ServeMux listening")
    process.await_log("Settings file ignored")
    assert "Traceback" not in process.log()


def test_a_swap_takes_effect_in_less_than_ten_seconds(driver: FakeDriver, mounted: Mount, sidecar: Start) -> None:
    config = mounted('probe_timeout = "2m"\n')
    process = sidecar(f"--config={config.path}")
    process.await_name()
    driver.hang = True
    assert process.metric(TIMEOUT) == 120

    config.swap('probe_timeout = "700ms"\n')
    process.await_metric(TIMEOUT, 0.7, 10)
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
    ('probe_timeout = "9s"\nhealth_port = 1\n', "Only one of `--health-port` and `--http-endpoint`"),
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
    driver: FakeDriver, mounted: Mount, follow: Start
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
            process.await_metric(TIMEOUT, timeout)
            after = process.figures()
            assert (after[TIMEOUT], after[GOOD]) == (timeout, 1)
            assert after[SINCE] > before[SINCE]
            hashes.setdefault(timeout, set()).add(after[HASH])
            swapped += 1
            if number % 7 == 3 and (fault := next(faults, None)):
                config.swap(fault[0])
                process.await_metric(GOOD, 0)
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
    eventually(lambda: process.log().count('"Settings file ignored') == len(FAULTS))


def _value(answer: Answer, series: str) -> float:
    return next(float(line.split()[1]) for line in answer.body.splitlines() if line.startswith(f"{series} "))


def test_after_a_bad_file_the_previous_content_is_good_again(mounted: Mount, follow: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = follow(config)
    before = process.figures()
    config.swap("probe_timeout = \n")
    process.await_metric(GOOD, 0)

    config.swap('probe_timeout = "4s"\n')
    process.await_metric(GOOD, 1)

    after = process.figures()
    assert (after[HASH], after[TIMEOUT]) == (before[HASH], 4)
    assert after[SINCE] > before[SINCE]
    assert process.records("Setting changed") == []


def test_edits_in_place_and_renames_over_the_file_take_effect(folder: Path, sidecar: Start) -> None:
    file = folder / "settings.toml"
    file.write_text('probe_timeout = "4s"\n')
    process = sidecar(f"--config={file}", environ={"LIVENESSPROBE_CONFIG_POLL_INTERVAL": "100ms"})
    stamp = file.stat()

    file.write_text('probe_timeout = "5s"\n')
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # neither the time nor the size has changed
    process.await_metric(TIMEOUT, 5)

    (folder / "new").write_text('probe_timeout = "6s"\n')
    os.rename(folder / "new", file)
    process.await_metric(TIMEOUT, 6)


def test_sighup_reads_the_file_when_polling_is_off(mounted: Mount, sidecar: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = sidecar(f"--config={config.path}", "--config-poll-interval=0s")
    config.swap('probe_timeout = "5s"\n')
    time.sleep(1)
    assert process.metric(TIMEOUT) == 4

    process.sighup()
    process.await_metric(TIMEOUT, 5)


def test_sighup_logs_the_error_of_a_bad_file_again(mounted: Mount, follow: Start) -> None:
    config = mounted("v = 1\n")
    process = follow(config)
    config.swap("w = 1\n")
    process.await_metric(GOOD, 0)

    process.sighup()

    eventually(lambda: len(process.records("Settings file ignored; the previous settings stay")) == 2, SOON)


@pytest.mark.skipif(os.path.exists("/etc/livenessprobe"), reason="the default file may be there")
def test_sighup_without_a_settings_file_is_logged_and_changes_nothing(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.sighup()
    process.await_log('"SIGHUP received, and there is no settings file" file="/etc/livenessprobe/settings.toml"')

    assert process.get().status == 200
    figures = process.figures()
    assert (figures[GOOD], figures[HASH], figures[TIMEOUT]) == (1, 0, 3)
    assert "\nE" not in process.log()


def test_many_sighups_do_no_harm(driver: FakeDriver, mounted: Mount, sidecar: Start) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = sidecar(f"--config={config.path}", "--config-poll-interval=0s")
    with Traffic(process, "/healthz", 20) as health:
        for seconds in range(10, 40):
            config.swap(f'probe_timeout = "{seconds}s"\n')
            for _ in range(20):
                process.sighup()
        process.await_metric(TIMEOUT, 39)

    assert {answer.status for answer in health.answers} == {200}
    assert health.failures == []
    assert "\nE" not in process.log()


def test_only_changed_settings_are_logged_each_once(mounted: Mount, follow: Start) -> None:
    config = mounted('connection_reuse = "60s"\nunreachable_grace = "0s"\nstderrthreshold = 2\nv = 1\n')
    process = follow(config)

    process.swap(
        config,
        '# A comment.\nprobe_timeout = "5s"\nconnection_reuse = "1m"\nunreachable_grace = "0s"\n'
        'vmodule = ["prober=2", "conn*=3"]\n',
    )
    process.read_again()

    at = f"file {config.path}"
    assert sorted(process.records("Setting changed")) == [
        f'key="probe_timeout" old="3s" new="5s" source="{at}, line 2, key probe_timeout"',
        'key="v" old=1 new=0 source="default"',
        f'key="vmodule" old=[] new=["prober=2","conn*=3"] source="{at}, line 5, key vmodule"',
    ]


def test_a_changed_value_that_is_overridden_is_named(mounted: Mount, sidecar: Start) -> None:
    config = mounted("v = 1\n")
    environ = {"LIVENESSPROBE_V": "0"}
    process = sidecar(f"--config={config.path}", "--config-poll-interval=100ms", "--probe-timeout=2s", environ=environ)

    process.swap(config, 'v = 5\nprobe_timeout = "1s"\n')
    process.await_log('"Setting has no effect" key="probe_timeout"')

    at = f"file {config.path}"
    assert sorted(process.records("Setting has no effect")) == [
        f'key="probe_timeout" running="2s" wanted="1s" source="{at}, line 2, key probe_timeout" '
        'detail="is overridden by flag --probe-timeout"',
        f'key="v" running=0 wanted=5 source="{at}, line 1, key v" detail="is overridden by variable LIVENESSPROBE_V"',
    ]
    assert "nothing changed" not in process.log()

    process.read_again()  # the same content
    process.await_log("nothing changed")
    assert len(process.records("Setting has no effect")) == 2


def test_a_grace_that_follows_the_timeout_is_logged_too(mounted: Mount, follow: Start) -> None:
    """Records show the values in force, as `livenessprobe config` does."""
    config = mounted('probe_timeout = "3s"\n')
    process = follow(config)

    process.swap(config, 'probe_timeout = "5s"\n')
    process.read_again()

    assert process.records("Setting changed") == [
        f'key="probe_timeout" old="3s" new="5s" source="file {config.path}, line 1, key probe_timeout"',
        'key="unreachable_grace" old="3s" new="5s" source="default"',
    ]


def test_sigterm_finishes_a_request_that_began_under_a_longer_timeout(
    driver: FakeDriver, mounted: Mount, follow: Start
) -> None:
    config = mounted('probe_timeout = "2m"\n')
    process = follow(config)
    process.await_name()
    driver.hang = True
    with ThreadPoolExecutor(1) as pool:
        open_request = pool.submit(process.get, timeout=100)
        eventually(lambda: driver.in_flight == 1)
        process.swap(config, 'probe_timeout = "100ms"\n')

        process.signal(signal.SIGTERM)
        time.sleep(3)  # longer than the new timeout and the grace that SIGTERM adds to it
        driver.release.set()

        assert open_request.result().status == 200
    assert process.wait() == 0


def test_a_bad_file_at_the_start_takes_effect_once_it_is_corrected(
    driver: FakeDriver, mounted: Mount, follow: Start
) -> None:
    config = mounted('probe_timeout = "9s"\nprobe_timeot = "9s"\n')
    process = follow(config)
    process.await_log('"Settings file ignored; running on flags, environment and defaults"')
    figures = process.figures()
    assert (figures[GOOD], figures[HASH], figures[TIMEOUT]) == (0, 0, 3)

    config.swap('probe_timeout = "9s"\n')
    process.await_metric(TIMEOUT, 9)

    assert process.metric(GOOD) == 1
    eventually(lambda: process.log().count("Settings file ignored") == 1)


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
    process.await_metric(TIMEOUT, 9)
    assert process.metric(GOOD) == 1

    config.remove()
    process.await_metric(GOOD, 0)
    assert process.metric(TIMEOUT) == 9
    process.await_log(f'the previous settings stay" err="{path}: No such file or directory"')

    config.swap('probe_timeout = "9s"\n')
    process.await_metric(GOOD, 1)


def test_with_config_strict_a_bad_file_does_not_end_a_running_sidecar(
    driver: FakeDriver, mounted: Mount, follow: Start
) -> None:
    config = mounted('probe_timeout = "4s"\n')
    process = follow(config, "--config-strict")

    config.swap("probe_timeot = 1\n")
    process.await_metric(GOOD, 0)

    process.await_log(f'err="{config.path}: line 1: probe_timeot is not a setting')
    assert (process.metric(TIMEOUT), process.get().status) == (4, 200)
    config.swap('probe_timeout = "5s"\n')
    process.await_metric(TIMEOUT, 5)


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
        process.await_metric(TIMEOUT, n)
        eventually(lambda: process.metric(GOOD) == 1, SOON)
        process.read_again()
        if pause < 0.15:  # otherwise the machine made a pause that looks like the end of the file
            swift += 1
            told = process.log()[len(before) :]
            assert re.findall('"Setting changed" (.*) source', told) == [
                f'key="probe_timeout" old="{was}s" new="{n}s"',
                f'key="v" old={was} new={n}',
            ]
            assert "Settings file ignored" not in told
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
def test_fifty_reloads_leave_no_descriptor_and_no_thread_behind(driver: FakeDriver, mounted: Mount, follow: Start) -> None:
    config = mounted('probe_timeout = "9s"\n')
    process = follow(config)
    process.await_name()

    def reload(times: int) -> None:
        for number in range(times):
            process.swap(config, f'probe_timeout = "{10 + number % 2}s"\n')
            assert process.get().status == 200

    reload(4)
    time.sleep(2)  # until connections of requests and probes are closed
    open_before, threads = len(process.descriptors()), len(process.threads())
    reload(50 - 2 * len(FAULTS))
    for content, _ in FAULTS:
        config.swap(content)
        process.await_metric(GOOD, 0)
        time.sleep(0.3)  # a lasting fault is looked at several times
        config.swap('probe_timeout = "9s"\n')
        process.await_metric(GOOD, 1)

    eventually(lambda: len(process.descriptors()) <= open_before)
    assert len(process.threads()) <= threads + 3  # gRPC's threads come and go
