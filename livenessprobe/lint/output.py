"""What is printed: text for people, JSON, SARIF for code scanning, annotations for GitHub.  Pure."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from livenessprobe import __version__
from livenessprobe.gotext import format_seconds
from livenessprobe.lint.findings import PAGE, RULES, Finding
from livenessprobe.lint.judge import Judgement, Killing, Report
from livenessprobe.lint.kubelet import Failing, Range, TimeToKill
from livenessprobe.lint.nodes import Place
from livenessprobe.lint.probes import Fault
from livenessprobe.lint.reading import Unusable

FAULT_WORDS: Mapping[Fault, str] = {
    "unreachable": "has no socket, or refuses",
    "hung": "hangs",
    "not ready": "says that it is not ready",
}
_COLOURS = {"error": "31", "warning": "33", "info": "36", "bold": "1", "dim": "2"}
SARIF_RESULTS = 25_000
"""More results of one run GitHub does not take."""
_SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_GITHUB_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}
_DOCUMENTS = "https://livenessprobe.example/"
"""Where a release publishes docs/; SARIF wants absolute addresses."""


class Paint:
    """Colours for a terminal, or none."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: str, style: str = "") -> str:
        """The text in a style of _COLOURS, without characters that would change the terminal."""
        text = "".join(each if each.isprintable() else "\ufffd" for each in text)
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if self._colour and style else text


# --- text


def text(judgement: Judgement, unusable: Sequence[Unusable], lines: Mapping[str, list[str]], paint: Paint) -> str:
    """For people: each sidecar with its times, then what is to be done."""
    parts = [_sidecar(report, paint) for report in judgement.reports]
    parts += [_finding(each, lines, paint) for each in judgement.findings]
    parts += [_unusable(each, paint) for each in unusable]
    counts = Counter(each.severity for each in judgement.findings)
    told = ", ".join(f"{counts[severity]} {severity}" for severity in ("error", "warning", "info") if counts[severity])
    number = len(judgement.reports)
    parts.append(
        f"{number} sidecar{'' if number == 1 else 's'}: {told or 'no findings'}"
        if number
        else "no livenessprobe sidecar found"
    )
    return "\n\n".join(parts)


def _unusable(each: Unusable, paint: Paint) -> str:
    place = each.place
    where = paint(f"{place.file}:{place.line}:{place.column}")
    return f"{where}: {paint('unusable', 'error')}: {paint(each.sentence)}"


def _finding(each: Finding, lines: Mapping[str, list[str]], paint: Paint) -> str:
    place = each.place
    shown = _line(place, lines)
    where = f"{place.file}:{place.line}:{place.column}"
    head = f"{paint(where, 'bold')}: {paint(f'{each.severity} {each.id}', each.severity)}: {paint(each.sentence)}"
    owner = paint(f"    {each.owner}{', ' if each.owner and each.container else ''}{each.container}  ({each.page})")
    return "\n".join([head, *([paint(f"    {place.line} | {shown}", "dim")] if shown else []), owner])


def _line(place: Place, lines: Mapping[str, list[str]]) -> str:
    all_lines = lines.get(place.file, [])
    return all_lines[place.line - 1].rstrip()[:200] if 0 < place.line <= len(all_lines) else ""


def _sidecar(report: Report, paint: Paint) -> str:
    sidecar = report.sidecar
    place = sidecar.container.node.place
    head = f"{place.file}:{place.line}: {report.case.pod.title}, sidecar {sidecar.container.name}: {sidecar.program.text}"
    told = [paint(head, "bold")]
    if sidecar.loaded:
        settings = sidecar.loaded.settings
        unknown = "not known"
        address = settings.csi_address.name if sidecar.knows("csi_address") else unknown
        timeout = format_seconds(settings.probe_timeout) if sidecar.knows("probe_timeout") else unknown
        listens = settings.http.text if sidecar.knows("http_endpoint", "health_port") else unknown
        told.append(paint(f"  dials {address}, probe timeout {timeout}, listens on {listens}"))
    for killing in report.killings:
        told += map(paint, _killing(killing, restarts=report.case.pod.restarts))
    told += [paint(f"  {each.title}: never kills") for each in report.readiness]
    if not report.killings and not report.readiness:
        told.append("  no probe asks it")
    return "\n".join(told)


