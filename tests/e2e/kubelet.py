"""A real kubelet restarts drivers according to the responses of the sidecar."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from string import Template

import yaml

from tests.e2e import image, node, times
from tests.e2e.host import HERE, ROOT, Failed, say, wait_for
from tests.e2e.node import Node

HEALTHY = {"healthy-100m": "100m", "healthy-50m": "50m", "healthy-20m": "20m"}
"""Pods whose driver has no fault, with the sidecar's CPU limit."""
BASE = "base"
"""The pod of k8s/base, with other images and driver arguments."""
SLOW = "slow-20s"
"""A pod whose driver needs 20 s to start."""
UNHARMED = [*HEALTHY, SLOW, BASE]
WATCHED = 300
"""Seconds without a restart that are required of the pods in UNHARMED."""
LIMIT = 60
"""Seconds within which a restart must happen."""


def _stop(found: Node, pod: str) -> None:
    os.kill(found.pid(pod, "driver"), signal.SIGSTOP)


def _unlink(found: Node, pod: str) -> None:
    os.unlink(f"/proc/{found.pid(pod, 'driver')}/root/csi/csi.sock")


def _next(found: Node, pod: str) -> None:
    os.kill(found.pid(pod, "driver"), signal.SIGUSR1)


def _deny(found: Node, pod: str) -> None:
    for _ in range(2):  # first to "ready", then to "not ready"
        _next(found, pod)
        time.sleep(0.5)


FAULTS: dict[str, tuple[str, Callable[[Node, str], None]]] = {
    "stopped": ("the driver is stopped", _stop),
    "unlinked": ("its socket is removed", _unlink),
    "denied": ("it says that it is not ready", _deny),
}


def stage_restarts() -> None:
    """A kubelet restarts a driver that is stopped, has no socket or is not ready, and no other in 5 minutes."""
    manifest = Template((HERE / "pod.yaml").read_text())

    def add(pod: str, cpu: str = "100m", delay: str = "0s") -> None:
        found.add(pod, manifest.substitute(name=pod, image=image.IMAGE, cpu=cpu, delay=delay))

    image.ready()
    with node.running() as found:
        found.load(image.IMAGE)
        for pod, cpu in HEALTHY.items():
            add(pod, cpu)
        add(SLOW, delay="20s")
        found.add(BASE, _base())
        wait_for("all of them to run", lambda: _all_run(found, UNHARMED), 60)
        since = time.monotonic()
        for pod, (what, harm) in FAULTS.items():
            add(pod)
            wait_for(f"{pod} to run", lambda pod=pod: _all_run(found, [pod]), 60)
            time.sleep(15)  # the kubelet probes from the tenth second on
            if found.status(pod, "driver").restarts:
                raise Failed(f"the driver of {pod} was restarted before it had a fault")
            harmed = time.monotonic()
            harm(found, pod)
            wait_for(f"a restart after: {what}", lambda pod=pod: found.status(pod, "driver").restarts, LIMIT, 0.2)
            say(f"{what}: restarted after {time.monotonic() - harmed:.1f} s")
        time.sleep(max(0.0, WATCHED - (time.monotonic() - since)))
        _report(found, time.monotonic() - since)


def stage_times() -> None:
    """A kubelet kills drivers within the times that `livenessprobe lint` prints: three faults at three settings."""
    image.ready()
    with node.running() as found:
        found.load(image.IMAGE)
        times.measure(found, {"hung": _stop, "unreachable": _unlink, "not ready": _next})


def _base() -> str:
    """The pod of the DaemonSet: a kubelet without an API server takes pods only."""
    kubectl = Path(sys.executable).with_name("kubectl")
    built = subprocess.run([kubectl, "kustomize", ROOT / "k8s/base"], check=True, capture_output=True, text=True).stdout
    (daemon_set,) = yaml.safe_load_all(built)
    spec = daemon_set["spec"]["template"]["spec"]
    for container in spec["containers"]:
        container["imagePullPolicy"] = "Never"
        if container["name"] == "driver":
            container |= {"image": "localhost/driver:e2e", "args": ["-socket=/csi/csi.sock"]}
        else:
            container["image"] = image.IMAGE
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": BASE, "namespace": "default"}, "spec": spec})


def _all_run(found: Node, pods: list[str]) -> bool:
    containers = found.containers()
    return all(
        (pod, name) in containers and containers[pod, name].running for pod in pods for name in ("driver", "liveness-probe")
    )


def _report(found: Node, seconds: float) -> None:
    containers = found.containers()
    restarts = {pod: containers[pod, "driver"].restarts for pod in UNHARMED}
    for pod, count in restarts.items():
        say(f"{pod}: {count} restarts of the driver in {seconds:.0f} s")
    for (pod, name), status in containers.items():
        if name == "liveness-probe" and status.restarts:
            raise Failed(f"the sidecar of {pod} was restarted {status.restarts} times")
    said = Counter(
        re.findall(r'Liveness probe for "([\w-]+?)-node_.*?failed \(failure\): .*?(statuscode: \d+|\(Client.*)', found.log())
    )
    for (pod, why), count in sorted(said.items()):
        say(f"the kubelet's log: {pod}: {count} x {why}")
    if any(restarts.values()):
        raise Failed("a driver without a fault was restarted")
