"""
HTTP requests with the responses of Go's net/http, recorded from go1.27.3 with handlers at /healthz and /metrics.

`RECORDED` are whole requests, mutated at random.  `EXPECTED` are parts of a request, each recorded alone in a request without
another fault; `heads()` puts them together at random, and a model says which part decides.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from hypothesis import strategies as st

from tests.support.common import ROOT


class Recorded(NamedTuple):
    """A request, the status lines of the responses to it, the last body, and whether the server closed the connection then."""

    request: bytes
    status_lines: list[bytes]
    body: bytes
    closed: bool


_DATA = json.loads((ROOT / "tests/data/http_requests.json").read_text())
RECORDED = [
    Recorded(request.encode("latin-1"), [line.encode() for line in lines], body.encode("latin-1"), closed)
    for request, lines, body, closed in _DATA["requests"]
]
EXPECTED = {group: {part.encode("latin-1"): status for part, status in parts} for group, parts in _DATA["parts"].items()}
"""The code and phrase of the response, by group and part."""

_BAD_REQUEST = "400 Bad Request"
_IN_ORDER = ("method", "target", "version", "host", "field", "encoding", "length")
"""Groups whose plain 400 Go finds in this order; a 400 with a reason comes after all of them, in the order of `_LATE`."""
_LATE = ("505", "400 Bad Request: missing", "400 Bad Request: malformed", "400 Bad Request: invalid", "417")


class Head(NamedTuple):
    """The head of a request, and the code and phrase of the response to it."""

    head: bytes
    expected: str


def _put_together(parts: dict[str, bytes]) -> Head:
    lines = [b"%s %s %s" % (parts["method"], parts["target"], parts["version"]), parts["host"]]
    for group in ("field", "expectation", "encoding", "length"):
        lines += [b"Connection: close", parts[group]]  # a part that folds must not change another
    return Head(b"\r\n".join([*(line for line in lines if line), b"", b""]), _expected(parts))


def _expected(parts: dict[str, bytes]) -> str:
    found = {group: EXPECTED[group][part] for group, part in parts.items() if part in EXPECTED[group]}
    if parts["version"] == b"HTTP/1.0" and not parts["host"]:
        del found["host"]  # which only HTTP/1.1 needs
    for group in _IN_ORDER:
        if found.get(group) == _BAD_REQUEST or (group == "encoding" and found.get(group, "").startswith("501")):
            return found[group]
    for late in _LATE:
        if decisive := next((status for status in found.values() if status.startswith(late)), None):
            return decisive
    return found["target"]


def _of(group: str) -> st.SearchStrategy[bytes]:
    return st.sampled_from(list(EXPECTED[group]))


def _mostly(usual: bytes, group: str) -> st.SearchStrategy[bytes]:
    return st.just(usual) | st.just(usual) | _of(group)


def heads() -> st.SearchStrategy[Head]:
    """
    Heads of requests in which any part may be at fault, and their expected responses.

    Left out is where this program differs on purpose: both a Content-Length and a Transfer-Encoding, and a Transfer-Encoding
    before HTTP/1.1.
    """
    framing = st.sampled_from([("encoding", b""), *(
        (group, part) for group in ("encoding", "length") for part in EXPECTED[group]
    )])  # fmt: skip
    parts = st.builds(
        lambda method, target, version, host, field, expectation, framing: {
            "method": method, "target": target, "version": version, "host": host, "field": field,
            "expectation": expectation, "encoding": b"", "length": b"", framing[0]: framing[1],
        },
        _mostly(b"GET", "method"),
        _mostly(b"/healthz", "target"),
        _mostly(b"HTTP/1.1", "version"),
        _mostly(b"Host: x", "host"),
        _mostly(b"X: y", "field"),
        _mostly(b"", "expectation"),
        framing,
    )  # fmt: skip
    old = (b"HTTP/0.9", b"HTTP/1.0")
    return parts.filter(lambda parts: not (parts["version"] in old and parts["encoding"])).map(_put_together)
