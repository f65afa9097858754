"""Finds out which probe asks which sidecar, and how faults of the driver show in the response.  Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from livenessprobe.lint.findings import RULES, Finding
from livenessprobe.lint.kubelet import AT_ONCE, Failing, Range, on_schedule
from livenessprobe.lint.nodes import Node
from livenessprobe.lint.pods import Argument, Container, Pod, Probe, is_placeholder
from livenessprobe.lint.sidecars import Sidecar
from livenessprobe.settings.listen_address import ListenAddress

OUR_PATHS = ("/healthz", "/livez", "/readyz", "/startupz")
CHECK_CPU = 0.11
"""Seconds of CPU that one `livenessprobe check` takes (docs/performance.md)."""
FILE_EXPIRES = 60.0
"""Seconds after which a health file without --interval has expired."""

Fault = Literal["unreachable", "hung", "not ready"]
FAULTS: tuple[Fault, ...] = ("unreachable", "hung", "not ready")
How = Literal["http", "tcp", "grpc", "check", "file", "other"]


class Target(NamedTuple):
    """Where a probe leads."""

    how: How
    node: Node
    """What in the manifest says so."""
    host: str = ""
    port: int | None = None
    """None if the manifest does not tell, or if the kubelet cannot find it."""
    port_name: str = ""
    """The name of a port that the container does not declare."""
    path: str = ""
    https: bool = False
    command: tuple[Argument, ...] = ()


class Asking(NamedTuple):
    """A probe that asks a sidecar."""

    container: Container
    """The container that the kubelet kills."""
    probe: Probe
    target: Target
    sidecar: Sidecar

    @property
    def title(self) -> str:
        """The probe, for people."""
        return f"{self.probe.kind} of {self.container.name}"


def target_of(container: Container, probe: Probe) -> Target:
    """Where the kubelet sends the probe."""
    node = probe.node
    for key, how in (("httpGet", "http"), ("tcpSocket", "tcp"), ("grpc", "grpc")):
        action = node.at(key)
        if action.missing:
            continue
        port = action.at("port")
        found, name = port.number, ""
        if port.text and not is_placeholder(port.text):
            found = container.port(port.text)
            name = "" if found is not None else port.text
        path = action.at("path").text.partition("?")[0]
        return Target(
            how=how,  # type: ignore[arg-type]
            node=port if not port.missing else action,
            host=action.at("host").text,
            port=found,
            port_name=name,
            path="/" + path.lstrip("/") if how == "http" else "",
            https=action.at("scheme").text.upper() == "HTTPS",
        )
    command = tuple(container.expanded(node.at("exec", "command")))
    number, path = _asked_by_check(command)
    return Target(_how(command), node.at("exec", "command"), port=number, path=path, command=command)


def _how(command: Sequence[Argument]) -> How:
    words = [argument.text for argument in command]
    if len(words) > 1 and re.fullmatch(r"(.*[/\\])?livenessprobe(\.exe)?", words[0]) and words[1] == "check":
        return "check"
    if words and re.fullmatch(r"(.*/)?(cat|test|\[)", words[0]) and words[-1].startswith("/"):
        return "file"
    return "other"


def option(command: Sequence[Argument], name: str) -> str:
    """The value of a flag in the command of an exec probe; empty if it is not there."""
    words = [argument.text for argument in command]
    for index, word in enumerate(words):
        flag, equals, text = word.lstrip("-").partition("=")
        if word.startswith("-") and flag == name:
            return text if equals else next(iter(words[index + 1 :]), "")
    return ""


def _asked_by_check(command: Sequence[Argument]) -> tuple[int | None, str]:
    """Port and path of `check --url`."""
    match = re.fullmatch(r"http://(\[[^\]]*\]|[^:/]+)(?::([0-9]+))?(/.*)?", option(command, "url"))
    if match is None:
        return None, ""
    return int(match[2] or 80), match[3] or "/readyz"


class Case(NamedTuple):
    """A pod with sidecars, and the probes that ask them: the rules judge this."""

    pod: Pod
    sidecars: list[Sidecar]
    askings: list[Asking]
    driver_start: float = 0.0
    """Seconds that the driver needs to start; 0 if that is not known."""

    def finding(
        self, rule: str, node: Node, sentence: str, container: Container | None = None, severity: str = ""
    ) -> Finding:
        """A finding about this pod; its severity is that of the rule unless given."""
        name = container.name if container else ""
        return Finding(rule, node.place, sentence, severity or RULES[rule].severity, self.pod.title, name)

    def of(self, sidecar: Sidecar, *kinds: str) -> list[Asking]:
        """The probes of these kinds that ask a sidecar; all if none is given."""
        return [each for each in self.askings if each.sidecar is sidecar and (not kinds or each.probe.kind in kinds)]

    @property
    def drivers(self) -> list[Container]:
        """The containers that may be the driver: with a probe that asks a sidecar, else every container but the sidecars."""
        own = {id(sidecar.container) for sidecar in self.sidecars}
        others = [each for each in self.pod.containers if id(each) not in own]
        asked = {id(each.container) for each in self.askings}
        return [each for each in others if id(each) in asked] or others


# --- listeners


class Listener(NamedTuple):
    """An address where a sidecar listens."""

    address: ListenAddress
    port: int | None
    health: bool
    metrics: bool

    @property
    def loopback(self) -> str:
        """`4` or `6` for a loopback address, `both` if the name does not tell; empty for others."""
        if self.address.host == "localhost":
            return "4"
        ip = self.address.ip
        return "" if ip is None or not ip.is_loopback else str(ip.version)


def listeners(sidecar: Sidecar) -> list[Listener]:
    """Where a sidecar listens; an address that the manifest does not tell is left out."""
    settings = sidecar.settings
    if settings is None:
        return []
    found = []
    if sidecar.knows("http_endpoint", "health_port"):
        port = settings.http.port
        number = int(port) if port.isascii() and port.isdigit() else None
        found.append(Listener(settings.http, number, health=True, metrics=settings.metrics_on_http))
    if settings.metrics and sidecar.knows("metrics_address"):
        port = settings.metrics.port
        number = int(port) if port.isascii() and port.isdigit() else None
        found.append(Listener(settings.metrics, number, health=False, metrics=True))
    return found


def is_loopback(host: str) -> str:
    """`4` or `6` for a loopback address of that family, `both` for localhost; empty for others."""
    if host == "localhost":
        return "both"
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return ""
    return str(ip.version) if ip.is_loopback else ""


# --- probes and their sidecars


def askings(pod: Pod, sidecars: Sequence[Sidecar]) -> list[Asking]:
    """Every probe of the pod's containers that asks one of its sidecars."""
    found = []
    for container in pod.containers:
        for probe in container.probes:
            target = target_of(container, probe)
            sidecar = _asked(container, target, sidecars)
            if sidecar is not None:
                found.append(Asking(container, probe, target, sidecar))
    return found


