"""Reads and prints values as Go does: quoting, durations, numbers, booleans, Accept headers.  Pure."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_SHORT_ESCAPES = dict(zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True))
"""Characters, and the letter behind the backslash in the escape of each."""


def quote(text: str) -> str:
    """
    `text` as Go's strconv.Quote prints it.

    Bytes that are not UTF-8, which Python represents by surrogate escapes (as in `sys.argv`), are printed as `\\xff`.
    """
    return '"' + "".join(_quote_rune(c) for c in text) + '"'


def quote_ascii(text: str) -> str:
    """`text` as Go's strconv.QuoteToASCII prints it."""
    return '"' + "".join(_quote_rune(c, ascii_only=True) for c in text) + '"'


def printable(text: str, limit: int) -> str:
    """At most `limit` characters of `text` on one line, with characters that are not printable escaped as by `quote`."""
    shown = "".join(c if c.isprintable() else _quote_rune(c) for c in text[:limit])
    return f"{shown}…" if len(text) > limit else shown


def _quote_rune(rune: str, *, ascii_only: bool = False) -> str:
    if rune in _SHORT_ESCAPES:
        return f"\\{_SHORT_ESCAPES[rune]}"
    if rune.isprintable() and (rune.isascii() or not ascii_only):
        return rune
    code = ord(rune)
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:  # the latter is a byte that is not UTF-8
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# The two that look alike are U+00B5 and U+03BC.
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_COMPONENT = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_LIMIT = 1 << 63


def parse_duration(text: str) -> int:
    """
    The nanoseconds of a Go duration (`1m30s`, `-1.5h`, `0`).

    Raises ValueError whenever Go's time.ParseDuration returns an error, for overflow too.
    """
    sign, rest = (-1 if text[:1] == "-" else 1), text[text[:1] in ("+", "-") :]
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        match = _COMPONENT.match(rest, position)
        if match is None or not (match[1] or match[2]) or match[3] not in _NANOSECONDS:
            raise ValueError("parse error")
        total += _component(match[1], match[2] or "", _NANOSECONDS[match[3]])
        position = match.end()
    if not rest or not -_LIMIT <= sign * total < _LIMIT:
        raise ValueError("parse error")
    return sign * total


def _component(whole: str, fraction: str, unit: int) -> int:
    whole = whole.lstrip("0")
    if len(whole) > 19:  # beyond any limit, and Python refuses to convert thousands of digits
        raise ValueError("parse error")
    # Go computes the fraction in floating point, from as many digits as fit 63 bits, and cuts off below a nanosecond.
    value, scale = 0, 1.0
    for digit in fraction:
        if value * 10 + int(digit) > _LIMIT:
            break
        value, scale = value * 10 + int(digit), scale * 10
    return int(whole or 0) * unit + int(value * (unit / scale))


def format_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: `1h0m0s`, `1.5s`, `250ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1_000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    seconds, minutes = rest % _NANOSECONDS["m"], rest // _NANOSECONDS["m"]
    text = f"{_decimal(seconds, _NANOSECONDS['s'])}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    if minutes >= 60:
        text = f"{minutes // 60}h{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{len(str(unit)) - 1}d}".rstrip("0")


def parse_seconds(text: str) -> float:
    """Seconds of a Go duration; raises ValueError as `parse_duration` does."""
    return parse_duration(text) / 1e9


def format_seconds(seconds: float) -> str:
    """A duration as Go prints it, to the nanosecond."""
    return format_duration(round(seconds * 1e9))


def format_float(value: float, exponent_from: int = 6) -> str:
    """
    The shortest decimal that reads back as `value`, in the style of Go's 'g' format.

    Numbers from 10 to the power `exponent_from` on have an exponent (`1e+06`): 6 as in Prometheus' text format, 21 as in fmt's
    %v and JSON.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    digits, exponent = _shortest(value)
    sign = "-" if value < 0 else ""
    if not 0 <= exponent < exponent_from:
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{exponent:+03d}"
    digits = digits.ljust(exponent + 1, "0")
    fraction = digits[exponent + 1 :]
    return sign + digits[: exponent + 1] + ("." + fraction if fraction else "")


def _shortest(value: float) -> tuple[str, int]:
    """
    The digits of `value`, and the decimal exponent of the first, from repr(), which is the shortest text that reads back.

    repr() writes zeros after the point as Go does, and they count as digits: only below 1e-4 is the exponent negative.
    """
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    return (whole + fraction).rstrip("0"), int(exponent or 0) + len(whole) - 1


def parse_bool(text: str) -> bool:
    """As strconv.ParseBool; raises ValueError with Go's text."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def parse_uint(text: str, bits: int) -> int:
    """As strconv.ParseUint in base 10 for a number of `bits` bits; raises ValueError with Go's text."""
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    significant = digits.lstrip("0") or "0"
    # Go reads from the left: a number that is too large is found before a letter behind it.  The length is checked first,
    # because Python refuses to convert thousands of digits.
    if len(significant) > 20 or int(significant) >= 1 << bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    if not digits or digits != text:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    return int(significant)


# --- Accept headers, as goautoneg reads them


class Clause(NamedTuple):
    """One media type of an Accept header."""

    kind: str
    subtype: str
    quality: float
    parameters: dict[str, str]

    def goes_before(self, other: Clause) -> bool:
        """Whether goautoneg sorts this clause before the `other` one."""
        return self.quality > other.quality or self.kind != "*" == other.kind or self.subtype != "*" == other.subtype


CLAUSES_MAX = 64
"""Clauses that are read: sorting takes time with the square of their number, and a header may have 16 KiB."""


def accept_clauses(accept: str) -> list[Clause]:
    """An Accept header as goautoneg sorts it: by insertion, since the order of its clauses is not transitive."""
    clauses: list[Clause] = []
    for item in accept.split(",", CLAUSES_MAX)[:CLAUSES_MAX]:
        media, *parameters = item.split(";")
        kind, _, subtype = media.partition("/")
        kind, subtype = kind.strip(" "), subtype or ("*" if kind.strip(" ") == "*" else "")
        if not subtype or "/" in subtype:
            continue
        pairs = [pair.split("=") for pair in parameters]
        given = {pair[0].strip(" "): pair[1].strip(" ") for pair in pairs if len(pair) == 2 and pair[1]}
        clauses.append(Clause(kind, subtype.strip(" "), _quality(given.pop("q", "1")), given))
        place = len(clauses) - 1
        while place and clauses[place].goes_before(clauses[place - 1]):
            clauses[place - 1 : place + 1] = clauses[place], clauses[place - 1]
            place -= 1
    return clauses


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
