"""Each finding has a manifest that triggers it, and a twin that does not."""

from __future__ import annotations

from typing import Any

import pytest

from livenessprobe.lint.findings import RULES
from tests.lint.manifests import DRIVER, GO, OURS, POD, REMOVED, SIDECAR, Change, ids, linted, only, sound

PROBE = (*DRIVER, "livenessProbe")
HTTP = (*PROBE, "httpGet")
ARGS = (*SIDECAR, "args")
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "livenessprobe", "namespace": "kube-system"}}
SETTINGS_MOUNT = (*SIDECAR, "volumeMounts", 1)
SETTINGS_VOLUME = (*POD, "volumes", 1)


def settings(*, name: str = "livenessprobe", mount: dict[str, Any] | None = None) -> list[Change]:
    at = mount or {"name": "settings", "mountPath": "/etc/livenessprobe"}
    return [(SETTINGS_MOUNT, at), (SETTINGS_VOLUME, {"name": "settings", "configMap": {"name": name}})]


def config_map(content: str, key: str = "settings.toml") -> dict[str, Any]:
    return CONFIG_MAP | {"data": {key: content}}


HOST: Change = ((*POD, "hostNetwork"), True)
WINDOWS: list[Change] = [
    ((*POD, "nodeSelector"), {"kubernetes.io/os": "windows"}),
    ((*SIDECAR, "resources"), REMOVED),
    ((*SIDECAR, "args", 0), r"--csi-address=unix://C:\csi\csi.sock"),
    ((*DRIVER, "args", 0), r"--endpoint=unix://C:\csi\csi.sock"),
]
EXEC_FILE: Change = (PROBE, {"exec": {"command": ["cat", "/tmp/health"]}, "timeoutSeconds": 5})
HEALTH_FILE: list[Change] = [((*ARGS, 3), "--health-file=/tmp/health"), ((*ARGS, 4), "--interval=10s")]
CHECK = ["/livenessprobe", "check", "--csi-address=/csi/csi.sock"]

