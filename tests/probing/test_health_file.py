"""The health file: its content, its expiry, and its respect for other things at its path."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from livenessprobe.probing import health_file
from livenessprobe.probing.health_file import HealthFileError, read, remove, write
from tests.support import not_on_windows


class Clock:
    """Replaces the clock of the machine's uptime and the wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uptime = 5000.0
        self.wall = 1_700_000_000.0
        monkeypatch.setattr(health_file.time, "monotonic", lambda: self.uptime)
        monkeypatch.setattr(health_file.time, "time", lambda: self.wall)

    def go(self, seconds: float) -> None:
        self.uptime += seconds
        self.wall += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def path(folder: Path) -> str:
    return str(folder / "health")


# --- writing


def test_the_content_is_one_line_of_json(path: str, clock: Clock) -> None:
    write(path, "csi.example.com", 14.0, age=0.5)

    content = Path(path).read_text()
    assert content.endswith("}\n")
    assert content.count("\n") == 1
    assert json.loads(content) == {
        "driver": "csi.example.com",
        "time": "2023-11-14T22:13:19Z",
        "expires": "2023-11-14T22:13:33Z",
        "uptime": 4999.5,
        "lasts": 14.0,
    }
    assert os.listdir(os.path.dirname(path)) == ["health"]


def test_without_an_age_the_result_is_of_now(path: str, clock: Clock) -> None:
    write(path, "d", 14.0)

    assert json.loads(Path(path).read_text())["uptime"] == clock.uptime


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.floats(0, 1e10), st.floats(0, 1e3))
def test_a_written_file_can_be_read(path: str, driver: str, lasts: float, age: float) -> None:
    write(path, driver, lasts + age + 3600, age)

    assert read(path) == driver


def test_an_older_file_is_replaced(path: str) -> None:
    Path(path).write_text("something\nmuch longer" * 100)
    write(path, "one", 60.0)
    write(path, "two", 60.0)

    assert read(path) == "two"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_all_users_may_read_it_whatever_the_umask(path: str, umask: int) -> None:
    """An exec probe may run as another user."""
    before = os.umask(umask)
    try:
        write(path, "d", 60.0)
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(path).st_mode) == (0o644 if sys.platform != "win32" else 0o666)


