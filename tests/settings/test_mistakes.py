"""All mistakes are told at once, each as it is told alone, with its source."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.settings.layers import FILE_KEYS, overlay
from livenessprobe.settings.load import FILE_MISTAKES_MAX, load
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.model import Loaded
from tests.values import PATH, Refused, as_file, as_variables, load_all

BAD = {
    "automaxprocs": "maybe",
    "config_poll_interval": "1ms",
    "connection_reuse": "-1s",
    "csi_address": "http://x",
    "failure_threshold": "0",
    "health_port": "80:80",
    "http_idle_timeout": "0s",
    "http_max_header_bytes": "1",
    "interval": "-1s",
    "log_backtrace_at": "x",
    "log_file_max_size": "big",
    "logging_format": "xml",
    "metrics_address": "abc",
    "metrics_path": "metrics",
    "probe_path": "Probe",
    "probe_timeout": "3",
    "unreachable_grace": "-1s",
    "v": "-1",
}
"""A bad value of each of these keys, which concerns no other key."""
PATH_NEEDS = {"metrics_path": {"metrics_address": ":1"}}
"""What makes a bad value of the key count."""


def mistakes_of(given_flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Mistake, ...]:
    return load(given_flags, environ, platform="linux", merger=overlay).mistakes


def of_file(content: bytes, environ: Mapping[str, str]) -> tuple[Mistake, ...]:
    try:
        return load_all({}, environ, content, merger=overlay).file_mistakes
    except Refused as refused:
        return tuple(mistake for mistake in refused.mistakes if mistake.source.startswith("file "))


def alone(key: str) -> tuple[Mistake, ...]:
    return mistakes_of({}, as_variables(PATH_NEEDS.get(key, {}) | {key: BAD[key]}))


@given(st.sets(st.sampled_from([*BAD])))
def test_each_bad_variable_is_told_once_and_as_if_it_were_alone(keys: set[str]) -> None:
    needed = {"metrics_address": ":1"} if "metrics_path" in keys else {}

    found = mistakes_of({}, as_variables(needed | {key: BAD[key] for key in keys}))

    assert len(found) == len(keys)
    assert {mistake.source for mistake in found} == {f"variable LIVENESSPROBE_{key.upper()}" for key in keys}
    expected = {mistake for key in keys for mistake in alone(key)}
    if "metrics_address" in keys and "metrics_path" in keys:  # the record of the address tells the path too
        found, expected = ({each._replace(pairs=()) for each in some} for some in (found, expected))
    assert set(found) == expected


@given(
    st.sets(st.sampled_from([*BAD]), max_size=FILE_MISTAKES_MAX - 3),
    st.sets(st.sampled_from([key for key in BAD if key != "metrics_path"])),
    st.lists(st.sampled_from(["x", "y", "z"]), unique=True),
)
def test_each_bad_line_of_a_file_is_told_once_whatever_else_is_bad(
    in_file: set[str], in_variables: set[str], unknown: list[str]
) -> None:
    """A variable wins over the file, so what it overrides is not checked."""
    values = {"metrics_address": ":1"} | {key: BAD[key] for key in in_file} | dict.fromkeys(unknown, "1")
    lines = {key: number for number, key in enumerate(values, 1)}
    environ = as_variables({key: BAD[key] for key in in_variables})

    found = of_file(as_file(values), environ)

    told = [key for key in lines if key in unknown or (key in in_file and key not in in_variables)]
    assert sorted(mistake.source for mistake in found) == sorted(
        f"file {PATH}, line {lines[key]}, key {key}" for key in told
    )
    assert all(str(mistake.err).startswith(f"{PATH}: ") for mistake in found)


def test_the_order_is_that_of_the_go_program() -> None:
    """The first record is that of a process with the first mistake alone."""
    given_flags = {"timeout": "1s", "probe-timeout": "2s", "csi-address": "", "log-flush-frequency": "0s"}
    environ = {
        "CSI_ENDPOINT": "/a",
        "LIVENESSPROBE_V": "x",
        "LIVENESSPROBE_HTTP_ENDPOINT": "1",
        "LIVENESSPROBE_HEALTH_PORT": "2",
    }

    assert [(mistake.source, mistake.message) for mistake in mistakes_of(given_flags, environ)] == [
        ("flag --timeout and flag --probe-timeout", "Contradicting settings"),
        ("variable LIVENESSPROBE_V", "Invalid setting"),
        ("flag --log-flush-frequency", "LoggingConfiguration is invalid"),
        (
            "variable LIVENESSPROBE_HEALTH_PORT and variable LIVENESSPROBE_HTTP_ENDPOINT",
            "Only one of `--health-port` and `--http-endpoint` can be explicitly set",
        ),
        ("flag --csi-address", "Failed to establish connection to CSI driver"),
        ("variable LIVENESSPROBE_HTTP_ENDPOINT", "Failed to start http server"),
    ]


def test_what_an_unreadable_flag_overrides_is_not_checked() -> None:
    environ = {"LIVENESSPROBE_PROBE_TIMEOUT": "3", "LIVENESSPROBE_V": "x"}

    found = load({}, environ, unreadable=["probe_timeout"], platform="linux", merger=overlay)

    assert [mistake.source for mistake in found.mistakes] == ["variable LIVENESSPROBE_V"]


def test_the_log_options_that_can_be_read_are_used() -> None:
    found = load({"logging-format": "json"}, {"LIVENESSPROBE_V": "x"}, platform="linux", merger=overlay)

    assert (found.settings.log.logging_format, found.settings.log.v) == ("json", 0)


def test_a_file_of_a_thousand_mistakes_is_not_a_thousand_records() -> None:
    content = "".join(f"key{number} = 1\n" for number in range(1000)).encode()

    found = load_all(file=content).file_mistakes

    assert len(found) == FILE_MISTAKES_MAX + 1
    assert found[-1].err == f"{PATH}: {1000 - FILE_MISTAKES_MAX} more mistakes"


@pytest.mark.parametrize(
    ("given_flags", "environ", "content", "refused"),
    [
        ({}, {}, b"x = 1", False),
        ({}, {"LIVENESSPROBE_X": "1"}, b"x = 1", False),
        ({"config-strict": "false"}, {}, b"x = 1", False),
        ({"config-strict": "true"}, {}, b"x = 1", True),
        ({"config-strict": "true"}, {}, b"v = 1", False),
        ({"config-strict": "true"}, {"LIVENESSPROBE_X": "1"}, b"v = 1", False),
        ({}, {"LIVENESSPROBE_CONFIG_STRICT": "x"}, b"x = 1", True),
        ({}, {"LIVENESSPROBE_V": "x"}, b"v = 1", True),
    ],
)
def test_a_bad_file_and_unknown_variables_alone_refuse_nothing(
    given_flags: dict[str, str], environ: dict[str, str], content: bytes, refused: bool
) -> None:
    def found() -> Loaded | Refused:
        try:
            return load_all(given_flags, environ, content)
        except Refused as error:
            return error

    assert isinstance(found(), Refused) is refused


def test_the_table_has_only_keys_of_a_file() -> None:
    assert BAD.keys() <= {*FILE_KEYS}
