"""Findings about probes: path, port and timeouts, whether they reach a sidecar, and when the kubelet kills.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from livenessprobe.gotext import format_seconds
from livenessprobe.lint.findings import Finding
from livenessprobe.lint.kubelet import AT_ONCE, Failing, time_to_kill, time_to_start
from livenessprobe.lint.pods import Container, Probe, is_placeholder
from livenessprobe.lint.probes import (
    OUR_PATHS,
    Asking,
    Case,
    Listener,
    Target,
    check_seconds,
    cpu_limit,
    health_file_of,
    is_loopback,
    listeners,
    metrics_paths,
    never_fails,
    option,
    quantity,
    shares_file,
    starting,
    target_of,
)
from livenessprobe.lint.programs import is_named_livenessprobe
from livenessprobe.lint.sidecars import Sidecar
from livenessprobe.process.memory import ANONYMOUS, ANONYMOUS_WITH_METRICS, needed

CHECK_MEMORY = 13 << 20
"""Bytes that one `livenessprobe check` adds: with 40Mi a sidecar without metrics and its checks ran well (docs/performance.md)."""


def judge(case: Case) -> Iterator[Finding]:
    """All findings about the probes of one pod."""
    for asking in case.askings:
        yield from _timeouts(case, asking)
        yield from _reach(case, asking)
        yield from _paths(case, asking)
        yield from _own_container(case, asking)
        yield from _restarts(case, asking)
        yield from _starts(case, asking)
    yield from _ports(case)
    yield from _execs(case)
    for sidecar in case.sidecars:
        yield from _unasked(case, sidecar)
        yield from _expired(case, sidecar)


def seconds(value: float) -> str:
    """Seconds for people: `3 s`, `2.5 s`."""
    return f"{round(value, 1):g} s"


def _timeouts(case: Case, asking: Asking) -> Iterator[Finding]:
    settings, timeout = asking.sidecar.settings, asking.probe.timing.timeout
    assert settings
    if asking.target.how not in ("http", "check") or health_file_of(asking.target) or never_fails(asking):
        return
    own = option(asking.target.command, "probe-timeout")
    if (not own and not asking.sidecar.knows("probe_timeout")) or settings.probe_timeout <= 0 or is_placeholder(own):
        return
    if settings.interval > 0 and asking.target.how == "http":
        return  # the last result is reported at once
    needed_seconds = settings.probe_timeout + (check_seconds(asking.container) if asking.target.how == "check" else 0)
    if timeout > needed_seconds:
        return
    node = asking.probe.node.at("timeoutSeconds")
    given = "timeoutSeconds is" if not node.missing else "timeoutSeconds is not set, so it is"
    probe_timeout = format_seconds(settings.probe_timeout)
    yield case.finding(
        "LP101",
        node,
        f"{given} {timeout}, and the sidecar may take {probe_timeout} ({asking.sidecar.says('probe_timeout')}): the kubelet "
        f"hangs up first and the cause is lost; set timeoutSeconds to {int(needed_seconds) + 1} or more, "
        "or a shorter --probe-timeout",
        asking.container,
    )


def _reach(case: Case, asking: Asking) -> Iterator[Finding]:
    if asking.target.how not in ("http", "tcp", "grpc"):
        return
    listener = next(each for each in listeners(asking.sidecar) if each.port == asking.target.port)
    problem = _unreachable(case, asking.target, listener)
    if problem:
        node = asking.probe.node.at("httpGet", "host")
        yield case.finding("LP104", asking.target.node if node.missing else node, problem, asking.container)


def _unreachable(case: Case, target: Target, listener: Listener) -> str:
    """Why the kubelet's connection does not reach the listener; empty if it does, or if that cannot be told."""
    asked, address = target.host, listener.address
    if is_placeholder(asked) or is_placeholder(address.host):
        return ""
    loopback = is_loopback(asked)
    if loopback and not case.pod.host_network:
        return (
            f"the probe asks {asked}, which is the node's own address, and the pod is not on the host's network; "
            "remove host, so that the kubelet asks the pod's address"
        )
    if listener.loopback:
        if not case.pod.host_network:
            return (
                f"the sidecar listens on {address.text} alone, which the kubelet cannot reach in a pod of its own network; "
                f"listen on :{address.port}"
            )
        if not loopback:
            return (
                f"the sidecar listens on {address.text} alone, and the probe asks {asked or 'the address of the node'}; "
                "set host: 127.0.0.1 in the probe"
            )
        if loopback not in ("both", listener.loopback):
            return f"the sidecar listens on {address.text}, and the probe asks {asked}; use one of the two addresses in both"
        return ""
    if address.ip is None or address.dual_stack:
        return ""
    if asked and asked.strip("[]") != str(address.ip):
        return f"the sidecar listens on {address.text} alone, and the probe asks {asked}; use one address in both"
    return ""


