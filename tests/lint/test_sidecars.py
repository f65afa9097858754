"""Which containers are sidecars, and with which settings: command, arguments, variables, images, versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.lint.nodes import Document
from livenessprobe.lint.pods import Container, expand, pods
from livenessprobe.lint.programs import GO_FLAGS, START, Program, go_reaches, missing_flag, parse_image, program_of
from livenessprobe.lint.reading import Read, parse
from livenessprobe.lint.sidecars import Sidecar, is_sidecar
from tests.lint.manifests import GO, OURS, POD, REMOVED, SIDECAR, Change, changed, linted, sound
from tests.support import ROOT


def documents(*objects: dict[str, Any]) -> list[Document]:
    found = Read([], [], [], {})
    parse(json.dumps({"kind": "List", "items": objects}).encode(), "f", found)
    return found.documents


def container(**fields: Any) -> Container:
    (pod,) = pods(documents({"kind": "Pod", "spec": {"containers": [{"name": "x", **fields}]}}))
    return pod.containers[0]


ARGS = ["--csi-address=/csi/csi.sock"]
TIMEOUT = [*ARGS, "--probe-timeout=3s"]


@pytest.mark.parametrize(
    "fields",
    [
        {"image": GO},
        {"image": OURS},
        {"image": "longhornio/livenessprobe:v2.18.0-20260428"},
        {"image": "localhost:5000/vmware.io/csi-livenessprobe:v2.17.0_vmware.1"},
        {"image": "registry.k8s.io/sig-storage/livenessprobe-win:v2.15.0"},
        {"image": "quay.io/openshift/origin-csi-livenessprobe@sha256:00"},
        {"image": "x", "command": ["/livenessprobe"]},
        {"image": "x", "command": ["livenessprobe.exe"], "args": ARGS},
        {"image": "x", "command": ["C:\\livenessprobe.exe", *ARGS]},
        {"image": "x", "args": ["livenessprobe", *ARGS]},
        {"image": "${IMAGE}", "args": TIMEOUT},
        {"image": "x", "args": [*ARGS, "--health-port=9808"]},
        {"image": "x", "args": ARGS, "name": "csi-liveness-probe"},
        {"image": "x", "args": ["--endpoint=/csi/csi.sock"], "name": "livenessprobe"},
    ],
)
def test_a_sidecar_is_recognized(fields: dict[str, Any]) -> None:
    assert is_sidecar(container(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "example-csi-driver:1", "args": ["--endpoint=unix:///csi/csi.sock"]},
        {
            "image": "registry.k8s.io/sig-storage/csi-provisioner:v5",
            "args": [*ARGS, "--http-endpoint=:8080", "--timeout=1m"],
        },
        {"image": "x", "args": [*ARGS, "--kubelet-registration-path=/x", "--health-port=9809"], "name": "registrar"},
        {"image": "x", "args": ARGS},
        {"image": OURS, "args": ["check", *ARGS]},
        {"image": OURS, "args": ["demo"]},
        {"image": GO, "command": ["/bin/sh", "-c", "sleep 1"]},
        {"image": "", "args": []},
    ],
)
def test_other_containers_are_none(fields: dict[str, Any]) -> None:
    assert not is_sidecar(container(**fields))


def test_init_containers_that_keep_running_are_judged_and_others_are_not() -> None:
    side = {"name": "liveness-probe", "image": GO, "args": TIMEOUT}
    spec = {
        "containers": [{"name": "driver", "image": "x"}],
        "initContainers": [{**side, "restartPolicy": "Always"}, {**side, "name": "once"}],
    }
    (pod,) = pods(documents({"kind": "Pod", "spec": spec}))

    assert [(each.name, each.native) for each in pod.containers] == [("liveness-probe", True), ("driver", False)]


SPEC = {"containers": [{"name": "liveness-probe", "image": GO, "args": TIMEOUT}]}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": SPEC}


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Pod", **TEMPLATE},
        *(
            {"kind": kind, "spec": {"template": TEMPLATE}}
            for kind in ("Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job")
        ),
        {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
        {"kind": "PodTemplate", "template": TEMPLATE},
        {"kind": "MyDriver", "spec": {"node": {"template": TEMPLATE}}},
        {"kind": "MyDriver", "spec": {"parts": [{"podTemplate": TEMPLATE}]}},
    ],
)
def test_every_kind_with_a_pod_template_is_found(document: dict[str, Any]) -> None:
    document = {**document, "metadata": {"name": "x", **document.get("metadata", {})}}
    (found,) = pods(documents(document))

    assert [is_sidecar(each) for each in found.containers] == [True]
    assert found.labels == {"a": "b"}


def test_a_config_map_with_a_manifest_in_it_is_no_workload() -> None:
    assert pods(documents({"kind": "ConfigMap", "data": {"containers": None}})) == []


# --- variables


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)$(B)y", "x12y"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(C)", "$(C)"),
        ("$A $ $(", "$A $ $("),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$", "$"),
    ],
)
def test_variables_are_expanded_as_the_kubelet_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@given(st.text(alphabet="$()AB x"), st.dictionaries(st.sampled_from("AB"), st.text(alphabet="$()ab")))
def test_the_expansion_agrees_with_the_kubelets_algorithm(text: str, values: dict[str, str]) -> None:
    assert expand(text, values) == kubelets(text, values)


def kubelets(text: str, values: dict[str, str]) -> str:
    """third_party/forked/golang/expansion/expand.go, step by step."""
    out, cursor, checkpoint = "", 0, 0
    while cursor < len(text):
        if text[cursor] == "$" and cursor + 1 < len(text):
            out += text[checkpoint:cursor]
            rest = text[cursor + 1 :]
            if rest[0] == "$":
                out, advance = out + "$", 1
            elif rest[0] == "(":
                end = rest.find(")")
                name = rest[1:end]
                out, advance = (out + "$(", 1) if end < 0 else (out + values.get(name, f"$({name})"), end + 1)
            else:
                out, advance = out + "$" + rest[0], 1
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return out + text[checkpoint:]


def test_variables_come_from_the_container_and_from_config_maps_of_the_input() -> None:
    config = {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"PORT": "9999", "KEY": "k"}}
    env = [
        {"name": "A", "value": "a-$(X_PORT)"},
        {"name": "B", "value": "$(A)"},
        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "KEY"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}},
    ]
    spec = {"containers": [{"name": "x", "envFrom": [{"prefix": "X_", "configMapRef": {"name": "c"}}], "env": env}]}
    (pod,) = pods(documents(config, {"kind": "Pod", "spec": spec}))

    assert pod.containers[0].environ == {
        "X_PORT": "9999",
        "X_KEY": "k",
        "A": "a-9999",
        "B": "a-9999",
        "K": "k",
        "S": "${S}",
    }


def test_a_value_that_is_not_told_is_not_judged() -> None:
    """Neither the port nor any finding that depends on the port."""
    env = [{"name": "PORT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}}]
    judged = linted(sound(GO, ((*SIDECAR, "env"), env), ((*SIDECAR, "args", 2), "--http-endpoint=:$(PORT)")))

    assert [each.id for each in judged.findings] == ["LP001"]


# --- settings


def sidecar(image: str = GO, *changes: Change, as_ours: bool = False, **fields: Any) -> Sidecar:
    return Sidecar(container(image=image, **fields), as_ours=as_ours)


@pytest.mark.parametrize(
    ("tag", "seconds"), [("v1.0.2", 30), ("v1.1.0", 1), ("v2.16.0", 1), ("v2.17.0", 3), ("latest", 3), ("v9.0.0", 3)]
)
def test_the_default_probe_timeout_is_that_of_the_release(tag: str, seconds: float) -> None:
    found = sidecar(f"registry.k8s.io/sig-storage/livenessprobe:{tag}", args=ARGS)

    assert found.settings
    assert found.settings.probe_timeout == seconds


def test_variables_count_for_this_program_alone() -> None:
    env = [{"name": "LIVENESSPROBE_PROBE_TIMEOUT", "value": "9s"}]

    ours, go = sidecar(OURS, args=ARGS, env=env), sidecar(GO, args=ARGS, env=env)

    assert ours.settings
    assert go.settings
    assert (ours.settings.probe_timeout, go.settings.probe_timeout) == (9, 3)


def test_several_flags_that_are_refused_are_all_named() -> None:
    found = sidecar(GO, args=[*ARGS, "--logtostderr", "--intervall=1s", "--interval=10s", "--probe-timeout=3"])

    assert [(each.kind, each.sentence.split()[0]) for each in found.mistakes] == [
        ("flag", "--intervall"),
        ("value", "is"),
        ("flag", "--logtostderr"),
        ("flag", "--interval"),
    ]


@pytest.mark.parametrize(
    "version", [name for name in json.loads((ROOT / "tests/data/flags_by_version.json").read_text()) if name != "HEAD"]
)
def test_the_table_of_flags_is_that_of_the_releases(version: str) -> None:
    released = json.loads((ROOT / "tests/data/flags_by_version.json").read_text())[version]
    major, minor, _ = version.removeprefix("v").split(".")

    assert {name for name in GO_FLAGS if not missing_flag(name, (int(major), int(minor)))} == set(released)


# --- images


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", "", "")),
        ("a:1", ("a", "1", "")),
        ("localhost:5000/a", ("localhost:5000/a", "", "")),
        ("localhost:5000/a:1@sha256:0", ("localhost:5000/a", "1", "sha256:0")),
        ("r.io/a@sha256:0", ("r.io/a", "", "sha256:0")),
    ],
)
def test_images_are_taken_apart(text: str, parts: tuple[str, str, str]) -> None:
    assert parse_image(text) == parts


@pytest.mark.parametrize(
    ("image", "own_flags", "ours", "version"),
    [
        (GO, False, False, (2, 17)),
        (GO, True, False, (2, 17)),
        ("x/livenessprobe:v2.19.0-eksbuild.3", False, False, (2, 19)),
        ("x/csi-livenessprobe:v2.14.0_vmware.1", False, False, (2, 14)),
        ("x/livenessprobe:v0.0.0", False, False, None),
        ("x/livenessprobe:canary", False, False, None),
        ("x/livenessprobe:canary", True, True, None),
        (OURS, False, True, None),
        ("livenessprobe", False, False, None),
        ("quay.io/openshift/origin-csi-livenessprobe:4.20.0", False, False, None),
    ],
)
def test_the_image_tells_the_program(image: str, own_flags: bool, ours: bool, version: object) -> None:
    found = program_of(image, own_flags=own_flags, as_ours=False)

    assert (found.ours, found.version) == (ours, version)


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        *((text, True) for text in ("/a", "unix:///a", "unix:a", "unix-abstract:x", "h:1", ":1", "[::1]:1", "dns:///h:1")),
        *(
            (text, False)
            for text in ("tcp://h:1", "tcp:h:1", "ipv4:1.2.3.4:1", "./a", "a/b", "C:\\csi\\csi.sock", "h", "http://h")
        ),
    ],
)
def test_addresses_that_the_go_program_dials(address: str, reached: bool) -> None:
    assert go_reaches(address) is reached


def test_the_start_takes_longer_the_less_cpu_there_is() -> None:
    ours = Program(ours=True, version=None, text="")

    assert [ours.start(cpu) for cpu, _ in START] == [pytest.approx(seconds) for _, seconds in START]
    assert ours.start(None) == ours.start(4.0) == START[0][1]
    assert START[1][1] > ours.start(0.2) > START[0][1]
    assert ours.start(0.01) == pytest.approx(2 * START[-1][1])
    assert Program(ours=False, version=(2, 17), text="").start(0.02) == 0


def test_windows_paths_meet_in_every_spelling() -> None:
    windows = changed(
        sound(OURS),
        ((*POD, "nodeSelector"), {"kubernetes.io/os": "windows"}),
        ((*SIDECAR, "resources"), REMOVED),
        ((*SIDECAR, "args", 0), r"--csi-address=unix://C:\\csi\\csi.sock"),
        ((*SIDECAR, "volumeMounts", 0, "mountPath"), "C:\\csi"),
    )

    assert [each.id for each in linted(windows).findings] == ["LP108"]
