"""
The pages `/statusz`, `/flagz` and `/`, as text, HTML and JSON.  Pure.

Text is that of Kubernetes components (KEP-4827, KEP-4828), and so is JSON if the client asks for it.  All text from outside
is cut and escaped in `Status` already; HTML escapes it once more for its own grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple
from urllib.parse import parse_qs

from livenessprobe.driver.result import WAYS_OUT, Reason
from livenessprobe.gotext import Clause, accept_clauses, format_seconds
from livenessprobe.probing.status import Caller, Moment, Probe, Report, Restart, Status, Timing
from livenessprobe.web.responses import Response

NAME = "livenessprobe"
OWN_API = f"{NAME}/v1alpha1"
WARNING = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for "
    "debugging purposes only."
)
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
)
REFRESH_MAX = 3600
"""Seconds."""


def respond(path: str, status: Status, accept: str, query: str) -> Response:
    """The page at `path`, in the format that an Accept header prefers."""
    kind = {"/statusz": "Statusz", "/flagz": "Flagz"}.get(path, "Index")
    form = choose(accept, kind)
    match form.media:
        case "text/html":
            body = "".join(_html(kind, status, _refresh(query)))
        case "application/json":
            body = json.dumps(document(kind, form.api, status), indent=2) + "\n"
        case _:
            body = "\n".join([f"{NAME} {kind.lower()}", WARNING, "", *_text(kind, status)]) + "\n"
    content = body.encode()
    kind_header = (b"content-type", form.media.encode() + (b"" if form.api else b"; charset=utf-8"))
    return Response(200, (kind_header, (b"content-length", b"%d" % len(content)), *HEADERS), content)


def _refresh(query: str) -> int:
    """The seconds of `?refresh=`, 0 for none."""
    text = parse_qs(query).get("refresh", [""])[0]
    return min(int(text), REFRESH_MAX) if text.isascii() and text.isdigit() and len(text) < 8 else 0


# --- which format


class Form(NamedTuple):
    """A format that can be served: its media type, and the apiVersion of JSON."""

    media: str
    api: str = ""


_TEXT, _OWN_JSON, _HTML = Form("text/plain"), Form("application/json", OWN_API), Form("text/html")
_OF_KUBERNETES = tuple(Form("application/json", f"config.k8s.io/{version}") for version in ("v1alpha1", "v1beta1"))


def choose(accept: str, kind: str) -> Form:
    """
    The format with the highest quality, text if there is none; among equals the format that is named most specifically, then first.

    Kubernetes' own JSON is served to a client that asks for it as its components are asked: `g=config.k8s.io;v=…;as=Statusz`.
    """
    offers = (_TEXT, _OWN_JSON, _HTML, *(_OF_KUBERNETES if kind != "Index" else ()))
    clauses = accept_clauses(accept)
    ranked = []
    for rank, offer in enumerate(offers):
        found = [(_fit(clause, offer, kind), -place, clause.quality) for place, clause in enumerate(clauses)]
        fit, place, quality = max(found, default=(0, 0, 0.0))
        if fit and quality > 0:
            ranked.append((quality, fit, place, -rank, offer))
    return max(ranked, default=(0.0, 0, 0, 0, _TEXT))[4]


def _fit(clause: Clause, offer: Form, kind: str) -> int:
    """How specifically a media type names `offer`: 3 by name, 2 by its first part, 1 by `*/*`, 0 not at all."""
    media = f"{clause.kind}/{clause.subtype}".lower()
    asked = {name.lower(): text for name, text in clause.parameters.items()}
    if offer in _OF_KUBERNETES:
        group, version = offer.api.split("/")
        known = {"g": group, "as": kind, "v": version}
        versioned = {"v": "v1alpha1"} | asked
        return 3 if media == offer.media and all(versioned.get(name) == text for name, text in known.items()) else 0
    if media == offer.media:
        return 0 if asked.keys() & {"g", "v", "as"} else 3
    return {f"{offer.media.partition('/')[0]}/*": 2, "*/*": 1}.get(media, 0)


# --- moments and durations, for people


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _when(moment: Moment) -> str:
    return f"{_utc(moment.utc):%Y-%m-%d %H:%M:%S} UTC ({_span(moment.age)} ago)"


def _span(seconds: float) -> str:
    """A duration, as exactly as people read it."""
    return format_seconds(round(seconds, 3 if seconds < 10 else 0))


def _unix_date(moment: Moment) -> str:
    """As Go's time.UnixDate."""
    date = _utc(moment.utc)
    return f"{date:%a %b} {date.day:2} {date:%H:%M:%S} UTC {date.year}"