def _paths(case: Case, asking: Asking) -> Iterator[Finding]:
    target, sidecar = asking.target, asking.sidecar
    node = asking.probe.node.at("httpGet", "path")
    node = target.node if node.missing else node
    if target.how == "grpc":
        yield case.finding(
            "LP107", target.node, "the sidecar speaks HTTP, not gRPC; use httpGet with path: /healthz", asking.container
        )
    if target.how == "tcp" and asking.probe.kind != "readinessProbe":
        sentence = (
            "a TCP probe only asks whether the sidecar listens, so a dead driver passes it; use httpGet with path: /healthz"
        )
        yield case.finding("LP111", target.node, sentence, asking.container)
    if target.how != "http":
        return
    if target.https:
        sentence = "the sidecar speaks HTTP, and the probe uses HTTPS; remove scheme"
        yield case.finding("LP107", asking.probe.node.at("httpGet", "scheme"), sentence, asking.container)
    if is_placeholder(target.path):
        return
    served = OUR_PATHS if sidecar.program.ours else ("/healthz",)
    listener = next(each for each in listeners(sidecar) if each.port == target.port)
    if target.path in metrics_paths(sidecar) and listener.metrics:
        sentence = f"{target.path} is the metrics, which are served whatever the driver does; ask /healthz"
        yield case.finding("LP111", node, sentence, asking.container)
    elif target.path not in served or not listener.health:
        where = f"port {target.port} of {sidecar.program.text}"
        sentence = f"{target.path} is not served at {where}: each probe fails with 404; ask /healthz"
        if not listener.health:
            sentence = f"port {target.port} has the metrics alone: each probe fails with 404; ask the port of /healthz"
        yield case.finding("LP107", node, sentence, asking.container)
    elif never_fails(asking):
        sentence = f"{target.path} succeeds once the driver has been ready, even if the driver dies; ask /healthz"
        yield case.finding("LP111", node, sentence, asking.container)
    elif target.path in ("/healthz", "/readyz") and sidecar.program.ours and asking.probe.kind == "livenessProbe":
        sentence = (
            f"{target.path} also fails while the driver says that it is not ready, as in an outage of its backend, and the "
            "kubelet restarts the driver; if that does not help it, ask /livez"
        )
        yield case.finding("LP108", node, sentence, asking.container)


def _own_container(case: Case, asking: Asking) -> Iterator[Finding]:
    if asking.probe.kind != "readinessProbe" and asking.container is asking.sidecar.container:
        sentence = (
            f"the {asking.probe.kind} is on the sidecar's own container {asking.container.name}, so the kubelet restarts the "
            "sidecar when the driver is dead; move it to the driver's container"
        )
        yield case.finding("LP105", asking.probe.node, sentence, asking.container)


def _restarts(case: Case, asking: Asking) -> Iterator[Finding]:
    """While the sidecar itself restarts, the kubelet must not kill the driver."""
    if asking.probe.kind != "livenessProbe" or asking.target.how != "http" or asking.container is asking.sidecar.container:
        return
    start = asking.sidecar.program.start(cpu_limit(asking.sidecar.container))
    least = time_to_kill(asking.probe.timing, Failing(AT_ONCE), 0).in_flight
    if start <= least:
        return
    node = asking.sidecar.container.node.at("resources", "limits", "cpu")
    sentence = (
        f"the sidecar needs about {seconds(start)} to start"
        + ("" if node.missing else f" under a CPU limit of {node.value}")
        + f", and the kubelet kills {asking.container.name} after {seconds(least)} of refused connections: a restart of the "
        "sidecar kills the driver; raise failureThreshold, or remove the CPU limit"
    )
    yield case.finding("LP109", asking.probe.node if node.missing else node, sentence, asking.sidecar.container)


