"""
Compares an observation with an expectation, without any input or output.

Each key of an expectation has its check.  A key without a check is an error; otherwise a misspelt key would never fail.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.conformance.observation import DriverSeen, Observation, Response, StepSeen, without_own_pairs
from tests.conformance.vectors import HTTP_KEYS, Expectation, Fragment, fill

Problems = Iterator[str]

_GRPC_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def problems(expected: Expectation, seen: Observation) -> list[str]:
    """The differences, one sentence each; empty if there are none."""
    found = list(_process(fill(expected.process, seen.places), seen))
    for index, fragment in sorted(expected.steps.items()):
        found.extend(f"step {index}: {problem}" for problem in step_problems(fragment, seen, index))
    if "Traceback (most recent call last)" in seen.stderr:
        found.append(f"stderr has a traceback: {seen.stderr[-2000:]}")
    return found


def step_problems(fragment: Fragment, seen: Observation, index: int) -> list[str]:
    """The differences in one step."""
    if index >= len(seen.steps):
        return ["not reached"]
    return list(_step(fill(fragment, seen.places), seen.steps[index]))


# The process as a whole


def _process(expected: Fragment, seen: Observation) -> Problems:
    for key, wanted in expected.items():
        yield from _check(_PROCESS, key)(wanted, seen)


def _exit_code(wanted: int, seen: Observation) -> Problems:
    if seen.exit_code != wanted:
        yield f"exit code {seen.exit_code}, wanted {wanted}"


def _exit_any(wanted: list[int], seen: Observation) -> Problems:
    if seen.exit_code not in wanted:
        yield f"exit code {seen.exit_code}, wanted one of {wanted}"


def _exit_signal(wanted: str, seen: Observation) -> Problems:
    if seen.exit_code != -signal.Signals[wanted]:
        yield f"exit code {seen.exit_code}, wanted to be killed by {wanted}"


def _running(wanted: bool, seen: Observation) -> Problems:
    if wanted and seen.exit_code is not None:
        yield f"exited with {seen.exit_code}, wanted it to keep running: {seen.stderr[-500:]!r}"


def _http_up(wanted: bool, seen: Observation) -> Problems:
    if seen.http_up is not wanted:
        yield f"HTTP up: {seen.http_up}, wanted {wanted}"


def _elapsed_max_s(wanted: float, seen: Observation) -> Problems:
    if seen.elapsed > wanted:
        yield f"took {seen.elapsed:.2f} s, wanted at most {wanted}"


def _stdout(wanted: str, seen: Observation) -> Problems:
    if seen.stdout != wanted:
        yield f"stdout {seen.stdout[:300]!r}, wanted {wanted!r}"


def _stdout_contains(wanted: list[str], seen: Observation) -> Problems:
    for text in wanted:
        if text not in seen.stdout:
            yield f"stdout lacks {text!r}: {seen.stdout[:300]!r}"


def _stderr_contains(wanted: list[str], seen: Observation) -> Problems:
    for text in wanted:
        if text not in seen.stderr:
            yield f"stderr lacks {text!r}: {seen.stderr[:500]!r}"


def _stderr_not_contains(wanted: list[str], seen: Observation) -> Problems:
    for text in wanted:
        if text in seen.stderr:
            yield f"stderr has {text!r}: {seen.stderr[:500]!r}"


def _stderr_regex(wanted: list[str], seen: Observation) -> Problems:
    for pattern in wanted:
        if not re.search(pattern, seen.stderr, re.MULTILINE):
            yield f"stderr has no match of {pattern!r}: {seen.stderr[:500]!r}"


def _stderr_first_line(wanted: str, seen: Observation) -> Problems:
    first = seen.stderr.split("\n", 1)[0]
    if first != wanted:
        yield f"stderr begins with {first!r}, wanted {wanted!r}"


def _log(wanted: list[Any], seen: Observation) -> Problems:
    """All records, in order; an item may be {"regex": …}."""
    if len(wanted) != len(seen.log) or not all(map(_is_record, wanted, seen.log)):
        listed = (
            f"{title}\n" + "".join(f"    {record}\n" for record in log)
            for title, log in (("log", seen.log), ("wanted", wanted))
        )
        yield "".join(listed)


def _log_contains(wanted: list[Any], seen: Observation | StepSeen) -> Problems:
    for record in wanted:
        if not any(_is_record(record, got) for got in seen.log):
            yield f"log lacks {record!r}; ends with {seen.log[-6:]}"


def _driver(wanted: Fragment, seen: Observation | StepSeen) -> Problems:
    if seen.driver is None:
        yield "there was no driver"
        return
    for key, value in wanted.items():
        for problem in _check(_DRIVER, key)(value, seen.driver):
            yield f"driver: {problem}"


# One step and its response


def _step(expected: Fragment, seen: StepSeen) -> Problems:
    for key in ("driver", "log_contains"):
        if key in expected:
            yield from _check(_PROCESS, key)(expected[key], seen)
    answer = {key: value for key, value in expected.items() if key not in ("driver", "log_contains")}
    if unknown := set(answer) - HTTP_KEYS:
        raise ValueError(f"no check for {sorted(unknown)}")
    if seen.parallel is not None:
        yield from _parallel(answer, seen.parallel, seen.seconds)
    elif answer:
        yield from _answer(answer, seen)


def _parallel(expected: Fragment, responses: tuple[Response | None, ...], seconds: float) -> Problems:
    """Of parallel requests only status and time are compared."""
    if unknown := set(expected) - {"http_status", "min_s", "max_s"}:
        raise ValueError(f"no check for {sorted(unknown)} of parallel requests")
    statuses = {response and response.status for response in responses}
    if "http_status" in expected and statuses != {expected["http_status"]}:
        yield f"statuses {statuses}, wanted {expected['http_status']}"
    yield from _seconds(expected, seconds)


def _answer(expected: Fragment, seen: StepSeen) -> Problems:
    if expected.get("refused"):
        if not seen.refused:
            yield f"got {seen.raw[:100]!r}, wanted connection refused"
        return
    if seen.refused:
        yield "connection refused"
        return
    if "no_response" in expected and (not seen.raw) is not expected["no_response"]:
        yield f"no response: {not seen.raw}, wanted {expected['no_response']}; got {seen.raw[:100]!r}"
    if expected.get("no_response"):
        return
    if "raw_regex" in expected and not re.search(expected["raw_regex"], seen.raw.decode("latin-1"), re.DOTALL):
        yield f"no match of {expected['raw_regex']!r} in {seen.raw[:300]!r}"
    yield from _seconds(expected, seen.seconds)
    checks = {key: wanted for key, wanted in expected.items() if key in _RESPONSE}
    response = seen.response
    if response is None:
        if checks:
            yield "no response"
        return
    for key, wanted in checks.items():
        yield from _RESPONSE[key](wanted, response)


def _seconds(expected: Fragment, seconds: float) -> Problems:
    if seconds < expected.get("min_s", 0.0):
        yield f"took {seconds:.3f} s, wanted at least {expected['min_s']}"
    if seconds > expected.get("max_s", float("inf")):
        yield f"took {seconds:.3f} s, wanted at most {expected['max_s']}"


def _http_status(wanted: int, response: Response) -> Problems:
    if response.status != wanted:
        yield f"status {response.status}, wanted {wanted}; body {response.body[:300]!r}"


def _http_reason(wanted: str, response: Response) -> Problems:
    if response.reason != wanted:
        yield f"reason {response.reason!r}, wanted {wanted!r}"


def _proto(wanted: str, response: Response) -> Problems:
    if response.proto != wanted:
        yield f"protocol {response.proto!r}, wanted {wanted!r}"


def _body(wanted: str, response: Response) -> Problems:
    if _text(response) != wanted:
        yield f"body {response.body[:300]!r}, wanted {wanted[:300]!r}"


def _body_hex(wanted: str, response: Response) -> Problems:
    if response.body.hex() != wanted:
        yield f"body {response.body[:300]!r}, wanted {bytes.fromhex(wanted)[:300]!r}"


def _body_regex(wanted: str | list[str], response: Response) -> Problems:
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        if not re.search(pattern, _text(response), re.DOTALL | re.MULTILINE):
            yield f"body has no match of {pattern!r}: {response.body[:500]!r}"


def _headers(wanted: Mapping[str, Any], response: Response) -> Problems:
    got = {name.lower(): value for name, value in response.headers}
    for name, value in wanted.items():
        if not _matches(value, got.get(name.lower())):
            yield f"header {name}: {got.get(name.lower())!r}, wanted {value!r}"


def _headers_absent(wanted: list[str], response: Response) -> Problems:
    got = {name.lower(): value for name, value in response.headers}
    for name in wanted:
        if name.lower() in got:
            yield f"header {name}: {got[name.lower()]!r}, wanted none"


def _text(response: Response) -> str:
    return response.body.decode("utf-8", "surrogateescape")


# The driver's side


def _connections(wanted: int, seen: DriverSeen) -> Problems:
    if seen.connections != wanted:
        yield f"{seen.connections} connections, wanted {wanted}"


def _max_connections(wanted: int, seen: DriverSeen) -> Problems:
    if seen.connections > wanted:
        yield f"{seen.connections} connections, wanted at most {wanted}"


def _calls(wanted: list[str], seen: DriverSeen) -> Problems:
    methods = [call.method for call in seen.calls]
    if methods != wanted:
        yield f"calls {methods}, wanted {wanted}"


def _ncalls(wanted: int, seen: DriverSeen) -> Problems:
    if len(seen.calls) != wanted:
        yield f"{len(seen.calls)} calls, wanted {wanted}"


def _call_headers(wanted: Mapping[str, Mapping[str, Any]], seen: DriverSeen) -> Problems:
    """Headers of a method's first call; null means absent."""
    for method, headers in wanted.items():
        got = _first_headers(method, seen)
        if got is None:
            yield f"no call of {method}"
            continue
        for name, value in headers.items():
            if value is None and name in got:
                yield f"{method} has header {name}: {got[name]!r}"
            elif value is not None and not _matches(value, got.get(name)):
                yield f"{method} header {name}: {got.get(name)!r}, wanted {value!r}"


