"""The health file: what is in it, when it counts, and what it never does to what is in its place."""

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
    """The clock of the machine's uptime, and the one on the wall."""

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


# --- what is written


def test_what_is_written_is_one_line_of_json(path: str, clock: Clock) -> None:
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


def test_it_is_of_now_unless_it_is_said_to_be_older(path: str, clock: Clock) -> None:
    write(path, "d", 14.0)

    assert json.loads(Path(path).read_text())["uptime"] == clock.uptime


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.floats(0, 1e10), st.floats(0, 1e3))
def test_what_is_written_is_read(path: str, driver: str, lasts: float, age: float) -> None:
    write(path, driver, lasts + age + 3600, age)

    assert read(path) == driver


def test_what_was_there_is_replaced(path: str) -> None:
    Path(path).write_text("something\nmuch longer" * 100)
    write(path, "one", 60.0)
    write(path, "two", 60.0)

    assert read(path) == "two"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_everybody_may_read_it_whatever_the_umask(path: str, umask: int) -> None:
    """An exec probe may run as another user."""
    before = os.umask(umask)
    try:
        write(path, "d", 60.0)
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(path).st_mode) == (0o644 if sys.platform != "win32" else 0o666)


@not_on_windows("a file has no such mode")
def test_nobody_else_may_write_it_even_for_a_moment(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user that opens the file before its mode is set could write to it from then on."""
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


@not_on_windows("nothing replaces a file that somebody never stops to read; tests/windows has one who does")
def test_a_reader_never_sees_half_a_file(path: str) -> None:
    """Names of very different lengths, so that a file written in place would be caught half-way."""
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


# --- how long it counts


@pytest.mark.parametrize(
    ("later", "counts"),
    [(0.0, True), (13.999, True), (14.0, True), (14.001, False), (1e9, False)],
)
@pytest.mark.parametrize("age", [0.0, 0.75])
def test_it_counts_until_it_expires(path: str, clock: Clock, age: float, later: float, counts: bool) -> None:
    """Counted from the probe, not from the writing."""
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
def test_it_counts_at_once_however_the_clock_is_rounded(path: str, clock: Clock, uptime: float, age: float) -> None:
    clock.uptime = uptime
    write(path, "d", age + 1.0, age)

    assert read(path) == "d"


def test_one_from_before_a_restart_of_the_machine_has_expired(path: str, clock: Clock) -> None:
    """Its uptime lies in the future then."""
    write(path, "d", 1e9)
    clock.uptime = 30.0

    with pytest.raises(HealthFileError, match="has expired"):
        read(path)


def test_a_wall_clock_that_is_set_changes_nothing(path: str, clock: Clock) -> None:
    write(path, "d", 14.0)
    assert json.loads(Path(path).read_text())["uptime"] == clock.uptime
    for wall in (0.0, 2_000_000_000.0):
        clock.wall = wall
        assert read(path) == "d"


def test_the_times_are_for_people_and_agree(path: str) -> None:
    write(path, "d", 3600.0)
    content = json.loads(Path(path).read_text())

    assert (datetime.fromisoformat(content["expires"]) - datetime.fromisoformat(content["time"])).total_seconds() in (
        3599,
        3600,
        3601,
    )


# --- what is no such file


def test_none_is_a_driver_that_is_not_healthy(path: str) -> None:
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
        json.dumps(GOOD).encode().rjust(65_537),  # one byte beyond what is read
        json.dumps(GOOD | {"driver": "é" * 40_000}, ensure_ascii=False).encode(),  # it is bytes that count
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
def test_what_is_no_health_file_says_so(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(HealthFileError, match=f"^{re.escape(path)} is not a health file of livenessprobe$"):
        read(path)


def test_64_kib_are_read(path: str) -> None:
    Path(path).write_bytes(json.dumps(GOOD).encode().rjust(65_536))

    assert read(path) == "d"


@not_on_windows("what is below a file does not exist")
def test_what_cannot_be_read_says_why(path: str) -> None:
    Path(path).touch()
    with pytest.raises(HealthFileError, match=f"^{path}/below cannot be read: Not a directory$"):
        read(f"{path}/below")


@pytest.mark.parametrize(("name", "value"), [("uptime", 1e300), ("uptime", float("nan")), ("lasts", -1), ("lasts", 0)])
def test_numbers_that_make_no_sense_have_expired(path: str, name: str, value: float) -> None:
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
def test_no_json_ends_in_anything_but_a_name_or_a_sentence(path: str, value: object) -> None:
    Path(path).write_text(json.dumps(value))
    try:
        assert isinstance(read(path), str)
    except HealthFileError as error:
        assert path in str(error)


@pytest.fixture(params=["folder", "FIFO", "socket", "link", "link to nowhere"] if sys.platform != "win32" else ["folder"])
def thing(request: pytest.FixtureRequest, path: str) -> Iterator[str]:
    """The path of something else than a regular file."""
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


def test_what_is_no_plain_file_is_left_alone(thing: str) -> None:
    """A typing error must not cost a driver its socket."""
    before, beside = os.lstat(thing), sorted(os.listdir(os.path.dirname(thing)))
    for action in (lambda: write(thing, "d", 60.0), lambda: remove(thing)):
        with pytest.raises(
            HealthFileError, match=f"^{re.escape(thing)} exists and is not a regular file; choose another path"
        ):
            action()

    after = os.lstat(thing)
    assert (after.st_mode, after.st_ino, after.st_ctime_ns) == (before.st_mode, before.st_ino, before.st_ctime_ns)
    assert sorted(os.listdir(os.path.dirname(thing))) == beside
    if os.path.exists(f"{thing}.other"):
        assert Path(f"{thing}.other").read_text() == "precious"


def test_what_is_no_plain_file_is_not_waited_for(thing: str) -> None:
    """Reading a FIFO would hang, and an exec probe with it."""
    with pytest.raises(HealthFileError, match=f"^{re.escape(thing)} "):
        read(thing)


@not_on_windows("only administrators make links")
def test_a_reader_may_be_led_there_by_a_link(path: str) -> None:
    write(path, "d", 60.0)
    os.symlink(path, f"{path}.link")

    assert read(f"{path}.link") == "d"


# --- when it cannot be written


@not_on_windows("only administrators make links")
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(path: str, folder: Path) -> None:
    """In /tmp every user can put a link there."""
    other = folder / "other"
    other.write_text("precious")
    os.symlink(other, f"{path}.new")
    write(path, "d", 60.0)

    assert other.read_text() == "precious"
    assert read(path) == "d"
    assert not os.path.islink(path)
    assert sorted(os.listdir(folder)) == ["health", "other"]


@not_on_windows("only administrators make links")
def test_a_link_that_comes_at_the_last_moment_is_not_followed_either(
    path: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may put a link there between the check and the creation."""
    other = folder / "other"
    other.write_text("precious")
    unlink = os.unlink

    def unlink_and_be_quicker(name: str) -> None:
        unlink(name)
        os.symlink(other, name)

    os.symlink(other, f"{path}.new")
    with monkeypatch.context() as patch, pytest.raises(HealthFileError, match="cannot be written: File exists$"):
        patch.setattr(os, "unlink", unlink_and_be_quicker)
        write(path, "d", 60.0)

    assert other.read_text() == "precious"


def test_what_an_earlier_process_left_half_written_is_in_nobodys_way(path: str, folder: Path) -> None:
    Path(f"{path}.new").write_text('{"driver": "ha')
    write(path, "d", 60.0)

    assert read(path) == "d"
    assert os.listdir(folder) == ["health"]


def test_a_failed_write_takes_the_old_file_away(path: str) -> None:
    """It would go on saying that all is well."""
    write(path, "d", 60.0)
    os.mkdir(f"{path}.new")  # nothing can be made there
    with pytest.raises(HealthFileError, match=f"^health file {re.escape(path)} cannot be written: "):
        write(path, "d", 60.0)

    assert not os.path.exists(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_may_have_room_once_the_old_file_is_gone(
    path: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    replace = os.replace

    def replace_if_there_is_room(new: str, old: str) -> None:
        if os.path.exists(old):
            raise OSError(number, os.strerror(number))
        replace(new, old)

    write(path, "one", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_if_there_is_room)
        write(path, "two", 60.0)

    assert read(path) == "two"


@pytest.mark.parametrize(
    ("platform", "refusals", "asked"),
    [("linux", 0, 1), ("linux", 1, 1), ("win32", 0, 1), ("win32", 20, 21), ("win32", 21, 21)],
)
def test_windows_is_asked_again_while_somebody_reads(
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


def test_a_folder_that_is_missing_is_a_sentence(folder: Path) -> None:
    with pytest.raises(HealthFileError, match="cannot be written: No such file or directory$"):
        write(f"{folder}/none/health", "d", 60.0)
    remove(f"{folder}/none/health")


@pytest.fixture
def locked(folder: Path) -> Iterator[str]:
    """The path of a health file in a folder where nothing can be made or removed."""
    if sys.platform == "win32":
        pytest.skip("Windows: a folder's mode keeps nobody out")
    path = str(folder / "health")
    write(path, "d", 60.0)
    os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    root = os.geteuid() == 0
    if root:  # whom no mode keeps out
        os.chown(path, 65534, 65534)
        os.seteuid(65534)
    yield path
    if root:
        os.seteuid(0)
    os.chmod(folder, 0o755)


def test_a_folder_that_is_locked_is_a_sentence(locked: str) -> None:
    """The old file cannot be taken away, and so its expiry is what ends it."""
    with pytest.raises(HealthFileError, match=f"^health file {locked} cannot be written: Permission denied$"):
        write(locked, "d", 60.0)
    with pytest.raises(HealthFileError, match=f"^health file {locked} cannot be removed: Permission denied$"):
        remove(locked)
    assert read(locked) == "d"


@pytest.mark.parametrize("action", [remove, lambda path: write(path, "d", 60.0)])
def test_what_cannot_be_taken_away_is_emptied(locked: str, action: Callable[[str], None]) -> None:
    """So that it says nothing, if it may be written at least."""
    os.chmod(locked, 0o644)
    with pytest.raises(HealthFileError, match=f"^health file {locked} cannot be "):
        action(locked)
    with pytest.raises(HealthFileError, match="is not a health file"):
        read(locked)


def test_what_is_removed_is_gone_and_may_be_gone_already(path: str) -> None:
    write(path, "d", 60.0)
    remove(path)
    remove(path)

    assert not os.path.exists(path)
