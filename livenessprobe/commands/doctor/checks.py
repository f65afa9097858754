"""Judges what the doctor has found.  Pure: facts in, findings out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from livenessprobe.commands.doctor.facts import Facts, Given
from livenessprobe.commands.doctor.findings import Finding, Mark
from livenessprobe.commands.seen import Seen
from livenessprobe.driver.methods import HEALTH_CHECK
from livenessprobe.driver.result import WAYS_OUT, ProbeResult, Reason
from livenessprobe.gotext import format_seconds, quote
from livenessprobe.probing import advice
from livenessprobe.probing.advice import Advice
from livenessprobe.settings import describe
from livenessprobe.settings.flags import BY_NAME
from livenessprobe.settings.layers import DEFAULT_FILE, KEYS
from livenessprobe.settings.mistakes import Mistake

SLOW = 0.5
"""A probe that takes more than this part of the probe timeout is slow."""
DESCRIPTORS_MIN = 64
"""Open files below which the sidecar has few connections."""
SENTENCE_MAX = 512
"""Characters of a driver's message that are shown."""

CONFIGURATION = "docs/configuration.md"
PROBING = "docs/probing.md"
IMAGE = "docs/image.md"


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which a person would look."""
    checks = (_settings, _effects, _variables, _socket, _driver, _ports, _sidecars, _network, _memory, _cpu, _system, _files)
    return [finding for check in checks for finding in check(facts)]


# --- settings


def _settings(facts: Facts) -> Iterator[Finding]:
    given = facts.given
    if given.flag_error:
        yield Finding(
            "settings", Mark.ERROR, given.flag_error, "correct this flag; those behind it were not read", CONFIGURATION
        )
    for mistake in given.loaded.all_mistakes:
        yield _mistaken("settings", mistake)
    for warning in given.loaded.warnings:
        yield Finding("settings", Mark.WARNING, warning, "correct its name, or remove it", CONFIGURATION)
    if given.unread:
        what = f"arguments behind the first one that is no flag are not read: {' '.join(given.unread)}"
        yield Finding("settings", Mark.WARNING, what, "write each flag as --NAME=VALUE", CONFIGURATION)
    if not (given.flag_error or given.loaded.all_mistakes):
        file = f", with the file {given.loaded.file}" if given.loaded.file else ""
        yield Finding("settings", Mark.OK, f"all can be read{file}")


def _effects(facts: Facts) -> Iterator[Finding]:
    """Settings that are valid and do nothing."""
    raw, settings = facts.given.loaded.raw, facts.given.loaded.settings
    for key, why, way_out in _idle(facts.given):
        if raw[key].source != "default" and raw[key].text != KEYS[key].default:
            yield Finding("effects", Mark.WARNING, f"{raw[key]} has no effect: {why}", way_out, CONFIGURATION)
    if settings.probe_timeout <= 0:
        what = f"{raw['probe_timeout']} makes every probe fail at once"
        yield Finding("effects", Mark.ERROR, what, "set --probe-timeout to the driver's time, such as 3s", CONFIGURATION)


def _idle(given: Given) -> Iterator[tuple[str, str, str]]:
    """Keys whose value does nothing beside the other settings: the key, why, and the way out."""
    settings, raw = given.loaded.settings, given.loaded.raw
    yield "connection_timeout", "the option is deprecated", "remove it; --unreachable-grace is the time for connecting"
    yield "log_backtrace_at", "there are no Go stack traces here", "remove it"
    if not settings.metrics_on_http and settings.metrics is None:
        yield "metrics_path", "no listener serves metrics", "set --metrics-address, or --http-endpoint for --health-port"
    if settings.probe_path != HEALTH_CHECK:
        yield "health_service", f"{settings.probe_path} takes no service", f"set --probe-path={HEALTH_CHECK}, or remove it"
    if settings.log.logtostderr:
        for key in ("log_dir", "log_file", "log_file_max_size", "one_output", "skip_log_headers", "stderrthreshold"):
            yield key, "the log goes to stderr, all of it", "set --logtostderr=false, or remove it"
        yield "alsologtostderr", "the log goes to stderr already", "set --logtostderr=false, or remove it"
    grace = KEYS["unreachable_grace"].kind
    if _typed(grace.check, raw["unreachable_grace"].text, 0.0) > settings.probe_timeout > 0:
        yield "unreachable_grace", "it is cut to the probe timeout", "set it below --probe-timeout, or remove it"


def _typed(check: object, text: str, otherwise: float) -> float:
    try:
        found = check(text) if callable(check) else None
    except ValueError:
        return otherwise
    return otherwise if found is None else float(found)


# --- variables

_OF_LIBRARIES = ("GRPC_", "PROTOCOL_BUFFERS_", "PROMETHEUS_", "DYNACONF_", "QUART_", "FLASK_", "HYPERCORN_")
_OF_GO = ("GODEBUG", "GOGC", "GOMEMLIMIT", "GOTRACEBACK")
_FOR_EXPANSION = {"ADDRESS": "csi_address", "CSI_ADDRESS": "csi_address", "HEALTH_PORT": "health_port"}
"""Variables that manifests set to write $(NAME) in the arguments, and the settings that they mean."""


def _variables(facts: Facts) -> Iterator[Finding]:
    environ, raw = facts.given.environ, facts.given.loaded.raw
    ignored = sorted(name for name in environ if _is_ignored(name))
    if ignored:
        what = f"kept from the libraries, so without effect: {', '.join(ignored)}"
        yield Finding("variables", Mark.OK, what, page=CONFIGURATION)
    for name, key in _FOR_EXPANSION.items():
        is_left_out = raw[key].source == "default" and not (key == "health_port" and raw["http_endpoint"].text)
        if is_left_out and environ.get(name, raw[key].text) != raw[key].text:
            flag = KEYS[key].name
            what = f"variable {name} = {quote(environ[name])} is not read, and --{flag} is {raw[key].text} by default"
            yield Finding("variables", Mark.WARNING, what, f"add --{flag}=$({name}) to the arguments", CONFIGURATION)


def _is_ignored(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(_OF_LIBRARIES) or upper.endswith(("_PROXY", "_FOR_DYNACONF")) or upper in _OF_GO


# --- the driver


def _socket(facts: Facts) -> Iterator[Finding]:
    found, address = facts.socket, facts.given.loaded.settings.csi_address
    if found is None:
        return
    if any(port.address.path == address.name for port in facts.ports):
        what = f"{address.name} is both --csi-address and where this sidecar itself listens"
        way_out = "set --csi-address to the driver's socket"
        yield Finding("socket", Mark.ERROR, what, way_out, CONFIGURATION)
        return
    if found.fault is not None:
        what = f"{found.fault.reason.value}: {found.fault.sentence}"
        if found.listening_elsewhere:
            what += (
                f"; in this network a process listens on {', '.join(found.listening_elsewhere)}, as that process names it"
            )
        yield _failed("socket", found.fault.reason, what)
        return
    if not address.name.startswith("/") and facts.machine.platform != "win32":
        what = f"{address.name} is relative to the working directory"
        yield Finding("socket", Mark.WARNING, what, "set --csi-address to the whole path", CONFIGURATION)
    if found.is_mount:
        what = f"{address.name} is itself a mount: once the driver has restarted, its new socket is not seen"
        yield Finding("socket", Mark.WARNING, what, WAYS_OUT[Reason.STALE_MOUNT], _page(Reason.STALE_MOUNT))
    else:
        yield Finding("socket", Mark.OK, f"{address.name} {_rights(facts)}")


def _rights(facts: Facts) -> str:
    found = facts.socket
    if found is None or facts.machine.uid is None:
        return "is there"
    return f"is a socket of user {found.owner} with mode {found.mode:04o}, and this process is user {facts.machine.uid}"


def _driver(facts: Facts) -> Iterator[Finding]:
    probes, settings = facts.probes, facts.given.loaded.settings
    if probes.left_out:
        yield Finding("driver", Mark.UNKNOWN, f"not probed: {probes.left_out}")
        return
    failed = [result for result in probes.results if result.reason is not None]
    for (reason, sentence), number in Counter(map(_why, failed)).items():
        what = f"{number} of {len(probes.results)} probes failed: {reason.value}: {sentence}"
        if reason is Reason.PERMISSION_DENIED:
            what += f"; it {_rights(facts)}"
        yield _failed("driver", reason, what)
    if probes.name_err:
        what = f"the driver does not tell its name: {probes.name_err[:SENTENCE_MAX]}"
        way_out = "see why GetPluginInfo fails: kubectl logs POD -c DRIVER; metrics and log have no name until it works"
        yield Finding("driver", Mark.WARNING, what, way_out, PROBING)
    if failed:
        return
    slowest = max(probes.seconds)
    took = f"{len(probes.results)} probes took {_span(min(probes.seconds))} to {_span(slowest)}"
    what = f"{probes.name or settings.csi_address.text}: {took}, and the probe timeout is {_span(settings.probe_timeout)}"
    if slowest > SLOW * settings.probe_timeout:
        way_out = "raise --probe-timeout, and timeoutSeconds of the kubelet's probe above it"
        yield Finding("driver", Mark.WARNING, what, way_out, PROBING)
    else:
        yield Finding("driver", Mark.OK, what)


def _why(result: ProbeResult) -> tuple[Reason, str]:
    assert result.reason is not None  # only failures are counted
    return result.reason, " ".join(result.body[:SENTENCE_MAX].split())


def _failed(check: str, reason: Reason, what: str) -> Finding:
    return Finding(check, Mark.ERROR, what, WAYS_OUT[reason], _page(reason))


def _page(reason: Reason) -> str:
    return f"docs/reasons.md#{reason.value}"


def _span(seconds: float) -> str:
    return format_seconds(round(seconds, 4))


# --- listeners


def _ports(facts: Facts) -> Iterator[Finding]:
    for port in facts.ports:
        if port.fault is None:
            yield Finding("port", Mark.OK, f"{port.address.text} is free")
        elif port.sidecar is not None:
            yield Finding("port", Mark.OK, f"{port.address.text} is that of a sidecar, which runs")
        else:
            yield _mistaken("port", port.fault, port.other)


def _mistaken(check: str, mistake: Mistake, more: str = "") -> Finding:
    what = mistake._replace(hint="").sentence
    way_out = mistake.hint or f"correct {mistake.source}"
    return Finding(check, Mark.ERROR, f"{what}; {more}" if more else what, way_out, CONFIGURATION)


def _sidecars(facts: Facts) -> Iterator[Finding]:
    seen = next((port.sidecar for port in facts.ports if port.sidecar is not None), None)
    if seen is None:
        return
    if seen.healthy is None:
        yield Finding(
            "sidecar",
            Mark.UNKNOWN,
            "none of its probes has ended yet; there is one when /healthz is asked, or at each --interval",
        )
    elif seen.healthy:
        yield Finding("sidecar", Mark.OK, f"it reports {seen.driver or 'the driver'} as healthy")
    else:
        reason = next((each for each in Reason if each.value == seen.reason), Reason.INTERNAL)
        yield _failed("sidecar", reason, f"it reports {seen.reason}: {seen.sentence}")
    for finding in seen.findings:
        yield Finding("sidecar", Mark.WARNING, finding, page="docs/pages.md")
    yield from _differences(facts, seen)


def _differences(facts: Facts, seen: Seen) -> Iterator[Finding]:
    """Settings of the sidecar that differ from the doctor's own."""
    if facts.given.loaded.all_mistakes:
        return  # the values here may be defaults instead of what was given
    here = describe.values(facts.given.loaded)
    differing = [
        f"--{name} is {quote(text)} there and {quote(describe.as_text(here[BY_NAME[name].key]))} here"
        for name, text in seen.flags.items()
        if name in BY_NAME and BY_NAME[name].key in here and _differ(name, text, describe.as_text(here[BY_NAME[name].key]))
    ]
    if differing:
        way_out = "give the doctor the arguments of the sidecar; if these are they, restart the container"
        yield Finding("sidecar", Mark.WARNING, f"it has other settings: {', '.join(differing)}", way_out, CONFIGURATION)


