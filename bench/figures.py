"""Computes figures from samples: medians, ratios, verdicts, a table.  No input or output."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Samples = dict[str, dict[str, list[float]]]
"""By figure and program: a value for each round, in the order of the rounds."""

# The floor to compare each program with, by kind of figure.
BESIDE_KEPT = {
    "sidecar": "floor-kept",  # with requests back to back it keeps its connection too, so this is the harder floor
    "sidecar-dials": "floor-fresh",
    "sidecar-interval": "floor-ok",
    "peer": "floor-kept",
}
BESIDE_FRESH = BESIDE_KEPT | {"sidecar": "floor-fresh", "peer": "floor-fresh"}
_SERVERS = ("sidecar", "sidecar-dials", "sidecar-interval", "peer")
BESIDE_PROBE = dict.fromkeys(_SERVERS, "floor-fresh")
BESIDE_IMPORT = dict.fromkeys(_SERVERS, "floor-import")
BESIDE_START = BESIDE_IMPORT | {"check": "sidecar", "check-file": "sidecar", "settings-file": "tomllib"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, and the floor that each program is compared with."""

    meaning: str
    unit: str
    beside: Mapping[str, str] = field(default_factory=dict)


_REQUESTS = {
    "kubelet": "new connection for each request",
    "keepalive_1": "1 open connection",
    "keepalive_16": "16 open connections",
    "keepalive_64": "64 open connections",
}
FIGURES = {
    **{
        f"{name}_{part}": Figure(f"{meaning}: {what}", unit, BESIDE_KEPT)
        for name, meaning in _REQUESTS.items()
        for part, what, unit in (
            ("p50", "median", "ms"),
            ("p99", "99th percentile", "ms"),
            ("rate", "requests a second", "/s"),
            ("cpu", "CPU of a request", "ms"),
        )
    },
    "paced_latency": Figure("one request every 2 s, for which the sidecar dials", "ms", BESIDE_FRESH),
    "paced_cpu": Figure("CPU in each of these 2 s", "ms", BESIDE_FRESH),
    "start_cpu": Figure("CPU to the first 200, or to the end", "s", BESIDE_START),
    "start_wall": Figure("time to the first 200, or to the end", "s", BESIDE_START),
    "reload_cpu": Figure("CPU to read settings again", "ms"),
    "idle_cpu": Figure("CPU while idle", "ms/s"),
    "idle_wakeups": Figure("wake-ups while idle", "/s"),
    **{
        f"{when}_{kind}": Figure(f"{what}, {said}", "MiB", beside)
        for when, said, beside in (("idle", "idle", BESIDE_IMPORT), ("loaded", "after load", BESIDE_PROBE))
        for kind, what in (("rss", "RSS"), ("pss", "PSS"), ("anonymous", "anonymous memory"))
    },
    "growth_rss": Figure("RSS gained in a long load", "MiB"),
    "growth_anonymous": Figure("anonymous memory gained in a long load", "MiB"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The largest or smallest value of a figure: a multiple of the `floor`'s value, or a value in the figure's unit."""

    figure: str
    program: str
    floor: str
    """Empty: the limit is absolute."""
    at_most: float = 0.0
    at_least: float = 0.0
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 11), (3, 99))
    """First and last version of Python for which it counts."""

    def met(self, value: float) -> bool:
        """Whether `value` meets the target."""
        return value >= self.at_least if self.at_least else value <= self.at_most

    def __str__(self) -> str:
        limit = f"≥ {self.at_least:g}" if self.at_least else f"≤ {self.at_most:g}"
        return f"{limit} × {self.floor}" if self.floor else f"{limit} {FIGURES[self.figure].unit}"


_OLD, _LAZY = ((3, 11), (3, 13)), ((3, 15), (3, 99))
TARGETS = (
    Target("kubelet_p50", "sidecar", "floor-kept", at_most=1.15),
    Target("kubelet_p50", "sidecar-dials", "floor-fresh", at_most=1.15),
    Target("paced_latency", "sidecar", "floor-fresh", at_most=1.15),
    Target("keepalive_64_rate", "sidecar", "floor-kept", at_least=1.3),
    Target("kubelet_cpu", "sidecar", "floor-kept", at_most=1.25),
    Target("kubelet_cpu", "sidecar-dials", "floor-fresh", at_most=1.25),
    Target("keepalive_1_rate", "sidecar-interval", "floor-ok", at_least=0.85),
    Target("keepalive_16_rate", "sidecar-interval", "floor-ok", at_least=0.85),
    Target("keepalive_64_rate", "sidecar-interval", "floor-ok", at_least=0.85),
    Target("start_cpu", "check", "sidecar", at_most=0.5),
    Target("start_cpu", "sidecar", "", at_most=0.35, pythons=_OLD),
    Target("start_cpu", "sidecar", "", at_most=0.20, pythons=_LAZY),
    Target("idle_rss", "sidecar", "floor-fresh", at_most=1.0, pythons=_OLD),
    Target("idle_rss", "sidecar", "floor-import", at_most=1.0, pythons=_OLD),
    Target("idle_rss", "sidecar", "", at_most=46, pythons=_LAZY),
    Target("idle_anonymous", "sidecar", "", at_most=24, pythons=_LAZY),
    Target("growth_anonymous", "sidecar", "", at_most=2),
)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least this share of them does not exceed."""
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)]


