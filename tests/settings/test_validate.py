"""What is refused though each part can be read, in which words; and the types of what is accepted."""

from __future__ import annotations

import json
from typing import get_origin, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from livenessprobe.klog.format import Options
from livenessprobe.settings.layers import KEYS, PREFIX
from tests.values import GROUPS, PATH, VALID, Refused, as_file, as_flags, as_variables, load_all

# --- contradictions

PLACES = ("flag", "variable", "file")


def read_sides(**sides: tuple[str, str]) -> str:
    """What is said of settings given as key=(place, text): the refusal, or the fault of the file."""
    given_flags = as_flags({key: text for key, (place, text) in sides.items() if place == "flag"})
    environ = as_variables({key: text for key, (place, text) in sides.items() if place == "variable"})
    file = as_file({key: text for key, (place, text) in sides.items() if place == "file"})
    try:
        return load_all(given_flags, environ, file).file_error
    except Refused as refused:
        return str(refused)


def side(place: str, key: str, text: str, line: int) -> str:
    shown = json.dumps(text)
    return {
        "flag": f"flag --{KEYS[key].name} = {shown}",
        "variable": f"variable LIVENESSPROBE_{key.upper()} = {shown}",
        "file": f"line {line}, key {key} = {shown}",
    }[place]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other_place", PLACES)
def test_two_listeners_for_health_are_refused_by_both(place: str, other_place: str) -> None:
    said = read_sides(health_port=(other_place, "2"), http_endpoint=(place, ":1"))

    upstream = "Only one of `--health-port` and `--http-endpoint` can be explicitly set"
    line = 2 if other_place == "file" else 1
    sides = f"{side(other_place, 'health_port', '2', 1)} and {side(place, 'http_endpoint', ':1', line)}"
    if place == other_place == "flag":
        assert said == upstream  # upstream's record has no room for more
    else:
        path = f"{PATH}: " if "file" in (place, other_place) else ""
        assert said == f"{path}{upstream}: {sides}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other_place", PLACES)
def test_row_22_http_endpoint_and_metrics_address_go_together(place: str, other_place: str) -> None:
    """Row 22 of docs/differences.md; the Go program refuses them."""
    assert read_sides(metrics_address=(other_place, ":2"), http_endpoint=(place, ":1")) == ""


@pytest.mark.parametrize(
    ("endpoint", "metrics_address"),
    [("127.0.0.1:1", "127.0.0.1:1"), (":1", "0.0.0.0:1"), ("unix:/h.sock", "unix:///h.sock")],
)
def test_row_22_one_address_for_both_is_one_listener(endpoint: str, metrics_address: str) -> None:
    found = load_all({"http-endpoint": endpoint, "metrics-address": metrics_address}).settings

    assert (found.metrics, found.metrics_on_http) == (None, True)
    with pytest.raises(Refused, match="that is where health is served"):
        load_all({"http-endpoint": endpoint, "metrics-address": metrics_address, "metrics-path": "/healthz"})


@pytest.mark.parametrize(
    ("endpoint", "metrics_address"), [("127.0.0.1:1", ":1"), ("127.0.0.1:1", "127.0.0.1:2"), (":1", "unix:/h.sock")]
)
def test_row_22_two_addresses_are_two_listeners(endpoint: str, metrics_address: str) -> None:
    """Their paths do not collide, so the metrics may be at /healthz."""
    found = load_all({"http-endpoint": endpoint, "metrics-address": metrics_address, "metrics-path": "/healthz"}).settings

    assert found.metrics is not None
    assert (found.http.text, found.metrics.text, found.metrics_on_http) == (endpoint, metrics_address, False)


