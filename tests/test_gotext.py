"""Values parsed and printed as Go's standard library does it."""

from __future__ import annotations

import ast
import json
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.gotext import (
    CLAUSES_MAX,
    accept_clauses,
    format_duration,
    format_float,
    format_seconds,
    parse_bool,
    parse_duration,
    parse_seconds,
    parse_uint,
    quote,
    quote_ascii,
)

DURATIONS = json.loads((Path(__file__).parent / "data" / "durations.json").read_text(encoding="utf-8"))
"""The durations that the Go program's --probe-timeout accepted, refused and printed."""
ACCEPTED = [row for row in DURATIONS if row["accepted"]]
REFUSED = [row for row in DURATIONS if not row["accepted"]]
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


# --- durations


@pytest.mark.parametrize(("text", "nanoseconds"), [(row["value"], row["ns"]) for row in ACCEPTED])
def test_a_duration_that_go_accepts_has_gos_nanoseconds(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(("nanoseconds", "text"), [(row["ns"], row["string"]) for row in ACCEPTED])
def test_a_duration_is_printed_as_go_prints_it(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@pytest.mark.parametrize("text", [row["value"] for row in REFUSED])
def test_a_duration_that_go_refuses_is_refused(text: str) -> None:
    """The command line shows the reason unchanged, so it must be Go's."""
    with pytest.raises(ValueError, match="^parse error$"):
        parse_duration(text)


def test_the_table_of_durations_has_both_sides() -> None:
    """With a shortened table the three tests above would check nothing."""
    assert (len(ACCEPTED), len(REFUSED)) == (45, 49)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2562047h47m16.854775807s", (1 << 63) - 1),
        ("-2562047h47m16.854775808s", -(1 << 63)),
        ("-9223372036854775808ns", -(1 << 63)),
        ("30m1h", 5_400_000_000_000),
        ("1m1m1s", 121_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1.0000000000000000000000000000000000009s", 1_000_000_000),
        ("0.9999999999ns", 0),
        ("-0.9999999999ns", 0),
        ("1µs1μs1us", 3_000),
        # Go uses a 19th digit if it fits into 63 bits (time.leadingFraction); without it the result would be a
        # nanosecond short.
        ("2.90939700000000000000m", 174_563_820_000),
        ("0.99000000000000000000s", 990_000_000),  # a 19th digit that does not fit is ignored
        ("0" * 4000 + "1s", 1_000_000_000),
        ("0" * 5000 + "1s", 1_000_000_000),
    ],
)
def test_the_largest_and_smallest_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775808ns",
        "-9223372036854775809ns",
        "2562047h47m16.854775808s",
        "9223372036854775807ns1ns",
        "9" * 4000 + "h",
        "9" * 5000 + "h",
        "1s\n",
        "١s",  # an Arabic digit
        "1 s",
    ],
)
def test_durations_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^parse error$"):
        parse_duration(text)


@given(INT64)
def test_a_printed_duration_reads_back(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["ns", "us", "µs", "μs", "ms", "s", "m", "h"])), min_size=1))
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, str]]) -> None:
    whole = "".join(f"{number}{unit}" for number, unit in parts)

    assert parse_duration(whole) == sum(parse_duration(f"{number}{unit}") for number, unit in parts)
    assert parse_duration(f"-{whole}") == -parse_duration(whole)
    assert parse_duration(f"+{whole}") == parse_duration(whole)


@given(st.text(alphabet="0123456789.+-nsuµμmh eE_", max_size=12) | st.text(max_size=6))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        nanoseconds = parse_duration(text)
    except ValueError:
        return

    assert -(1 << 63) <= nanoseconds < 1 << 63


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("1m30s", 90.0), ("100ms", 0.1), ("-1ns", -1e-9), ("1h0.1s", 3600.1)]
)
def test_a_duration_is_so_many_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
    assert type(parse_seconds(text)) is float


@given(st.integers(-(10**15), 10**15))
def test_seconds_are_printed_to_the_nanosecond(nanoseconds: int) -> None:
    assert format_seconds(parse_seconds(f"{nanoseconds}ns")) == format_duration(nanoseconds)