def ratio(samples: Samples, figure: str, program: str, floor: str) -> float | None:
    """
    The median of the ratios of each round, whose two values are near in time; None if there is no pair, or the floor is
    zero.
    """
    values, floors = samples.get(figure, {}).get(program, []), samples.get(figure, {}).get(floor, [])
    pairs = [value / below for value, below in zip(values, floors, strict=False) if below]
    return statistics.median(pairs) if pairs else None


def summary(samples: Samples) -> dict[str, dict[str, dict[str, float | str | None]]]:
    """By figure and program: the median, the least, the most, and the ratio to the floor."""
    return {
        figure: {
            program: {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "floor": (floor := FIGURES[figure].beside.get(program)),
                "ratio": floor and ratio(samples, figure, program, floor),
            }
            for program, values in programs.items()
        }
        for figure, programs in samples.items()
    }


def verdicts(samples: Samples, python: tuple[int, int]) -> Iterator[tuple[Target, float | None]]:
    """Each target for this version of Python, and the value that was reached; None if it was not measured."""
    for target in TARGETS:
        if target.pythons[0] <= python <= target.pythons[1]:
            values = samples.get(target.figure, {}).get(target.program)
            if target.floor:
                yield target, ratio(samples, target.figure, target.program, target.floor)
            else:
                yield target, statistics.median(values) if values else None


def table(samples: Samples, python: tuple[int, int]) -> str:
    """All figures, then the targets, as text."""
    lines = [f"{'':18}{'median':>10} {'least':>10} {'most':>10}   × floor"]
    for figure, programs in summary(samples).items():
        lines.append(f"\n{FIGURES[figure].meaning}, {FIGURES[figure].unit}  ({figure})")
        for program, row in programs.items():
            beside = f"{row['ratio']:9.2f} {row['floor']}" if row["ratio"] is not None else ""
            lines.append(f"  {program:16}{row['median']:10.3f} {row['min']:10.3f} {row['max']:10.3f} {beside}".rstrip())
    lines.append("\ntargets")
    for target, value in verdicts(samples, python):
        reached = "       not measured" if value is None else f"{value:10.3f} {'met' if target.met(value) else 'NOT met'}"
        lines.append(f"  {target.figure + ' of ' + target.program:40} {target!s:22} {reached}")
    return "\n".join(lines)


def beside_peer(samples: Samples) -> str:
    """The sidecar beside the peer, as a table in Markdown with all figures that both have; empty without a peer."""
    rows = []
    for figure, programs in samples.items():
        if (compared := ratio(samples, figure, "sidecar", "peer")) is None:
            continue
        ours, theirs = (statistics.median(programs[name]) for name in ("sidecar", "peer"))
        meaning, unit = FIGURES[figure].meaning, FIGURES[figure].unit
        rows.append(f"| {meaning[0].upper()}{meaning[1:]} | {ours:.3g} | {theirs:.3g} | {unit} | {compared:.2f} |")
    head = ["| | Sidecar | Peer | Unit | Sidecar / peer |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""


def memory(smaps_rollup: str) -> dict[str, float]:
    """MiB of RSS, PSS and anonymous memory, from the text of /proc/PID/smaps_rollup."""
    kib = {words[0]: int(words[1]) for line in smaps_rollup.splitlines() if (words := line.split())[2:] == ["kB"]}
    return {name: kib[f"{key}:"] / 1024 for name, key in (("rss", "Rss"), ("pss", "Pss"), ("anonymous", "Anonymous"))}


def imports(importtime: str) -> dict[str, float]:
    """Milliseconds of each module alone, from the output of `python -X importtime`; the slowest first."""
    seen: dict[str, float] = {}
    for line in importtime.splitlines():
        before, found, rest = line.partition("import time:")
        columns = [column.strip() for column in rest.split("|")]
        if found and not before and len(columns) == 3 and columns[0].isdigit():
            seen[columns[2]] = seen.get(columns[2], 0) + int(columns[0]) / 1000
    return dict(sorted(seen.items(), key=lambda item: -item[1]))


def by_package(modules: Mapping[str, float]) -> dict[str, float]:
    """The sums by top-level package; the slowest first."""
    packages: dict[str, float] = defaultdict(float)
    for module, milliseconds in modules.items():
        packages[module.partition(".")[0]] += milliseconds
    return dict(sorted(packages.items(), key=lambda item: -item[1]))