def _asked(container: Container, target: Target, sidecars: Sequence[Sidecar]) -> Sidecar | None:
    if target.how in ("http", "tcp", "grpc") or (target.how == "check" and target.port):
        for sidecar in sidecars:
            if target.port is not None and any(each.port == target.port for each in listeners(sidecar)):
                return sidecar
        return None
    file = health_file_of(target)
    if file:
        return next((each for each in sidecars if shares_file(each, container, file) is not None), None)
    if target.how == "check":  # it asks the driver itself, beside the sidecar
        return next(iter(sidecars), None)
    return None


def health_file_of(target: Target) -> str:
    """The file that an exec probe looks at; empty if it looks at none."""
    if target.how == "file":
        return target.command[-1].text
    return option(target.command, "health-file") if target.how == "check" else ""


def shares_file(sidecar: Sidecar, container: Container, path: str) -> bool | None:
    """Whether `path` in a container is the sidecar's health file; None if it has nothing to do with this sidecar."""
    if sidecar.settings is None or not sidecar.settings.health_file:
        return None
    own = sidecar.settings.health_file
    if container is sidecar.container:
        return True if own == path else None
    written, looked_at = sidecar.container.locate(own), container.locate(path)
    if written is not None and written == looked_at:
        return True
    return False if own == path or (looked_at is not None and own.rpartition("/")[2] == path.rpartition("/")[2]) else None


# --- how faults show