def _differ(name: str, one: str, other: str) -> bool:
    kind = BY_NAME[name].kind
    try:
        return bool(kind.check(one) != kind.check(other))
    except ValueError:
        return one != other


# --- the network, memory, CPU


def _network(facts: Facts) -> Iterator[Finding]:
    settings, of_host = facts.given.loaded.settings, facts.machine.host_network
    if of_host is None:
        return
    if not of_host and (found := advice.unreachable_listener(settings, host_network=of_host)):
        yield _advised("network", Mark.ERROR, found, PROBING)
    elif of_host and not settings.http.path and not advice.is_loopback(settings.http):
        found = Advice(
            f"{settings.http.text} on the node's network is open to every machine that reaches the node",
            f"set --http-endpoint=127.0.0.1:{settings.http.port}, and host: 127.0.0.1 in the kubelet's probe",
        )
        yield _advised("network", Mark.WARNING, found, "SECURITY.md")
    else:
        yield Finding("network", Mark.OK, "the node's" if of_host else "the pod's own")


def _advised(check: str, mark: Mark, found: Advice, page: str) -> Finding:
    return Finding(check, mark, found.what, found.way_out, page)


def _memory(facts: Facts) -> Iterator[Finding]:
    memory, machine = facts.machine.memory, facts.machine
    if memory is None:
        return
    if found := advice.memory_limit(memory.limit, facts.given.loaded.settings, machine.read_ahead):
        yield _advised("memory", Mark.ERROR, found, IMAGE)
    else:
        yield Finding("memory", Mark.OK, f"the limit is {memory.limit >> 20} MiB, {memory.used >> 20} MiB are used")


