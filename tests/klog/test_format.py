"""Records as text and as JSON, compared with klog's output for the same call."""

from __future__ import annotations

import calendar
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livenessprobe.klog.format import Options, Record, render_json, render_text
from livenessprobe.settings.flags import FLAGS

BARE = Options(skip_headers=True)
CALLER = ("/src/k/main.go", 11)
WALL = calendar.timegm((2026, 11, 21, 2, 19, 53)) + 0.25
BROKEN = b"bad\xff\xfe\xc3".decode(errors="surrogateescape")


def info(message: str, *pairs: tuple[str, object], level: int = 0) -> Record:
    return Record("I", level, message, pairs, None, CALLER, WALL)


def error(message: str, err: object | None, *pairs: tuple[str, object]) -> Record:
    return Record("E", 0, message, pairs, err, CALLER, WALL)


# --- text and JSON


@pytest.mark.parametrize(
    ("record", "text", "members"),
    [
        (info("num", ("i", 42), ("neg", -3), ("b", True)), '"num" i=42 neg=-3 b=true', '"v":0,"i":42,"neg":-3,"b":true'),
        (info("f", ("f", 1.5), ("no", False)), '"f" f=1.5 no=false', '"v":0,"f":1.5,"no":false'),
        (
            info("map", ("m", {"b": 2, "a": 1}), ("mi", {2: "<x>"}), ("empty", {})),
            '"map" m={"a":1,"b":2} mi={"2":"\\u003cx\\u003e"} empty={}',
            '"v":0,"m":{"a":1,"b":2},"mi":{"2":"<x>"},"empty":{}',
        ),
        (
            info("slice", ("s", ["a", 'b"c', "d\ne", "é"])),
            '"slice" s=["a","b\\"c","d\\ne","é"]',
            '"v":0,"s":["a","b\\"c","d\\ne","é"]',
        ),
        (info("nil", ("n", None)), '"nil" n=null', '"v":0,"n":null'),
        (
            info("struct", ("s", {"A": 1, "b": "x<y>&", "C": None})),
            '"struct" s={"A":1,"C":null,"b":"x\\u003cy\\u003e\\u0026"}',
            '"v":0,"s":{"A":1,"C":null,"b":"x<y>&"}',
        ),
        (info("other", ("day", [date(2026, 1, 2)])), '"other" day=["2026-01-02"]', '"v":0,"day":["2026-01-02"]'),
        (info("same", ("k", 1), ("k", 1)), '"same" k=1', '"v":0,"k":1,"k":1'),
        (info("dup", ("k", 1), ("k", 2), ("k", 1)), '"dup" k=1', '"v":0,"k":1,"k":2,"k":1'),
        (
            info("stringer", ("e", ValueError("multi\nline")), ("s", "")),
            '"stringer" e=<\n\tmulti\n\tline\n > s=""',
            '"v":0,"e":"multi\\nline","s":""',
        ),
        (
            info("keys", ("with space", "v"), ("uni→", "v")),
            '"keys" with space="v" uni→="v"',
            '"v":0,"with space":"v","uni→":"v"',
        ),
        (info("at 5", level=5), '"at 5"', '"v":5'),
        (
            info("GRPC response", ("response", "{}"), ("err", None)),
            '"GRPC response" response="{}" err=null',
            '"v":0,"response":"{}","err":null',
        ),
        # The error is first in text and last in JSON.
        (error("failed", "boom", ("k", "v")), '"failed" err="boom" k="v"', '"k":"v","err":"boom"'),
        (error("failed", ValueError("boom"), ("k", "v")), '"failed" err="boom" k="v"', '"k":"v","err":"boom"'),
        (
            error("err first", "boom", ("err", "other"), ("k", "v")),
            '"err first" err="other" k="v"',
            '"err":"other","k":"v","err":"boom"',
        ),
        (error("empty err", ""), '"empty err" err=""', '"err":""'),
    ],
    ids=lambda value: value.message if isinstance(value, Record) else "",
)
def test_a_record_is_printed_as_by_klog(record: Record, text: str, members: str) -> None:
    """No `v` on errors in JSON, keys sorted and HTML escaped in text only, equal keys merged in text only."""
    prefix = f'{{"ts":1795227593250.0,"caller":"k/main.go:11","msg":"{record.message}",'

    assert render_text(record, BARE) == text
    assert render_json(record) == f"{prefix}{members}}}"


