"""
Small changes of sound manifests: at least 90 % of the changes that matter give a new finding, or other times.

The simulation of the kubelet decides whether a change matters.  It knows addresses, ports, paths, sockets and probes, and shares no
code with the findings.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.lint.manifests import DRIVER, GO, OURS, POD, REMOVED, SIDECAR, Change, changed, linted, sound
from tests.lint.simulation import Answer, Worker, killed_at

PROBE = (*DRIVER, "livenessProbe")
STARTUP = (*DRIVER, "startupProbe")

STARTS = {(*STARTUP, key): value for key, value in {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 12}.items()}
NODE: list[Change] = [
    ((*POD, "hostNetwork"), True),
    ((*SIDECAR, "args", 2), "--http-endpoint=127.0.0.1:9808"),
    ((*PROBE, "httpGet", "host"), "127.0.0.1"),
]
WITH_STARTUP: list[Change] = [((*STARTUP, "httpGet"), {"path": "/healthz", "port": "healthz"}), *STARTS.items()]
BASES: dict[str, dict[str, Any]] = {
    "Go": sound(GO),
    "Go, host network": sound(GO, *NODE),
    "Go, startup probe": sound(GO, *WITH_STARTUP),
    "ours": sound(OURS),
    "ours, host network, grace": sound(OURS, *NODE, ((*SIDECAR, "args", 3), "--unreachable-grace=1s")),
    "ours, startup probe": sound(OURS, *WITH_STARTUP),
    "Go, grace of the pod": sound(GO, ((*POD, "terminationGracePeriodSeconds"), 20)),
    "Go, grace of the probe": sound(GO, ((*PROBE, "terminationGracePeriodSeconds"), 5)),
}


def mutants(base: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operator at each place where it applies."""
    for path, value in leaves(base):
        shown = ".".join(map(str, path[4:] or path))
        if isinstance(value, int) and not isinstance(value, bool):
            for other in {value - 1, value + 1, 2 * value, value // 2} - {value, 0}:
                yield f"{shown}: {value} -> {other}", changed(base, (path, other))
        for other in texts(path, value):
            yield f"{shown}: {value} -> {other}", changed(base, (path, other))
        if "args" in path or path[-1] in ("host", "hostNetwork"):
            yield f"{shown}: {value} removed", changed(base, (path, REMOVED))
    for container in (DRIVER, SIDECAR):
        for key in ("volumeMounts", "livenessProbe", "startupProbe", "ports"):
            if key in dig(base, container):
                yield f"{container[-1]}.{key} removed", changed(base, ((*container, key), REMOVED))
        yield f"{container[-1]}.subPath", changed(base, ((*container, "volumeMounts", 0, "subPath"), "x"))
    second = {"name": "second", "emptyDir": {}}
    for container in (DRIVER, SIDECAR):
        yield (
            f"{container[-1]}: other volume",
            changed(base, ((*POD, "volumes", 1), second), ((*container, "volumeMounts", 0, "name"), "second")),
        )


def texts(path: tuple[str | int, ...], value: object) -> list[object]:
    if len(path) < 2 or not isinstance(value, str | bool):
        return []
    if path[-1] == "path":
        return ["/health", "/metrics", "/livez", value + "/"]
    if path[-1] == "port":
        return ["health", 9809, 9808]
    if path[-2:-1] == ("ports",) or (len(path) > 2 and path[-3] == "ports" and path[-1] == "name"):
        return ["health"]
    if path[-1] == "host":
        return ["localhost", "::1", "10.0.0.1"]
    if path[-1] == "hostNetwork":
        return [False]
    if path[-1] == "mountPath":
        return ["/other", "/csi/deep"]
    if path[-2] == "args":
        return argument(str(value))
    return []


def argument(text: str) -> list[object]:
    flag, _, value = text.partition("=")
    if re.fullmatch(r"[0-9]+s", value):
        number = int(value[:-1])
        return [f"{flag}={other}s" for other in (number - 1, number + 1, 2 * number, 0, 20)]
    if value.endswith(".sock"):
        return [text.replace("csi.sock", "other.sock"), text.replace("/csi/", "/elsewhere/")]
    if value.endswith(":9808"):
        return [text.replace("9808", "9809"), f"{flag}=localhost:9808", f"{flag}=[::1]:9808", f"{flag}=:9808"]
    return []


def leaves(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(node, dict | list):
        for key, below in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(below, (*path, key))
    else:
        yield path, node


def dig(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


# --- the world: what the kubelet, the sidecar and the driver do


class Behaviour(NamedTuple):
    """What happens to the driver, in each state of it; seconds, None for never."""

    healthy: float | None
    hung: float | None
    gone: float | None
    not_ready: float | None
    late: tuple[bool, ...]
    """Whether a driver is killed that answers only after 1.5, 2.5, 3.5, 4.5, 6.5 seconds."""
    starts: tuple[bool, ...]
    """Whether it is killed before it is up, if it takes 15, 40 and 70 s."""
    ends: float


def behaviour(document: dict[str, Any]) -> Behaviour:
    world = World(document)
    fault = 200.0
    return Behaviour(
        healthy=world.killed("healthy", 0.0),
        hung=world.killed("hung", fault),
        gone=world.killed("gone", fault),
        not_ready=world.killed("not ready", fault),
        late=tuple(world.killed(f"late {seconds}", fault) is not None for seconds in (1.5, 2.5, 3.5, 4.5, 6.5)),
        starts=tuple(world.killed("starting", float(seconds)) is not None for seconds in (15, 40, 70)),
        ends=world.grace,
    )


def refused(_: float) -> Answer:
    return 0.0, False


class World:
    """The pod of a manifest; understands what `sound` and the operators write."""

    def __init__(self, document: dict[str, Any]) -> None:
        pod = dig(document, POD)
        self.host_network = bool(pod.get("hostNetwork", False))
        self.driver, self.sidecar = pod["containers"]
        of_pod = pod.get("terminationGracePeriodSeconds", 30)
        self.grace = max(2.0, self.driver.get("livenessProbe", {}).get("terminationGracePeriodSeconds", of_pod))
        self.ours = self.sidecar["image"] == OURS
        given = dict(text.lstrip("-").partition("=")[::2] for text in self.sidecar["args"])
        self.timeout = float(given.get("probe-timeout", "3s")[:-1])
        self.unreachable = min(self.timeout, float(given.get("unreachable-grace", f"{self.timeout}s")[:-1]))
        self.address = given.get("csi-address", "/run/csi/socket")
        self.host, _, port = given.get("http-endpoint", "0.0.0.0:9808").rpartition(":")
        self.port = int(port)
        self.metrics = "http-endpoint" in given
        endpoint = next((text.partition("unix://")[2] for text in self.driver.get("args", [])), None)
        self.connected = endpoint is None or (
            self.file(self.sidecar, self.address) == self.file(self.driver, endpoint)
            and self.file(self.driver, endpoint) is not None
        )

    @staticmethod
    def file(container: dict[str, Any], path: str) -> str | None:
        """Volume and path within it."""
        for mount in container.get("volumeMounts", []):
            if posixpath.commonpath([mount["mountPath"], path]) == mount["mountPath"]:
                inside = posixpath.relpath(path, mount["mountPath"])
                return posixpath.normpath(posixpath.join(mount["name"], mount.get("subPath", ""), inside))
        return None

    def killed(self, state: str, since: float) -> float | None:
        """When the driver's container is killed, that has started at 0; seconds from the fault on."""
        kinds = [kind for kind in ("startup", "liveness") if f"{kind}Probe" in self.driver]
        workers = [self.worker(kind, _State(self, state, since)) for kind in kinds]
        if not workers:
            return None
        at = killed_at(workers, refused, 0.0, [0.0] * len(workers), since + 1500)
        return None if at is None else at - since

    def worker(self, kind: str, state: _State) -> Worker:
        probe = self.driver[f"{kind}Probe"]
        keys = {"periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3, "initialDelaySeconds": 0}
        numbers = [probe.get(key, default) for key, default in keys.items()]
        reached = self.reached(probe)
        if reached is None:
            # The result of a probe whose port is not found is thrown away: as if no probe were due.
            numbers[3] = 10**6
        path = probe["httpGet"].get("path", "/")
        return Worker(kind, *numbers, ask=(lambda at: state.answer(at, path)) if reached else refused)

    def reached(self, probe: dict[str, Any]) -> bool | None:
        """Whether a probe reaches the sidecar; None if the kubelet finds no port, and so has no result."""
        action = probe["httpGet"]
        port: Any = action["port"]
        if isinstance(port, str):
            named = [each["containerPort"] for each in self.driver.get("ports", []) if each["name"] == port]
            if not named:
                return None
            port = named[0]
        asked = action.get("host", "node" if self.host_network else "pod")
        loopback = asked in ("localhost", "127.0.0.1", "::1")
        if loopback and not self.host_network:
            return False
        if asked == "10.0.0.1":
            return False
        if self.host in ("localhost", "127.0.0.1"):
            return port == self.port and asked in ("localhost", "127.0.0.1")
        if self.host == "[::1]":
            return port == self.port and asked in ("localhost", "::1")
        return bool(port == self.port)


class _State(NamedTuple):
    """The driver, and what the sidecar answers."""

    world: World
    state: str
    since: float

    def answer(self, at: float, path: str) -> Answer:
        world = self.world
        if path == "/metrics" and world.metrics:
            return 0.0, True
        if path not in ({"/healthz", "/livez", "/readyz", "/startupz"} if world.ours else {"/healthz"}):
            return 0.0, False
        if self.state == "starting" and at < self.since:
            return (world.unreachable, False) if world.ours else (0.0, False)
        if not world.connected:
            return (world.unreachable if world.ours else world.timeout), False
        if world.timeout <= 0:
            return 0.0, False
        if self.state == "starting" or self.state == "healthy" or at < self.since:
            return 0.0, True
        if self.state == "hung":
            return world.timeout, False
        if self.state == "gone":
            return (world.unreachable if world.ours else world.timeout), False
        if self.state == "not ready":
            return 0.0, path == "/livez"
        takes = float(self.state.partition(" ")[2])
        return (takes, True) if takes < world.timeout else (world.timeout, False)


# --- the test


def said(document: dict[str, Any]) -> tuple[Any, Any]:
    """Findings, and times."""
    judged = linted(document, driver_start=40.0)
    times = [
        (
            killing.asking.probe.kind,
            {fault: shown and shown[1] for fault, shown in killing.faults.items()},
            killing.slowest,
            killing.start,
        )
        for report in judged.reports
        for killing in report.killings
    ]
    return sorted((each.id, each.severity) for each in judged.findings), times


SURVIVORS = {
    "0.volumeMounts removed": "a driver's mounts that a manifest does not say are not judged: operators and webhooks add them",
}
"""Changes that matter and that nothing tells, with the reason."""


def outcome(name: str) -> tuple[list[str], list[str]]:
    """Mutants that matter, and those among them that change nothing that is said."""
    base = BASES[name]
    lives, tells = behaviour(base), said(base)
    matter, survive = [], []
    for title, mutant in mutants(base):
        if behaviour(mutant) == lives:
            continue
        matter.append(f"{name}: {title}")
        if said(mutant) == tells:
            survive.append(f"{name}: {title}")
    return matter, survive


@pytest.mark.parametrize("name", BASES)
def test_the_bases_are_sound(name: str) -> None:
    lives = behaviour(BASES[name])

    assert lives.healthy is None
    assert None not in (lives.hung, lives.gone, lives.not_ready)
    assert lives.late[:2] == (False, False)


def test_at_least_nine_of_ten_changes_that_matter_are_told() -> None:
    results = [outcome(name) for name in BASES]
    matter = [title for all_, _ in results for title in all_]
    survive = [title for _, silent in results for title in silent]

    print(f"\n{len(matter)} changes matter, {len(survive)} of them are not told")
    for title in survive:
        print("   ", title)
    assert len(matter) > 200
    assert len(survive) <= len(matter) / 10
    assert {title.partition(": ")[2] for title in survive} == set(SURVIVORS)