# --- quoting


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x1b\x7f", r'"\x00\x1b\x7f"'),
        ("\x80\x85\x9f", r'"\u0080\u0085\u009f"'),
        ("é ü 世界 😀 e\u0301", '"é ü 世界 😀 e\u0301"'),
        ("\u00a0\u3000", r'"\u00a0\u3000"'),  # blanks other than U+0020
        ("\u200b\ufeff\u00ad\u202e", r'"\u200b\ufeff\u00ad\u202e"'),  # format characters
        ("\u2028\u2029", r'"\u2028\u2029"'),  # line and paragraph separator
        ("\ue000", r'"\ue000"'),  # private use
        ("\u0378\uffff", r'"\u0378\uffff"'),  # unassigned
        ("\U000e0001\U0010ffff", r'"\U000e0001\U0010ffff"'),
        ("\ufffd", '"\ufffd"'),  # U+FFFD itself is printable
        ("<a>&'`", '"<a>&\'`"'),
        ("100% %s", '"100% %s"'),
        (b"bad\xff\xfe\xc3".decode(errors="surrogateescape"), r'"bad\xff\xfe\xc3"'),
        ("\udcff\udd00", r'"\xff\udd00"'),  # the first surrogate beyond the escapes of bytes
        (b"\xed\xa0\x80".decode(errors="surrogateescape"), r'"\xed\xa0\x80"'),  # an encoded surrogate is no UTF-8
    ],
)
def test_quote_escapes_what_go_escapes(text: str, quoted: str) -> None:
    assert quote(text) == quoted


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('plain "q" \\', '"plain \\"q\\" \\\\"'),
        ("\n\x00\x7f", r'"\n\x00\x7f"'),
        ("é世😀", r'"\u00e9\u4e16\U0001f600"'),
        ("\uffff\U00010000", r'"\uffff\U00010000"'),
        (b"\xff".decode(errors="surrogateescape"), r'"\xff"'),
    ],
)
def test_bytes_are_quoted_in_ascii(text: str, quoted: str) -> None:
    """As fmt's %+q does."""
    assert quote_ascii(text) == quoted


@given(st.text())
def test_quoted_text_is_one_printable_line_that_reads_back(text: str) -> None:
    """Go's escapes for text without broken bytes are a subset of Python's."""
    quoted = quote(text)

    assert quoted.isprintable()
    assert ast.literal_eval(quoted) == text


@given(st.binary())
def test_no_byte_is_lost_in_quotes(data: bytes) -> None:
    """Bytes that are not UTF-8 are written as `\\xff`, one by one."""
    quoted = quote(data.decode(errors="surrogateescape"))

    assert quoted.isprintable()
    assert _unquote(quoted) == data


def _unquote(quoted: str) -> bytes:
    """strconv.Unquote, for the output of strconv.Quote."""

    def meant(token: re.Match[str]) -> str:
        if token[1]:
            return bytes([int(token[1], 16)]).decode(errors="surrogateescape")
        return str(ast.literal_eval(f'"{token[0]}"'))

    return re.sub(r"\\(?:x([89a-f][0-9a-f])|u.{4}|U.{8}|x..|.)", meant, quoted[1:-1]).encode(errors="surrogateescape")


# --- floats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.1, "0.1"),
        (0.25, "0.25"),
        (10.0, "10"),
        (600.0, "600"),
        (0.1 + 0.2, "0.30000000000000004"),
        (100000.0, "100000"),
        (123456.0, "123456"),
        (999999.0, "999999"),
        (1e6, "1e+06"),
        (1234567.0, "1.234567e+06"),
        (-1234567.0, "-1.234567e+06"),
        (1795224575.01, "1.79522457501e+09"),
        (1e21, "1e+21"),
        (1e100, "1e+100"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.0001, "0.0001"),
        (0.00012345, "0.00012345"),
        (0.00001, "1e-05"),
        (1.5e-7, "1.5e-07"),
        (5e-324, "5e-324"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_a_float_is_printed_as_prometheus_text_has_it(value: float, text: str) -> None:
    assert format_float(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e6, "1000000"),
        (1795224575.01, "1795224575.01"),
        (123e18, "123000000000000000000"),
        (1e21, "1e+21"),
        (1e-5, "1e-05"),
    ],
)
def test_the_first_value_with_an_exponent_can_be_chosen(value: float, text: str) -> None:
    """fmt's %v switches at 1e21."""
    assert format_float(value, 21) == text


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([6, 21]))
def test_a_printed_float_reads_back(value: float, exponent_from: int) -> None:
    assert float(format_float(value, exponent_from)) == value