PAIRS: dict[str, tuple[str, list[Change], list[Change]]] = {
    "timeout equals": (GO, [((*PROBE, "timeoutSeconds"), 3)], [((*PROBE, "timeoutSeconds"), 4)]),
    "timeout not given": (GO, [((*PROBE, "timeoutSeconds"), REMOVED)], [((*ARGS, 1), "--probe-timeout=900ms")]),
    "default of v2.16": (
        "registry.k8s.io/sig-storage/livenessprobe:v2.17.0",
        [((*ARGS, 1), REMOVED), ((*PROBE, "timeoutSeconds"), 2)],
        [
            ((*ARGS, 1), REMOVED),
            ((*PROBE, "timeoutSeconds"), 2),
            ((*SIDECAR, "image"), "registry.k8s.io/sig-storage/livenessprobe:v2.16.0"),
        ],
    ),
    "other port": (GO, [((*DRIVER, "ports", 0, "containerPort"), 9809)], []),
    "other number": (GO, [((*HTTP, "port"), 29632)], [((*HTTP, "port"), 9808)]),
    "undeclared name": (GO, [((*HTTP, "port"), "health")], [((*HTTP, "port"), "9808")]),
    "loopback, pod network": (
        GO,
        [((*ARGS, 2), "--http-endpoint=localhost:9808")],
        [((*ARGS, 2), "--http-endpoint=[::]:9808")],
    ),
    "loopback, no host": (
        GO,
        [HOST, ((*ARGS, 2), "--http-endpoint=127.0.0.1:9808")],
        [HOST, ((*ARGS, 2), "--http-endpoint=127.0.0.1:9808"), ((*HTTP, "host"), "localhost")],
    ),
    "host, pod network": (GO, [((*HTTP, "host"), "127.0.0.1")], [HOST, ((*HTTP, "host"), "127.0.0.1")]),
    "IPv6 loopback": (
        GO,
        [HOST, ((*ARGS, 2), "--http-endpoint=[::1]:9808"), ((*HTTP, "host"), "127.0.0.1")],
        [HOST, ((*ARGS, 2), "--http-endpoint=[::1]:9808"), ((*HTTP, "host"), "::1")],
    ),
    "another address": (
        GO,
        [((*ARGS, 2), "--http-endpoint=10.0.0.7:9808"), ((*HTTP, "host"), "10.0.0.8")],
        [((*ARGS, 2), "--http-endpoint=10.0.0.7:9808"), ((*HTTP, "host"), "10.0.0.7")],
    ),
    "own container": (
        GO,
        [
            (PROBE, REMOVED),
            ((*SIDECAR, "livenessProbe"), {"httpGet": {"path": "/healthz", "port": 9808}, "timeoutSeconds": 5}),
        ],
        [((*SIDECAR, "readinessProbe"), {"httpGet": {"path": "/healthz", "port": 9808}, "timeoutSeconds": 5})],
    ),
    "nobody asks": (GO, [(PROBE, REMOVED)], []),
    "readiness alone": (
        GO,
        [
            (PROBE, REMOVED),
            ((*DRIVER, "readinessProbe"), {"httpGet": {"path": "/healthz", "port": 9808}, "timeoutSeconds": 5}),
        ],
        [],
    ),
    "path of ours": (GO, [((*HTTP, "path"), "/livez")], [((*HTTP, "path"), "/healthz?verbose")]),
    "no path": (GO, [((*HTTP, "path"), REMOVED)], [((*HTTP, "path"), "healthz")]),
    "https": (GO, [((*HTTP, "scheme"), "HTTPS")], [((*HTTP, "scheme"), "HTTP")]),
    "gRPC probe": (GO, [(PROBE, {"grpc": {"port": 9808}, "timeoutSeconds": 5})], []),
    "port of metrics": (
        GO,
        [((*ARGS, 2), "--metrics-address=:9809"), ((*HTTP, "port"), 9809)],
        [((*ARGS, 2), "--metrics-address=:9809")],
    ),
    "healthz of ours": (OURS, [], [((*HTTP, "path"), "/livez")]),
    "slow restart": (
        OURS,
        [((*SIDECAR, "resources", "limits", "cpu"), "20m"), ((*PROBE, "failureThreshold"), 3)],
        [((*SIDECAR, "resources", "limits", "cpu"), "20m"), ((*PROBE, "failureThreshold"), 4)],
    ),
    "metrics as health": (GO, [((*HTTP, "path"), "/metrics")], []),
    "TCP probe": (GO, [(PROBE, {"tcpSocket": {"port": 9808}})], []),
    "startupz as liveness": (OURS, [((*HTTP, "path"), "/startupz")], []),
    "check without the program": (
        OURS,
        [((*PROBE, "httpGet"), REMOVED), ((*PROBE, "exec"), {"command": CHECK})],
        [
            ((*PROBE, "httpGet"), REMOVED),
            ((*PROBE, "exec"), {"command": ["/tools/livenessprobe", *CHECK[1:]]}),
            ((*DRIVER, "volumeMounts", 1), {"name": "tools", "mountPath": "/tools"}),
        ],
    ),
    "check of the Go program": (
        GO,
        [((*SIDECAR, "readinessProbe"), {"exec": {"command": CHECK}, "timeoutSeconds": 5})],
        [],
    ),
    "check under a CPU limit": (
        OURS,
        [
            ((*SIDECAR, "resources", "limits", "cpu"), "20m"),
            ((*PROBE, "failureThreshold"), 9),
            ((*SIDECAR, "readinessProbe"), {"exec": {"command": CHECK}, "timeoutSeconds": 5}),
        ],
        [((*SIDECAR, "readinessProbe"), {"exec": {"command": CHECK}, "timeoutSeconds": 5})],
    ),
    "health file not shared": (
        OURS,
        [EXEC_FILE, *HEALTH_FILE],
        [
            (PROBE, {"exec": {"command": ["cat", "/csi/health"]}, "timeoutSeconds": 5}),
            ((*ARGS, 3), "--health-file=/csi/health"),
            ((*ARGS, 4), "--interval=10s"),
        ],
    ),
    "probe timeout zero": (GO, [((*ARGS, 1), "--probe-timeout=0")], [((*ARGS, 1), "--probe-timeout=1ms")]),
    "socket not mounted": (GO, [((*SIDECAR, "volumeMounts", 0, "mountPath"), "/other")], []),
    "other volume": (
        GO,
        [((*SIDECAR, "volumeMounts", 0, "name"), "other"), ((*POD, "volumes", 1), {"name": "other", "emptyDir": {}})],
        [],
    ),
    "subPath of one": (
        GO,
        [((*SIDECAR, "volumeMounts", 0, "subPath"), "a")],
        [((*SIDECAR, "volumeMounts", 0, "subPath"), "a"), ((*DRIVER, "volumeMounts", 0, "subPath"), "a")],
    ),
    "other socket": (
        GO,
        [((*DRIVER, "args", 0), "--endpoint=unix:///csi/other.sock")],
        [
            ((*SIDECAR, "volumeMounts", 0, "mountPath"), "/elsewhere"),
            ((*ARGS, 0), "--csi-address=/elsewhere/csi.sock"),
        ],
    ),
    "socket as file": (
        GO,
        [
            ((*SIDECAR, "volumeMounts", 0, "mountPath"), "/csi/csi.sock"),
            ((*POD, "volumes", 0), {"name": "socket-dir", "hostPath": {"path": "/run/csi.sock", "type": "Socket"}}),
            ((*DRIVER, "args"), REMOVED),
        ],
        [((*POD, "volumes", 0), {"name": "socket-dir", "hostPath": {"path": "/run/x", "type": "DirectoryOrCreate"}})],
    ),
    "other user": (
        GO,
        [((*SIDECAR, "securityContext"), {"runAsUser": 65532}), ((*DRIVER, "securityContext"), {"runAsUser": 0})],
        [((*SIDECAR, "securityContext"), {"runAsUser": 0}), ((*POD, "securityContext"), {"runAsUser": 0})],
    ),
    "address that Go cannot dial": (
        GO,
        [((*ARGS, 0), "--csi-address=tcp://127.0.0.1:10000")],
        [((*ARGS, 0), "--csi-address=127.0.0.1:10000")],
    ),
    "flag of ours": (GO, [((*ARGS, 3), "--interval=10s")], [((*ARGS, 3), "--automaxprocs")]),
    "flag misspelt": (OURS, [((*ARGS, 3), "--probe-timout=3s")], []),
    "flag removed": (GO, [((*ARGS, 3), "--logtostderr")], [((*ARGS, 3), "--v=2")]),
    "flag too new": (
        "registry.k8s.io/sig-storage/livenessprobe:v2.15.0",
        [((*ARGS, 3), "--automaxprocs")],
        [((*ARGS, 3), "--automaxprocs"), ((*SIDECAR, "image"), GO)],
    ),
    "bad duration": (GO, [((*ARGS, 1), "--probe-timeout=3")], []),
    "bad port": (GO, [((*ARGS, 2), "--health-port=localhost:9808")], [((*ARGS, 2), "--http-endpoint=:9808")]),
    "both ports": (GO, [((*ARGS, 3), "--health-port=9809")], [((*ARGS, 3), "--v=2")]),
    "deprecated": (GO, [((*ARGS, 2), "--health-port=9808")], []),
    "no effect": (OURS, [((*ARGS, 3), "--connection-timeout=3s")], []),
    "little memory, Go": (
        GO,
        [((*SIDECAR, "resources", "limits", "memory"), "32Mi")],
        [((*SIDECAR, "resources", "limits", "memory"), "33Mi")],
    ),
    "little memory, ours": (
        OURS,
        [((*SIDECAR, "resources", "limits", "memory"), "46Mi")],
        [((*SIDECAR, "resources", "limits", "memory"), "47Mi")],
    ),
    "file by subPath": (
        OURS,
        settings(mount={"name": "settings", "mountPath": "/etc/livenessprobe/settings.toml", "subPath": "settings.toml"}),
        [],
    ),
    "Windows, a unix socket to listen on": (
        OURS,
        [*WINDOWS, ((*ARGS, 2), "--metrics-address=unix:///c/m.sock")],
        [*WINDOWS, ((*ARGS, 2), "--http-endpoint=:9808")],
    ),
    "Windows, no drive": (OURS, [*WINDOWS, ((*ARGS, 0), "--csi-address=unix:///csi/csi.sock")], WINDOWS),
    "host process": (
        OURS,
        [*WINDOWS, ((*POD, "securityContext"), {"windowsOptions": {"hostProcess": True}})],
        [*WINDOWS, ((*POD, "securityContext"), {"windowsOptions": {"hostProcess": True}}), HOST],
    ),
    "port of metrics not declared": (
        GO,
        [((*DRIVER, "ports", 0, "containerPort"), 9809), ((*HTTP, "port"), 9808)],
        [],
    ),
    "version not known": ("registry.example.com/own-livenessprobe:latest", [], [((*SIDECAR, "image"), GO)]),
    "placeholder": (GO, [((*ARGS, 0), "--csi-address=${SOCKET}")], []),
    "wrong type": (GO, [((*ARGS, 3), 5)], [((*ARGS, 3), "--v=5")]),
    "not needed ignore": (
        GO,
        [(("metadata", "annotations"), {"livenessprobe/lint-ignore": "LP101 it was so once"})],
        [
            (("metadata", "annotations"), {"livenessprobe/lint-ignore": "LP101 it is so"}),
            ((*PROBE, "timeoutSeconds"), 3),
        ],
    ),
}
EXPECTED: dict[str, list[str]] = {
    "timeout equals": ["LP101"],
    "timeout not given": ["LP101"],
    "default of v2.16": ["LP101"],
    "other port": ["LP102", "LP602"],
    "other number": ["LP102"],
    "undeclared name": ["LP103"],
    "loopback, pod network": ["LP104"],
    "loopback, no host": ["LP104"],
    "host, pod network": ["LP104"],
    "IPv6 loopback": ["LP104"],
    "another address": ["LP104"],
    "own container": ["LP105"],
    "nobody asks": ["LP106"],
    "readiness alone": ["LP106"],
    "path of ours": ["LP107"],
    "no path": ["LP107"],
    "https": ["LP107"],
    "gRPC probe": ["LP107"],
    "port of metrics": ["LP107", "LP304", "LP602"],
    "healthz of ours": ["LP108"],
    "slow restart": ["LP109"],
    "metrics as health": ["LP111"],
    "TCP probe": ["LP111"],
    "startupz as liveness": ["LP111"],
    "check without the program": ["LP112"],
    "check of the Go program": ["LP112"],
    "check under a CPU limit": ["LP101", "LP113"],
    "health file not shared": ["LP114"],
    "probe timeout zero": ["LP115"],
    "socket not mounted": ["LP201"],
    "other volume": ["LP202"],
    "subPath of one": ["LP202"],
    "other socket": ["LP202"],
    "socket as file": ["LP203"],
    "other user": ["LP204"],
    "address that Go cannot dial": ["LP205"],
    "flag of ours": ["LP301"],
    "flag misspelt": ["LP301"],
    "flag removed": ["LP301"],
    "flag too new": ["LP301"],
    "bad duration": ["LP302"],
    "bad port": ["LP302", "LP304"],
    "both ports": ["LP303", "LP304"],
    "deprecated": ["LP304"],
    "no effect": ["LP304"],
    "little memory, Go": ["LP401"],
    "little memory, ours": ["LP401"],
    "file by subPath": ["LP502", "LP503"],
    "Windows, a unix socket to listen on": ["LP304", "LP701"],
    "Windows, no drive": ["LP701"],
    "host process": ["LP702"],
    "port of metrics not declared": ["LP602"],
    "version not known": ["LP004"],
    "placeholder": ["LP001"],
    "wrong type": ["LP005"],
    "not needed ignore": ["LP003"],
}
TWINS = {"port of metrics": ["LP304", "LP602"], "default of v2.16": [], "not needed ignore": []}
"""What the twin has, where that is not nothing."""


