"""klog's old log files: the file of each record, headers, rotation, and errors such as a full disk."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from livenessprobe.klog import files
from livenessprobe.klog.files import LogFiles
from livenessprobe.klog.format import Options

NAMES = ("INFO", "WARNING", "ERROR", "FATAL")
HEADER = re.compile(
    r"Log file created at: \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\n"
    r"Running on machine: [^.\n]+\n"
    r"Binary: Built with Python \S+ for \S+/\S+\n"
    r"Log line format: \[IWEF\]mmdd hh:mm:ss\.uuuuuu threadid file:line\] msg\n"
)


class Files:
    """Log files as a process has them, with their error messages."""

    def __init__(self, **options: object) -> None:
        self.errors: list[str] = []
        self._files = LogFiles(Options(logtostderr=False, **options), self.errors.append)  # type: ignore[arg-type]

    def write(self, *records: str) -> None:
        """Each record is a severity and a line, as in `E failed`."""
        for record in records:
            self._files.write(record[0], record)


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/livenessprobe"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The clock that the log files read; `clock.now` moves it."""
    clock = SimpleNamespace(now=1000.0, strftime=time.strftime)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(files, "time", clock)
    yield clock


def dated(folder: Path) -> dict[str, Path]:
    """The log files in a folder by severity, without links."""
    return {path.name.split(".log.")[1].split(".")[0]: path for path in folder.iterdir() if not path.is_symlink()}


def contents(folder: Path) -> dict[str, list[str]]:
    return {severity: path.read_text().splitlines() for severity, path in dated(folder).items()}


# --- -log_dir


def test_a_record_goes_to_its_file_and_to_those_of_all_lower_severities(tmp_path: Path) -> None:
    Files(log_dir=str(tmp_path), skip_log_headers=True).write("I one", "W two", "E three", "F four", "I five")

    assert contents(tmp_path) == {
        "INFO": ["I one", "W two", "E three", "F four", "I five"],
        "WARNING": ["W two", "E three", "F four"],
        "ERROR": ["E three", "F four"],
        "FATAL": ["F four"],
    }


def test_with_one_output_a_record_goes_to_its_file_only(tmp_path: Path) -> None:
    Files(log_dir=str(tmp_path), skip_log_headers=True, one_output=True).write(
        "I one", "W two", "E three", "F four", "I five"
    )

    assert contents(tmp_path) == {
        "INFO": ["I one", "I five"],
        "WARNING": ["W two"],
        "ERROR": ["E three"],
        "FATAL": ["F four"],
    }