# --- numbers and booleans


@pytest.mark.parametrize(
    ("text", "bits", "number"),
    [
        ("0", 31, 0),
        ("05", 31, 5),
        ("2147483647", 31, 2147483647),
        ("18446744073709551615", 64, 18446744073709551615),
        ("0" * 10_000 + "7", 31, 7),
    ],
)
def test_an_unsigned_number_is_decimal_digits(text: str, bits: int, number: int) -> None:
    assert parse_uint(text, bits) == number


@pytest.mark.parametrize(
    ("text", "bits", "reason"),
    [
        ("", 31, 'strconv.ParseUint: parsing "": invalid syntax'),
        ("abc", 31, 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("+5", 31, 'strconv.ParseUint: parsing "+5": invalid syntax'),
        ("-5", 31, 'strconv.ParseUint: parsing "-5": invalid syntax'),
        ("0x5", 31, 'strconv.ParseUint: parsing "0x5": invalid syntax'),
        ("1_0", 31, 'strconv.ParseUint: parsing "1_0": invalid syntax'),
        (" 5", 31, 'strconv.ParseUint: parsing " 5": invalid syntax'),
        ("5\n", 31, 'strconv.ParseUint: parsing "5\\n": invalid syntax'),
        ("٥", 31, 'strconv.ParseUint: parsing "٥": invalid syntax'),
        ("²", 31, 'strconv.ParseUint: parsing "²": invalid syntax'),
        ("2147483648x", 31, 'strconv.ParseUint: parsing "2147483648x": value out of range'),
        ("2147483647x", 31, 'strconv.ParseUint: parsing "2147483647x": invalid syntax'),
        ("2147483648", 31, 'strconv.ParseUint: parsing "2147483648": value out of range'),
        ("18446744073709551616", 64, 'strconv.ParseUint: parsing "18446744073709551616": value out of range'),
        ("9" * 10_000, 64, f'strconv.ParseUint: parsing "{"9" * 10_000}": value out of range'),
    ],
)
def test_other_numbers_are_refused_in_gos_words(text: str, bits: int, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_uint(text, bits)

    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("1", "t", "T", "TRUE", "true", "True")]
    + [(text, False) for text in ("0", "f", "F", "FALSE", "false", "False")],
)
def test_a_boolean_has_twelve_spellings(text: str, value: bool) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize("text", ["", "yes", "no", "on", "off", "tRUE", "2", "-1", " true", "true\n"])
def test_other_booleans_are_refused_in_gos_words(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_bool(text)

    assert str(refused.value) == f"strconv.ParseBool: parsing {quote(text)}: invalid syntax"


@settings(max_examples=200)
@given(st.text(max_size=5))
def test_any_other_text_is_no_boolean(text: str) -> None:
    try:
        value = parse_bool(text)
    except ValueError:
        return

    assert text.lower() in (("1", "t", "true") if value else ("0", "f", "false"))


# --- Accept headers


def test_a_long_accept_header_takes_little_time() -> None:
    """Any client can send one: sorting all clauses of 16 KiB took 2.5 s, in which no probe was answered."""
    hostile = ("*/*," * 2000 + "a/b," * 2000)[:16_000]

    started = time.process_time()
    clauses = accept_clauses(hostile)

    assert time.process_time() - started < 0.1
    assert len(clauses) == CLAUSES_MAX
