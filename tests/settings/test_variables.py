"""Environment variables: which are settings, which only look like settings, and which select the defaults of Longhorn's image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.settings.layers import KEYS, LONGHORN_DEFAULTS, overlay
from livenessprobe.settings.variables import LONGHORN_VARIABLES, longhorn_is_meant
from tests.values import Refused, given_by, load_all

# --- variables that are no settings


def service_links(service: str, ports: list[tuple[str, int, str]], address: str) -> dict[str, str]:
    """The variables that the kubelet sets for a Service (pkg/kubelet/envvars); ports are name, number, protocol."""
    name = service.upper().replace("-", "_")
    environ = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0][1])}
    for port_name, port, _ in ports:
        if port_name:
            environ[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(port)
    for number, (_, port, protocol) in enumerate(ports):
        url = f"{protocol.lower()}://{address}:{port}"
        prefix = f"{name}_PORT_{port}_{protocol}"
        if number == 0:
            environ[f"{name}_PORT"] = url
        environ |= {prefix: url, f"{prefix}_PROTO": protocol.lower(), f"{prefix}_PORT": str(port), f"{prefix}_ADDR": address}
    return environ


SUFFIXES = st.sampled_from([key.replace("_", "-") for key in KEYS] + ["timeout", "port", "service", "x1"])
PORT_NAMES = st.sampled_from(["", "healthz", "http-metrics", "port", "tcp"])
PORTS = st.lists(
    st.tuples(PORT_NAMES, st.integers(1, 65535), st.sampled_from(["TCP", "UDP", "SCTP"])), min_size=1, max_size=3
)


@given(
    service=st.builds(
        "{}{}".format, st.sampled_from(["livenessprobe", "liveness-probe"]), st.just("") | SUFFIXES.map("-{}".format)
    ),
    ports=PORTS,
    address=st.sampled_from(["10.96.0.7", "[fd00::7]"]),
)
def test_variables_of_kubernetes_services_are_ignored(service: str, ports: list[tuple[str, int, str]], address: str) -> None:
    loaded = load_all({}, service_links(service, ports, address))

    assert loaded.warnings == ()
    assert loaded.raw == load_all().raw


@pytest.mark.parametrize(
    ("environ", "code", "sentence"),
    [
        ({"LIVENESSPROBE_HEALTH_PORT": "80:80"}, 1, "variable LIVENESSPROBE_HEALTH_PORT"),
        ({"LIVENESSPROBE_CSI_ADDRESS": "tcp://10.0.0.1"}, 1, "variable LIVENESSPROBE_CSI_ADDRESS"),
        ({"LIVENESS_PROBE_TIMEOUT": "tcp://10.0.0.1:80"}, 2, "variable LIVENESS_PROBE_TIMEOUT"),
    ],
)
def test_a_setting_that_looks_like_a_service_variable_is_still_a_setting(
    environ: dict[str, str], code: int, sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        load_all({}, environ)

    assert refused.value.code == code
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LIVENESSPROBE_PROBE_TIMEUOT", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_PROBETIMEOUT", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_probe_timeout", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_HEALTHPORT", "; did you mean LIVENESSPROBE_HEALTH_PORT?"),
        ("LIVENESS_PROBE_TIMOUT", "; did you mean LIVENESS_PROBE_TIMEOUT?"),
        ("LIVENESS_PROBE_CSI_ADDRESS", "; did you mean LIVENESSPROBE_CSI_ADDRESS?"),
        ("LIVENESSPROBE_PROBE_TIMEOUT__X", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_TIMEOUT", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_RETRIES", ""),
        ("LIVENESSPROBE_ENDPOINT", "; did you mean LIVENESSPROBE_HTTP_ENDPOINT?"),
        ("LIVENESSPROBE_", ""),
        ("LIVENESSPROBE_REPLICAS", ""),
        ("LIVENESSPROBE_QWJZK_QWJZK_QWJZK", ""),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_name(name: str, hint: str) -> None:
    loaded = load_all({}, {name: "1s", "LIVENESSPROBE_V": "3"})

    assert loaded.warnings == (f"variable {name} is not a setting{hint}",)
    assert loaded.settings == load_all({"v": "3"}).settings


UNKNOWN = st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ_"), max_size=12).filter(lambda rest: rest.lower() not in KEYS)


@given(UNKNOWN | st.sampled_from([*LONGHORN_VARIABLES]))
def test_a_variable_is_never_taken_for_one_that_selects_longhorns_defaults(rest: str) -> None:
    for warning in load_all({}, {f"LIVENESSPROBE_{rest}": "1s"}, merger=overlay).warnings:
        assert "did you mean" not in warning or "; did you mean LIVENESSPROBE_" in warning


def test_variables_without_our_prefix_are_ignored() -> None:
    others = (
        "ADDRESS",
        "CSI_ADDRESS",
        "HEALTH_PORT",
        "PROBE_TIMEOUT",
        "V",
        "livenessprobe_v",
        "XLIVENESSPROBE_V",
        "LIVENESSPROBE",
    )
    loaded = load_all({}, dict.fromkeys(others, "nonsense"))

    assert (loaded.settings, loaded.warnings) == (load_all().settings, ())


# --- Longhorn's names


@pytest.mark.parametrize(
    ("arguments", "environ", "meant"),
    [
        ((), {}, False),
        # Names that only that image has.
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
        # Many manifests set CSI_ENDPOINT for their own $(CSI_ENDPOINT).
        ((), {"CSI_ENDPOINT": "unix:///csi/csi.sock"}, False),
        (("--csi-address=/a.sock",), {"CSI_ENDPOINT": "unix:///csi/csi.sock"}, False),
        # Names that the image has in common with this program, or that are its own.
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


def test_longhorns_variables_are_names_of_settings() -> None:
    assert set(LONGHORN_VARIABLES.values()) <= set(KEYS)
    assert set(LONGHORN_DEFAULTS) <= set(KEYS)