def test_the_sound_manifests_have_no_finding() -> None:
    assert ids(linted(sound(GO))) == ids(linted(sound(OURS))) == []


def found(image: str, changes: list[Change]) -> list[str]:
    return sorted({each.id for each in linted(sound(image, *changes)).findings if image == GO or each.id != "LP108"})


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "healthz of ours"])
def test_a_manifest_triggers_its_finding_and_its_twin_does_not(name: str) -> None:
    image, changes, twin = PAIRS[name]

    assert found(image, changes) == EXPECTED[name]
    assert found(image, twin) == TWINS.get(name, [])


def test_healthz_as_liveness_probe_is_advice() -> None:
    assert [each.id for each in linted(sound(OURS)).findings] == ["LP108"]
    assert linted(sound(OURS, ((*HTTP, "path"), "/livez"))).findings == []


def test_every_finding_has_a_manifest_that_triggers_it() -> None:
    elsewhere = {"LP002", "LP006", "LP110", "LP501", "LP502", "LP504", "LP601", "LP603"}

    assert {each for name in EXPECTED for each in EXPECTED[name]} | elsewhere == set(RULES)


def test_every_sentence_names_a_way_out() -> None:
    """Behind a semicolon or a comma, after the cause."""
    for image, changes, _ in PAIRS.values():
        for each in linted(sound(image, *changes)).findings:
            if each.id not in ("LP001", "LP004", "LP502"):
                assert ";" in each.sentence or ", ask" in each.sentence, each


