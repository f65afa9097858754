"""What /livez, /readyz and /startupz say, in the manner of Kubernetes components.  Pure."""

from __future__ import annotations

import json
from typing import NamedTuple

from livenessprobe.driver.result import ProbeResult
from livenessprobe.mux import Handler
from livenessprobe.probing.standing import Health, Standing


class Part(NamedTuple):
    """One thing that is looked at."""

    name: str
    good: bool
    result: ProbeResult
    """What was found last of its kind."""


def parts(handler: Handler, standing: Standing) -> tuple[Part, ...]:
    """What `handler` looks at, in the order of the text.  There must have been a probe."""
    answers = _part("answers", standing.alive)
    ready = _part("ready", standing.ready)
    match handler:
        case Handler.LIVEZ:
            return (answers,)
        case Handler.READYZ:
            return (answers, ready)
        case _:
            return (Part("has-been-ready", standing.started, ready.result),)


def _part(name: str, health: Health) -> Part:
    assert health.report is not None  # noqa: S101  there has been a probe
    return Part(name, bool(health.stands), health.report)


def text(handler: Handler, found: tuple[Part, ...], *, verbose: bool) -> str:
    """`ok`, or the parts a line each if wanted or if one has failed."""
    good = all(part.good for part in found)
    if good and not verbose:
        return "ok"
    lines = [f"[+]{part.name} ok" if part.good else f"[-]{part.name} failed: {_told(part)}" for part in found]
    return "\n".join([*lines, f"{handler.name.lower()} check {'passed' if good else 'failed'}\n"])


def _told(part: Part) -> str:
    if part.result.reason is None:
        return "not yet"
    # A driver's message must not pass for a line of ours.
    body = "".join(each if each.isprintable() else " " for each in part.result.body)
    return f"{part.result.reason.value}: {body}"


def as_json(handler: Handler, found: tuple[Part, ...]) -> str:
    """The same for programs."""
    rows = []
    for part in found:
        reason = part.result.reason
        row: dict[str, object] = {"name": part.name, "ok": part.good}
        if not part.good:
            row |= {"reason": reason.value if reason else None, "message": part.result.body if reason else "not yet"}
        rows.append(row)
    status = "ok" if all(part.good for part in found) else "failed"
    return json.dumps({"check": handler.name.lower(), "status": status, "parts": rows}) + "\n"


def wants_json(accept: str) -> bool:
    """Whether an Accept header asks for JSON rather than text."""
    for item in accept.split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in ("application/json", "text/plain", "text/*", "*/*"):
            return kind == "application/json"
    return False
