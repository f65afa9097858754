"""The observation of one run, and the parsing of log records and HTTP responses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_KLOG_HEADER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [^ :]+:\d+\] ")


@dataclass(frozen=True, slots=True)
class Call:
    """A request that the driver received."""

    method: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class DriverSeen:
    connections: int
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Response:
    proto: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One step: the response to its request, if any, and the log and the driver's calls at its end."""

    raw: bytes = b""
    refused: bool = False
    seconds: float = 0.0
    parallel: tuple[Response | None, ...] | None = None
    log: tuple[str, ...] = ()
    driver: DriverSeen | None = None

    @property
    def response(self) -> Response | None:
        return parse_response(self.raw)


@dataclass(frozen=True, slots=True)
class Observation:
    """A whole run."""

    places: Mapping[str, str]
    """The values of {SOCK}, {HPORT} and the other placeholders."""
    exit_code: int | None
    """None if the process was still running; negative if a signal killed it."""
    stdout: str
    stderr: str
    elapsed: float = 0.0
    http_up: bool | None = None
    """None if the vector does not wait for HTTP."""
    steps: tuple[StepSeen, ...] = ()
    driver: DriverSeen | None = None
    log: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "log", parse_log(self.stderr))


def parse_log(text: str) -> tuple[str, ...]:
    """
    Records without the parts that differ from run to run.

    `E "msg" k="v"` for text (all lines, if a value has several), `J {…}` for JSON, `? line` for anything else.
    """
    records: list[str] = []
    for line in text.split("\n"):
        if header := _KLOG_HEADER.match(line):
            records.append(f"{header[1]} {line[header.end() :]}")
        elif line.startswith("{"):
            records.append(_json_record(line))
        elif records and records[-1][0] in "IWEF" and (line.startswith("\t") or line.startswith(" >")):
            records[-1] += f"\n{line}"
        elif line:
            records.append(f"? {line}")
    return tuple(records)


_OWN_PAIRS = re.compile(r'(?: (?:reason|detail)=(?:"(?:[^"\\]|\\.)*"|<\n(?:\t[^\n]*\n)* >))+$')


def without_own_pairs(record: str) -> str:
    """
    A record without the cause that the sidecar puts behind the Go program's words, as `reason` and `detail`.

    Difference 21; what is in front of them, `err` included, is the Go program's.
    """
    if not record.startswith("J "):
        return _OWN_PAIRS.sub("", record) if record[:2] in ("E ", "I ") else record
    pairs = json.loads(record[2:])
    return f"J {json.dumps({key: value for key, value in pairs.items() if key not in ('reason', 'detail')}, ensure_ascii=False)}"


def _json_record(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return f"? {line}"
    for key in ("ts", "caller"):
        record.pop(key, None)
    return f"J {json.dumps(record, ensure_ascii=False)}"


def parse_response(raw: bytes) -> Response | None:
    """The first response in `raw`; its body is everything after the head, without chunk sizes."""
    if not raw:
        return None
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    proto, status, reason = (*first.split(" ", 2), "", "")[:3]
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name, value.removeprefix(" ")))
    if ("transfer-encoding", "chunked") in ((name.lower(), value) for name, value in headers):
        body = _dechunk(body)
    return Response(proto, int(status) if status.isdigit() else 0, reason, tuple(headers), body)


def _dechunk(body: bytes) -> bytes:
    """The content of a chunked body; the unchanged bytes if it is malformed."""
    content, rest = b"", body
    while True:
        size, _, rest = rest.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return body
        if length == 0:
            return content
        content += rest[:length]
        rest = rest[length + 2 :]
