"""Checks that the gRPC method of --probe-path may be called as a probe.  Pure."""

from __future__ import annotations

import re

PROBE = "/csi.v1.Identity/Probe"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

# csi.proto v1.13: methods that only read.  A probe is sent every few seconds, with an empty request; all others are refused.
_READS = frozenset(
    {
        "ControllerGetCapabilities",
        "ControllerGetVolume",
        "ControllerGetVolumeHealth",
        "ControllerListVolumeHealth",
        "GetCapacity",
        "GetMetadataAllocated",
        "GetMetadataDelta",
        "GetSnapshot",
        "GetVolumeGroupSnapshot",
        "GroupControllerGetCapabilities",
        "ListSnapshots",
        "ListVolumes",
        "NodeGetCapabilities",
        "NodeGetInfo",
        "NodeGetStorageHealth",
        "NodeGetVolumeHealth",
        "NodeGetVolumeStats",
        "ValidateVolumeCapabilities",
    }
)


def parse_method(text: str) -> str:
    """A method as gRPC names it, `/package.Service/Method`; raises ValueError if it is not one, or may change a volume."""
    match = re.fullmatch(r"/([A-Za-z_][\w.]*)/([A-Za-z_]\w*)", text, re.ASCII)
    if match is None:
        raise ValueError(f"it is no gRPC method; write one such as {PROBE}")
    service, name = match.groups()
    if re.match(r"csi\.", service) and not service.endswith(".Identity") and name not in _READS:
        raise ValueError(f"{name} may change a volume, and a probe is sent again and again; choose one that only reads")
    return text