def _starts(case: Case, asking: Asking) -> Iterator[Finding]:
    """The driver must be up before its startup probe, or without one its liveness probe, has failed too often."""
    kinds = [each.probe.kind for each in case.askings if each.container is asking.container]
    first = "startupProbe" if "startupProbe" in kinds else "livenessProbe"
    if not case.driver_start or asking.probe.kind != first or asking.container is asking.sidecar.container:
        return
    if never_fails(asking):
        return
    has = time_to_start(asking.probe.timing, starting(asking)).least
    if case.driver_start > has:
        node = asking.probe.node.at("failureThreshold")
        sentence = (
            f"the driver needs {seconds(case.driver_start)} to start, and the {first} kills it after {seconds(has)}; "
            "raise failureThreshold" + ("" if first == "startupProbe" else ", or add a startupProbe")
        )
        yield case.finding("LP110", asking.probe.node if node.missing else node, sentence, asking.container)


def _ports(case: Case) -> Iterator[Finding]:
    """Ports that lead nowhere, or elsewhere while a sidecar is not asked."""
    asked = {id(each.probe.node) for each in case.askings}
    judged = [each for each in case.sidecars if each.knows("http_endpoint", "health_port") and listeners(each)]
    unasked = [each for each in judged if not case.of(each, "livenessProbe", "startupProbe")]
    for container in case.pod.containers:
        for probe in container.probes:
            target = target_of(container, probe)
            if target.how not in ("http", "tcp") or id(probe.node) in asked:
                continue
            if target.port_name:
                sentence = (
                    f"the {probe.kind} names port {target.port_name!r}, which the container {container.name} does not declare: "
                    "the kubelet never gets a result, and a dead driver is never restarted; declare the port in this container"
                )
                yield case.finding("LP103", target.node, sentence, container)
            elif target.port is not None and unasked and _is_meant(container, probe, target):
                ports = ", ".join(str(each.port) for sidecar in unasked for each in listeners(sidecar) if each.health)
                sentence = (
                    f"the {probe.kind} asks port {target.port}, and the sidecar listens on {ports}: the kubelet restarts a "
                    f"healthy driver, or never a dead one; use port {ports}"
                )
                yield case.finding("LP102", target.node, sentence, container)


def _is_meant(container: Container, probe: Probe, target: Target) -> bool:
    """Whether a probe that reaches no sidecar was meant for one: its path is a sidecar's, and the container has no such port."""
    if probe.kind == "readinessProbe" or target.path not in OUR_PATHS:
        return False
    own = re.compile(rf"(?<![0-9]){target.port}(?![0-9])")
    told = [argument.text for argument in container.arguments] + [*container.environ.values()]
    return not any(own.search(text) for text in told)


