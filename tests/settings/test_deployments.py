"""154 real deployments of the sidecar: with only the image swapped, each dials, listens and times out as before."""

from __future__ import annotations

import json
from functools import cache
from urllib.parse import unquote

import pytest

from livenessprobe.settings import command_line
from livenessprobe.settings.describe import document
from livenessprobe.settings.layers import FILE_KEYS
from livenessprobe.settings.model import Loaded, Settings
from tests.support import ROOT
from tests.values import Refused, as_file, load_all

CASES = {case["id"]: case for case in json.loads((ROOT / "tests" / "data" / "deployments.json").read_text(encoding="utf-8"))}
"""By id: command and arguments as the kubelet passes them, the sidecar's environment, and what the Go program does."""
REFUSED = "D140"
"""Go accepts `--health-port=localhost:29613` too, but cannot listen on it."""
ACCEPTED = [name for name in CASES if name != REFUSED]
PLACEHOLDERS = {"${LOG_LEVEL}": "2", "${LIVENESS_PROBE_PORT}": "10300"}
"""Values for variables that templates leave in arguments; expectations that contain such a variable are not compared."""
FOREIGN = {
    "ADDRESS": "/elsewhere.sock",
    "CSI_ADDRESS": "/elsewhere.sock",
    "CSI_ENDPOINT": "unix:///elsewhere.sock",
    "HEALTH_PORT": "1",
    "HTTP_ENDPOINT": ":1",
    "METRICS_ADDRESS": ":2",
    "METRICS_PATH": "/elsewhere",
    "PROBE_TIMEOUT": "1h",
    "TIMEOUT": "1h",
    "LOG_LEVEL": "9",
    "V": "9",
    "LOGGING_FORMAT": "json",
}
"""Names that manifests set for their own expansion; none of them is a setting."""


def arguments(case: dict) -> list[str]:
    given = [*case.get("command", [])[1:], *case["args"]]
    for placeholder, text in PLACEHOLDERS.items():
        given = [argument.replace(placeholder, text) for argument in given]
    return given


def platform(case: dict) -> str:
    return "win32" if case["os"] == "windows" else "linux"


@cache
def loaded(name: str, **environ: str) -> Loaded:
    case = CASES[name]
    return load_all(
        command_line.parse(arguments(case)).values(), {**case.get("env", {}), **environ}, platform=platform(case)
    )


def settings(name: str, **environ: str) -> Settings:
    return loaded(name, **environ).settings


def dial_and_listen(case: dict) -> tuple[dict, list[dict]]:
    """The table's expectations in the format of `livenessprobe config`."""
    dial, listen, metrics = (case["expected"][part] for part in ("dial", "listen", "metrics"))
    serves = ["healthz"] if metrics is None else ["healthz", "metrics"]
    address = f"{listen['host']}:{listen['port']}"
    return dial, [{"address": address, "serves": serves, "dual_stack": listen["dual_stack"]}]


@cache
def effective(name: str) -> dict[str, object]:
    """The settings in force, in the format of the table."""
    found = settings(name)
    assert found.metrics is None  # no deployment has a separate listener for metrics
    return {
        "dial": {"network": found.csi_address.network, "path": found.csi_address.name},
        "host": found.http.host,
        "port": found.http.port,
        "dual_stack": found.http.dual_stack,
        "metrics": found.metrics_path if found.metrics_on_http else None,
        "probe_timeout_s": found.probe_timeout,
        "v": found.log.v,
    }


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_deployment_behaves_as_with_the_go_program(name: str) -> None:
    """Values that the manifest leaves to a variable of its installer are not compared."""
    expected = dict(CASES[name]["expected"])
    expected |= expected.pop("listen")
    compared = {part: value for part, value in expected.items() if "${" not in str(value)}

    assert {part: effective(name)[part] for part in compared} == compared


def test_the_table_of_deployments_is_complete() -> None:
    assert len(CASES) == 154
    assert {len(case["expected"]) for case in CASES.values()} == {5}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_argument_is_read(name: str) -> None:
    assert command_line.parse(arguments(CASES[name])).unread == ()


def test_an_address_as_health_port_is_refused_at_start() -> None:
    """Go notices only after the driver has responded, and exits with 0."""
    with pytest.raises(Refused) as refused:
        settings(REFUSED)

    assert refused.value.code == 1
    assert str(refused.value) == (
        "Failed to start http server: listen tcp: address 0.0.0.0:localhost:29613: too many colons in address; "
        "write the port alone: 29613; --http-endpoint takes an address"
    )


@pytest.mark.parametrize("name", ["D077", "D078", "D085"])
def test_the_connection_timeout_of_old_manifests_is_accepted(name: str) -> None:
    """Go has refused it since v2.0, with exit code 2."""
    assert command_line.parse(arguments(CASES[name])).values()["connection-timeout"] == "3s"
    assert settings(name).probe_timeout == 3.0


@pytest.mark.parametrize("name", ACCEPTED)
def test_variables_for_the_manifests_own_use_are_not_read(name: str) -> None:
    """Manifests expand such variables into flags; other values in the variables themselves change nothing."""
    assert settings(name, **FOREIGN) == settings(name)


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_settings_in_force_are_described_as_the_table_expects_them(name: str) -> None:
    case, start = CASES[name], loaded(name)
    described = json.loads(json.dumps(document(start)))

    assert described == document(start)
    assert all(set(entry) == {"value", "source"} for entry in described["settings"].values())
    given = {start.raw[key].source for key in start.raw} - {"default"}
    assert given == {f"flag --{name}" for name in command_line.parse(arguments(case)).values()}
    assert {entry["source"] for entry in described["settings"].values()} == {"default", *given}
    assert unquote(described["target"]) == f"unix:{case['expected']['dial']['path']}"
    if "${" not in str(case["expected"]):
        assert (described["dial"], described["listen"]) == dial_and_listen(case)


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_printed_settings_work_as_a_settings_file(name: str) -> None:
    """The printed values can be copied into a ConfigMap, to move from flags to a file."""
    start = loaded(name)
    described = document(start)["settings"]
    content = as_file({key: described[key]["value"] for key in FILE_KEYS})

    again = load_all(file=content, platform=platform(CASES[name]))

    assert (again.file_error, again.settings) == ("", start.settings)