def _up(moment: Moment) -> str:
    up = int(max(moment.age, 0))
    return f"{up // 3600} hr {up // 60 % 60:02} min {up % 60:02} sec"


# --- what text and HTML have in common


def _program(status: Status) -> Iterator[tuple[str, str]]:
    program = status.program
    yield "Started", _unix_date(program.started)
    yield "Up", _up(program.started)
    yield "Python version", program.python
    yield "Binary version", program.version
    yield "Paths", " ".join(program.paths)


def _summary(status: Status) -> Iterator[tuple[str, str]]:
    report, driver, timing = status.report, status.driver, status.timing
    yield "Health", _health(report)
    if report.reason:
        yield "Reason", f"{report.reason}: {report.sentence}"
        yield "What to do", f"{WAYS_OUT[Reason(report.reason)]} (docs/reasons.md#{report.reason})"
    yield from (("Finding", finding) for finding in status.findings)
    yield (
        "Failures in a row",
        (f"{report.failures} (unhealthy after {report.failure_threshold}, healthy again after {report.success_threshold})"),
    )
    yield "Kubelet", _kubelet(status.restart)
    known = "name not known yet" if driver.since is None else f"this name since {_when(driver.since)}"
    socket = f", socket {driver.socket}" if driver.socket else ""
    yield "Driver", f"{driver.name} at {driver.address}{socket}, {known}"
    yield "Probe time", _time(timing)
    if timing.kubelet_timeout:
        yield "Kubelet timeout", f"{_span(round(timing.kubelet_timeout, 1))}, seen when it hung up"


def _health(report: Report) -> str:
    if report.healthy is None or report.since is None:
        return "unknown, no probe has ended yet"
    return f"{'healthy' if report.healthy else 'unhealthy'} since {_when(report.since)}"


def _kubelet(restart: Restart | None) -> str:
    if restart is None:
        return "has not asked"
    every = f", one every {_span(restart.period)}" if restart.period else ""
    said = f"{restart.failed} failed answers in a row{every}"
    if restart.seconds is None:
        return said
    due = f"in about {_span(restart.seconds)}" if restart.seconds else "now"
    return f"{said}; restarts the driver {due}, if its failureThreshold is {restart.threshold}"


def _time(timing: Timing) -> str:
    if timing.last is None or timing.slowest is None or timing.headroom is None:
        return f"unknown; the probe timeout is {_span(timing.probe_timeout)}"
    return (
        f"last {_span(timing.last)}, slowest {_span(timing.slowest)}; "
        f"headroom {_span(timing.headroom)} of the probe timeout of {_span(timing.probe_timeout)}"
    )


class _Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _tables(status: Status) -> Iterator[_Table]:
    changes = [
        (_when(each.at), _span(each.lasted), each.driver, f"{each.reason}: {each.sentence}" if each.reason else "healthy")
        for each in status.changes
    ]
    yield _Table("Last changes", ("Since", "Lasted", "Driver", "Reported"), changes)
    yield _Table("Who asks", ("Caller", "Requests", "Waits"), [_caller(each) for each in status.callers])
    settings = [(each.name, each.value, each.source) for each in status.changed_settings]
    yield _Table("Settings that are not defaults", ("Flag", "Value", "Source"), settings)
    overridden = [(each.name, each.value, f"{each.source}; {each.by} wins") for each in status.overridden]
    yield _Table("Values without effect", ("Flag", "Value", "Source"), overridden)


def _caller(caller: Caller) -> tuple[str, str, str]:
    every = f", one every {_span(caller.period)}" if caller.period else ""
    waits = f"{'timeout' if caller.timeout else 'at most'} {_span(caller.longest)}"
    return (
        f"{caller.agent or 'no user agent'} ({caller.place}) {caller.path}",
        f"{caller.requests}{every}, last {_span(caller.last.age)} ago",
        f"{waits}, {caller.hang_ups} hang-ups, {caller.failed} failed in a row",
    )


