"""
Renders records as klog does, as text and as JSON.

Pure, except that the header shows local time and the process ID.  Compared with klog v2.140 and component-base v0.36.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from livenessprobe.gotext import quote, quote_ascii

SEVERITIES = "IWEF"


class Options(NamedTuple):
    """The logging flags, by name."""

    v: int = 0
    vmodule: tuple[tuple[str, int], ...] = ()
    logging_format: str = "text"
    logtostderr: bool = True
    alsologtostderr: bool = False
    stderrthreshold: int = 2
    log_dir: str = ""
    log_file: str = ""
    log_file_max_size: int = 1800
    one_output: bool = False
    skip_headers: bool = False
    skip_log_headers: bool = False
    add_dir_header: bool = False


@dataclass(frozen=True, slots=True, repr=False)  # with a repr it loads inspect, dis and ast
class Record:
    """One log record."""

    severity: str
    level: int
    message: str
    pairs: tuple[tuple[str, object], ...]
    err: object | None
    caller: tuple[str, int]
    """Path and line of the source file."""
    wall: float = field(default_factory=time.time)
    """When it was made, in seconds since the epoch."""


def render_text(record: Record, options: Options = Options()) -> str:
    """A klog line, or several if a value has several lines; no newline at the end."""
    pairs = ({} if record.err is None else {"err": record.err}) | dict(record.pairs)
    return _header(record, options) + quote(record.message) + "".join(_text_pair(k, v) for k, v in pairs.items())


def _header(record: Record, options: Options) -> str:
    if options.skip_headers:
        return ""
    path, line = record.caller
    path = path.replace("\\", "/")
    name = "/".join(path.rsplit("/", 2 if options.add_dir_header else 1)[1:]) or path
    now = time.strftime("%m%d %H:%M:%S", time.localtime(record.wall))
    return f"{record.severity}{now}.{int(record.wall % 1 * 1e6):06d} {os.getpid():7d} {name}:{line}] "


def _text_pair(key: str, value: object) -> str:
    if isinstance(value, bytes):
        return f" {key}={quote_ascii(value.decode(errors='surrogateescape'))}"
    if isinstance(value, str | BaseException):
        text = str(value)
        if "\n" in text:
            lines = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.removesuffix("\n")).split("\n")
            return f" {key}=<\n" + "".join(f"\t{line}\n" for line in lines) + " >"
        return f" {key}={quote(text)}"
    return f" {key}={_html_safe_json(value)}"


def _html_safe_json(value: object) -> str:
    """As Go's encoding/json by default: `<`, `>` and `&` escaped."""
    return _compact_json(value).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _compact_json(value: object) -> str:
    """Keys sorted, no blanks; values of types that JSON lacks as text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=str)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n|\Z)")
"""All but line ends.  They are escaped because klog prints them unchanged, and a terminal would act on them."""


class _Surrogates(dict[int, str]):
    """A table for str.translate with one `replacement` for all surrogates, which UTF-8 cannot encode."""

    def __init__(self, replacement: str, others: dict[int, str]) -> None:
        super().__init__(others)
        self._replacement = replacement

    def __missing__(self, code: int) -> str:
        if 0xD800 <= code < 0xE000:
            return self._replacement
        raise LookupError  # the character stays


_JSON_ESCAPES = _Surrogates(
    "\\ufffd",
    str.maketrans(
        {chr(c): f"\\u{c:04x}" for c in range(0x20)} | {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    ),
)
_REPLACE_SURROGATES = _Surrogates("\ufffd", {})


def _json_string(text: str) -> str:
    return '"' + text.translate(_JSON_ESCAPES) + '"'


def render_json(record: Record) -> str:
    """A record as component-base's JSON format writes it: no `v` on errors, `err` last."""
    path, line = record.caller
    name = "/".join(path.replace("\\", "/").split("/")[-2:])
    parts = [
        f'"ts":{record.wall * 1000!r}',
        f'"caller":{_json_string(f"{name}:{line}")}',
        f'"msg":{_json_string(record.message)}',
    ]
    if record.severity != "E":
        parts.append(f'"v":{record.level}')
    parts += [f"{_json_string(key)}:{_json_value(value)}" for key, value in record.pairs]
    if record.err is not None:
        parts.append(f'"err":{_json_string(str(record.err))}')
    return "{" + ",".join(parts) + "}"


def _json_value(value: object) -> str:
    if isinstance(value, bytes):
        value = base64.b64encode(value).decode()
    if isinstance(value, str | BaseException):
        return _json_string(str(value))
    return _compact_json(value).translate(_REPLACE_SURROGATES)
