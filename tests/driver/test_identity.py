"""The records of calls at -v=5, on a real driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from livenessprobe.csi import csi_pb2
from tests.support import FakeDriver, Sidecar

Start = Callable[..., Sidecar]


class Named(FakeDriver):
    """A driver whose GetPluginInfo has a manifest."""

    def _get_plugin_info(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        super()._get_plugin_info(request, context)
        info = csi_pb2.GetPluginInfoResponse(name=self.name, vendor_version="<1&2>")
        info.manifest.update({"url": "a\u2028b\u2029", "\u00e9": "\x08\x0c\x7f", "commit": '"', "Z": ""})
        return info.SerializeToString()


def test_the_response_of_get_plugin_info_is_logged_as_by_gos_encoding_json(folder: Path) -> None:
    """Recorded from encoding/json: sorted keys, and escapes for HTML and for JavaScript's line ends."""
    with Named(f"{folder}/csi.sock") as driver:
        process = Sidecar((f"--csi-address={driver.path}", "-v=5"))
        try:
            process.await_name()
            log = process.log()
        finally:
            process.kill()

    manifest = r"{\"Z\":\"\",\"commit\":\"\\\"\",\"url\":\"a\\u2028b\\u2029\",\"é\":\"\\b\\f\x7f\"}"
    response = rf"{{\"manifest\":{manifest},\"name\":\"fake.csi.test\",\"vendor_version\":\"\\u003c1\\u00262\\u003e\"}}"
    assert f'"GRPC response" response="{response}" err=null' in log


@pytest.mark.parametrize("message", ["no", "", "a\tb"])
def test_a_failed_get_plugin_info_is_logged_with_its_message(driver: FakeDriver, sidecar: Start, message: str) -> None:
    driver.name_status = grpc.StatusCode.UNIMPLEMENTED, message
    process = sidecar("-v=5")

    shown = message.replace("\t", "\\t")
    process.await_log(f'"GRPC response" response="{{}}" err="rpc error: code = Unimplemented desc = {shown}"')
    process.await_log(f'"Failed to get CSI driver name" err="rpc error: code = Unimplemented desc = {shown}"')