def _counts(status: Status) -> str:
    failed, slow = sum(each.reason != "" for each in status.probes), sum(each.slow for each in status.probes)
    return f"{len(status.probes)} of {status.probes_total} probes, {failed} failed, {slow} slow, the newest last"


def mark(probe: Probe) -> str:
    """One character for a probe: `x` failed, `s` slow, `.` healthy."""
    return "x" if probe.reason else "s" if probe.slow else "."


# --- text


def _text(kind: str, status: Status) -> Iterator[str]:
    if kind == "Flagz":
        yield from (f"{flag.name}={flag.value}" for flag in status.flags)
        return
    if kind == "Index":
        yield from status.program.paths
        return
    yield from (f"{label}: {text}" for label, text in _program(status))
    yield ""
    yield from (f"{label}: {text}" for label, text in _summary(status))
    yield from ("", f"History begins at {_when(status.history_begins)}")
    yield f"Last probes: {_counts(status)} (. healthy, s slow, x failed)"
    yield f"  {''.join(map(mark, status.probes))}"
    for table in _tables(status):
        if table.rows:
            yield from ("", f"{table.title}:")
            yield from (f"  {' | '.join(row)}" for row in table.rows)
    if status.other_requests:
        yield f"  {status.other_requests} requests of other callers"


# --- JSON


def document(kind: str, api: str, status: Status) -> dict[str, object]:
    """The page as a JSON object: the fields of Kubernetes' components first, then those of this program."""
    paths = list(status.program.paths)
    if kind == "Index":
        return {"paths": paths}
    top: dict[str, object] = {"kind": kind, "apiVersion": api, "metadata": {"name": NAME}}
    if kind == "Flagz":
        values, sources = ({flag.name: flag[place] for flag in status.flags} for place in (1, 2))
        return top | {"flags": values, "sources": sources}
    program = status.program
    top |= {
        "startTime": f"{_utc(program.started.utc):%Y-%m-%dT%H:%M:%SZ}",
        "uptimeSeconds": int(max(program.started.age, 0)),
    }
    if api != OWN_API:
        top["goVersion"] = ""  # a required field there
    top |= {"binaryVersion": program.version, "paths": paths, "pythonVersion": program.python, "upstream": program.upstream}
    own = {_camel(name): _json(value) for name, value in status._asdict().items() if name not in ("program", "flags")}
    return top | own | {"at": _iso(status.at)}


def _iso(utc: float) -> str:
    return f"{_utc(utc):%Y-%m-%dT%H:%M:%S}.{_utc(utc).microsecond // 1000:03}Z"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _json(value: object) -> object:
    match value:
        case Moment():
            return _iso(value.utc)
        case tuple() if hasattr(value, "_asdict"):
            return {_camel(name): _json(each) for name, each in value._asdict().items()}
        case tuple():
            return [_json(each) for each in value]
        case float():
            return round(value, 6)
    return value


