"""The swap of the image: the kustomize component, and the charts' values on docs/migrate.md; no Helm is needed."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from livenessprobe import __version__
from livenessprobe.lint.programs import SWAPPED, parse_image
from tests.lint.manifests import DRIVER, GO, OURS, POD, REMOVED, SIDECAR, changed, ids, linted, sound
from tests.support import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is missing: pip install '.[test]'")
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
COMPONENT = ROOT / "k8s" / "components" / "swap"
CHARTS: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "chart_values.json").read_text(encoding="utf-8"))
"""By driver: the version of the chart, the image it has, and the keys of its values about the sidecar, as read there."""
PAGE = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is missing: pip install '.[check]'")


def swapped(folder: Path, *documents: dict[str, Any]) -> list[dict[str, Any]]:
    """What kustomize makes of the documents with the component."""
    shutil.copytree(COMPONENT, folder / "swap", dirs_exist_ok=True)
    (folder / "driver.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["driver.yaml"],
        "components": ["swap"],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def with_ours(document: dict[str, Any], *images: tuple[str | int, ...]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    return changed(document, *(((*path, "image"), f"registry.example.com/livenessprobe:{__version__}") for path in images))


def test_the_component_has_the_names_that_the_linter_knows() -> None:
    entries = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text(encoding="utf-8"))["images"]

    assert {entry["name"] for entry in entries} == SWAPPED
    assert {(entry["newName"], entry["newTag"]) for entry in entries} == {
        ("registry.example.com/livenessprobe", __version__)
    }


@needs_kubectl
def test_every_name_is_swapped_and_nothing_else(tmp_path: Path) -> None:
    """With a tag and with a digest, whatever the container is called."""
    documents = [
        sound(f"{name}{tail}", ((*SIDECAR, "name"), f"probe-{number}"), name=f"csi-{number}-{kind}")
        for number, name in enumerate(sorted(SWAPPED))
        for kind, tail in (("tag", ":v2.17.0"), ("digest", f"@sha256:{'0' * 64}"), ("both", f":v2.17.0@sha256:{'1' * 64}"))
    ]

    found = {each["metadata"]["name"]: each for each in swapped(tmp_path, *documents)}

    assert found == {each["metadata"]["name"]: with_ours(each, SIDECAR) for each in documents}


@needs_kubectl
def test_init_containers_are_swapped_and_other_images_are_not(tmp_path: Path) -> None:
    side = sound(GO)["spec"]["template"]["spec"]["containers"][1] | {"restartPolicy": "Always"}
    document = sound(GO, ((*POD, "containers", 1), REMOVED), ((*POD, "initContainers"), [side]))
    foreign = sound("registry.example.com/csi-livenessprobe:v2.17.0", ((*SIDECAR, "resources"), REMOVED), name="foreign")

    found = {each["metadata"]["name"]: each for each in swapped(tmp_path, document, foreign)}

    assert found["example-csi"] == with_ours(document, (*POD, "initContainers", 0))
    assert found["foreign"] == foreign
    assert ids(linted(found["foreign"], as_ours=True)) == ["LP006"]


# --- charts


def snippets() -> dict[str, dict[str, Any]]:
    """The values by driver."""
    found = re.findall(r"^### ([^\n]+)\n\n((?:[^\n]+\n)+)\n```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert all(CHARTS[name]["version"] in text for name, text, _ in found)
    return {name: yaml.safe_load(values) for name, _, values in found}


VALUES = snippets()


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield path, values
        return
    for key, below in values.items():
        yield from leaves(below, f"{path}.{key}" if path else key)


def test_the_page_has_all_twelve_charts() -> None:
    assert list(VALUES) == list(CHARTS)
    assert len(CHARTS) == 12


@pytest.mark.parametrize("name", CHARTS)
def test_the_keys_are_those_of_the_chart(name: str) -> None:
    keys = CHARTS[name]["keys"]

    unknown = [
        key for key, _ in leaves(VALUES[name]) if not any(key == known or key.startswith(f"{known}.") for known in keys)
    ]

    assert unknown == []


@pytest.mark.parametrize("name", CHARTS)
def test_the_values_make_our_image_with_enough_memory(name: str) -> None:
    values = dict(leaves(VALUES[name]))
    registry = next((f"{text}/" for key, text in values.items() if key.endswith("registry")), "")
    repositories = {registry + text for key, text in values.items() if key.endswith(("repository", ".name"))}
    tags = {text for key, text in values.items() if key.endswith("tag")}
    memory = [text for key, text in values.items() if key.endswith("limits.memory")]
    timeouts = {text for key, text in values.items() if key.endswith("timeoutSeconds")} or {5}

    assert (repositories, tags) == ({"registry.example.com/livenessprobe"}, {__version__})
    for limit in memory or ["128Mi"]:
        changes = [
            ((*SIDECAR, "resources", "limits", "memory"), limit),
            ((*DRIVER, "livenessProbe", "timeoutSeconds"), *timeouts),
        ]
        assert ids(linted(sound(OURS, *changes))) == []


@needs_kubectl
@pytest.mark.parametrize("name", CHARTS)
def test_a_manifest_with_the_charts_image_is_swapped_and_sound(name: str, tmp_path: Path) -> None:
    document = sound(CHARTS[name]["image"], ((*SIDECAR, "name"), "liveness-probe"))
    assert parse_image(CHARTS[name]["image"]).repository in SWAPPED

    (found,) = swapped(tmp_path, document)

    judged = linted(found)
    assert [report.sidecar.program.ours for report in judged.reports] == [True]
    assert ids(judged) == []