# --- findings that need more than one object, or an option


def test_a_driver_that_needs_longer_than_its_first_probes_take() -> None:
    """Go does not listen before the driver has answered: refused at once, 5 failures 10 s apart after 10 s."""
    assert "kills it after 49 s" in only(linted(sound(GO), driver_start=60.0), "LP110").sentence
    assert ids(linted(sound(GO), driver_start=49.0)) == []
    startup = (
        (*DRIVER, "startupProbe"),
        {"httpGet": {"path": "/healthz", "port": 9808}, "timeoutSeconds": 5, "failureThreshold": 30},
    )
    assert ids(linted(sound(GO, startup), driver_start=60.0)) == []


def test_a_config_map_that_is_not_in_the_input_or_misspelt() -> None:
    other = sound(OURS, *settings(name="livenesprobe"))

    assert ids(linted(other)) == ["LP502"]
    assert "did you mean livenessprobe?" in only(linted(config_map("v = 2"), other), "LP501").sentence
    assert ids(linted(config_map("v = 2"), sound(OURS, *settings()))) == []
    assert "has no key" in only(linted(config_map("v = 2", "settings"), sound(OURS, *settings())), "LP501").sentence


def test_a_settings_file_counts_and_a_bad_one_is_named() -> None:
    with_file = sound(OURS, *settings(), ((*ARGS, 1), REMOVED))

    assert ids(linted(config_map('probe_timeout = "6s"'), with_file)) == ["LP101"]
    bad = only(linted(config_map("probe_timout = 1"), with_file), "LP504")
    assert (bad.severity, "did you mean probe_timeout?" in bad.sentence) == ("warning", True)
    strict = sound(OURS, *settings(), ((*ARGS, 1), "--config-strict"))
    assert only(linted(config_map("v = -1"), strict), "LP504").severity == "error"