def test_an_error_record_without_an_error_has_none() -> None:
    record = error("no err", None)

    assert render_text(record, BARE) == '"no err"'
    assert render_json(record) == '{"ts":1795227593250.0,"caller":"k/main.go:11","msg":"no err"}'


def test_any_message_is_quoted() -> None:
    record = info('msg with "quotes" and\nnewline', ("k", "v"))

    assert render_text(record, BARE) == '"msg with \\"quotes\\" and\\nnewline" k="v"'
    assert '"msg":"msg with \\"quotes\\" and\\nnewline","v":0,"k":"v"}' in render_json(record)


@pytest.mark.parametrize(
    ("value", "text", "in_json"),
    [
        ('a"b', '"a\\"b"', '"a\\"b"'),
        ("a\\b", '"a\\\\b"', '"a\\\\b"'),
        (
            "\a\b\f\v\r\t\x1b\x00\x7f",
            '"\\a\\b\\f\\v\\r\\t\\x1b\\x00\\x7f"',
            '"\\u0007\\u0008\\u000c\\u000b\\r\\t\\u001b\\u0000\x7f"',
        ),
        ("é ü 世界 😀", '"é ü 世界 😀"', '"é ü 世界 😀"'),
        ("a\u00a0b\u200bc\u2028", '"a\\u00a0b\\u200bc\\u2028"', '"a\u00a0b\u200bc\u2028"'),
        (BROKEN, '"bad\\xff\\xfe\\xc3"', '"bad\\ufffd\\ufffd\\ufffd"'),
        ("<a>&'`", '"<a>&\'`"', '"<a>&\'`"'),
        ("100% %s", '"100% %s"', '"100% %s"'),
        # A newline makes a block of raw lines; a newline at the end adds nothing.
        ("l1\nl2", "<\n\tl1\n\tl2\n >", '"l1\\nl2"'),
        ("l1\n", "<\n\tl1\n >", '"l1\\n"'),
        ("\nx", "<\n\t\n\tx\n >", '"\\nx"'),
        ("\n", "<\n\t\n >", '"\\n"'),
        ("a\n\nb", "<\n\ta\n\t\n\tb\n >", '"a\\n\\nb"'),
        ("a\n\n", "<\n\ta\n\t\n >", '"a\\n\\n"'),
        # Control characters are shown as escapes, except the carriage return of a Windows line end.
        ("\x1b[2J\nx", "<\n\t\\x1b[2J\n\tx\n >", '"\\u001b[2J\\nx"'),
        (
            "\x00\x08\x0b\x0c\x0e\n\x1f\x7f\x80\x9f\xa0",
            "<\n\t\\x00\\x08\\x0b\\x0c\\x0e\n\t\\x1f\\x7f\\x80\\x9f\xa0\n >",
            '"\\u0000\\u0008\\u000b\\u000c\\u000e\\n\\u001f\x7f\x80\x9f\xa0"',
        ),
        ("ok\rno\n", "<\n\tok\\x0dno\n >", '"ok\\rno\\n"'),
        ("a\n\r", "<\n\ta\n\t\r\n >", '"a\\n\\r"'),
        ('a\r\nb "q"\n\tt', '<\n\ta\r\n\tb "q"\n\t\tt\n >', '"a\\r\\nb \\"q\\"\\n\\tt"'),
    ],
)
def test_a_string_value_is_printed_as_by_klog(value: str, text: str, in_json: str) -> None:
    assert render_text(error("m", value), BARE) == f'"m" err={text}'
    assert render_text(info("m", ("k", value), ("z", 1)), BARE) == f'"m" k={text} z=1'
    assert render_json(error("m", value)).endswith(f'"msg":"m","err":{in_json}}}')
    assert render_json(info("m", ("k", value))).endswith(f'"msg":"m","v":0,"k":{in_json}}}')


