"""Writes specs of real deployments as manifests.  The specs are not part of the project: LINT_DEPLOYMENTS names their file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "LINT_DEPLOYMENTS"
DEFECTS = (
    "nobody probes it",
    "PORT MISMATCH",
    "INVALID --health-port",
    "removed flag",
    "probe-timeout",
    "kubelet polls",
    "MEMORY LIMIT",
)
"""How the traps that name a defect begin."""
BROKEN = {
    "D071": (
        "The probe never succeeds: the sidecar listens on 127.0.0.1:29643 of the node, and the kubelet asks the node's address.  "
        "Upstream's chart had host: localhost in this probe until 2026-02-09, when commit 8c342afd of csi-driver-smb (pull request "
        "1019) removed it for the Pod Security Standards and kept the listener on loopback.  charts/latest still has this pair at "
        "95c69680 (2026-08-07); no release has it, v1.20.3 (D075) asks localhost.  Kubernetes, pkg/probe/http/request.go: 'When "
        "httpGet.Host is empty, podIP will be used instead'; on the host's network a kubelet with an API server sets it to the node's "
        "address (pkg/kubelet/kubelet_pods.go, generateAPIPodStatus).  Only a kubelet without one leaves it empty, and then reaches "
        "loopback: v1.20.2 was seen to.  A chart has an API server."
    ),
}
"""Current specs with a defect that their traps do not name, each with the evidence."""


def specs() -> dict[str, dict[str, Any]]:
    """The specs by id; none if the variable is not set."""
    path = os.environ.get(VARIABLE)
    found = json.loads(Path(path).read_text(encoding="utf-8"))["deployments"] if path else []
    return {spec["id"]: spec for spec in found}


def works(spec: Mapping[str, Any]) -> bool:
    """Whether nothing is known to be wrong with a current spec."""
    named = any(trap.startswith(DEFECTS) for trap in spec.get("traps", []))
    return spec["status"] == "current" and not named and spec["id"] not in BROKEN


def manifest(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The workload of a spec; what the spec does not tell, such as the driver's mounts, is left out."""
    kind, _, name = spec["workload"].partition("/")
    kept = ("command", "args", "env", "ports", "resources", "securityContext", "volumeMounts", "terminationMessagePolicy")
    sidecar = {"name": spec["container"], "image": spec["image"], **{key: spec[key] for key in kept if key in spec}}
    sidecar |= spec.get("own_probes", {})
    pod: dict[str, Any] = {
        "containers": [*drivers(spec), sidecar],
        "volumes": [{"name": volume, **(source or {})} for volume, source in (spec.get("volumes") or {}).items()],
        "nodeSelector": {"kubernetes.io/os": spec["os"]},
    }
    if spec.get("host_network"):
        pod["hostNetwork"] = True
    if "podSecurityContext" in spec:
        pod["securityContext"] = spec["podSecurityContext"]
    if spec["host_process"]:
        pod.setdefault("securityContext", {}).setdefault("windowsOptions", {})["hostProcess"] = True
    kind = kind if kind in ("DaemonSet", "Deployment", "StatefulSet") else "DaemonSet"
    name = re.sub("[^a-z0-9-]+", "-", name.lower()).strip("-")
    document = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name or "unnamed"}}
    document["spec"] = {"template": {"metadata": {"labels": {"app": name or "unnamed"}}, "spec": pod}}
    return json.loads(json.dumps(document).replace('"TPL"', '"${TPL}"'))


def drivers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for probe in [*spec.get("driver_probes", []), *spec.get("mismatching_driver_probes", [])]:
        driver = found.setdefault(probe["container"], {"name": probe["container"], "image": "driver", "ports": []})
        numbers = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
        action = dict(probe["httpGet"])
        if match := re.fullmatch(r"(\w+) \((\d+)\)", str(action["port"])):
            action["port"] = match[1]
            driver["ports"].append({"name": match[1], "containerPort": int(match[2])})
        driver[probe["kind"]] = {"httpGet": action, **{key: probe[key] for key in numbers if key in probe}}
        if "resolvedPort" in probe and isinstance(action["port"], str):
            declared = {"name": action["port"], "containerPort": probe["resolvedPort"]}
            if declared not in driver["ports"]:
                driver["ports"].append(declared)
    return list(found.values()) or [{"name": "driver", "image": "driver"}]