def test_no_file_is_opened_before_its_first_record(tmp_path: Path) -> None:
    files = Files(log_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []

    files.write("I one")
    assert list(dated(tmp_path)) == ["INFO"]


def test_a_file_name_has_program_host_user_severity_time_and_process(tmp_path: Path) -> None:
    before = time.strftime("%Y%m%d-%H%M%S")
    Files(log_dir=str(tmp_path)).write("I one")
    after = time.strftime("%Y%m%d-%H%M%S")

    host = re.escape(socket.gethostname().partition(".")[0])
    name = dated(tmp_path)["INFO"].name
    match = re.fullmatch(rf"livenessprobe\.{host}\.([\w.-]+)\.log\.INFO\.(\d{{8}}-\d{{6}})\.{os.getpid()}", name)
    assert match is not None
    assert before <= match[2] <= after


@pytest.mark.parametrize(
    ("program", "host", "user", "beginning"),
    [
        ("/livenessprobe", "node1.example.com", "root", "livenessprobe.node1.root.log."),
        ("livenessprobe", "node1", "DOMAIN\\a b", "livenessprobe.node1.DOMAIN_a_b.log."),
        ("/bin/other", "node1", None, "other.node1.unknownuser.log."),  # a uid without a passwd entry, as in most containers
        ("", "node1", "root", "livenessprobe.node1.root.log."),
    ],
)
def test_names_of_host_and_user_are_made_safe_for_a_file_name(
    program: str, host: str, user: str | None, beginning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        if user is None:
            raise KeyError("getpwuid(): uid not found")
        return user

    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(getpass, "getuser", getuser)

    Files(log_dir=str(tmp_path)).write("I one")

    path = dated(tmp_path)["INFO"]
    assert path.name.startswith(beginning)
    assert "\nRunning on machine: node1\n" in path.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_umask_decides_who_reads_the_log(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Files(log_file=str(tmp_path / "log")).write("I one")
        os.umask(0)
        Files(log_file=str(tmp_path / "open")).write("I one")
    finally:
        os.umask(before)

    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("log", "open")] == [0o640, 0o666]


@pytest.mark.skipif(sys.platform == "win32", reason="symlinks need a privilege on Windows")
def test_a_link_without_a_date_leads_to_the_newest_file(tmp_path: Path) -> None:
    (tmp_path / "livenessprobe.ERROR").symlink_to("an-older-one")

    Files(log_dir=str(tmp_path)).write("E one")

    files = dated(tmp_path)
    assert {path.name: os.readlink(path) for path in tmp_path.iterdir() if path.is_symlink()} == {
        "livenessprobe.INFO": files["INFO"].name,
        "livenessprobe.WARNING": files["WARNING"].name,
        "livenessprobe.ERROR": files["ERROR"].name,
    }


def test_a_file_at_the_path_of_the_link_is_kept(tmp_path: Path) -> None:
    """The link is a convenience; a file of that name may belong to another program."""
    (tmp_path / "livenessprobe.INFO").write_text("mine")
    files = Files(log_dir=str(tmp_path), skip_log_headers=True)

    files.write("I one")

    assert (tmp_path / "livenessprobe.INFO").read_text() == "mine"
    (log,) = (path for path in tmp_path.iterdir() if ".log." in path.name)
    assert log.read_text() == "I one\n"
    assert files.errors == []


def test_without_log_dir_files_are_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    Files().write("I one")

    assert list(dated(tmp_path)) == ["INFO"]


# --- headers


def test_every_file_begins_with_klogs_four_lines(tmp_path: Path) -> None:
    Files(log_dir=str(tmp_path)).write("W one", "W two")

    for path in dated(tmp_path).values():
        text = path.read_text()
        header = HEADER.match(text)
        assert header is not None
        assert text[header.end() :] == "W one\nW two\n"


def test_skip_log_headers_leaves_the_records(tmp_path: Path) -> None:
    Files(log_file=str(tmp_path / "log"), skip_log_headers=True).write("I one")

    assert (tmp_path / "log").read_text() == "I one\n"


# --- -log_file


@pytest.mark.parametrize("one_output", [False, True])
def test_a_log_file_gets_every_record_once(one_output: bool, tmp_path: Path) -> None:
    """With -log_file, -log_dir and -one_output have no effect."""
    Files(
        log_file=str(tmp_path / "log"), log_dir=str(tmp_path / "none"), one_output=one_output, skip_log_headers=True
    ).write("I one", "W two", "E three", "F four")

    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert (tmp_path / "log").read_text().splitlines() == ["I one", "W two", "E three", "F four"]


def test_a_log_file_is_appended_to_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of yesterday\n")

    Files(log_file=str(log)).write("I one")

    text = log.read_text()
    assert text.startswith("of yesterday\nLog file created at: ")
    assert HEADER.fullmatch(text.removeprefix("of yesterday\n").removesuffix("I one\n"))


def test_two_processes_can_append_to_one_file(tmp_path: Path) -> None:
    first = Files(log_file=str(tmp_path / "log"), skip_log_headers=True)
    second = Files(log_file=str(tmp_path / "log"), skip_log_headers=True)

    first.write("I one")
    second.write("I two")
    first.write("I three")

    assert (tmp_path / "log").read_text() == "I one\nI two\nI three\n"


def test_a_full_log_file_is_emptied(tmp_path: Path) -> None:
    """-log_file_max_size is in MB; the record that would reach it begins a new file with a new header."""
    log = tmp_path / "log"
    line = "I " + "x" * (256 * 1024 - 3)  # with its newline a quarter of a MiB
    files = Files(log_file=str(log), log_file_max_size=1)

    files.write(line, line, line)
    assert 3 * 256 * 1024 < log.stat().st_size < 1024 * 1024

    files.write(f"{line} last")
    text = log.read_text()
    header = HEADER.match(text)
    assert header is not None
    assert text[header.end() :] == f"{line} last\n"

    files.write("I more")
    assert log.read_text() == f"{text}I more\n"


@pytest.mark.parametrize(("room", "kept"), [(5, False), (6, True)])
def test_a_record_that_would_reach_the_limit_begins_a_new_file(room: int, kept: bool, tmp_path: Path) -> None:
    """klog rotates at the limit, not beyond it."""
    log = tmp_path / "log"
    log.write_text("x" * (1024 * 1024 - room - len("I 1\n")))
    files = Files(log_file=str(log), log_file_max_size=1, skip_log_headers=True)

    files.write("I 1", "I 12")  # the first opens the file, the second has 5 bytes

    assert log.read_text().endswith("I 1\nI 12\n") is kept


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many files are open")
def test_rotation_closes_the_old_file(tmp_path: Path) -> None:
    files = Files(log_file=str(tmp_path / "log"), log_file_max_size=1)
    line = "I " + "x" * (700 * 1024)
    files.write(line)
    before = len(os.listdir("/proc/self/fd"))

    files.write(line, line, line)

    assert len(os.listdir("/proc/self/fd")) == before


def test_bytes_from_before_the_start_count_for_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * (1024 * 1024 - 20))
    files = Files(log_file=str(log), log_file_max_size=1, skip_log_headers=True)

    files.write("I one", "I two is too much")

    assert log.read_text() == "I two is too much\n"


def test_a_log_file_of_size_0_is_unlimited(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * (1024 * 1024 * 2))

    Files(log_file=str(log), log_file_max_size=0, skip_log_headers=True).write("I one", "I two")

    assert log.stat().st_size == 1024 * 1024 * 2 + len("I one\nI two\n")


def test_the_size_limit_is_for_log_file_only(tmp_path: Path) -> None:
    """In folders klog's own limit of 1800 MB counts."""
    files = Files(log_dir=str(tmp_path), log_file_max_size=1, skip_log_headers=True)
    line = "I " + "x" * (600 * 1024)

    files.write(line, line, line)

    assert contents(tmp_path) == {"INFO": [line, line, line]}


# --- errors


def test_a_missing_folder_is_reported_once(tmp_path: Path, clock: SimpleNamespace) -> None:
    files = Files(log_dir=str(tmp_path / "missing"))

    files.write("I one", "E two")
    clock.now += LogFiles.RETRY_SECONDS - 1
    files.write("I three")

    (error,) = files.errors
    assert error.startswith("cannot write log file: ")
    assert str(tmp_path / "missing") in error.replace("\\\\", "\\")
    assert error.endswith("; trying again in 60s")


def test_a_failed_file_is_tried_again_after_a_minute(tmp_path: Path, clock: SimpleNamespace) -> None:
    files = Files(log_dir=str(tmp_path / "late"), skip_log_headers=True)
    files.write("E lost")
    (tmp_path / "late").mkdir()

    files.write("E lost too")
    assert contents(tmp_path / "late") == {}

    clock.now += LogFiles.RETRY_SECONDS
    files.write("E kept")
    assert contents(tmp_path / "late") == {name: ["E kept"] for name in ("INFO", "WARNING", "ERROR")}
    assert len(files.errors) == 1


def test_a_lasting_error_is_reported_every_minute(tmp_path: Path, clock: SimpleNamespace) -> None:
    files = Files(log_file=str(tmp_path / "missing" / "log"))

    for _ in range(180):
        files.write("I one")
        clock.now += 1.0

    assert len(files.errors) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_reported_and_raises_nothing() -> None:
    files = Files(log_file="/dev/full")

    files.write("I one", "E two")

    assert files.errors == ["cannot write log file: [Errno 28] No space left on device; trying again in 60s"]


def test_a_folder_in_place_of_the_file_raises_nothing(tmp_path: Path) -> None:
    files = Files(log_file=str(tmp_path))

    files.write("I one")

    assert len(files.errors) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")
def test_a_fifo_without_a_reader_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    files = Files(log_file=str(tmp_path / "log"))

    files.write("I one")

    assert len(files.errors) == 1


def test_an_impossible_file_name_raises_nothing() -> None:
    files = Files(log_file="/a\0b")

    files.write("I one")

    assert len(files.errors) == 1


def test_a_line_of_any_text_is_written(tmp_path: Path) -> None:
    """Surrogates that no encoding can write do not stop the log."""
    files = Files(log_file=str(tmp_path / "log"), skip_log_headers=True)

    files.write("I é 世界 \ud800", "I next")

    assert (tmp_path / "log").read_bytes().decode() == "I é 世界 \\ud800\nI next\n"
    assert files.errors == []
