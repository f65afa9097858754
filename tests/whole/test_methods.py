"""The methods that the whole process may probe: --probe-path and --health-service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from livenessprobe.csi import grpc_health_pb2
from tests.support import FakeDriver, Start

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


def _health_service(**statuses: int) -> Callable[[bytes], bytes]:
    """gRPC's health check of a server with these services; `server` is the status of the server as a whole."""

    def check(request: bytes) -> bytes:
        service = grpc_health_pb2.HealthCheckRequest.FromString(request).service or "server"
        return grpc_health_pb2.HealthCheckResponse(status=statuses[service]).SerializeToString()

    return check


UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


def test_grpcs_health_check_is_understood(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(f"--probe-path={HEALTH_CHECK}")
    assert process.get().reason == "unimplemented"
    for status, expected in {
        SERVING: (200, "ok", None),
        NOT_SERVING: (500, "driver responded but is not ready", "not_ready"),
        UNKNOWN: (500, "driver responded but is not ready", "not_ready"),
        SERVICE_UNKNOWN: (500, "driver responded but is not ready", "not_ready"),
    }.items():
        driver.methods = {HEALTH_CHECK: _health_service(server=status)}
        answer = process.get()
        assert (answer.status, answer.body, answer.reason) == expected
    driver.status = (grpc.StatusCode.NOT_FOUND, "unknown service")
    answer = process.get()
    assert (answer.body, answer.reason) == ("rpc error: code = NotFound desc = unknown service", "driver_error")
    driver.status, driver.methods = None, {HEALTH_CHECK: lambda _: b"\xff"}
    assert process.get().reason == "protocol_error"


def test_grpcs_health_check_is_asked_about_the_configured_service(driver: FakeDriver, sidecar: Start) -> None:
    driver.methods = {HEALTH_CHECK: _health_service(server=NOT_SERVING, volumes=SERVING)}
    assert sidecar(f"--probe-path={HEALTH_CHECK}", "--health-service=volumes").get().status == 200


@pytest.mark.parametrize("method", ["/csi.v1.Node/NodeGetInfo", "/longhorn.v1.Engine/Ping"])
def test_any_other_method_is_healthy_if_it_succeeds(driver: FakeDriver, sidecar: Start, method: str) -> None:
    requests = []
    driver.methods = {method: lambda request: requests.append(request) or b"\xff no protobuf"}
    process = sidecar(f"--probe-path={method}")
    csi = method.startswith("/csi.")
    if csi:
        process.await_name()

    assert process.get().status == 200
    driver.status = (grpc.StatusCode.FAILED_PRECONDITION, "no")
    answer = process.get()

    assert (answer.status, answer.reason) == (500, "driver_error")
    assert answer.body == "rpc error: code = FailedPrecondition desc = no"
    assert requests == [b""]
    assert (driver.names_asked > 0) == csi  # other services may have no GetPluginInfo
    name = driver.name if csi else "unknown-driver"
    for code in ("OK", "FailedPrecondition"):
        labels = f'driver_name="{name}",grpc_status_code="{code}",method_name="{method}"'
        assert process.metric(f"csi_sidecar_operations_seconds_count{{{labels}}}") == 1


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("/csi.v1.Controller/CreateVolume", "CreateVolume may change a volume"),
        ("/csi.v1.Node/NodeUnpublishVolume", "NodeUnpublishVolume may change a volume"),
        ("Probe", "it is no gRPC method; write one such as /csi.v1.Identity/Probe"),
    ],
)
def test_a_method_that_may_change_a_volume_is_refused(
    driver: FakeDriver, sidecar: Start, method: str, sentence: str
) -> None:
    driver.methods = {method: lambda _: b""}
    by_flag = sidecar(f"--probe-path={method}", await_http=False)
    by_variable = sidecar(environ={"LIVENESS_PROBE_PATH": method}, await_http=False)
    assert (by_flag.wait(), by_variable.wait()) == (1, 1)
    for process in (by_flag, by_variable):
        assert sentence in process.log()
        assert "Traceback" not in process.log()
    assert driver.probes == 0


def test_a_settings_file_with_a_method_that_may_change_a_volume_is_ignored(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    method = "/csi.v1.Controller/DeleteVolume"
    driver.methods = {method: lambda _: pytest.fail("asked")}
    file = folder / "settings.toml"
    file.write_text("v = 0\n")
    process = sidecar(f"--config={file}")
    process.write(file, f'probe_path = "{method}"\n')
    process.await_log("DeleteVolume may change a volume")
    assert process.get().status == 200