def probe_seconds(asking: Asking, fault: Fault) -> float:
    """Seconds that one Probe takes until it has failed."""
    settings = asking.sidecar.settings
    assert settings
    timeout = max(0.0, settings.probe_timeout)
    if fault == "not ready":
        return 0.0
    if fault == "unreachable" and asking.sidecar.program.ours:
        return max(0.0, min(settings.unreachable_grace, timeout))
    return timeout


def failing(asking: Asking, fault: Fault, *, others: bool = False) -> Failing | None:
    """
    How a fault shows in the response that the probe gets; None if it never does.

    `others`: more than one probe asks this sidecar, so their failures count together for --failure-threshold.
    """
    sidecar, target = asking.sidecar, asking.target
    settings = sidecar.settings
    assert settings
    if never_fails(asking) or (fault == "not ready" and not _not_ready_fails(asking)):
        return None
    takes = probe_seconds(asking, fault)
    if target.how == "check" and not target.port and not health_file_of(target):
        return Failing(Range(takes, takes + check_seconds(asking.container)))
    failures = settings.thresholds.failure
    file = bool(health_file_of(target))
    extra = Range(0.0, check_seconds(asking.container)) if target.how == "check" else AT_ONCE
    if settings.interval > 0:
        return Failing(extra, on_schedule(settings.interval, failures, takes))
    if file:
        return Failing(extra, Range(0.0, FILE_EXPIRES + takes))
    hidden = (0 if others else failures - 1, failures - 1)
    if takes >= asking.probe.timing.timeout:
        hidden = (0, hidden[1] if takes == asking.probe.timing.timeout else 0)  # the kubelet hangs up before the response
    return Failing(Range(takes + extra.least, takes + extra.most), hidden=hidden)


def never_fails(asking: Asking) -> bool:
    """Whether the probe asks something that a fault of the driver does not change."""
    target, settings = asking.target, asking.sidecar.settings
    assert settings
    if target.how == "tcp":
        return True
    return target.how == "http" and (
        (target.path == "/startupz" and asking.probe.kind != "startupProbe" and asking.sidecar.program.ours)
        or target.path in metrics_paths(asking.sidecar)
    )


def metrics_paths(sidecar: Sidecar) -> tuple[str, ...]:
    """Paths that are metrics."""
    settings = sidecar.settings
    return (settings.metrics_path,) if settings and (settings.metrics_on_http or settings.metrics) else ()


def _not_ready_fails(asking: Asking) -> bool:
    if not asking.sidecar.program.ours:
        return asking.sidecar.program.go >= (1, 1)  # v1.0 answered "ok"
    return asking.target.path != "/livez"


def slowest_healthy(asking: Asking) -> float:
    """Seconds: a driver that answers later counts as failed."""
    settings = asking.sidecar.settings
    assert settings
    timeout = max(0.0, settings.probe_timeout)
    return timeout if settings.interval > 0 else min(timeout, asking.probe.timing.timeout)


def starting(asking: Asking) -> Range:
    """
    Seconds that one probe takes until it has failed, while the driver starts.

    The Go program does not listen before the driver has answered, so the kubelet's connections are refused at once.
    """
    takes = probe_seconds(asking, "unreachable")
    settings = asking.sidecar.settings
    assert settings
    at_once = settings.interval > 0 or (not asking.sidecar.program.ours and asking.sidecar.program.go >= (1, 1))
    return Range(0.0 if at_once else takes, takes)


def check_seconds(container: Container) -> float:
    """Seconds that a `livenessprobe check` takes beside its probe."""
    return CHECK_CPU / min(1.0, cpu_limit(container) or 1.0)


def cpu_limit(container: Container) -> float | None:
    """CPUs; None without a limit, or if it is not known."""
    return quantity(container.node.at("resources", "limits", "cpu"))


_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {f"{letter}i": float(1 << 10 * power) for power, letter in enumerate("KMGTPE", 1)}


def quantity(node: Node) -> float | None:
    """A Kubernetes quantity, such as 100m or 64Mi; None if it is none."""
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(?:([eE][-+]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)", node.text)
    if match is None:
        return None
    return float(match[1] + (match[2] or "")) * (_SUFFIXES | _BINARY)[match[3] or ""]