def _grpc_timeout_range_s(wanted: Mapping[str, tuple[float, float]], seen: DriverSeen) -> Problems:
    for method, (low, high) in wanted.items():
        text = (_first_headers(method, seen) or {}).get("grpc-timeout", "")
        timeout = _GRPC_TIMEOUT.fullmatch(text)
        if timeout is None:
            yield f"{method} grpc-timeout {text!r}"
        elif not low <= int(timeout[1]) * _SECONDS[timeout[2]] <= high:
            yield f"{method} grpc-timeout {text}, wanted {low} to {high} s"


def _call_body_hex(wanted: Mapping[str, str], seen: DriverSeen) -> Problems:
    for method, body in wanted.items():
        got = next((call.body.hex() for call in seen.calls if call.method == method), None)
        if got != body:
            yield f"{method} body {got}, wanted {body}"


def _first_headers(method: str, seen: DriverSeen) -> dict[str, str] | None:
    return next((dict(call.headers) for call in seen.calls if call.method == method), None)


# Shared


def _matches(wanted: Any, got: str | None) -> bool:
    """Equal, or a match of {"regex": …}."""
    if isinstance(wanted, Mapping):
        return got is not None and re.search(wanted["regex"], got, re.DOTALL) is not None
    return bool(wanted == got)


