"""Each check is given something that it must accept and something that it must refuse."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import hpack
import pytest

from tests.conformance import checks, raw_driver
from tests.conformance.checks import problems
from tests.conformance.observation import (
    Call,
    DriverSeen,
    Observation,
    StepSeen,
    parse_log,
    parse_response,
    without_own_pairs,
)
from tests.conformance.vectors import HERE, HTTP_KEYS, Expectation, Vector, load_exemptions, load_vectors

PLACES = {name: f"the-{name}" for name in ("SOCK", "DIR", "ABS", "HPORT", "MPORT", "DPORT", "BIN")}
HEADER = "E1121 01:24:43.681334   10951 main.go:142] "
ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nX-A: 1\r\n\r\nnot ready"
PROBE = Call("Probe", ((":authority", "localhost"), ("grpc-timeout", "2999123u")), b"\0\0\0\0\0")
DRIVER = DriverSeen(connections=2, calls=(Call("GetPluginInfo", (), b""), PROBE))
STEP = StepSeen(raw=ANSWER, seconds=0.5, log=('E "late"',), driver=DRIVER)
SEEN = Observation(
    places=PLACES,
    exit_code=1,
    stdout="out",
    stderr=f'{HEADER}"It broke" path="the-SOCK"\nUsage of x:\n',
    elapsed=2.0,
    http_up=True,
    steps=(STEP,),
    driver=DRIVER,
)


@pytest.mark.parametrize(
    ("own", "upstreams"),
    [
        ('E "a" err="b \\" c" reason="x" detail="y \\" z"', 'E "a" err="b \\" c"'),
        ('E "a" err=<\n\tb\n\tc\n > reason="x" detail=<\n\td\n\te\n >', 'E "a" err=<\n\tb\n\tc\n >'),
        ('E "a" reason="x"', 'E "a"'),
        ('I "Still connecting" address="b" reason="x" detail="y"', 'I "Still connecting" address="b"'),
        ('J {"msg": "a", "reason": "x", "detail": "y", "err": "b"}', 'J {"msg": "a", "err": "b"}'),
        # Not behind, or of another name.
        ('E "a" reason="x" err="b"', 'E "a" reason="x" err="b"'),
        ('E "a" source="x"', 'E "a" source="x"'),
        ('E "a" err=" reason=x"', 'E "a" err=" reason=x"'),
        ('W "a" reason="x"', 'W "a" reason="x"'),
        ("? x reason=y", "? x reason=y"),
    ],
)
def test_only_the_cause_behind_a_record_is_left_out(own: str, upstreams: str) -> None:
    assert without_own_pairs(own) == upstreams


PROCESS_CASES = [
    # key, a value that holds, a value that does not
    ("exit_code", 1, 0),
    ("exit_any", [1, 2], [0, 2]),
    ("http_up", True, False),
    ("elapsed_max_s", 2.5, 1.5),
    ("stdout", "out", ""),
    ("stdout_contains", ["ou"], ["out", "in"]),
    ("stderr_contains", ["It broke", "{SOCK}"], ["It broke", "{DIR}"]),
    ("stderr_not_contains", ["panic"], ["panic", "broke"]),
    ("stderr_regex", ["^Usage of .*:$"], ["^Usage$"]),
    ("stderr_first_line", f'{HEADER}"It broke" path="the-SOCK"', "Usage of x:"),
    ("log", ['E "It broke" path="{SOCK}"', "? Usage of x:"], ['E "It broke" path="{SOCK}"']),
    ("log", [{"regex": "^E .It broke"}, "? Usage of x:"], [{"regex": "^I "}, "? Usage of x:"]),
    ("log_contains", ['E "It broke" path="{SOCK}"'], ['E "It broke"']),
    ("driver", {"connections": 2}, {"connections": 3}),
    ("driver", {"max_connections": 2}, {"max_connections": 1}),
    ("driver", {"calls": ["GetPluginInfo", "Probe"]}, {"calls": ["Probe", "GetPluginInfo"]}),
    ("driver", {"ncalls": 2}, {"ncalls": 1}),
    ("driver", {"call_headers": {"Probe": {":authority": "localhost"}}}, {"call_headers": {"Probe": {":authority": "x"}}}),
    ("driver", {"call_headers": {"Probe": {"te": None}}}, {"call_headers": {"Probe": {"grpc-timeout": None}}}),
    (
        "driver",
        {"call_headers": {"Probe": {":authority": {"regex": "^l"}}}},
        {"call_headers": {"Probe": {"te": {"regex": ""}}}},
    ),
    ("driver", {"call_headers": {"Probe": {}}}, {"call_headers": {"Other": {}}}),
    ("driver", {"grpc_timeout_range_s": {"Probe": [2.9, 3]}}, {"grpc_timeout_range_s": {"Probe": [3, 4]}}),
    ("driver", {"grpc_timeout_range_s": {"Probe": [2.9, 3]}}, {"grpc_timeout_range_s": {"GetPluginInfo": [0, 99]}}),
    ("driver", {"call_body_hex": {"Probe": "0000000000"}}, {"call_body_hex": {"GetPluginInfo": "0000000000"}}),
]

STEP_CASES = [
    ("http_status", 500, 200),
    ("http_reason", "Internal Server Error", "OK"),
    ("proto", "HTTP/1.1", "HTTP/1.0"),
    ("body", "not ready", "not"),
    ("body_hex", b"not ready".hex(), b"ok".hex()),
    ("body_regex", "^not", "^ready"),
    ("body_regex", ["^not", "y$"], ["^not", "x$"]),
    ("headers", {"content-type": "text/plain"}, {"Content-Type": "text/html"}),
    ("headers", {"X-A": {"regex": "^1$"}}, {"X-B": {"regex": ""}}),
    ("headers_absent", ["Server"], ["Server", "x-a"]),
    ("raw_regex", "^HTTP/1.1 500", "200 OK"),
    ("no_response", False, True),
    ("refused", False, True),
    ("min_s", 0.4, 0.6),
    ("max_s", 0.6, 0.4),
    ("log_contains", ['E "late"'], ['E "It broke" path="{SOCK}"']),
    ("driver", {"ncalls": 2}, {"ncalls": 0}),
]


def expect(**fragment: Any) -> Expectation:
    return Expectation.of(fragment, {})


def expect_step(**fragment: Any) -> Expectation:
    return Expectation({}, {0: fragment})


@pytest.mark.parametrize(("key", "right", "wrong"), PROCESS_CASES)
def test_checks_of_the_process(key: str, right: object, wrong: object) -> None:
    assert problems(expect(**{key: right}), SEEN) == []
    assert len(problems(expect(**{key: wrong}), SEEN)) == 1


@pytest.mark.parametrize(("key", "right", "wrong"), STEP_CASES)
def test_checks_of_a_step(key: str, right: object, wrong: object) -> None:
    assert problems(expect_step(**{key: right}), SEEN) == []
    assert len(problems(expect_step(**{key: wrong}), SEEN)) == 1


def test_the_checks_running_and_exit_signal() -> None:
    running, killed = replace(SEEN, exit_code=None), replace(SEEN, exit_code=-3)

    assert problems(expect(running=True), running) == []
    assert problems(expect(running=True), SEEN)
    assert problems(expect(exit_code=0), running)
    assert problems(expect(exit_signal="SIGQUIT"), killed) == []
    assert problems(expect(exit_signal="SIGINT"), killed)
    assert problems(expect(exit_signal="SIGQUIT"), SEEN)


def test_every_check_has_a_case() -> None:
    cases = {key for key, *_ in PROCESS_CASES} | {"running", "exit_signal"}
    assert cases == set(checks._PROCESS)
    assert {key for _, right, _ in PROCESS_CASES if isinstance(right, dict) for key in right} == set(checks._DRIVER)
    assert {key for key, *_ in STEP_CASES} == HTTP_KEYS | {"log_contains", "driver"}


@pytest.mark.parametrize("key", ["exitcode", "log_contain"])
def test_a_misspelt_expectation_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        problems(expect(**{key: 1}), SEEN)
    with pytest.raises(ValueError, match=key):
        problems(expect_step(**{key: 1}), SEEN)
    with pytest.raises(ValueError, match=key):
        problems(expect(driver={key: 1}), SEEN)


def test_checks_of_parallel_requests() -> None:
    bad, good = parse_response(ANSWER), parse_response(ANSWER.replace(b"500", b"200"))
    seen = replace(SEEN, steps=(StepSeen(parallel=(good, good), seconds=1.0),))
    mixed, silent = (replace(SEEN, steps=(StepSeen(parallel=(good, other)),)) for other in (bad, None))

    assert problems(expect_step(http_status=200, max_s=1.5), seen) == []
    assert problems(expect_step(http_status=200, max_s=0.5), seen)
    assert problems(expect_step(http_status=200), mixed)
    assert problems(expect_step(http_status=200), silent)


def test_no_bytes_are_no_response() -> None:
    silent, refused = (replace(SEEN, steps=(step,)) for step in (StepSeen(), StepSeen(refused=True)))

    assert problems(expect_step(http_status=200), silent)
    assert problems(expect_step(http_status=200), refused)
    assert problems(expect_step(refused=True), silent)
    assert problems(expect_step(refused=True), refused) == []
    assert problems(expect_step(no_response=True), silent) == []
    assert problems(expect_step(http_status=200), replace(SEEN, steps=()))
    assert problems(expect(driver={}), replace(SEEN, driver=None))


def test_a_traceback_is_always_a_problem() -> None:
    assert problems(expect(), replace(SEEN, stderr="Traceback (most recent call last):\n"))


def test_a_process_that_does_nothing_fails_every_vector() -> None:
    """So no expectation is empty, and none was lost while the file was read."""
    nothing = Observation(places=PLACES, exit_code=99, stdout="?", stderr="?\n", steps=tuple([StepSeen()] * 9))
    expectations = {vector.id: vector.expectation for vector in load_vectors()}
    for exemptions in load_exemptions():
        expectations |= {f"{name} (exempt)": exemption.still for name, exemption in exemptions.items()}

    assert [name for name, expectation in expectations.items() if not problems(expectation, nothing)] == []


def test_every_expectation_of_the_file_is_read() -> None:
    for raw in json.loads((HERE / "vectors.json").read_text())["vectors"]:
        read = Vector.from_json(raw).expectation
        written = len(raw["expect"]) + sum(len(step.get("expect", {})) for step in raw.get("steps", []))
        assert len(read.process) + sum(map(len, read.steps.values())) == written, raw["id"]


def test_parsing_of_log_records() -> None:
    text = (
        f'{HEADER}"a" err=<\n\tl1\n\tl2\n >\n'
        f'W{HEADER[1:]}"b"\n'
        '{"ts":1795224600668.6,"caller":"x/y:1","msg":"m","v":0}\n'
        "{no json\n"
        "plain\n"
    )
    assert parse_log(text) == ('E "a" err=<\n\tl1\n\tl2\n >', 'W "b"', 'J {"msg": "m", "v": 0}', "? {no json", "? plain")


def test_parsing_of_responses() -> None:
    chunked = parse_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    assert chunked is not None
    assert chunked.body == b"abcde"
    assert parse_response(b"") is None
    garbage = parse_response(b"garbage")
    assert garbage is not None
    assert garbage.status == 0


def test_the_frames_of_the_raw_driver() -> None:
    """Byte for byte as in the HTTP/2 and gRPC specifications."""
    encode = hpack.Encoder().encode

    assert raw_driver.answer(1, {"hang": True}, encode) == raw_driver.answer(1, {"close": True}, encode) == b""
    assert raw_driver.answer(5, {"rst": 11}, encode) == b"\0\0\x04\x03\0" + struct.pack(">II", 5, 11)
    goaway = raw_driver.answer(1, {"goaway_then_answer": 0, "ready": None}, encode)
    assert goaway.startswith(b"\0\0\x08\x07\0" + struct.pack(">III", 0, 1, 0))
    assert raw_driver.message(b"ab", 1) == b"\x01\0\0\0\x02ab"
    assert raw_driver.varint(300) == b"\xac\x02"
    assert raw_driver.percent("50% ü\n".encode()) == "50%25 %C3%BC%0A"
