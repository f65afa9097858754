"""What is refused in the head of a request, as recorded from Go's net/http."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.web import heads
from livenessprobe.web.heads import Refusal
from livenessprobe.web.responses import REASONS
from tests.support.requests import Head
from tests.support.requests import heads as random_heads

LINE = b"GET /healthz HTTP/1.1\r\n"


# --- targets


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"/healthz", b"/healthz"),
        (b"GET", b"/healthz?x=%zz", b"/healthz?x=%zz"),
        (b"GET", b"*", b"*"),
        # Absolute forms: the path may be missing, or behind a scheme without a host.
        (b"GET", b"http://localhost/healthz", b"/healthz"),
        (b"GET", b"HTTP://u:p@h:80/healthz?x", b"/healthz?x"),
        (b"GET", b"http://[::1]:80/healthz", b"/healthz"),
        (b"GET", b"http://[fe80::1%25lo]/healthz", b"/healthz"),
        (b"GET", b"http:/healthz", b"/healthz"),
        (b"GET", b"http:///healthz", b"/healthz"),
        (b"GET", b"http://localhost", b""),
        (b"GET", b"http://localhost?x", b"?x"),
        (b"GET", b"http:healthz", b""),
        (b"GET", b"localhost:80", b""),
        (b"GET", b"http:%zz", b""),
        (b"CONNECT", b"localhost:80", b""),
        (b"CONNECT", b"/healthz", b"/healthz"),
        # Refused.
        (b"GET", b"healthz", None),
        (b"GET", b"?x", None),
        (b"GET", b":80", None),
        (b"GET", b"1http://h/healthz", None),
        (b"GET", b"/healthz%zz", None),
        (b"GET", b"/%", None),
        (b"GET", b"/%4", None),
        (b"GET", b"http://h/%zz", None),
        (b"GET", b"http://h%zz/healthz", None),
        (b"GET", b"http://h%41/healthz", None),
        (b"GET", b"http://h:x/healthz", None),
        (b"GET", b"http://h:80:90/healthz", None),
        (b"GET", b"http://[::1/healthz", None),
        (b"GET", b"http://[x]/healthz", None),
        (b"GET", b"http://u[@h/healthz", None),
    ],
)
def test_path_and_query_of_a_target(method: bytes, target: bytes, expected: bytes | None) -> None:
    assert heads.origin_form(method, target) == expected


@pytest.mark.parametrize(
    ("received", "valid"),
    [
        (LINE, True),
        (b"BREW /healthz HTTP/1.9\n", True),
        (b"GET /\xc3\xa9 HTTP/9.0\n", True),
        (b"GET  /healthz HTTP/1.1\n", False),
        (b"GET /a b HTTP/1.1\n", False),
        (b"GET /\x7f HTTP/1.1\n", False),
        (b"G(T /healthz HTTP/1.1\n", False),
        (b"GET /healthz HTTP/1.10\n", False),
        (b"GET /healthz http/1.1\n", False),
        (b"GET /healthz\n", False),
        (b"GET healthz HTTP/1.1\n", False),
    ],
)
def test_request_lines(received: bytes, valid: bool) -> None:
    assert heads.line_is_valid(received) is valid


def test_raw_bytes_of_a_target_are_escaped_and_those_of_headers_are_not() -> None:
    assert heads.escaped(b"GET /\xc3\xa9?\xff HTTP/1.1\r\nX: \xff\r\n\r\n") == b"GET /%C3%A9?%FF HTTP/1.1\r\nX: \xff\r\n\r\n"


# --- headers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Host: x", None),
        (b"Host:", None),
        (b"Host: x\r\n y", Refusal(400, b"malformed Host header")),
        (b"Host: a b", Refusal(400, b"malformed Host header")),
        (b"Host: x\r\nHost: x", Refusal(400)),
        (b"", Refusal(400, b"missing required Host header")),
        (b" Host: x", Refusal(400)),
        # Names and values.
        (b"Host: x\r\nX y: z", Refusal(400, b"invalid header name")),
        (b"Host: x\r\nX\t: y", Refusal(400)),
        (b"Host: x\r\n: y", Refusal(400)),
        (b"Host: x\r\nX", Refusal(400)),
        (b"Host: x\r\nX: \xff\ty", None),
        (b"Host: x\r\nX: a\x01b", Refusal(400)),
        (b"Host: x\r\nX: a\x7fb", Refusal(400)),
        (b"Host: x\r\nX: a\rb", Refusal(400)),
        (b"Host: x\r\nX: y\r\n\tz\r\n ", None),
        # Lengths.
        (b"Host: x\r\nContent-Length: 05", None),
        (b"Host: x\r\nContent-Length: 5 \r\ncontent-length:\t5", None),
        (b"Host: x\r\nContent-Length: 5\r\nContent-Length: 05", Refusal(400)),
        (b"Host: x\r\nContent-Length: 5, 5", Refusal(400)),
        (b"Host: x\r\nContent-Length:", Refusal(400)),
        (b"Host: x\r\nContent-Length: +5", Refusal(400)),
        (b"Host: x\r\nContent-Length: \xb2", Refusal(400)),
        (b"Host: x\r\nContent-Length: 9223372036854775807", None),
        (b"Host: x\r\nContent-Length: 9223372036854775808", Refusal(400)),
        (b"Host: x\r\nContent-Length: " + b"9" * 5000, Refusal(400)),
        (b"Host: x\r\nTransfer-Encoding: CHUNKED", None),
        (b"Host: x\r\nTransfer-Encoding: gzip", Refusal(501)),
        (b"Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refusal(501)),
        (b"Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", Refusal(400)),
        # Expectations: the first header decides, as a list.
        (b"Host: x\r\nExpect: 100-Continue", None),
        (b"Host: x\r\nExpect:", None),
        (b"Host: x\r\nExpect: a, 100-continue", None),
        (b"Host: x\r\nExpect: 100-continue\r\nExpect: a", None),
        (b"Host: x\r\nExpect: a\r\nExpect: 100-continue", Refusal(417)),
        (b"Host: x\r\nExpect: 100-continuex", Refusal(417)),
        (b"Host: x\r\nExpect: 100-continue;q=1", Refusal(417)),
        # The first fault in Go's order decides.
        (b"Transfer-Encoding: gzip\r\nContent-Length: x", Refusal(501)),
        (b"Transfer-Encoding: gzip\r\nX", Refusal(400)),
        (b"Expect: a\r\nX y: z", Refusal(400, b"missing required Host header")),
    ],
)
def test_headers(fields: bytes, expected: Refusal | None) -> None:
    assert heads.fault(LINE + fields + b"\r\n" * (2 if fields else 1)) == expected
    assert heads.fault((LINE + fields + b"\r\n" * (2 if fields else 1)).replace(b"\r\n", b"\n")) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.0", None),
        (b"CONNECT / HTTP/1.1", None),
        (b"GET / HTTP/1.2", Refusal(400, b"missing required Host header")),
        (b"GET / HTTP/2.0", Refusal(505, b"unsupported protocol version")),
        (b"GET / HTTP/0.9", Refusal(505, b"unsupported protocol version")),
        (b"PRI * HTTP/2.0", Refusal(400)),
    ],
)
def test_versions(line: bytes, expected: Refusal | None) -> None:
    """Only HTTP/1.1 and later need a Host."""
    assert heads.fault(line + b"\r\n\r\n") == expected


@given(random_heads())
def test_the_first_fault_of_a_random_head_decides(random: Head) -> None:
    if heads.line_is_valid(random.head):
        found = heads.fault(random.head)
    else:
        found = Refusal(400)

    if found is None:
        assert random.expected[:3] in ("200", "307", "404")
    else:
        phrase = REASONS[found.status] + (b": " + found.why if found.why else b"")
        assert f"{found.status} {phrase.decode()}" == random.expected


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_judged(target: bytes, fields: bytes) -> None:
    """And what is accepted is a path, or no path, in ASCII."""
    head = heads.escaped(b"GET /" + target + b" HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n")
    if heads.line_is_valid(head):
        heads.fault(head)
    form = heads.origin_form(b"GET", target)
    assert form is None or form == b"*" or form.startswith(b"/") or form[:1] in (b"", b"?")


@pytest.mark.parametrize(
    "filler", [b" ", b"\t", b"@", b"%", b":", b",", b"100-continue", b"\r\n ", b"\r", b"/.", b"%41", b"A"]
)
@pytest.mark.parametrize("form", [b"GET /%b HTTP/1.1\r\nHost: x", b"GET http://%b HTTP/1.1\r\nHost: x", b"%b /x HTTP/1.1"])
def test_a_long_head_costs_little(filler: bytes, form: bytes) -> None:
    """No pattern needs time that grows with the square of the length: that would take seconds."""
    long = filler * (60_000 // len(filler))
    started = time.process_time()

    for head in (
        form % long,
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + long + b"\1",
        b"GET / HTTP/1.1\r\nExpect: " + long + b"y",
    ):
        if heads.line_is_valid(head + b"\r\n\r\n"):
            heads.fault(head + b"\r\n\r\n")

    assert time.process_time() - started < 0.5