def test_row_22_one_address_for_health_port_and_metrics_is_two_listeners_as_for_the_go_program() -> None:
    """So the second one cannot be opened."""
    found = load_all({"health-port": "1", "metrics-address": ":1"}).settings

    assert (found.metrics is not None, found.metrics_on_http) == (True, False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other_place", PLACES)
def test_vmodule_and_json_are_refused_by_both(place: str, other_place: str) -> None:
    said = read_sides(vmodule=(place, "a=1"), logging_format=(other_place, "json"))

    upstream = "LoggingConfiguration is invalid: vmodule: Forbidden: Only supported for text log format"
    sides = f" ({side(place, 'vmodule', 'a=1', 1)} and "
    sides += f"{side(other_place, 'logging_format', 'json', 2 if place == 'file' else 1)})"
    path = f"{PATH}: " if "file" in (place, other_place) else ""
    assert said == path + upstream + ("" if place == other_place == "flag" else sides) + "; leave one of the two out"


# --- values that are refused, and what becomes of the others


@pytest.mark.parametrize(
    ("given_flags", "environ", "code", "record"),
    [
        ({}, {"PROBE_TIMEOUT": "3"}, 2, 'variable LIVENESSPROBE_PROBE_TIMEOUT = "3": parse error; write a duration'),
        ({}, {"LOGTOSTDERR": "yes"}, 2, 'variable LIVENESSPROBE_LOGTOSTDERR = "yes": parse error; write true or false'),
        ({"connection-reuse": "-1s"}, {}, 2, 'flag --connection-reuse = "-1s": it must be 0s or more'),
        ({"unreachable-grace": "-1s"}, {}, 2, 'flag --unreachable-grace = "-1s": it must be 0s or more'),
        ({"http-endpoint": ":1"}, {"HEALTH_PORT": "2"}, 1, "Only one of `--health-port` and `--http-endpoint`"),
        (
            {"http-endpoint": ":1", "metrics-path": "metrics"},
            {},
            1,
            'flag --metrics-path = "metrics": it must begin with a slash',
        ),
        ({"http-endpoint": ":1", "metrics-path": "/a b"}, {}, 1, "must not contain blanks"),
        ({"http-endpoint": ":1", "metrics-path": "/healthz"}, {}, 1, "where health is served"),
        ({"metrics-address": "abc"}, {}, 1, "listen tcp: address abc: missing port in address"),
        ({"health-port": "80:80"}, {}, 1, "listen tcp: address 0.0.0.0:80:80: too many colons in address"),
        ({"csi-address": "csi.sock"}, {}, 1, '"csi.sock" is neither a path nor host:port'),
    ],
)
def test_a_bad_flag_or_variable_is_refused(
    given_flags: dict[str, str], environ: dict[str, str], code: int, record: str
) -> None:
    with pytest.raises(Refused) as refused:
        load_all(given_flags, {PREFIX + name: text for name, text in environ.items()})
    assert refused.value.code == code
    assert record in str(refused.value)


def test_a_variable_that_a_flag_overrides_is_not_validated() -> None:
    assert load_all({"probe-timeout": "1s"}, {"LIVENESSPROBE_PROBE_TIMEOUT": "nonsense"}).settings.probe_timeout == 1


# A failure names the settings at fault; to shrink a drawing of all of them would take minutes.
all_at_once = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate], max_examples=8)


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@all_at_once
@given(data=st.data())
def test_every_field_has_its_declared_type(keys: tuple[str, ...], data: st.DataObject) -> None:
    """Fields are filled by name, which the type checker cannot follow."""
    found = load_all(as_flags(data.draw(st.fixed_dictionaries({key: VALID[key] for key in keys})))).settings

    for values in (found, found.log):
        for name, hint in get_type_hints(type(values)).items():
            assert isinstance(getattr(values, name), tuple if get_origin(hint) is tuple else hint), name


def test_the_log_begins_as_the_flags_defaults_say() -> None:
    assert load_all().settings.log == Options()


def test_the_grace_is_the_probe_timeout_unless_given() -> None:
    assert load_all({"probe-timeout": "27s"}).settings.unreachable_grace == 27
    assert load_all({"unreachable-grace": "0s"}).settings.unreachable_grace == 0
    assert load_all({"unreachable-grace": "1m"}).settings.unreachable_grace == 3  # more than the timeout means nothing