def test_two_sidecars_on_one_port_of_the_host() -> None:
    one, other = sound(GO, HOST), sound(GO, HOST, name="other-csi")

    assert "port 9808 is also that of" in only(linted(one, other), "LP601").sentence
    ports = [((*ARGS, 2), "--http-endpoint=:9809"), ((*DRIVER, "ports", 0, "containerPort"), 9809)]
    assert ids(linted(one, sound(GO, HOST, *ports, name="other-csi"))) == []
    assert ids(linted(sound(GO), sound(GO, name="other-csi"))) == []
    linux, arm = ({"kubernetes.io/arch": arch} for arch in ("amd64", "arm64"))
    selected = (
        sound(GO, HOST, ((*POD, "nodeSelector"), linux)),
        sound(GO, HOST, ((*POD, "nodeSelector"), arm), name="other-csi"),
    )
    assert ids(linted(*selected)) == []


def test_two_sidecars_behind_one_host_port() -> None:
    """Pods of their own network that declare a port of the node."""
    port = (*DRIVER, "ports", 0, "hostPort")

    assert ids(linted(sound(GO, (port, 19808)), sound(GO, (port, 19808), name="other"))) == ["LP601"]
    assert ids(linted(sound(GO, (port, 19808)), sound(GO, (port, 19809), name="other"))) == []
    assert ids(linted(sound(GO, (port, 9808)), sound(GO, HOST, name="other"))) == ["LP601"]


def test_two_sidecars_of_one_pod_on_one_port() -> None:
    """As with two drivers in one pod."""
    second = sound(GO)["spec"]["template"]["spec"]["containers"][1] | {"name": "liveness-probe-2"}

    assert (
        "of DaemonSet kube-system/example-csi, in the same pod"
        in only(linted(sound(GO, ((*POD, "containers", 2), second))), "LP601").sentence
    )


def test_a_pod_monitor_that_selects_nothing() -> None:
    def monitor(**labels: str) -> dict[str, Any]:
        spec = {"selector": {"matchLabels": labels}, "podMetricsEndpoints": [{"port": "healthz"}]}
        return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "m"}, "spec": spec}

    assert ids(linted(sound(GO), monitor(app="exmaple-csi"))) == ["LP603"]
    assert ids(linted(sound(GO), monitor(app="example-csi"))) == []


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["example-csi", "x"], []),
        ("In", ["x"], ["LP603"]),
        ("NotIn", ["example-csi"], ["LP603"]),
        ("Exists", [], []),
        ("DoesNotExist", [], ["LP603"]),
    ],
)
def test_a_pod_monitor_may_select_by_expressions(operator: str, values: list[str], expected: list[str]) -> None:
    expression = {"key": "app", "operator": operator, "values": values}
    spec = {"selector": {"matchExpressions": [expression]}}
    monitor = {"kind": "PodMonitor", "metadata": {"name": "m"}, "spec": spec}

    assert ids(linted(sound(GO), monitor)) == expected