@pytest.mark.parametrize(
    ("value", "text"), [(b"plain", '"plain"'), (b"ab\x00\xff\xc3\xa9", '"ab\\x00\\xff\\u00e9"'), (b"a\nb", '"a\\nb"')]
)
def test_bytes_are_one_line_of_ascii_in_text(value: bytes, text: str) -> None:
    """klog writes []byte with %+q, which never makes several lines."""
    assert render_text(info("m", ("bytes", value)), BARE) == f'"m" bytes={text}'


def test_bytes_are_base64_in_json() -> None:

    assert render_json(info("m", ("bytes", b"ab\x00\xff\xc3\xa9"))).endswith(',"bytes":"YWIA/8Op"}')


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        ("/usr/lib/livenessprobe/prober.py", "livenessprobe/prober.py"),
        ("C:\\app\\livenessprobe\\prober.py", "livenessprobe/prober.py"),
        ("livenessprobe/prober.py", "livenessprobe/prober.py"),
        ("prober.py", "prober.py"),
    ],
)
def test_json_has_the_last_folder_and_the_file_as_caller(caller: str, shown: str) -> None:
    record = Record("I", 0, "m", (), None, (caller, 7), 1795224600.6686082)

    assert render_json(record) == f'{{"ts":1795224600668.6082,"caller":"{shown}:7","msg":"m","v":0}}'


