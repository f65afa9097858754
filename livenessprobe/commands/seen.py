"""What a running sidecar tells of itself: by `/statusz`, or by `/readyz` where it has no such page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from livenessprobe.commands.sidecar import NO_WORD, Answer, NoAnswer, NotConnected, Place, get
from livenessprobe.driver.result import Reason

NAME = "livenessprobe"


class Unseen(Exception):
    """There is no answer; the text is a sentence."""


class NotASidecar(Unseen):
    """What was asked is no sidecar of this kind; the text is a sentence."""


class Probe(NamedTuple):
    """One of the last probes."""

    started: str
    seconds: float
    reason: str
    """Empty if the driver was ready."""


class Change(NamedTuple):
    """A change of what is reported."""

    at: str
    """UTC, as `2026-11-02T13:14:15.016Z`."""
    reason: str
    """Empty if the driver became healthy."""
    sentence: str
    driver: str


class Seen(NamedTuple):
    """What a sidecar tells; what only `/statusz` tells is empty where there is no such page."""

    healthy: bool | None
    """None before its first probe has ended."""
    reason: str
    sentence: str
    driver: str
    has_page: bool = False
    since: str = ""
    """Since when it reports this, in UTC."""
    failures: int = 0
    """Failed probes in a row."""
    timeout: float = 0.0
    """The probe timeout in seconds."""
    up: float = 0.0
    """For how many seconds the sidecar runs."""
    findings: tuple[str, ...] = ()
    """What else looks wrong, each with the way out."""
    probes: tuple[Probe, ...] = ()
    """The oldest first."""
    changes: tuple[Change, ...] = ()
    """The newest first."""
    flags: Mapping[str, str] = {}
    """The value of each flag."""


def look(place: Place, seconds: float, *, page: bool = True, flags: bool = False) -> Seen:
    """
    What the sidecar at `place` tells, each response within `seconds`; its `flags` only if they are asked for.

    Without its `page` only `/readyz` is asked: the first view of a page takes 8 MiB of the sidecar's memory.  Raises Unseen or
    NotASidecar.
    """

    def ask(path: str) -> Answer:
        return get(place, path, "application/json", seconds)

    try:
        seen = read_page(ask("/statusz")) if page else None
        if seen is None:
            return read_report(ask("/readyz"))
        return seen._replace(flags=read_flags(ask("/flagz"))) if flags else seen
    except NotConnected as error:
        raise Unseen(f"cannot connect to the sidecar: {error}") from None
    except TimeoutError:
        raise Unseen(f"the sidecar sent no response within {seconds:g} s") from None
    except NoAnswer as error:
        raise Unseen(f"the sidecar sent no valid response: {error}") from None


def read_page(answer: Answer) -> Seen | None:
    """What a response to `/statusz` tells; None if it is no such page of this program."""
    try:
        told = json.loads(answer.body)
        if told["kind"] != "Statusz" or told["metadata"]["name"] != NAME:
            return None
        report = told["report"]
        return Seen(
            healthy=report["healthy"],
            reason=str(report["reason"]),
            sentence=str(report["sentence"]),
            driver=str(told["driver"]["name"]),
            has_page=True,
            since=str(report["since"] or ""),
            failures=int(report["failures"]),
            timeout=float(told["timing"]["probeTimeout"]),
            up=float(told["uptimeSeconds"]),
            findings=tuple(map(str, told["findings"])),
            probes=tuple(
                Probe(str(each["started"]), float(each["seconds"]), str(each["reason"])) for each in told["probes"]
            ),
            changes=tuple(_change(each) for each in told["changes"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _change(told: Mapping[str, Any]) -> Change:
    return Change(*(str(told[name]) for name in Change._fields))


def read_report(answer: Answer) -> Seen:
    """What a response to `/readyz` tells; raises NotASidecar."""
    if not answer.reason:
        raise NotASidecar(NO_WORD.format(status=answer.status))
    driver, sentence = "", " ".join(answer.body.split())
    try:
        told = json.loads(answer.body)
        driver = str(told["driver"])
        failed: Sequence[Mapping[str, Any]] = [part for part in told["parts"] if not part["ok"]]
        sentence = " ".join(str(failed[0]["message"]).split()) if failed else "ok"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass  # the header alone says what is reported
    healthy = answer.status == 200
    known = any(each.value == answer.reason for each in Reason)
    reason = "" if healthy else answer.reason if known else Reason.PROTOCOL_ERROR.value
    return Seen(healthy, reason, sentence, driver)


def read_flags(answer: Answer) -> Mapping[str, str]:
    """The flags in a response to `/flagz`; empty if it is no such page."""
    try:
        told = json.loads(answer.body)
        return {str(name): str(value) for name, value in told["flags"].items()} if told["kind"] == "Flagz" else {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