# --- what is not judged, or ignored


def test_what_the_manifest_does_not_say_is_no_finding() -> None:
    """The driver's mounts, and a volume that the driver may reach by another path."""
    assert ids(linted(sound(GO, ((*DRIVER, "volumeMounts"), REMOVED), ((*DRIVER, "args"), REMOVED)))) == []
    host = {"name": "socket-dir", "hostPath": {"path": "/var/lib/kubelet/plugins/x"}}
    whole = {"name": "kubelet", "hostPath": {"path": "/var/lib/kubelet"}}
    seen = [
        ((*POD, "volumes"), [host, whole]),
        ((*DRIVER, "volumeMounts"), [{"name": "kubelet", "mountPath": "/var/lib/kubelet"}]),
        ((*DRIVER, "args", 0), "--endpoint=unix:///var/lib/kubelet/plugins/x/csi.sock"),
    ]
    assert ids(linted(sound(GO, *seen))) == []


def test_an_annotation_silences_an_id_in_its_object_alone() -> None:
    early = ((*PROBE, "timeoutSeconds"), 3)
    silent = sound(
        GO, early, (("spec", "template", "metadata", "annotations"), {"livenessprobe/lint-ignore": "LP101 known; LP999 x"})
    )

    judged = linted(silent, sound(GO, early, name="other"))

    assert ids(judged) == ["LP003", "LP101"]
    assert only(judged, "LP101").owner == "DaemonSet kube-system/other"
    assert "LP999 is no finding" in only(judged, "LP003").sentence


def test_ids_can_be_ignored_everywhere() -> None:
    assert ids(linted(sound(GO, ((*PROBE, "timeoutSeconds"), 3)), ignore=frozenset({"LP101"}))) == []


def test_an_unknown_version_is_said_once() -> None:
    image = "registry.example.com/csi-livenessprobe@sha256:00"

    assert ids(linted(sound(image), sound(image, name="other"))) == ["LP004"]


def test_severity_of_too_little_memory() -> None:
    def severity(image: str, memory: str, *changes: Change) -> str:
        return only(linted(sound(image, ((*SIDECAR, "resources", "limits", "memory"), memory), *changes)), "LP401").severity

    health_port = (*ARGS, 2), "--health-port=9808"
    assert severity(OURS, "26Mi", health_port) == "error"
    assert severity(OURS, "27Mi", health_port) == "warning"
    assert severity(OURS, "29Mi") == "error"  # metrics load Quart
    assert severity(OURS, "30Mi") == "warning"
    assert severity(GO, "20Mi") == "warning"


def test_as_ours_judges_as_after_the_swap() -> None:
    """The flags of older releases work again, and less memory is too little."""
    old = sound(GO, ((*ARGS, 3), "--logtostderr"))

    assert ids(linted(old)) == ["LP301"]
    assert ids(linted(old, as_ours=True)) == []
    assert ids(linted(sound(GO, ((*SIDECAR, "resources", "limits", "memory"), "40Mi")), as_ours=True)) == ["LP401"]


def test_images_that_the_swap_does_not_replace_are_listed() -> None:
    own = "registry.example.com/csi-livenessprobe:v2.17.0"

    assert ids(linted(sound(own, ((*SIDECAR, "resources"), REMOVED)), as_ours=True)) == ["LP006"]
    assert ids(linted(sound(OURS), as_ours=True)) == []


def test_the_place_of_a_finding_is_the_line_of_its_value() -> None:
    place = only(linted(sound(GO, ((*PROBE, "timeoutSeconds"), 3))), "LP101").place

    import yaml

    lines = yaml.safe_dump(sound(GO, ((*PROBE, "timeoutSeconds"), 3)), sort_keys=False).splitlines()
    assert lines[place.line - 1].strip() == "timeoutSeconds: 3"
    assert lines[place.line - 1][place.column - 1] == "3"