def _killing(killing: Killing, *, restarts: bool) -> Iterator[str]:
    timing = killing.asking.probe.timing
    yield (
        f"  {killing.asking.title}: every {timing.period} s, timeoutSeconds {timing.timeout}, "
        f"failureThreshold {timing.failure}"
    )
    if killing.start is not None:
        yield (
            f"    the driver has {_span(killing.start)} to start"
            f"  [initialDelaySeconds {timing.initial_delay} + {timing.failure} x max(period {timing.period}, D)]"
        )
    if killing.asking.probe.kind == "startupProbe":
        return
    yield "    killed after a fault, if the driver"
    for fault, shown in killing.faults.items():
        if shown is None:
            yield f"    - {FAULT_WORDS[fault]}: never"
            continue
        failing, time = shown
        least = f"{_number(time.in_flight)} s with a probe in flight, else " if time.in_flight < time.least else ""
        yield f"    - {FAULT_WORDS[fault]}: {least}{_span(Range(time.least, time.most))}; gone by {_number(time.gone)} s"
        yield f"        {_arithmetic(killing, failing, time)}"
    yield f"    - answers after more than {_number(killing.slowest)} s: as if it hangs"
    yield (
        "    - exits by itself: restarted at once, without any probe; CrashLoopBackOff delays later restarts"
        if restarts
        else "    - exits by itself, or is killed: not restarted (restartPolicy: Never)"
    )


def _arithmetic(killing: Killing, failing: Failing, time: TimeToKill) -> str:
    """(F - 1) x max(P, D) + D, with the numbers."""
    timing = killing.asking.probe.timing
    takes = failing.takes.capped(timing.timeout)
    hidden = failing.hidden[0]
    fewer = f"({timing.failure} - 1{f' + {hidden}' if hidden else ''})"
    gap = f"max({timing.period}, {_number(takes.least)})"
    lag = f"{_number(failing.lag.least)} + " if failing.lag.most else ""
    more = _number(time.most - time.least)
    return f"{lag}{fewer} x {gap} + {_number(takes.least)} = {_number(time.least)}, at most {more} more, then {killing.grace} of grace"


def _number(value: float) -> str:
    return f"{round(value, 1):g}"


def _span(span: Range) -> str:
    if round(span.least, 1) == round(span.most, 1):
        return f"{_number(span.least)} s"
    return f"{_number(span.least)} to {_number(span.most)} s"


# --- differences


def difference(old: Judgement, new: Judgement) -> tuple[str, list[Finding]]:
    """What a change of the manifests changes, and the findings that only the new input has."""
    before = {report.identity: report for report in old.reports}
    after = {report.identity: report for report in new.reports}
    parts = []
    for identity, report in after.items():
        earlier = before.get(identity)
        title = f"{report.case.pod.title}, sidecar {report.sidecar.container.name}"
        if earlier is None:
            parts.append(f"{title}: new")
            continue
        told = [f"{title}: {earlier.sidecar.program.text} -> {report.sidecar.program.text}"]
        told += _changes(earlier, report)
        parts.append("\n".join(told))
    for identity, report in before.items():
        if identity not in after:
            parts.append(f"{report.case.pod.title}, sidecar {report.sidecar.container.name}: gone")
    fresh, gone = _only_in(new.findings, old.findings), _only_in(old.findings, new.findings)
    parts += [f"new: {each.severity} {each.id} {each.owner} {each.container}: {each.sentence}" for each in fresh]
    parts += [f"gone: {each.severity} {each.id} {each.owner} {each.container}: {each.sentence}" for each in gone]
    return "\n".join(parts) or "no livenessprobe sidecar in either input", fresh


def _changes(before: Report, after: Report) -> Iterator[str]:
    earlier = {(each.asking.container.name, each.asking.probe.kind): each for each in before.killings}
    later = {(each.asking.container.name, each.asking.probe.kind): each for each in after.killings}
    for key in {**earlier, **later}:
        for fault, words in FAULT_WORDS.items():
            old, new = _time(earlier.get(key), fault), _time(later.get(key), fault)
            same = "unchanged, " if old == new else f"{old} -> "
            yield f"  {key[1]} of {key[0]}, killed if the driver {words}: {same}{new}"


def _time(killing: Killing | None, fault: Fault) -> str:
    if killing is None:
        return "not asked"
    shown = killing.faults[fault]
    return f"{_span(shown[1].whole)}, gone by {_number(shown[1].gone)} s" if shown else "never"


