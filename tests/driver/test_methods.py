"""The methods that may be a probe: methods that read, and none that may change a volume."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.driver.methods import HEALTH_CHECK, PROBE, parse_method

# All methods of csi.proto v1.13, by service: first the read-only methods, then the others.
CSI: dict[str, tuple[set[str], set[str]]] = {
    "Identity": ({"GetPluginInfo", "GetPluginCapabilities", "Probe"}, set()),
    "Controller": (
        {
            "ValidateVolumeCapabilities",
            "ListVolumes",
            "GetCapacity",
            "ControllerGetCapabilities",
            "ListSnapshots",
            "GetSnapshot",
            "ControllerGetVolume",
            "ControllerGetVolumeHealth",
            "ControllerListVolumeHealth",
        },
        {
            "CreateVolume",
            "DeleteVolume",
            "ControllerPublishVolume",
            "ControllerUnpublishVolume",
            "CreateSnapshot",
            "DeleteSnapshot",
            "ControllerExpandVolume",
            "ControllerModifyVolume",
        },
    ),
    "GroupController": (
        {"GroupControllerGetCapabilities", "GetVolumeGroupSnapshot"},
        {"CreateVolumeGroupSnapshot", "DeleteVolumeGroupSnapshot"},
    ),
    "SnapshotMetadata": ({"GetMetadataAllocated", "GetMetadataDelta"}, set()),
    "Node": (
        {"NodeGetVolumeStats", "NodeGetVolumeHealth", "NodeGetStorageHealth", "NodeGetCapabilities", "NodeGetInfo"},
        {"NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeExpandVolume"},
    ),
}
READS = sorted(f"/csi.v1.{service}/{name}" for service, (reads, _) in CSI.items() for name in reads)
WRITES = sorted(f"/csi.v1.{service}/{name}" for service, (_, writes) in CSI.items() for name in writes)


@pytest.mark.parametrize("method", READS)
def test_a_read_only_method_may_be_a_probe(method: str) -> None:
    assert parse_method(method) == method


@pytest.mark.parametrize("method", WRITES)
def test_a_method_that_may_write_is_refused_by_name(method: str) -> None:
    name = method.rpartition("/")[2]
    with pytest.raises(ValueError, match=f"^{name} may change a volume, and a probe is sent again and again; choose one"):
        parse_method(method)


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("version", ["csi.v0", "csi.v2", "csi.v1alpha1", "csi", "csi.v1.x"])
def test_a_method_that_may_write_is_refused_in_every_version_of_csi(method: str, version: str) -> None:
    with pytest.raises(ValueError, match="may change a volume"):
        parse_method(method.replace("csi.v1", version))


@pytest.mark.parametrize(
    "method",
    [
        "/csi.v1.Controller/ControllerFormatVolume",  # in a future version
        "/csi.v1.Node/NodeProbe",
        "/csi.v1.Shredder/Run",
        "/csi.v1.Controller/Probe",
        "/csi.v1.Controller/listVolumes",
        "/csi.v1.identity/Probe",
        "/csi.v1.NoIdentity/Probe",
        "/csi.v1.Identity.Controller/CreateVolume",
    ],
)
def test_unknown_methods_of_csi_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="may change a volume"):
        parse_method(method)


@pytest.mark.parametrize(
    "method",
    [
        PROBE,
        HEALTH_CHECK,
        "/csi.v1.Identity/SomethingNew",  # the Identity service is about the driver, not about volumes
        "/a.B/C",
        "/Service/Method",
        "/my_driver.v1.Health/Are_you_there",
        "/csix.v1.Controller/CreateVolume",  # nothing is known about other packages
        "/my.csi.v1.Controller/CreateVolume",
        "/_a._b/_c",
        "/a1.b2.C3/D4",
    ],
)
def test_methods_outside_csi_are_accepted(method: str) -> None:
    assert parse_method(method) == method


GARBAGE = [
    "",
    "/",
    "//",
    "Probe",
    "/Probe",
    "csi.v1.Identity/Probe",  # as users often write it
    "csi.v1.Controller/CreateVolume",
    "csi.v1.Identity.Probe",
    "/csi.v1.Identity/",
    "/csi.v1.Identity/Probe/",
    "//csi.v1.Identity/Probe",
    "/csi.v1.Identity//Probe",
    "/csi/v1/Identity/Probe",
    "/csi.v1.Identity/Probe?x",
    "/csi.v1.Identity/Pr.obe",
    "/.csi.v1.Identity/Probe",
    "/1csi.v1.Identity/Probe",
    "/csi.v1.Identity/1Probe",
    "/csi-v1.Identity/Probe",
    "/csi.v1.Identity/Probe ",
    " /csi.v1.Identity/Probe",
    "/csi.v1. Identity/Probe",
    "/csi.v1.Identity/Probe\n",
    "/csi.v1.Identity/Probe\r\nx: y",
    "\n/csi.v1.Identity/Probe",
    "/csi.v1.Controller/CreateVolume\n",
    "/csi.v1.Identity/Probe\0",
    "/csi.v1.Idéntity/Probe",
    "/csi.v1.Identity/Próbe",
    "/csi․v1․Controller/CreateVolume",  # one dot leader, U+2024
    "/csi.v1.Identity/Probe１",  # a digit, but not ASCII's
    "/csi.v1.Identity∕Probe",  # division slash, U+2215
    "http://x/csi.v1.Identity/Probe",
]


@pytest.mark.parametrize("text", GARBAGE)
def test_text_that_is_no_method_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=f"^it is no gRPC method; write one such as {PROBE}$"):
        parse_method(text)


@settings(max_examples=200)
@given(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from([*READS, *WRITES]).flatmap(lambda method: st.text(max_size=3).map(lambda extra: method + extra)),
        st.from_regex(r"/(csi\.)?[a-z.A-Z]{1,12}/[A-Za-z]{1,12}"),
    )
)
def test_any_accepted_text_is_an_ascii_method_that_may_not_write(text: str) -> None:
    try:
        method = parse_method(text)
    except ValueError:
        return
    assert method == text
    assert text not in WRITES
    assert text.isascii()
    assert re.search(r"\s|[\x00-\x1f\x7f]", text) is None
    assert text.count("/") == 2