@not_on_windows("a file has no such mode")
def test_no_other_user_may_write_it_even_for_a_moment(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that opens the file before its mode is set could write to it ever after."""
    modes: list[int] = []
    chmod = os.chmod

    def look_first(name: str, mode: int) -> None:
        modes.append(stat.S_IMODE(os.stat(name).st_mode))
        chmod(name, mode)

    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "chmod", look_first)
            write(path, "d", 60.0)
    finally:
        os.umask(before)

    assert modes == [0o644]


@not_on_windows("a file cannot be replaced while it is read; tests/windows tests that")
def test_a_reader_never_sees_half_a_file(path: str) -> None:
    """Names of very different lengths, so that a read in the middle of a write in place would be noticed."""
    drivers = ["d", "e" * 50_000]
    write(path, drivers[0], 60.0)
    stop, seen, faults = threading.Event(), set(), []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.add(read(path))
            except HealthFileError as fault:
                faults.append(fault)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(400):
        write(path, drivers[number % 2], 60.0)
    stop.set()
    for reader in readers:
        reader.join()

    assert faults == []
    assert seen == set(drivers)


# --- expiry


@pytest.mark.parametrize(("later", "counts"), [(0.0, True), (13.999, True), (14.0, True), (14.001, False), (1e9, False)])
@pytest.mark.parametrize("age", [0.0, 0.75])
def test_it_counts_until_it_expires(path: str, clock: Clock, age: float, later: float, counts: bool) -> None:
    """Counted from the probe, not from the write."""
    write(path, "d", 14.0, age)
    clock.go(max(later - age, 0.0))
    if counts:
        assert read(path) == "d"
    else:
        with pytest.raises(
            HealthFileError, match=f"^{re.escape(path)} is of 2023-11-14T22:13:..Z and has expired: livenessprobe does not"
        ):
            read(path)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1e8), st.floats(0, 100))
def test_a_new_file_counts_at_once_whatever_the_clocks_rounding(path: str, clock: Clock, uptime: float, age: float) -> None:
    clock.uptime = uptime
    write(path, "d", age + 1.0, age)

    assert read(path) == "d"


def test_a_file_from_before_a_restart_of_the_machine_has_expired(path: str, clock: Clock) -> None:
    """Then its uptime lies in the future."""
    write(path, "d", 1e9)
    clock.uptime = 30.0

    with pytest.raises(HealthFileError, match="has expired"):
        read(path)


def test_a_changed_wall_clock_does_not_change_the_expiry(path: str, clock: Clock) -> None:
    write(path, "d", 14.0)
    assert json.loads(Path(path).read_text())["uptime"] == clock.uptime
    for wall in (0.0, 2_000_000_000.0):
        clock.wall = wall
        assert read(path) == "d"


def test_the_two_times_in_the_file_agree(path: str) -> None:
    write(path, "d", 3600.0)
    content = json.loads(Path(path).read_text())

    assert (datetime.fromisoformat(content["expires"]) - datetime.fromisoformat(content["time"])).total_seconds() in (
        3599,
        3600,
        3601,
    )


# --- reading anything else


def test_a_missing_file_means_a_driver_that_is_not_healthy(path: str) -> None:
    with pytest.raises(
        HealthFileError, match=f"^{re.escape(path)} does not exist: the driver is not healthy, or has not been probed yet$"
    ):
        read(path)


GOOD = {"driver": "d", "time": "t", "uptime": 0.0, "lasts": 1e12}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"ok",
        b"\xff\xfe\x00",
        b"{",
        b'{"driver": "d"',
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"{}",
        b"[" * 60_000,
        b"1" * 60_000,
        json.dumps(GOOD).encode().rjust(65_537),  # one byte more than is read
        json.dumps(GOOD | {"driver": "é" * 40_000}, ensure_ascii=False).encode(),  # the limit is in bytes
        *(json.dumps({name: value for name, value in GOOD.items() if name != left_out}).encode() for left_out in GOOD),
        *(
            json.dumps(GOOD | {name: value}).encode()
            for name in ("uptime", "lasts")
            for value in (None, "3", "", [], {}, [1.0])
        ),
        json.dumps(GOOD | {"uptime": 10**400}).encode(),
        json.dumps(GOOD | {"uptime": -(10**400)}).encode(),
    ],
)
def test_any_other_content_is_refused(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(HealthFileError, match=f"^{re.escape(path)} is not a health file of livenessprobe$"):
        read(path)


def test_a_file_of_64_kib_is_read(path: str) -> None:
    Path(path).write_bytes(json.dumps(GOOD).encode().rjust(65_536))

    assert read(path) == "d"


@not_on_windows("what is below a file does not exist")
def test_a_failed_read_has_a_reason(path: str) -> None:
    Path(path).touch()
    with pytest.raises(HealthFileError, match=f"^{path}/below cannot be read: Not a directory$"):
        read(f"{path}/below")


@pytest.mark.parametrize(("name", "value"), [("uptime", 1e300), ("uptime", float("nan")), ("lasts", -1), ("lasts", 0)])
def test_impossible_numbers_count_as_expired(path: str, name: str, value: float) -> None:
    Path(path).write_text(json.dumps(GOOD | {name: value}))
    with pytest.raises(HealthFileError, match="has expired"):
        read(path)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner, max_size=5),
        max_leaves=12,
    )
)
def test_any_json_is_a_name_or_an_error_sentence(path: str, value: object) -> None:
    Path(path).write_text(json.dumps(value))
    try:
        assert isinstance(read(path), str)
    except HealthFileError as error:
        assert path in str(error)


@pytest.fixture(params=["folder", "FIFO", "socket", "link", "link to nowhere"] if sys.platform != "win32" else ["folder"])
def not_a_file(request: pytest.FixtureRequest, path: str) -> Iterator[str]:
    """Something other than a plain file at the path."""
    listener = socket.socket(socket.AF_UNIX if sys.platform != "win32" else socket.AF_INET)
    match request.param:
        case "folder":
            os.mkdir(path)
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            listener.bind(path)
        case "link":
            Path(f"{path}.other").write_text("precious")
            os.symlink(f"{path}.other", path)
        case _:
            os.symlink(f"{path}.nowhere", path)
    yield path
    listener.close()


def test_only_a_plain_file_is_replaced_or_removed(not_a_file: str) -> None:
    """A typing error in --health-file must not delete a driver's socket."""
    before, beside = os.lstat(not_a_file), sorted(os.listdir(os.path.dirname(not_a_file)))
    for action in (lambda: write(not_a_file, "d", 60.0), lambda: remove(not_a_file)):
        with pytest.raises(
            HealthFileError, match=f"^{re.escape(not_a_file)} exists and is not a regular file; choose another path"
        ):
            action()

    after = os.lstat(not_a_file)
    assert (after.st_mode, after.st_ino, after.st_ctime_ns) == (before.st_mode, before.st_ino, before.st_ctime_ns)
    assert sorted(os.listdir(os.path.dirname(not_a_file))) == beside
    if os.path.exists(f"{not_a_file}.other"):
        assert Path(f"{not_a_file}.other").read_text() == "precious"


def test_reading_something_else_than_a_file_does_not_hang(not_a_file: str) -> None:
    """Reading a FIFO would hang, and so would the exec probe."""
    with pytest.raises(HealthFileError, match=f"^{re.escape(not_a_file)} "):
        read(not_a_file)


@not_on_windows("only administrators make links")
def test_a_link_to_the_file_can_be_read(path: str) -> None:
    write(path, "d", 60.0)
    os.symlink(path, f"{path}.link")

    assert read(f"{path}.link") == "d"


# --- failed writes


@not_on_windows("only administrators make links")
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(path: str, folder: Path) -> None:
    """In /tmp any user can make one."""
    other = folder / "other"
    other.write_text("precious")
    os.symlink(other, f"{path}.new")
    write(path, "d", 60.0)

    assert other.read_text() == "precious"
    assert read(path) == "d"
    assert not os.path.islink(path)
    assert sorted(os.listdir(folder)) == ["health", "other"]


@not_on_windows("only administrators make links")
def test_a_link_made_at_the_last_moment_is_not_followed_either(
    path: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may make the link between the unlink and the open."""
    other = folder / "other"
    other.write_text("precious")
    unlink = os.unlink

    def unlink_and_make_a_link(name: str) -> None:
        unlink(name)
        os.symlink(other, name)

    os.symlink(other, f"{path}.new")
    with monkeypatch.context() as patch, pytest.raises(HealthFileError, match="cannot be written: File exists$"):
        patch.setattr(os, "unlink", unlink_and_make_a_link)
        write(path, "d", 60.0)

    assert other.read_text() == "precious"


def test_a_half_written_file_of_an_earlier_process_is_replaced(path: str, folder: Path) -> None:
    Path(f"{path}.new").write_text('{"driver": "ha')
    write(path, "d", 60.0)

    assert read(path) == "d"
    assert os.listdir(folder) == ["health"]


def test_a_failed_write_removes_the_old_file(path: str) -> None:
    """The old file would go on saying that the driver is healthy."""
    write(path, "d", 60.0)
    os.mkdir(f"{path}.new")  # no file can be created at this path
    with pytest.raises(HealthFileError, match=f"^health file {re.escape(path)} cannot be written: "):
        write(path, "d", 60.0)

    assert not os.path.exists(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_old_file_is_removed_to_make_space(
    path: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    replace = os.replace

    def replace_if_the_old_file_is_gone(new: str, old: str) -> None:
        if os.path.exists(old):
            raise OSError(number, os.strerror(number))
        replace(new, old)

    write(path, "one", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_if_the_old_file_is_gone)
        write(path, "two", 60.0)

    assert read(path) == "two"


@pytest.mark.parametrize(
    ("platform", "refusals", "asked"),
    [("linux", 0, 1), ("linux", 1, 1), ("win32", 0, 1), ("win32", 20, 21), ("win32", 21, 21)],
)
def test_on_windows_a_replace_is_retried_while_the_file_is_read(
    path: str, monkeypatch: pytest.MonkeyPatch, platform: str, refusals: int, asked: int
) -> None:
    replace, calls, pauses = os.replace, [], []

    def refuse_at_first(new: str, old: str) -> None:
        calls.append((new, old))
        if len(calls) <= refusals:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(new, old)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        patch.setattr(os, "replace", refuse_at_first)
        patch.setattr(health_file.time, "sleep", pauses.append)
        if refusals < asked:
            write(path, "d", 60.0)
        else:
            with pytest.raises(HealthFileError, match="cannot be written: Permission denied$"):
                write(path, "d", 60.0)

    assert calls == [(f"{path}.new", path)] * asked
    assert pauses == [0.01] * (asked - 1)


def test_a_missing_folder_is_an_error_sentence(folder: Path) -> None:
    with pytest.raises(HealthFileError, match="cannot be written: No such file or directory$"):
        write(f"{folder}/none/health", "d", 60.0)
    remove(f"{folder}/none/health")


@pytest.fixture
def read_only_folder(folder: Path) -> Iterator[str]:
    """The path of a health file in a folder where nothing can be made or removed."""
    if sys.platform == "win32":
        pytest.skip("Windows: a folder's mode does not forbid anything")
    path = str(folder / "health")
    write(path, "d", 60.0)
    os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    root = os.geteuid() == 0
    if root:  # modes do not restrict root
        os.chown(path, 65534, 65534)
        os.seteuid(65534)
    yield path
    if root:
        os.seteuid(0)
    os.chmod(folder, 0o755)


def test_a_folder_without_write_permission_is_an_error_sentence(read_only_folder: str) -> None:
    """The old file cannot be removed either, so it counts until it expires."""
    with pytest.raises(HealthFileError, match=f"^health file {read_only_folder} cannot be written: Permission denied$"):
        write(read_only_folder, "d", 60.0)
    with pytest.raises(HealthFileError, match=f"^health file {read_only_folder} cannot be removed: Permission denied$"):
        remove(read_only_folder)
    assert read(read_only_folder) == "d"


@pytest.mark.parametrize("action", [remove, lambda path: write(path, "d", 60.0)])
def test_a_file_that_cannot_be_removed_is_emptied(read_only_folder: str, action: Callable[[str], None]) -> None:
    """An empty file is no health file, so it does not count."""
    os.chmod(read_only_folder, 0o644)
    with pytest.raises(HealthFileError, match=f"^health file {read_only_folder} cannot be "):
        action(read_only_folder)
    with pytest.raises(HealthFileError, match="is not a health file"):
        read(read_only_folder)


def test_removing_twice_is_no_error(path: str) -> None:
    write(path, "d", 60.0)
    remove(path)
    remove(path)

    assert not os.path.exists(path)
