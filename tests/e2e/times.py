"""The times that `livenessprobe lint` prints, measured on a real kubelet."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from livenessprobe.lint.judge import Options, judge
from livenessprobe.lint.kubelet import TimeToKill
from livenessprobe.lint.probes import Fault
from livenessprobe.lint.reading import Read, parse
from tests.e2e import image
from tests.e2e.host import Failed, say, wait_for
from tests.e2e.node import Node

SYNC = 1.0
"""Seconds that the kubelet may take to act on a result."""


class Setting(NamedTuple):
    """Numbers of a liveness probe, the pod's grace period, and the sidecar's flags."""

    period: int
    timeout: int
    failure: int
    grace: int
    flags: tuple[str, ...]


SETTINGS = {
    "slow": Setting(period=2, timeout=4, failure=3, grace=5, flags=("--probe-timeout=3s",)),
    "impatient": Setting(period=5, timeout=2, failure=2, grace=3, flags=("--probe-timeout=3s",)),
    "quick": Setting(period=4, timeout=5, failure=3, grace=10, flags=("--probe-timeout=2s", "--unreachable-grace=0s")),
}


def manifest(name: str, setting: Setting) -> dict[str, Any]:
    volume = {"name": "socket-dir", "mountPath": "/csi"}
    probe = {
        "httpGet": {"path": "/healthz", "port": 9808},
        "initialDelaySeconds": 5,
        "periodSeconds": setting.period,
        "timeoutSeconds": setting.timeout,
        "failureThreshold": setting.failure,
    }
    driver = {
        **{"name": "driver", "image": "localhost/driver:e2e", "imagePullPolicy": "Never", "args": ["-socket=/csi/csi.sock"]},
        **{"livenessProbe": probe, "volumeMounts": [volume]},
    }
    sidecar = {
        **{"name": "liveness-probe", "image": image.IMAGE, "imagePullPolicy": "Never", "command": ["/livenessprobe"]},
        "args": ["--csi-address=/csi/csi.sock", "--http-endpoint=:9808", *setting.flags],
        "volumeMounts": [volume],
    }
    spec = {
        "terminationGracePeriodSeconds": setting.grace,
        "containers": [driver, sidecar],
        "volumes": [{"name": "socket-dir", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def on_host(name: str, port: int, *, host: str) -> dict[str, Any]:
    """A pod on the host's network whose sidecar listens on loopback."""
    document = manifest(name, SETTINGS["slow"])
    document["spec"]["hostNetwork"] = True
    driver, sidecar = document["spec"]["containers"]
    driver["livenessProbe"]["httpGet"] = {"path": "/healthz", "port": port} | ({"host": host} if host else {})
    sidecar["args"][1] = f"--http-endpoint=127.0.0.1:{port}"
    return document


def printed(document: dict[str, Any], fault: Fault) -> TimeToKill:
    """What the linter says about the manifest."""
    found = Read([], [], [], {})
    parse(json.dumps(document).encode(), "pod.json", found)
    (report,) = judge(found, Options(as_ours=True)).reports
    shown = report.killings[0].faults[fault]
    assert shown
    return shown[1]


def measure(found: Node, faults: dict[Fault, Callable[[Node, str], None]]) -> None:
    """Nine pods at once: each fault at each setting; fails if a time lies outside the printed range."""
    pods = {f"{name}-{fault.replace(' ', '-')}": (setting, fault) for name, setting in SETTINGS.items() for fault in faults}
    for pod, (setting, _) in pods.items():
        found.add(pod, json.dumps(manifest(pod, setting)))
    for pod, host, port in (("loopback", "", 29701), ("loopback-host", "127.0.0.1", 29702)):
        found.add(pod, json.dumps(on_host(pod, port, host=host)))
    wait_for("the pods to run", lambda: _run(found, [*pods]), 120)
    for pod, (_, fault) in pods.items():
        if fault == "not ready":  # the first response leaves `ready` out, the second has it, the third denies it
            faults[fault](found, pod)
    time.sleep(20)  # the kubelet probes from the fifth second on
    if restarted := [pod for pod in pods if found.status(pod, "driver").restarts]:
        raise Failed(f"drivers were restarted before they had a fault: {', '.join(restarted)}")
    results: dict[str, tuple[float, float]] = {}
    threads = [
        threading.Thread(target=lambda pod=pod, fault=fault: results.update({pod: _times(found, pod, faults[fault])}))
        for pod, (_, fault) in pods.items()
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.37)  # faults at different moments of the kubelet's periods
    for thread in threads:
        thread.join()
    wrong = []
    for pod, (setting, fault) in pods.items():
        told = printed(manifest(pod, setting), fault)
        if pod not in results:
            raise Failed(f"{pod}: its driver was not killed")
        killing, gone = results[pod]
        within = told.in_flight <= killing <= told.most + SYNC and gone <= told.gone + SYNC
        say(
            f"{pod}: Killing after {killing:.1f} s, printed {told.in_flight:g} to {told.most:g}; "
            f"gone after {gone:.1f} s, printed {told.gone:g} at most{'' if within else '  OUTSIDE'}"
        )
        if not within:
            wrong.append(pod)
    unreached, reached = (found.status(pod, "driver").restarts for pod in ("loopback", "loopback-host"))
    say(f"listening on loopback of the host's network: {unreached} restarts without host in the probe, {reached} with it")
    if wrong or not unreached or reached:
        raise Failed("the kubelet did something else than the linter says")


def _run(found: Node, pods: list[str]) -> bool:
    containers = found.containers()
    return all(
        (pod, name) in containers and containers[pod, name].running for pod in pods for name in ("driver", "liveness-probe")
    )


def _times(found: Node, pod: str, harm: Callable[[Node, str], None]) -> tuple[float, float]:
    """Seconds from the fault until the kubelet's record, and until the driver's process is gone."""
    container, pid = found.status(pod, "driver").id, found.pid(pod, "driver")
    at = time.time()
    harm(found, pod)
    wait_for(f"the driver of {pod} to be gone", lambda: not os.path.exists(f"/proc/{pid}"), 90, 0.05)
    gone = time.time() - at
    record = re.search(rf"^I(\d{{4}} [\d:.]+) .*Killing .*{container}", found.log(), re.MULTILINE)
    if record is None:
        raise Failed(f"{pod}: the kubelet's log has no record Killing")
    moment = datetime.strptime(f"{datetime.now().year}{record[1]}", "%Y%m%d %H:%M:%S.%f")
    return moment.timestamp() - at, gone