def _unasked(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    if case.of(sidecar, "livenessProbe") or not sidecar.knows("http_endpoint", "health_port"):
        return
    if len(case.pod.containers) == len(case.sidecars):
        yield case.finding(
            "LP001",
            sidecar.container.node.at("name"),
            "not judged: the pod has no driver beside the sidecar",
            sidecar.container,
        )
        return
    probes = [(each, probe) for each in case.pod.containers for probe in each.probes if probe.kind == "livenessProbe"]
    targets = [target_of(container, probe) for container, probe in probes]
    ports = [target.port for target in targets if target.how == "http" and target.path in OUR_PATHS]
    if any(port is None for port in ports) or any(
        target.port is not None and target.how == "http" and _is_meant(container, probe, target)
        for (container, probe), target in zip(probes, targets, strict=True)
    ):
        return  # said by another finding, or not to be told
    if any(_misses_file(case, container, probe) for container, probe in probes):
        return
    others = ", ".join(sorted({each.probe.kind for each in case.of(sidecar)}))
    sentence = (
        "no liveness probe asks the sidecar, so a dead driver is never restarted"
        + (f" (only its {others})" if others else "")
        + "; add a livenessProbe with httpGet to the driver's container"
    )
    yield case.finding("LP106", sidecar.container.node.at("name"), sentence, sidecar.container)


def _expired(case: Case, sidecar: Sidecar) -> Iterator[Finding]:
    settings = sidecar.settings
    if settings and sidecar.knows("probe_timeout") and settings.probe_timeout <= 0:
        sentence = f"with {sidecar.says('probe_timeout')} every probe fails at once; set a duration such as 3s"
        yield case.finding("LP115", sidecar.node_of("probe_timeout"), sentence, sidecar.container)


# --- exec probes


def _execs(case: Case) -> Iterator[Finding]:
    for container in case.pod.containers:
        for probe in container.probes:
            target = target_of(container, probe)
            if target.how == "check":
                yield from _program(case, container, target)
                yield from _limits(case, container, probe)
                yield from _socket(case, container, target)
            if _misses_file(case, container, probe):
                file = health_file_of(target)
                sentence = (
                    f"the {probe.kind} looks at {file}, and the sidecar writes its health file where {container.name} does not "
                    "see it; mount one volume in both containers"
                )
                yield case.finding("LP114", target.node, sentence, container)


def _misses_file(case: Case, container: Container, probe: Probe) -> bool:
    file = health_file_of(target_of(container, probe))
    shared = [shares_file(sidecar, container, file) for sidecar in case.sidecars] if file else []
    return False in shared and True not in shared


def _program(case: Case, container: Container, target: Target) -> Iterator[Finding]:
    program = target.command[0].text
    sidecar = next((each for each in case.sidecars if each.container is container), None)
    if sidecar is not None and not sidecar.program.ours:
        sentence = f"{sidecar.program.text} has no command check: the probe fails each time; use httpGet"
        yield case.finding("LP112", target.node, sentence, container, "error")
    elif sidecar is None and not _may_have(container, program):
        sentence = (
            f"the probe runs {program} in {container.name}, whose image {container.image or '(none)'} is another program's: "
            "unless that image has it, each probe fails; use httpGet, which needs no program there"
        )
        yield case.finding("LP112", target.node, sentence, container)


def _may_have(container: Container, program: str) -> bool:
    known = is_named_livenessprobe(container.image) or is_placeholder(container.image)
    return known or container.mount(program) is not None


def _limits(case: Case, container: Container, probe: Probe) -> Iterator[Finding]:
    cpu = cpu_limit(container)
    takes = check_seconds(container)
    if cpu is not None and takes >= probe.timing.timeout:
        sentence = (
            f"livenessprobe check takes about {seconds(takes)} of CPU time under a limit of "
            f"{container.node.at('resources', 'limits', 'cpu').value}, and timeoutSeconds is {probe.timing.timeout}: "
            "each probe fails; raise the limit, or use httpGet"
        )
        yield case.finding("LP113", container.node.at("resources", "limits", "cpu"), sentence, container)
    limit = container.node.at("resources", "limits", "memory")
    size = quantity(limit)
    sidecar = next((each for each in case.sidecars if each.container is container), None)
    least = CHECK_MEMORY
    if sidecar is not None:
        least += needed(ANONYMOUS_WITH_METRICS if metrics_paths(sidecar) else ANONYMOUS)
    if size is not None and size < least:
        sentence = (
            f"the memory limit {limit.value} of {container.name} is below the {least >> 20} MiB that livenessprobe check needs "
            "there; raise it, or use httpGet"
        )
        yield case.finding("LP113", limit, sentence, container)


def _socket(case: Case, container: Container, target: Target) -> Iterator[Finding]:
    """A `check` that asks the driver itself must see its socket."""
    if target.port or health_file_of(target):
        return
    address = re.sub("^unix:(//)?", "", option(target.command, "csi-address"))
    told = bool(container.node.at("volumeMounts").items)
    if address.startswith("/") and told and container.locate(address) is None:
        sentence = f"the probe asks {address}, and no volume of {container.name} is mounted there; mount the socket's folder"
        yield case.finding("LP201", target.node, sentence, container)
