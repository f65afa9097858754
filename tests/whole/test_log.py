"""What the whole process logs, and that a log that cannot be written stops no probe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support import COMMAND, ROOT, FakeDriver, Start, eventually, free_port, request


def test_a_full_stderr_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    """Upstream blocks after 117 requests."""
    reader, writer = os.pipe()
    process = sidecar("-v=10", stderr=writer)
    with process.keep_alive() as connection:
        statuses = {request(connection, "/healthz", "GET", {}).status for _ in range(1500)}
    assert statuses == {200}
    assert process.metric("livenessprobe_log_records_dropped") > 0
    process.signal(signal.SIGTERM)
    assert process.wait(10) == 0
    os.close(reader)
    os.close(writer)


def test_a_stderr_without_reader_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = sidecar("-v=5", stderr=writer)
    assert {process.get().status for _ in range(5)} == {200}
    os.close(writer)


def test_a_closed_stderr_stops_no_probe(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(await_http=False)
    process.kill()
    command = [*COMMAND, f"--csi-address={driver.path}", f"--http-endpoint=127.0.0.1:{process.port}"]
    closed = subprocess.Popen(["sh", "-c", 'exec "$@" 2>&- 1>&- 0<&-', "sh", *command], cwd=ROOT)
    try:

        def answers() -> bool:
            try:
                return process.get().status == 200
            except OSError:
                return False

        eventually(answers, 20)
        descriptors = os.listdir(f"/proc/{closed.pid}/fd")
        assert all(os.readlink(f"/proc/{closed.pid}/fd/{n}") == "/dev/null" for n in descriptors if n in ("0", "1", "2"))
    finally:
        closed.kill()
        closed.wait()


def test_equal_errors_are_folded_and_recovery_has_one_record(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    process.await_name()
    driver.ready = False
    for _ in range(25):
        assert process.get().status == 500
    driver.ready = True
    assert process.get().status == 200
    process.await_log("CSI driver is healthy again")
    process.signal(signal.SIGTERM)
    process.wait()

    lines = [line.partition("] ")[2] for line in process.log().splitlines()]
    cause = 'reason="not_ready" detail="driver responded but is not ready"'
    record = f'"Driver responded but is not ready" {cause}'
    assert lines.count(record) == 10
    assert lines.count(f"{record} repeated=15") == 1
    assert sum(line.startswith('"CSI driver is unhealthy"') for line in lines) == 1
    assert sum(line.startswith('"CSI driver is healthy again"') for line in lines) == 1


def test_arguments_after_a_positional_are_named(driver: FakeDriver, sidecar: Start) -> None:
    """`--automaxprocs false` ends the flags at `false`."""
    process = sidecar(
        f"--http-endpoint=127.0.0.1:{free_port()}", "--automaxprocs", "false", "--probe-timeout=1s", await_http=False
    )
    process.await_log('unread="false --probe-timeout=1s"')


def test_the_sidecar_runs_behind_a_word_that_is_no_command_and_says_so_first(sidecar: Start) -> None:
    """As the Go program does; a person who types `chek` may wait for a check."""
    port = free_port()
    environ = {"LIVENESSPROBE_HTTP_ENDPOINT": f"127.0.0.1:{port}"}
    process = sidecar("chek", "--csi-address=/a", environ=environ, await_http=False)
    process.await_log("ServeMux listening")

    assert (
        process.log()
        .splitlines()[0]
        .endswith(
            '"The first argument is no flag, so no argument is read" argument="chek" detail="did you mean check?" '
            f'unread="chek --csi-address=/a --http-endpoint=127.0.0.1:{process.port}"'
        )
    )


def test_old_log_files_are_written(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    """With klog's flags from before v2.12."""
    process = sidecar(
        "--logtostderr=false", f"--log_file={folder}/probe.log", "--stderrthreshold=FATAL", "--connection-timeout=3s"
    )
    eventually(lambda: (folder / "probe.log").exists() and "CSI driver name" in (folder / "probe.log").read_text())
    lines = (folder / "probe.log").read_text().splitlines()
    assert lines[0].startswith("Log file created at: ")
    assert any('option connection-timeout=\\"3s\\" is deprecated' in line for line in lines)
    assert process.log() == ""


def test_a_fifo_as_log_file_stops_neither_probes_nor_stderr(driver: FakeDriver, folder: Path, sidecar: Start) -> None:
    os.mkfifo(folder / "fifo")
    process = sidecar("--logtostderr=false", "--alsologtostderr", f"--log_file={folder}/fifo")
    process.await_name()
    process.await_log("cannot write log file")
    assert process.get().status == 200


@pytest.mark.skipif(os.name == "nt", reason="the zone is Windows' own")
def test_a_time_zone_in_posix_form_counts(sidecar: Start) -> None:
    """Go reads only names, and writes UTC."""
    process = sidecar(environ={"TZ": "ABC-7"})

    first = re.match(r"I(\d{4} \d\d:\d\d:\d\d)\.", process.log())

    assert first is not None
    now = datetime.now(UTC).replace(tzinfo=None)
    logged = datetime.strptime(f"{now.year}{first[1]}", "%Y%m%d %H:%M:%S")
    assert abs(logged - now - timedelta(hours=7)) < timedelta(minutes=5)
