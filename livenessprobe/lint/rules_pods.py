"""Findings about a sidecar's own container, its volumes, and about pods that meet in one cluster.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from livenessprobe.lint.findings import Finding
from livenessprobe.lint.nodes import Document, Node
from livenessprobe.lint.pods import UNKNOWN, Container, Pod, Volume, is_placeholder
from livenessprobe.lint.probes import Case, Listener, is_loopback, listeners, quantity
from livenessprobe.lint.programs import go_reaches, swap_replaces
from livenessprobe.lint.sidecars import Sidecar

_MIB = 1 << 20
_OF_MISTAKE = {"flag": "LP301", "value": "LP302", "conflict": "LP303", "deprecated": "LP304"}


def judge(case: Case) -> Iterator[Finding]:
    """All findings about the sidecars of one pod, apart from those about probes."""
    for sidecar in case.sidecars:
        for mistake in sidecar.mistakes:
            yield case.finding(_OF_MISTAKE[mistake.kind], mistake.node, mistake.sentence, sidecar.container)
        yield from _unjudged(case, sidecar)
        yield from _version(case, sidecar)
        yield from _socket(case, sidecar)
        yield from _user(case, sidecar)
        yield from _memory(case, sidecar)
        yield from _file(case, sidecar)
        yield from _windows(case, sidecar)
    for container in case.pod.containers:
        yield from _types(case, container)


def _unjudged(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    keys = sorted(sidecar.unjudged & {"csi_address", "health_port", "http_endpoint", "probe_timeout", "arguments"})
    if keys:
        named = ", ".join("some arguments" if key == "arguments" else f"--{key.replace('_', '-')}" for key in keys)
        sentence = f"not judged: {named}, which a tool still puts in; lint the rendered manifest"
        yield case.finding("LP001", sidecar.node_of(keys[0]), sentence, sidecar.container)


def _version(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    if sidecar.program.swapped and not swap_replaces(sidecar.container.image):
        image = sidecar.container.node.at("image")
        sentence = f"the image {image.text or '(none)'} has no entry in k8s/components/swap; add one, or swap it in its tool"
        yield case.finding("LP006", image, sentence, sidecar.container)
    if sidecar.program.ours or sidecar.program.version is not None:
        return
    image = sidecar.container.node.at("image")
    sentence = (
        f"the image {image.text or '(none)'} does not tell its version; judged by the rules of the Go program's newest"
    )
    yield case.finding("LP004", image, sentence, sidecar.container)


# --- the socket


def _socket(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    settings, container = sidecar.settings, sidecar.container
    if settings is None or not sidecar.knows("csi_address"):
        return
    node = sidecar.node_of("csi_address")
    address = settings.csi_address
    raw = sidecar.loaded.raw["csi_address"].text if sidecar.loaded else ""
    if not sidecar.program.ours and not go_reaches(raw):
        sentence = f"the Go program retries --csi-address={raw} for ever in silence; write unix:///path/to/csi.sock"
        yield case.finding("LP205", node, sentence, container)
        return
    if address.network != "unix" or not re.match(r"/|[A-Za-z]:", address.name):
        return
    mount = container.mount(address.name)
    if mount is not None and _is_file_mount(container, mount, address.name):
        sentence = (
            f"{mount.at('mountPath').text} mounts the socket itself, so the sidecar never sees the socket of a restarted driver; "
            "mount its folder"
        )
        yield case.finding("LP203", mount, sentence, container)
    place = _place(container, address.name)
    if place is UNKNOWN:
        return
    if place is None:
        sentence = f"the sidecar dials {address.name}, and none of its volumes is mounted there; mount the socket's folder"
        yield case.finding("LP201", node, sentence, container)
    else:
        yield from _meets(case, sidecar, place, node)


def _place(container: Container, path: str) -> Volume | None:
    if container.is_host_process and container.mount(path) is None:
        return container.pod.host_file(path)
    return container.locate(path)


def _is_file_mount(container: Container, mount: Node, path: str) -> bool:
    """Whether the mount is the socket itself: as its target, or by a subPath that ends in its name."""
    name = re.split(r"[/\\]", path)[-1]
    whole = mount.at("mountPath").text.rstrip("/\\")
    host = container.pod.source(mount.at("name").text).at("hostPath")
    return whole == path or mount.at("subPath").text.endswith(f"/{name}") or host.at("type").text in ("Socket", "File")


def _meets(case: Case, sidecar: Sidecar, place: Volume, node: Node) -> Iterator[Finding]:
    """The driver must see the same file; not judged if its mounts and its address are not told."""
    for driver in case.drivers:
        endpoint = _endpoint(driver)
        told = bool(driver.node.at("volumeMounts").items) or driver.is_host_process
        if not endpoint or not told:
            continue
        seen = _place(driver, endpoint)
        if seen == place or seen is UNKNOWN:
            return
        where = "in no volume" if seen is None else f"at {seen.path} of {_named(seen)}"
        sentence = (
            f"{driver.name} listens on {endpoint}, {where}, and the sidecar dials {place.path} of {_named(place)}; "
            "mount one volume in both, and let both addresses lead to one file in it"
        )
        yield case.finding("LP202", node, sentence, sidecar.container)
        return
    own = {id(each.container) for each in case.sidecars}
    others = [each for each in case.pod.containers if id(each) not in own]
    unclear = any(not each.node.at("volumeMounts").items for each in case.drivers)
    if not others or unclear or any(_shares(each, place) for each in others):
        return
    sentence = (
        f"no other container mounts {_named(place)}, where the sidecar looks for the socket; mount it in the driver's too"
    )
    yield case.finding("LP202", node, sentence, sidecar.container, "warning" if place.source == "host" else "")


def _named(place: Volume) -> str:
    return "the node" if place.source == "host" else f"volume {place.source}"


def _shares(container: Container, place: Volume) -> bool:
    """Whether some mount of a container holds the place, or may."""
    for mount in container.node.at("volumeMounts").items:
        root = container.locate(mount.at("mountPath").text)
        if root is UNKNOWN or root is None:
            return True
        inside = not root.path or place.path == root.path or place.path.startswith(root.path.rstrip("/") + "/")
        if root.source == place.source and inside:
            return True
    return False


_ENDPOINT = re.compile(r"--?[\w.-]*(?:endpoint|csi[-_]?(?:address|sock(?:et)?))", re.IGNORECASE)


def _endpoint(driver: Container) -> str:
    """The path of the socket that a driver is told to listen on; empty if its arguments do not tell, or are ambiguous."""
    texts = [each.text for each in driver.arguments]
    found = set()
    for index, text in enumerate(texts):
        flag, equals, value = text.partition("=")
        if _ENDPOINT.fullmatch(flag):
            found.add(value if equals else next(iter(texts[index + 1 :]), ""))
    if not found:
        found = {driver.environ[name] for name in ("CSI_ENDPOINT", "CSI_ADDRESS") if name in driver.environ}
    paths = {re.sub("^unix:(//)?", "", text) for text in found if not re.match(r"(?:tcp|https?)://|.*\$", text)}
    path = paths.pop() if len(paths) == 1 else ""
    return path if re.match(r"/|[A-Za-z]:", path) else ""


# --- the container


def _user(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    own = sidecar.container.setting("runAsUser")
    for driver in case.drivers[:1]:
        theirs = driver.setting("runAsUser")
        if own.number is not None and theirs.number is not None and own.number != theirs.number:
            sentence = (
                f"the sidecar runs as {own.number} and {driver.name} as {theirs.number}: only the owner of the socket may connect; "
                f"set runAsUser: {theirs.number}"
            )
            yield case.finding("LP204", own, sentence, sidecar.container)


def _memory(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    limit = sidecar.container.node.at("resources", "limits", "memory")
    size = quantity(limit)
    if size is None:
        return
    settings = sidecar.settings
    metrics = settings is not None and (settings.metrics_on_http or settings.metrics is not None)
    fails, likely = sidecar.program.memory(metrics=metrics, windows=sidecar.container.is_windows)
    if size >= likely and (sidecar.program.ours or size > likely or not likely):
        return
    sentence = f"the memory limit {limit.value} is " + (
        f"below the {_mib(fails)} that the sidecar needs: it thrashes, and reports a healthy driver as hung"
        if size < fails
        else f"below the {_mib(likely)} that the sidecar needs on nodes whose disks read ahead much"
        if sidecar.program.ours and fails
        else f"not above {_mib(likely)}, at which the sidecar was killed on some nodes"
    )
    if sidecar.program.ours:
        sentence += "; set 256Mi" if sidecar.container.is_windows else "; set 128Mi"
    else:
        sentence += "; set 64Mi"
    yield case.finding("LP401", limit, sentence, sidecar.container, "error" if size < fails else "")


def _mib(size: int) -> str:
    return f"{size / _MIB:.3g} MiB"


def _file(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    file, container = sidecar.file, sidecar.container
    if file.mount is None:
        return
    if file.mount.at("subPath").text or file.mount.at("subPathExpr").text:
        sentence = f"{file.path} is mounted by subPath, which the kubelet never updates; mount the folder"
        yield case.finding("LP503", file.mount, sentence, container)
    if file.fault:
        strict = sidecar.loaded is not None and sidecar.loaded.raw["config_strict"].text == "true"
        result = "refuses to start" if strict else "ignores the whole file"
        sentence = f"the sidecar {result}: {file.fault}"
        yield case.finding("LP504", file.mount, sentence, container, "error" if strict else "")
    if file.found or not file.config_map or is_placeholder(file.config_map):
        return
    near = case.pod.near_config_map(file.config_map)
    if near == file.config_map:
        sentence = (
            f"ConfigMap {near} has no key for {file.path}, so the sidecar runs without the file; name the key as the file"
        )
        yield case.finding("LP501", file.mount, sentence, container)
    elif near:
        sentence = f"ConfigMap {file.config_map} is not in the input; did you mean {near}?"
        yield case.finding("LP501", file.mount, sentence, container)
    else:
        sentence = f"not judged: {file.path}, of ConfigMap {file.config_map}, which is not in the input"
        yield case.finding("LP502", file.mount, sentence, container)


def _windows(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    container, settings = sidecar.container, sidecar.settings
    if not container.is_windows:
        return
    if container.is_host_process and not case.pod.host_network:
        node = case.pod.spec.at("hostNetwork")
        sentence = "Kubernetes refuses host processes without hostNetwork: true; set it in the pod"
        yield case.finding("LP702", node, sentence, container)
    if settings is None:
        return
    if settings.http.path or (settings.metrics and settings.metrics.path):
        key = "http_endpoint" if settings.http.path else "metrics_address"
        sentence = f"{sidecar.says(key)}: the sidecar cannot listen on a unix socket on Windows; use host:port"
        yield case.finding("LP701", sidecar.node_of(key), sentence, container)
    address = settings.csi_address
    if sidecar.knows("csi_address") and address.network == "unix" and not re.match(r"[A-Za-z]:", address.name):
        sentence = (
            f"{sidecar.says('csi_address')} has no drive, so where it leads depends on the process's own; "
            r"write unix://C:\csi\csi.sock"
        )
        yield case.finding("LP701", sidecar.node_of("csi_address"), sentence, container, "info")


def _types(case: Case, container: Container) -> Iterator[Finding]:
    """What Kubernetes would refuse; each is named once, and not judged."""
    wrong = [
        *(
            (key, each)
            for key in ("command", "args")
            for each in container.node.at(key).items
            if not isinstance(each.value, str)
        ),
        *((key, node) for key in ("name", "image") if not isinstance((node := container.node.at(key)).value, str | None)),
        *(
            ("env value", node)
            for each in container.node.at("env").items
            if not isinstance((node := each.at("value")).value, str | None)
        ),
    ]
    for key, node in wrong:
        sentence = f"{key} is {node.described()}, and Kubernetes wants a string; put it in quotes"
        yield case.finding("LP005", node, sentence, container)
    for probe in container.probes:
        for key in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"):
            node = probe.node.at(key)
            if not node.missing and node.number is None and not is_placeholder(node.text):
                sentence = f"{key} is {node.described()}, and Kubernetes wants a whole number; judged by its default"
                yield case.finding("LP005", node, sentence, container)


# --- pods that meet


def judge_together(cases: Sequence[Case], documents: Sequence[Document]) -> Iterator[Finding]:
    """Findings about several pods, and about objects that select pods."""
    yield from _collisions(cases)
    yield from _monitors(cases, documents)


class _Heard(NamedTuple):
    """A sidecar that listens on a port."""

    case: Case
    sidecar: Sidecar
    listener: Listener


def _collisions(cases: Sequence[Case]) -> Iterator[Finding]:
    """Each sidecar that finds its port taken, with the first that has it."""
    by_port: dict[tuple[object, int], list[_Heard]] = {}
    for case in cases:
        for sidecar in case.sidecars:
            for listener in listeners(sidecar):
                heard = _Heard(case, sidecar, listener)
                ports = ((id(case), listener.port), ("node", _host_port(case.pod, listener)))
                for where, port in ports:
                    if port is not None:
                        others = by_port.setdefault((where, port), [])
                        taken = next((other for other in others if _collide(other, heard, same_pod=where != "node")), None)
                        if taken is not None:
                            yield _collision(taken, heard, port)
                        others.append(heard)


def _collide(one: _Heard, other: _Heard, *, same_pod: bool) -> bool:
    if one.sidecar is other.sidecar or not _overlap(one.listener, other.listener):
        return False
    return same_pod or (one.case is not other.case and _may_share_node(one.case.pod, other.case.pod))


def _collision(one: _Heard, other: _Heard, port: int) -> Finding:
    where = "in the same pod" if one.case is other.case else "on one port of the node"
    key = "http_endpoint" if "http_endpoint" in _given(other.sidecar) else "health_port"
    sentence = (
        f"port {port} is also that of sidecar {one.sidecar.container.name} of {one.case.pod.title}, {where}: "
        "the second to start cannot listen; choose another port"
    )
    return other.case.finding("LP601", other.sidecar.node_of(key), sentence, other.sidecar.container)


def _given(sidecar: Sidecar) -> set[str]:
    return {key for key, raw in sidecar.loaded.raw.items() if raw.source != "default"} if sidecar.loaded else set()


def _overlap(one: Listener, other: Listener) -> bool:
    """Whether two addresses of one port cannot both be listened on."""
    hosts = {one.address.host, other.address.host}
    if one.address.dual_stack or other.address.dual_stack or len(hosts) == 1:
        return True
    return all(is_loopback(host) in ("4", "both") for host in hosts)


def _host_port(pod: Pod, listener: Listener) -> int | None:
    """The port of the node that leads to a listener; None if there is none."""
    if pod.host_network:
        return listener.port
    declared = [each for container in pod.containers for each in container.node.at("ports").items]
    return next((each.at("hostPort").number for each in declared if each.at("containerPort").number == listener.port), None)


def _may_share_node(one: Pod, other: Pod) -> bool:
    """Whether the node selectors of two pods can select one node."""
    if one.is_windows != other.is_windows:
        return False
    first, second = one.spec.at("nodeSelector").texts, other.spec.at("nodeSelector").texts
    return all(second.get(key, value) == value for key, value in first.items())


def _monitors(cases: Sequence[Case], documents: Sequence[Document]) -> Iterator[Finding]:
    monitors = [each for each in documents if each.kind == "PodMonitor"]
    for case in cases:
        for sidecar in case.sidecars:
            for listener in listeners(sidecar):
                if listener.metrics and listener.port and not listener.loopback and not _declared(case.pod, listener.port):
                    sentence = (
                        f"metrics are served on port {listener.port}, which no container declares, so a PodMonitor cannot name it; "
                        "declare it"
                    )
                    yield case.finding("LP602", sidecar.node_of("http_endpoint"), sentence, sidecar.container)
    for monitor in monitors:
        selector = monitor.node.at("spec", "selector")
        if not cases or any(_selects(selector, case.pod.labels) for case in cases):
            continue
        sentence = "the PodMonitor selects none of the pods with a sidecar in this input; compare its matchLabels with the pods' labels"
        yield Finding("LP603", selector.place, sentence, "warning", f"PodMonitor {monitor.name}")


def _declared(pod: Pod, port: int) -> bool:
    return any(each.at("containerPort").number == port for found in pod.containers for each in found.node.at("ports").items)


def _selects(selector: Node, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != text for key, text in selector.at("matchLabels").texts.items()):
        return False
    for each in selector.at("matchExpressions").items:
        key, operator = each.at("key").text, each.at("operator").text
        values = [value.text for value in each.at("values").items]
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds.get(operator, True):
            return False
    return True