# --- HTML

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--good:#116329;--bad:#b3261e;--slow:#7a5200}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--dim:#9da7b3;--line:#3d444d;--good:#56d364;--bad:#ff8b84;
--slow:#e3b341}}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
header,main,footer{max-width:72rem;margin:0 auto;padding:.5rem 1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.1rem;margin:1.5rem 0 .5rem}
a{color:inherit}nav a{margin-right:1rem}p{margin:.5rem 0}
.good{color:var(--good)}.bad{color:var(--bad)}.slow{color:var(--slow)}.dim{color:var(--dim)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:0}
dt{color:var(--dim)}dd,td,th{overflow-wrap:anywhere}dd{margin:0;min-width:0}td{min-width:8rem}tbody th{min-width:13rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line)}
svg{display:block;width:100%;height:5rem;border-bottom:1px solid var(--line)}
.probe-good{fill:var(--good)}.probe-slow,.probe-bad{fill:none;stroke:var(--slow);stroke-width:2}.probe-bad{stroke:var(--bad)}
@media(max-width:48rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
thead{position:absolute;clip-path:inset(50%)}tr{display:block;padding:.5rem 0;border-bottom:1px solid var(--line)}
td,tbody th{display:block;border:0;padding:0;min-width:0}}
"""


def _html(kind: str, status: Status, refresh: int) -> Iterator[str]:
    sign, word, css = _sign(status.report)
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    if refresh:
        yield f'<meta http-equiv="refresh" content="{refresh}">\n'
    yield f"<title>{escape(f'{word}: {status.driver.name} - {NAME} {kind.lower()}')}</title>\n<style>{_STYLE}</style>\n</head>\n"
    yield f'<body>\n<header>\n<h1>{NAME} {kind.lower()}</h1>\n<nav aria-label="Pages">'
    yield (
        "".join(f'<a href="{escape(path)}">{escape(path)}</a> ' for path in status.program.paths)
        + "</nav>\n</header>\n<main>\n"
    )
    if kind == "Statusz":
        yield f'<p class="{css}"><strong>{sign} {word}</strong></p>\n'
        yield from _statusz(status, refresh)
    elif kind == "Flagz":
        yield from _as_table(_Table("All flags", ("Flag", "Value", "Source"), status.flags))
    yield f'</main>\n<footer>\n<p class="dim">{escape(WARNING)}</p>\n</footer>\n</body>\n</html>\n'


def _sign(report: Report) -> tuple[str, str, str]:
    """A sign, a word and a class of the style sheet for what is reported."""
    if report.healthy is None:
        return "?", "unknown", "slow"
    return ("✓", "healthy", "good") if report.healthy else ("✗", "unhealthy", "bad")


def _statusz(status: Status, refresh: int) -> Iterator[str]:
    yield from _as_list(_summary(status))
    yield "<h2>Last probes</h2>\n" + _timeline(status.probes, status.timing.probe_timeout)
    yield f"<p>{_counts(status)}. The full height is the probe timeout of {_span(status.timing.probe_timeout)}; a cross is a "
    yield "failure, a hollow bar is slow.</p>\n"
    yield f"<p>History begins at {_when(status.history_begins)}.</p>\n"
    for table in _tables(status):
        if table.rows:
            yield from _as_table(table)
    if status.other_requests:
        yield f"<p>{status.other_requests} requests of other callers.</p>\n"
    yield "<h2>Program</h2>\n"
    yield from _as_list(_program(status))
    link = '<a href="?">Stop refreshing</a>' if refresh else '<a href="?refresh=5">Refresh every 5 seconds</a>'
    yield f"<p>{link}</p>\n"


def _as_list(pairs: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield "<dl>\n" + "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>\n" for label, text in pairs) + "</dl>\n"


def _as_table(table: _Table) -> Iterator[str]:
    yield f"<h2>{table.title}</h2>\n<table>\n<thead><tr>"
    yield "".join(f'<th scope="col">{name}</th>' for name in table.columns) + "</tr></thead>\n<tbody>\n"
    for first, *others in table.rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in others)
        yield f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    yield "</tbody>\n</table>\n"


_WIDE, _HIGH = 10, 60
"""Of a probe in the picture, in its own units."""


def _timeline(probes: Sequence[Probe], timeout: float) -> str:
    """The last probes as a picture: the height is the latency; shape tells the outcome, and colour too."""
    drawn = "".join(_bar(number, probe, timeout) for number, probe in enumerate(probes))
    told = f"Last probes, the oldest first: {''.join(map(mark, probes)) or 'none'}"
    box = f"0 0 {max(len(probes), 1) * _WIDE} {_HIGH}"
    return f'<svg viewBox="{box}" preserveAspectRatio="none" role="img" aria-label="{escape(told)}">{drawn}</svg>\n'


def _bar(number: int, probe: Probe, timeout: float) -> str:
    left, right = number * _WIDE + 1, (number + 1) * _WIDE - 1
    told = f"{_when(probe.started)}: {probe.reason or 'ready'} after {_span(probe.seconds)}"
    title = f"<title>{escape(told)}</title>"
    if probe.reason:
        return f'<path class="probe-bad" d="M{left} 3L{right} {_HIGH - 3}M{right} 3L{left} {_HIGH - 3}">{title}</path>'
    high = round(max(2.0, _HIGH * min(1.0, probe.seconds / timeout if timeout > 0 else 1.0)), 1)
    kind = "slow" if probe.slow else "good"
    return f'<rect class="probe-{kind}" x="{left}" y="{_HIGH - high}" width="{_WIDE - 2}" height="{high}">{title}</rect>'