def _only_in(findings: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    left = Counter((each.id, each.owner, each.container) for each in others)
    found = []
    for each in findings:
        key = (each.id, each.owner, each.container)
        if left[key]:
            left[key] -= 1
        else:
            found.append(each)
    return found


# --- for programs


def as_json(judgement: Judgement, unusable: Sequence[Unusable]) -> str:
    """One object: `sidecars`, `findings`, `unusable`.  Times are seconds."""
    return json.dumps(
        {
            "version": 1,
            "sidecars": [_report(each) for each in judgement.reports],
            "findings": [
                {
                    "id": each.id,
                    "severity": each.severity,
                    **each.place._asdict(),
                    "sentence": each.sentence,
                    "object": each.owner,
                    "container": each.container,
                    "page": each.page,
                }
                for each in judgement.findings
            ],
            "unusable": [{**each.place._asdict(), "sentence": each.sentence} for each in unusable],
        },
        indent=2,
    )


def _report(report: Report) -> dict[str, Any]:
    sidecar = report.sidecar
    kind, namespace, name, container = report.identity
    probes = [
        {
            "container": each.asking.container.name,
            "probe": each.asking.probe.kind,
            "time_to_kill": {
                fault.replace(" ", "_"): shown[1]._asdict() if shown else None for fault, shown in each.faults.items()
            },
            "killed_if_slower_than": each.slowest,
            "time_to_start": each.start._asdict() if each.start else None,
        }
        for each in report.killings
    ]
    return {
        "kind": kind,
        "namespace": namespace,
        "name": name,
        "container": container,
        **sidecar.container.node.place._asdict(),
        "image": sidecar.container.image,
        "program": "ours" if sidecar.program.ours else "go",
        "go_version": ".".join(map(str, sidecar.program.version)) if sidecar.program.version else None,
        "probe_timeout": sidecar.settings.probe_timeout if sidecar.settings and sidecar.knows("probe_timeout") else None,
        "probes": probes,
        "readiness": [each.container.name for each in report.readiness],
    }


def github(judgement: Judgement, unusable: Sequence[Unusable]) -> str:
    """Workflow commands, which GitHub shows at the lines."""
    lines = [
        _command(_GITHUB_LEVELS[each.severity], each.place, f"{each.id} {RULES[each.id].title}", each.sentence)
        for each in judgement.findings
    ]
    lines += [_command("error", each.place, "unusable input", each.sentence) for each in unusable]
    return "\n".join(lines)


def _command(level: str, place: Place, title: str, message: str) -> str:
    def escaped(value: str) -> str:
        return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    def attribute(value: str) -> str:
        return escaped(value).replace(":", "%3A").replace(",", "%2C")

    where = f"file={attribute(place.file)},line={place.line},col={place.column},title={attribute(title)}"
    return f"::{level} {where}::{escaped(message)}"


def sarif(judgement: Judgement, unusable: Sequence[Unusable], folder: str) -> str:
    """SARIF 2.1.0 within GitHub's limits; files are named relative to `folder`, with slashes."""
    used = sorted({each.id for each in judgement.findings})
    seen: Counter[str] = Counter()
    results = []
    for each in judgement.findings[:SARIF_RESULTS]:
        print_ = _fingerprint(each, seen)
        results.append(
            {
                "ruleId": each.id,
                "ruleIndex": used.index(each.id),
                "level": _SARIF_LEVELS[each.severity],
                "message": {"text": each.sentence},
                "locations": [_location(each.place, folder)],
                "partialFingerprints": {"livenessprobeLint/v1": print_, "primaryLocationLineHash": print_},
            }
        )
    notifications = [
        {"level": "error", "message": {"text": each.sentence}, "locations": [_location(each.place, folder)]}
        for each in unusable
    ]
    if len(judgement.findings) > SARIF_RESULTS:
        left = len(judgement.findings) - SARIF_RESULTS
        notifications.append({"level": "warning", "message": {"text": f"{left} more results are left out"}})
    driver = {
        "name": "livenessprobe lint",
        "version": __version__,
        "informationUri": f"{_DOCUMENTS}{PAGE}",
        "rules": [
            {
                "id": name,
                "shortDescription": {"text": RULES[name].title},
                "helpUri": f"{_DOCUMENTS}{PAGE}#{name.lower()}",
                "defaultConfiguration": {"level": _SARIF_LEVELS[RULES[name].severity]},
            }
            for name in used
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": not unusable, "toolExecutionNotifications": notifications}],
        "results": results,
    }
    schema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2)


def _location(place: Place, folder: str) -> dict[str, Any]:
    name = place.file.replace("\\", "/")
    if posixpath.isabs(name):
        name = posixpath.relpath(name, folder)
    region = {"startLine": place.line, "startColumn": place.column}
    return {"physicalLocation": {"artifactLocation": {"uri": quote(name.removeprefix("./"))}, "region": region}}


def _fingerprint(each: Finding, seen: Counter[str]) -> str:
    """Of what the finding says and where it belongs, not of its line; equal ones are numbered."""
    parts = f"{each.id}\x00{each.place.file}\x00{each.owner}\x00{each.container}\x00{each.sentence}"
    found = hashlib.sha256(parts.encode(errors="surrogateescape")).hexdigest()[:32]
    seen[found] += 1
    return f"{found}:{seen[found]}"
