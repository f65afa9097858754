"""The flags, variables and defaults of Longhorn's image, and the two merge functions, which agree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.settings import command_line
from livenessprobe.settings.layers import KEYS, LONGHORN_DEFAULTS, Raw, SettingsError, defaults, merge, overlay
from livenessprobe.settings.variables import LONGHORN_VARIABLES, longhorn_is_meant
from tests.values import load_all

DOCUMENTED = {
    "csi_address": "unix:///csi/csi.sock",
    "interval": "10s",
    "probe_timeout": "3s",
    "failure_threshold": "3",
    "health_file": "/tmp/health",
}
"""The defaults that Longhorn's image documents."""


def given_by(*arguments: str) -> dict[str, str]:
    return command_line.parse(list(arguments)).values()


# --- when Longhorn's defaults apply


@pytest.mark.parametrize(
    ("arguments", "environ", "meant"),
    [
        ((), {}, False),
        # Names that only Longhorn's image has.
        (("--endpoint=/a.sock",), {}, True),
        (("--timeout=3s",), {}, True),
        (("--retries=3",), {}, True),
        (("-retries", "3"), {}, True),
        (("--endpoint=",), {}, True),
        ((), {"LIVENESS_PROBE_INTERVAL": "10s"}, True),
        ((), {"LIVENESS_PROBE_TIMEOUT": "3s"}, True),
        ((), {"LIVENESS_PROBE_PATH": "/a.B/C"}, True),
        ((), {"LIVENESS_PROBE_RETRIES": "3"}, True),
        ((), {"LIVENESS_PROBE_RETRIES": ""}, True),
        ((), {"CSI_ENDPOINT": "/a.sock", "LIVENESS_PROBE_TIMEOUT": "3s"}, True),
        # Many manifests set it for their own $(CSI_ENDPOINT).
        ((), {"CSI_ENDPOINT": "unix:///csi/csi.sock"}, False),
        (("--csi-address=/a.sock",), {"CSI_ENDPOINT": "unix:///csi/csi.sock"}, False),
        # Names that both programs have, or only this one.
        (("--interval=10s",), {}, False),
        (("--probe-path=/a.B/C",), {}, False),
        (("--interval=10s", "--probe-path=/a.B/C"), {"CSI_ENDPOINT": "/a.sock"}, False),
        (("--csi-address=/a.sock", "--probe-timeout=3s", "--failure-threshold=3", "--health-file=/tmp/health"), {}, False),
        ((), {"LIVENESSPROBE_INTERVAL": "10s", "LIVENESSPROBE_PROBE_TIMEOUT": "3s"}, False),
        ((), {"LIVENESSPROBE_FAILURE_THRESHOLD": "3", "LIVENESSPROBE_HEALTH_FILE": "/tmp/health"}, False),
        # Names that neither program has.
        ((), {"LIVENESS_PROBE": "1", "LIVENESS_PROBE_": "1", "LIVENESS_PROBE_PORT": "80"}, False),
        ((), {"liveness_probe_timeout": "3s", "XLIVENESS_PROBE_TIMEOUT": "3s", "LIVENESS_PROBE_TIMEOUTS": "3s"}, False),
        # Variables that Kubernetes sets for a Service called liveness-probe.
        (
            (),
            {
                "LIVENESS_PROBE_SERVICE_HOST": "10.0.0.1",
                "LIVENESS_PROBE_SERVICE_PORT": "80",
                "LIVENESS_PROBE_PORT": "tcp://10.0.0.1:80",
                "LIVENESS_PROBE_PORT_80_TCP_ADDR": "10.0.0.1",
            },
            False,
        ),
    ],
)
def test_names_that_only_longhorns_image_has_select_its_defaults(
    arguments: tuple[str, ...], environ: dict[str, str], meant: bool
) -> None:
    assert longhorn_is_meant(given_by(*arguments), environ) is meant


@given(st.sets(st.sampled_from([key for key in KEYS if key not in ("config", "config_strict")])))
def test_no_flag_or_variable_of_our_own_selects_longhorns_defaults(keys: set[str]) -> None:
    given_flags = {KEYS[key].name: "x" for key in keys}
    environ = {f"LIVENESSPROBE_{key.upper()}": "x" for key in keys}

    assert not longhorn_is_meant(given_flags, environ)
    assert longhorn_is_meant(given_flags | {"retries": "3"}, environ)


# --- the lowest layer


def test_the_defaults_are_those_of_the_flags() -> None:
    assert defaults() == {key: Raw(flag.default, "default") for key, flag in KEYS.items()}