def _is_record(wanted: Any, got: str) -> bool:
    """Whether a record is the wanted one, but for the cause that the sidecar adds."""
    return _matches(wanted, got) or _matches(wanted, without_own_pairs(got))


def _check(table: Mapping[str, Callable[..., Problems]], key: str) -> Callable[..., Problems]:
    if key not in table:
        raise ValueError(f"no check for {key!r}")
    return table[key]


_PROCESS: Mapping[str, Callable[..., Problems]] = {
    "exit_code": _exit_code,
    "exit_any": _exit_any,
    "exit_signal": _exit_signal,
    "running": _running,
    "http_up": _http_up,
    "elapsed_max_s": _elapsed_max_s,
    "stdout": _stdout,
    "stdout_contains": _stdout_contains,
    "stderr_contains": _stderr_contains,
    "stderr_not_contains": _stderr_not_contains,
    "stderr_regex": _stderr_regex,
    "stderr_first_line": _stderr_first_line,
    "log": _log,
    "log_contains": _log_contains,
    "driver": _driver,
}

_RESPONSE: Mapping[str, Callable[..., Problems]] = {
    "http_status": _http_status,
    "http_reason": _http_reason,
    "proto": _proto,
    "body": _body,
    "body_hex": _body_hex,
    "body_regex": _body_regex,
    "headers": _headers,
    "headers_absent": _headers_absent,
}

_DRIVER: Mapping[str, Callable[..., Problems]] = {
    "connections": _connections,
    "max_connections": _max_connections,
    "calls": _calls,
    "ncalls": _ncalls,
    "call_headers": _call_headers,
    "grpc_timeout_range_s": _grpc_timeout_range_s,
    "call_body_hex": _call_body_hex,
}
