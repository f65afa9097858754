"""Judges an input as a whole: findings, and the times of each sidecar.  Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from livenessprobe.lint import rules_pods, rules_probes
from livenessprobe.lint.findings import RULES, Finding
from livenessprobe.lint.kubelet import Failing, Range, TimeToKill, grace_period, time_to_kill, time_to_start
from livenessprobe.lint.nodes import Document, Node
from livenessprobe.lint.pods import Pod, pods
from livenessprobe.lint.probes import FAULTS, Asking, Case, Fault, askings, failing, never_fails, slowest_healthy, starting
from livenessprobe.lint.reading import Read
from livenessprobe.lint.sidecars import Sidecar, is_sidecar

ANNOTATION = "livenessprobe/lint-ignore"


class Options(NamedTuple):
    """What the command line asks for."""

    as_ours: bool = False
    driver_start: float = 0.0
    ignore: frozenset[str] = frozenset()


class Killing(NamedTuple):
    """When a probe that asks a sidecar kills its container, for each fault of the driver."""

    asking: Asking
    grace: int
    """Seconds that the container has to end, at most."""
    faults: dict[Fault, tuple[Failing, TimeToKill] | None]
    """How each fault shows, and when it kills; None: never."""
    slowest: float
    """Seconds; a driver that answers later is killed as if it were hung."""
    start: Range | None
    """Seconds that the driver has to start, if this is the probe that decides."""


class Report(NamedTuple):
    """One sidecar, and the probes that ask it."""

    case: Case
    sidecar: Sidecar
    killings: list[Killing]
    """Of liveness and startup probes."""
    readiness: list[Asking]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What pairs it with itself in another input: kind, namespace, name and container."""
        document = self.case.pod.document
        return document.kind, document.namespace, document.name, self.sidecar.container.name


class Judgement(NamedTuple):
    """An input and its findings."""

    reports: list[Report]
    findings: list[Finding]
    """In the order of the input."""


def judge(read: Read, options: Options) -> Judgement:
    """Findings and times of everything that was read."""
    cases = [case for pod in pods(read.documents) if (case := _case(pod, options)).sidecars]
    found = [
        *_duplicates(read),
        *(finding for case in cases for finding in (*rules_probes.judge(case), *rules_pods.judge(case))),
        *rules_pods.judge_together(cases, read.documents),
        *_null_containers(read.documents),
    ]
    order = {file: number for number, file in enumerate(read.lines)}
    found = _ignored(_once(found), cases, options.ignore)
    found.sort(key=lambda each: (order.get(each.place.file, 0), each.place.line, each.place.column, each.id))
    reports = [_report(case, sidecar) for case in cases for sidecar in case.sidecars]
    return Judgement(reports, found)


def _case(pod: Pod, options: Options) -> Case:
    sidecars = [Sidecar(each, as_ours=options.as_ours) for each in pod.containers if is_sidecar(each)]
    return Case(pod, sidecars, askings(pod, sidecars), options.driver_start)


def _report(case: Case, sidecar: Sidecar) -> Report:
    asking = [each for each in case.of(sidecar) if sidecar.knows("probe_timeout")]
    killings = [_killing(case, each) for each in asking if each.probe.kind != "readinessProbe"]
    return Report(case, sidecar, killings, case.of(sidecar, "readinessProbe"))


def _killing(case: Case, asking: Asking) -> Killing:
    timing, container = asking.probe.timing, asking.container
    grace = grace_period(timing, case.pod.grace, pre_stop=bool(container.node.at("lifecycle", "preStop").entries))
    others = len(case.of(asking.sidecar)) > 1
    faults: dict[Fault, tuple[Failing, TimeToKill] | None] = {}
    for fault in FAULTS:
        shown = failing(asking, fault, others=others)
        faults[fault] = (shown, time_to_kill(timing, shown, grace)) if shown else None
    kinds = [each.probe.kind for each in case.askings if each.container is container]
    decides = asking.probe.kind == ("startupProbe" if "startupProbe" in kinds else "livenessProbe")
    start = time_to_start(timing, starting(asking)) if decides and not never_fails(asking) else None
    return Killing(asking, grace, faults, slowest_healthy(asking), start)


# --- findings about the input itself


def _duplicates(read: Read) -> Iterator[Finding]:
    for place, key in read.duplicates:
        sentence = f"the key {key} is given twice in one mapping, and the last one counts; remove one"
        yield Finding("LP002", place, sentence, RULES["LP002"].severity)


_WORKLOADS = frozenset({"Pod", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob", "PodTemplate"})


def _null_containers(documents: Sequence[Document]) -> Iterator[Finding]:
    for document in documents:
        for pod in pods([document]) if document.kind in _WORKLOADS else ():
            node = pod.spec.at("containers")
            if not node.items:
                yield _unjudged(pod, node, f"containers is {node.described()}")
            for each in (*node.items, *pod.spec.at("initContainers").items):
                if not each.entries:
                    yield _unjudged(pod, each, f"a container is {each.described()}")


def _unjudged(pod: Pod, node: Node, problem: str) -> Finding:
    return Finding("LP001", node.place, f"not judged: {problem}", RULES["LP001"].severity, pod.title)


def _once(found: Sequence[Finding]) -> list[Finding]:
    """Without repetitions; an unknown version is said once for each image."""
    seen: set[object] = set()
    kept = []
    for each in found:
        key: object = (each.id, each.sentence) if each.id == "LP004" else each
        if key not in seen:
            seen.add(key)
            kept.append(each)
    return kept


# --- ignored findings


class _Ignore(NamedTuple):
    """An annotation: the ids that it silences, in the objects with this title."""

    owner: str
    node: Node
    ids: tuple[str, ...]


def _ignored(found: Sequence[Finding], cases: Sequence[Case], everywhere: Collection[str]) -> list[Finding]:
    """The findings that are left, and one for each id that silences nothing."""
    annotations = list(_annotations(cases))
    used: set[tuple[int, str]] = set()
    kept = []
    for each in found:
        by = [ignore for ignore in annotations if ignore.owner == each.owner and each.id in ignore.ids]
        used |= {(id(ignore.node), each.id) for ignore in by}
        if not by and each.id not in everywhere:
            kept.append(each)
    for ignore in annotations:
        for name in ignore.ids:
            if name not in RULES:
                problem = f"{name} is no finding; its list is in docs/lint.md"
            elif (id(ignore.node), name) not in used:
                problem = f"{name} is ignored, and there is no such finding any more; remove it from the annotation"
            else:
                continue
            kept.append(Finding("LP003", ignore.node.place, problem, RULES["LP003"].severity, ignore.owner))
    return kept


def _annotations(cases: Sequence[Case]) -> Iterator[_Ignore]:
    """`LP101 reason; LP203 reason`, on the object or on the pod template."""
    seen = set()
    for case in cases:
        for metadata in (case.pod.document.node.at("metadata"), case.pod.metadata):
            node = metadata.at("annotations", ANNOTATION)
            if id(node) in seen or node.missing:
                continue
            seen.add(id(node))
            ids = tuple(part.split()[0] for part in re.split(r"[;,\n]", node.text) if part.strip())
            yield _Ignore(case.pod.title, node, ids)
