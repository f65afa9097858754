"""Sound manifests, and small changes to them."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from livenessprobe.lint.findings import Finding
from livenessprobe.lint.judge import Judgement, Options, judge
from livenessprobe.lint.reading import Read, parse

GO = "registry.k8s.io/sig-storage/livenessprobe:v2.17.0"
OURS = "registry.example.com/livenessprobe:0.1.0"
DRIVER, SIDECAR = ("spec", "template", "spec", "containers", 0), ("spec", "template", "spec", "containers", 1)
POD = ("spec", "template", "spec")
REMOVED = object()

Change = tuple[tuple[str | int, ...], object]
"""A path in a manifest, and the value to put there; REMOVED takes the entry away."""


def sound(image: str = GO, *changes: Change, name: str = "example-csi") -> dict[str, Any]:
    """A manifest without findings, apart from LP108 if the image is ours, and then with changes."""
    memory = "64Mi" if image == GO else "128Mi"
    document: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [
                        {
                            "name": "driver",
                            "image": "example-csi-driver:1.0.0",
                            "args": ["--endpoint=unix:///csi/csi.sock"],
                            "ports": [{"name": "healthz", "containerPort": 9808}],
                            "livenessProbe": {
                                "httpGet": {"path": "/healthz", "port": "healthz"},
                                "initialDelaySeconds": 10,
                                "timeoutSeconds": 5,
                                "periodSeconds": 10,
                                "failureThreshold": 5,
                            },
                            "volumeMounts": [{"name": "socket-dir", "mountPath": "/csi"}],
                        },
                        {
                            "name": "liveness-probe",
                            "image": image,
                            "args": ["--csi-address=/csi/csi.sock", "--probe-timeout=3s", "--http-endpoint=:9808"],
                            "resources": {"limits": {"memory": memory}},
                            "volumeMounts": [{"name": "socket-dir", "mountPath": "/csi"}],
                        },
                    ],
                    "volumes": [{"name": "socket-dir", "emptyDir": {}}],
                },
            },
        },
    }
    return changed(document, *changes)


def changed(document: dict[str, Any], *changes: Change) -> dict[str, Any]:
    document = copy.deepcopy(document)
    for path, value in changes:
        node: Any = document
        for step, following in zip(path[:-1], path[1:], strict=True):
            if isinstance(node, dict) and step not in node:
                node[step] = [] if isinstance(following, int) else {}
            node = node[step]
        last = path[-1]
        if value is REMOVED:
            del node[last]
        elif isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value
    return document


def linted(*documents: dict[str, Any], file: str = "ds.yaml", **options: Any) -> Judgement:
    """The findings in these documents of one file."""
    found = Read([], [], [], {})
    parse(yaml.safe_dump_all(documents, sort_keys=False).encode(), file, found)
    assert not found.unusable, found.unusable
    return judge(found, Options(**options))


def ids(judgement: Judgement) -> list[str]:
    """The ids of the findings, without the advice that every sound manifest of this program has."""
    return sorted(each.id for each in judgement.findings if each.id != "LP108")


def only(judgement: Judgement, rule: str) -> Finding:
    (found,) = [each for each in judgement.findings if each.id == rule]
    return found