def _cpu(facts: Facts) -> Iterator[Finding]:
    quota = facts.machine.cpus
    if quota is not None and (found := advice.cpu_quota(quota)):
        yield _advised("cpu", Mark.WARNING, found, IMAGE)


def _system(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if machine.threads:
        yield Finding("threads", Mark.ERROR, machine.threads, "the sentence says what to change", IMAGE)
    if machine.descriptors < DESCRIPTORS_MIN:
        what = f"this process may open {machine.descriptors} files, and the sidecar needs {DESCRIPTORS_MIN}"
        yield Finding(
            "files", Mark.WARNING, what, "raise the limit of open files (ulimit -n) of the container runtime", IMAGE
        )


def _files(facts: Facts) -> Iterator[Finding]:
    for folder in facts.folders:
        flag = KEYS[folder.key].name
        if folder.fault:
            way_out = f"mount an emptyDir there, or choose another path with --{flag}"
            yield Finding("files", Mark.ERROR, f"--{flag}={folder.path} cannot be written: {folder.fault}", way_out, PROBING)
        else:
            yield Finding("files", Mark.OK, f"--{flag}={folder.path} can be written")
    if facts.beside_default_file:
        what = f"{DEFAULT_FILE} does not exist, and beside it is {', '.join(facts.beside_default_file)}"
        yield Finding(
            "files", Mark.WARNING, what, "name the key of the ConfigMap settings.toml, or set --config", CONFIGURATION
        )