def test_longhorns_defaults_are_those_it_documents_and_no_others_change() -> None:
    ours, theirs = defaults(), defaults(longhorn=True)

    assert dict(LONGHORN_DEFAULTS) == DOCUMENTED
    assert theirs.keys() == ours.keys()
    for key, raw in theirs.items():
        assert raw == (Raw(DOCUMENTED[key], "default of Longhorn's image") if key in DOCUMENTED else ours[key])


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        # As documented, complete or in part.
        (
            (
                "--endpoint=unix:///csi/csi.sock",
                "--interval=10s",
                "--timeout=3s",
                "--retries=3",
                "--probe-path=/csi.v1.Identity/Probe",
            ),
            {},
            ("/csi/csi.sock", 10.0, 3.0, 3, "/tmp/health"),
        ),
        (
            (),
            {
                "CSI_ENDPOINT": "unix:///csi/csi.sock",
                "LIVENESS_PROBE_INTERVAL": "10s",
                "LIVENESS_PROBE_TIMEOUT": "3s",
                "LIVENESS_PROBE_PATH": "/csi.v1.Identity/Probe",
                "LIVENESS_PROBE_RETRIES": "3",
            },
            ("/csi/csi.sock", 10.0, 3.0, 3, "/tmp/health"),
        ),
        (("--retries=5",), {}, ("/csi/csi.sock", 10.0, 3.0, 5, "/tmp/health")),
        (("--timeout=1s", "--endpoint=/a.sock"), {}, ("/a.sock", 10.0, 1.0, 3, "/tmp/health")),
        ((), {"LIVENESS_PROBE_INTERVAL": "1m"}, ("/csi/csi.sock", 60.0, 3.0, 3, "/tmp/health")),
        ((), {"LIVENESS_PROBE_PATH": "/a.B/C", "CSI_ENDPOINT": "/a.sock"}, ("/a.sock", 10.0, 3.0, 3, "/tmp/health")),
        # Settings given in other ways override its defaults.
        (("--retries=3", "--health-file=", "--interval=0s"), {}, ("/csi/csi.sock", 0.0, 3.0, 3, "")),
        (("--retries=3",), {"LIVENESSPROBE_HEALTH_FILE": "/run/h"}, ("/csi/csi.sock", 10.0, 3.0, 3, "/run/h")),
        # Without its names the defaults are those of the Go program.
        ((), {}, ("/run/csi/socket", 0.0, 3.0, 1, "")),
        (("--interval=10s",), {}, ("/run/csi/socket", 10.0, 3.0, 1, "")),
        ((), {"LIVENESSPROBE_INTERVAL": "10s"}, ("/run/csi/socket", 10.0, 3.0, 1, "")),
        ((), {"CSI_ENDPOINT": "unix:///a.sock"}, ("/a.sock", 0.0, 3.0, 1, "")),
        (("--csi-address=/b.sock",), {"CSI_ENDPOINT": "unix:///a.sock"}, ("/b.sock", 0.0, 3.0, 1, "")),
    ],
)
def test_longhorns_names_change_the_defaults(
    arguments: tuple[str, ...], environ: dict[str, str], expected: tuple[object, ...]
) -> None:
    found = load_all(given_by(*arguments), environ, merger=overlay).settings

    shown = (found.csi_address.name, found.interval, found.probe_timeout, found.thresholds.failure, found.health_file)
    assert shown == expected


def test_an_interval_in_the_file_changes_nothing_but_the_interval() -> None:
    plain = load_all({}, {}, merger=overlay).settings
    by_file = load_all({"config": "x"}, {}, b'interval = "10s"', merger=overlay).settings

    assert by_file.interval == 10.0
    assert (by_file.csi_address, by_file.probe_timeout, by_file.thresholds, by_file.health_file) == (
        plain.csi_address,
        plain.probe_timeout,
        plain.thresholds,
        plain.health_file,
    )


@pytest.mark.parametrize(
    ("one", "other"), [("endpoint", "csi-address"), ("timeout", "probe-timeout"), ("retries", "failure-threshold")]
)
def test_two_names_with_two_values_are_refused(one: str, other: str) -> None:
    values = ("/a.sock", "/b.sock") if one == "endpoint" else ("1s", "2s") if one == "timeout" else ("1", "2")
    for first, second in itertools.permutations((one, other)):
        with pytest.raises(SettingsError, match="Contradicting settings"):
            load_all(dict(zip((first, second), values, strict=True)), {}, merger=overlay)


# --- two merge functions

RAWS = st.builds(
    Raw, st.text(max_size=10) | st.sampled_from(["@int 3", "@none", "dynaconf_merge", "true", "[1]"]), st.text(max_size=5)
)
LAYERS = st.lists(st.dictionaries(st.sampled_from(list(KEYS)), RAWS, max_size=8), max_size=4)


@settings(max_examples=40)  # Dynaconf is slow
@given(LAYERS, st.booleans())
def test_the_small_merge_function_agrees_with_dynaconf(layers: list[dict[str, Raw]], longhorn: bool) -> None:
    lowest = defaults(longhorn=longhorn)

    assert overlay(lowest, *layers) == merge(lowest, *layers)


@given(LAYERS)
def test_the_topmost_value_of_each_key_counts(layers: list[dict[str, Raw]]) -> None:
    lowest = defaults()
    merged = overlay(lowest, *layers)

    assert merged.keys() == KEYS.keys()
    for key, raw in merged.items():
        assert raw is [layer[key] for layer in [lowest, *layers] if key in layer][-1]


def test_longhorns_variables_are_names_of_settings() -> None:
    assert set(LONGHORN_VARIABLES.values()) <= set(KEYS)
    assert set(LONGHORN_DEFAULTS) <= set(KEYS)