# --- the header of text


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Changes the time zone of this process until the test ends."""
    if sys.platform == "win32":
        pytest.skip("Windows has no tzset")

    def change(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "severity", "when"),
    [
        ("UTC", "I", "1121 02:19:53.250000"),
        ("UTC", "E", "1121 02:19:53.250000"),
        ("XXX-5:30", "W", "1121 07:49:53.250000"),
        ("XXX+3", "F", "1120 23:19:53.250000"),
    ],
)
def test_the_header_has_severity_local_time_process_and_place(
    zone: str, severity: str, when: str, set_zone: Callable[[str], None]
) -> None:
    set_zone(zone)

    line = render_text(Record(severity, 0, "m", (), None, ("/src/k/main.go", 137), WALL))

    assert line == f'{severity}{when} {os.getpid():7d} main.go:137] "m"'


def test_month_day_and_microseconds_keep_their_zeros(set_zone: Callable[[str], None]) -> None:
    set_zone("UTC")

    line = render_text(Record("I", 0, "m", (), None, CALLER, calendar.timegm((2026, 1, 2, 3, 4, 5)) + 2**-10))
    late = render_text(Record("I", 0, "m", (), None, CALLER, calendar.timegm((2026, 1, 2, 3, 4, 6)) - 2**-10))

    assert line.startswith("I0102 03:04:05.000976 ")
    assert late.startswith("I0102 03:04:05.999023 ")


@pytest.mark.parametrize("pid", [1, 10951, 4194304])
def test_the_process_number_is_padded_to_seven_columns(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: pid)

    assert re.fullmatch(rf'I\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} {pid:>7} main\.go:11\] "m"', render_text(info("m")))


def test_a_record_has_the_time_of_its_creation() -> None:
    before = time.time()

    assert before <= Record("I", 0, "m", (), None, CALLER).wall <= time.time()


@pytest.mark.parametrize(
    ("path", "plain", "with_folder"),
    [
        ("/usr/lib/livenessprobe/prober.py", "prober.py", "livenessprobe/prober.py"),
        ("C:\\app\\livenessprobe\\prober.py", "prober.py", "livenessprobe/prober.py"),
        ("/main.py", "main.py", "main.py"),
        ("livenessprobe/prober.py", "prober.py", "prober.py"),  # klog adds a folder only after a slash
        ("prober.py", "prober.py", "prober.py"),
    ],
)
def test_add_dir_header_adds_the_folder_of_the_source_file(path: str, plain: str, with_folder: str) -> None:
    record = Record("I", 0, "m", (), None, (path, 3), WALL)

    assert render_text(record).endswith(f' {plain}:3] "m"')
    assert render_text(record, Options(add_dir_header=True)).endswith(f' {with_folder}:3] "m"')


def test_skip_headers_leaves_the_message() -> None:
    assert render_text(info("m", ("k", 1)), Options(skip_headers=True, add_dir_header=True)) == '"m" k=1'


def test_options_not_given_are_the_defaults_of_the_flags() -> None:
    defaults = {flag.key: flag.kind.check(flag.default) for flag in FLAGS if flag.group != "own"}

    assert Options()._asdict() == {name: defaults[name] for name in Options._fields}


# --- properties

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))
"""Lone surrogates of both kinds too: some stand for bytes that are not UTF-8, others come from faulty libraries."""
SCALARS = st.one_of(ANY_TEXT, st.none(), st.booleans(), st.integers(), ANY_TEXT.map(ValueError), st.binary())
KEYS = st.text(alphabet="abcxyz", min_size=1, max_size=3)
ONE_LINE = st.text(alphabet=st.characters(exclude_categories=(), exclude_characters="\n"))


@settings(max_examples=300)
@given(ANY_TEXT, st.lists(st.tuples(ANY_TEXT, SCALARS), max_size=4), st.none() | ANY_TEXT, st.sampled_from("IWEF"))
def test_a_json_record_is_one_line_of_utf8_that_parses(
    message: str, pairs: list[tuple[str, object]], err: str | None, severity: str
) -> None:
    line = render_json(Record(severity, 0, message, tuple(pairs), err, CALLER))
    parsed = json.loads(line.encode())

    assert "\n" not in line
    assert parsed["caller"] == "k/main.go:11"
    assert {"ts", "caller", "msg"} <= set(parsed)


@given(ANY_TEXT)
@example("\ud800\udbff\udc00\udfff\ud7ff\ue000")
def test_json_reads_back_as_the_same_text_except_for_broken_bytes(text: str) -> None:
    """Each byte that is not UTF-8 becomes a U+FFFD."""
    parsed = json.loads(render_json(error(text, text)))

    assert parsed["msg"] == parsed["err"] == re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_broken_bytes_deep_in_a_value_are_escaped_too() -> None:

    line = render_json(info("m", ("k", [BROKEN])))

    assert json.loads(line.encode(errors="surrogateescape"))["k"] == ["bad\ufffd\ufffd\ufffd"]


@settings(max_examples=300)
@given(
    ANY_TEXT,
    st.dictionaries(
        KEYS,
        ONE_LINE
        | ONE_LINE.map(ValueError)
        | st.integers()
        | st.none()
        | st.lists(ANY_TEXT)
        | st.dictionaries(ANY_TEXT, ANY_TEXT),
    ),
    st.none() | ONE_LINE,
)
def test_values_without_newlines_make_one_line(message: str, pairs: dict[str, object], err: str | None) -> None:
    """Newlines in the message, or deep in a list or map, are escaped."""
    assert "\n" not in render_text(Record("E", 0, message, tuple(pairs.items()), err, CALLER))


@given(st.text(alphabet="ab\n \tE>"))
def test_no_line_of_a_value_looks_like_a_record(text: str) -> None:
    """Every line after the first begins with a tab, the last with a blank."""
    _, *rest = render_text(error("m", text)).split("\n")

    assert all(line.startswith("\t") for line in rest[:-1])
    assert rest[-1:] in ([], [" >"])
