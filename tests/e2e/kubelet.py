"""A real kubelet restarts drivers according to the responses of the sidecar."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

import yaml

from tests.e2e import disk, image, node, times
from tests.e2e.host import HERE, ROOT, Failed, Skip, say, wait_for
from tests.e2e.node import Node

HEALTHY = {"healthy-100m": "100m", "healthy-50m": "50m", "healthy-20m": "20m"}
"""Pods whose driver has no fault, with the sidecar's CPU limit."""
BASE = "base"
"""The pod of k8s/base, with other images and driver arguments."""
SLOW = "slow-20s"
"""A pod whose driver needs 20 s to start."""
SMALL = "small-32mi"
"""A pod whose sidecar has 32 MiB, serves metrics, and reads its files from a disk with the kernel's read-ahead."""
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
    image.ready()
    with _images() as images, node.running(images) as found:
        found.load(image.IMAGE)
        if images is None:
            _watch(found, UNHARMED)
        else:
            disk.drop_pages(images)
            _add(found, SMALL, memory="32Mi", listen="--http-endpoint=:9808")  # the first: the image's pages count for it
            wait_for(f"{SMALL} to run", lambda: _all_run(found, [SMALL]), 60)
            with _scraped(found, SMALL):
                _watch(found, [*UNHARMED, SMALL])


def _watch(found: Node, unharmed: list[str]) -> None:
    """Add the pods that are missing, harm some, and fail if one of `unharmed` is restarted within WATCHED seconds."""
    for pod, cpu in HEALTHY.items():
        _add(found, pod, cpu)
    _add(found, SLOW, delay="20s")
    found.add(BASE, _base())
    wait_for("all of them to run", lambda: _all_run(found, unharmed), 60)
    since = time.monotonic()
    for pod, (what, harm) in FAULTS.items():
        _add(found, pod)
        wait_for(f"{pod} to run", lambda pod=pod: _all_run(found, [pod]), 60)
        time.sleep(15)  # the kubelet probes from the tenth second on
        if found.status(pod, "driver").restarts:
            raise Failed(f"the driver of {pod} was restarted before it had a fault")
        harmed = time.monotonic()
        harm(found, pod)
        wait_for(f"a restart after: {what}", lambda pod=pod: found.status(pod, "driver").restarts, LIMIT, 0.2)
        say(f"{what}: restarted after {time.monotonic() - harmed:.1f} s")
    time.sleep(max(0.0, WATCHED - (time.monotonic() - since)))
    _report(found, unharmed, time.monotonic() - since)


def _add(
    found: Node, pod: str, cpu: str = "100m", delay: str = "0s", memory: str = "96Mi", listen: str = "--health-port=9808"
) -> None:
    manifest = Template((HERE / "pod.yaml").read_text())
    found.add(pod, manifest.substitute(name=pod, image=image.IMAGE, cpu=cpu, delay=delay, memory=memory, listen=listen))


@contextmanager
def _images() -> Iterator[Path | None]:
    """The folder of a disk with the kernel's read-ahead, for the node's images; None where no such disk can be made."""
    with ExitStack() as stack:
        try:
            images = stack.enter_context(disk.empty("images", 1 << 30))
        except Skip as skip:
            say(f"{SMALL}: {skip}")
            yield None
        else:
            images.forget(disk.DEFAULT_READ_AHEAD)
            yield images.place


@contextmanager
def _scraped(found: Node, pod: str) -> Iterator[None]:
    """While this is entered, the pod is scraped every 15 s; Failed at the end if a scrape has failed."""
    url, statuses, end = f"http://{found.address(pod)}:9808/metrics", Counter[int](), threading.Event()

    def scrape() -> None:
        while not end.wait(15):
            statuses[found.ask(url)] += 1

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        say(f"{pod}: scrapes by status: {dict(statuses)}")
    if set(statuses) != {200}:
        raise Failed(f"a scrape of {pod} failed")


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


def _report(found: Node, unharmed: list[str], seconds: float) -> None:
    containers = found.containers()
    restarts = {pod: containers[pod, "driver"].restarts for pod in unharmed}
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
