"""What `livenessprobe watch` shows: lines for a terminal, and a line for each change.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from livenessprobe.commands.seen import Probe, Seen
from livenessprobe.driver.result import WAYS_OUT, Reason
from livenessprobe.gotext import format_seconds, printable

CHANGES_MAX = 10
"""Changes that are shown below the sidecars."""
PROBES_MAX = 30
"""Probes in the picture of latencies."""
SENTENCE_MAX = 512
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
"""Levels of latency; the second where a terminal has no Unicode."""


class View(NamedTuple):
    """What was last found out about the sidecar at `url`."""

    url: str
    seen: Seen | None = None
    """None if there was no answer."""
    fault: str = ""
    """Why there was none; empty before the first one."""
    is_other: bool = False
    """Whether something that is no sidecar answered."""


class Line(NamedTuple):
    """A line on the terminal, and its style: good, bad, slow or dim; empty for plain text."""

    text: str
    style: str = ""


def state(view: View) -> tuple[str, str, str]:
    """A sign, a word and a style for the state of a sidecar: colour is never the only sign."""
    if view.seen is None:
        if view.is_other:
            return "?", "no sidecar", "slow"
        return ("?", "no answer", "slow") if view.fault else ("?", "asking", "dim")
    if view.seen.healthy is None:
        return "?", "unknown", "slow"
    return ("+", "healthy", "good") if view.seen.healthy else ("x", "unhealthy", "bad")


def why(view: View) -> str:
    """The reason and the sentence of a sidecar that is not healthy, or why there was no answer."""
    if view.seen is None:
        return view.fault
    if view.seen.healthy is None:
        return "it has not probed its driver yet"
    return f"{view.seen.reason}: {view.seen.sentence}" if view.seen.reason else ""


# --- a line for each change


def told(before: View, after: View, now: float) -> Iterator[str]:
    """The lines about what has changed from one view of a sidecar to the next; `now` is in seconds since the epoch."""
    old, new = before.seen, after.seen
    if old is not None and new is not None and old.has_page and new.has_page:
        last = old.changes[0].at if old.changes else ""
        for change in reversed(new.changes):
            if change.at > last:
                what = f"unhealthy {change.reason}: {change.sentence}" if change.reason else "healthy"
                yield _line(change.at, after.url, what, change.driver)
        return
    if (state(before), why(before)) != (state(after), why(after)):
        _, word, _ = state(after)
        at = new.changes[0].at if new is not None and new.changes else _utc(now)
        yield _line(at, after.url, f"{word} {why(after)}".rstrip(), new.driver if new is not None else "")


def _line(at: str, url: str, what: str, driver: str) -> str:
    shown = printable(f"{what} ({driver})" if driver else what, SENTENCE_MAX)
    return f"{at} {url} {shown}"


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}Z"


# --- the terminal


class Frame(NamedTuple):
    """What a frame is drawn from."""

    views: Sequence[View]
    changes: Sequence[str]
    """Lines about changes, the newest last."""
    width: int
    height: int
    now: float
    """Seconds since the epoch."""
    unicode: bool = True


def draw(frame: Frame) -> list[Line]:
    """The lines of a frame: no wider than the terminal, and no more than it has."""
    lines = [line for view in frame.views for line in _sidecar(view, frame)]
    changes = frame.changes[-CHANGES_MAX:]
    if changes:
        lines += [Line(""), Line("Changes, the newest last:"), *(Line(f"  {each}") for each in changes)]
    lines = lines[: max(frame.height - 2, 1)]
    return [*(_cut(line, frame) for line in lines), _cut(Line("q or Ctrl-C ends", "dim"), frame)]


def _cut(line: Line, frame: Frame) -> Line:
    text = printable(line.text, max(frame.width - 1, 1))
    if not frame.unicode:
        text = text.encode("ascii", "replace").decode()
    return line._replace(text=text[: frame.width])


def _sidecar(view: View, frame: Frame) -> Iterator[Line]:
    sign, word, style = state(view)
    seen = view.seen
    since = f", for {_age(seen.since, frame.now)}" if seen is not None and seen.since else ""
    driver = f"  {seen.driver}" if seen is not None and seen.driver else ""
    yield Line(f"{sign} {word:<10}{view.url}{driver}{since}", style)
    if seen is not None and seen.probes:
        blocks = BLOCKS if frame.unicode else PLAIN_BLOCKS
        last = format_seconds(round(seen.probes[-1].seconds, 4))
        yield Line(
            f"  {spark(seen.probes[-PROBES_MAX:], seen.timeout, blocks)}  last {last} of {format_seconds(seen.timeout)}"
        )
    if text := why(view):
        yield from (Line(each) for each in _wrapped(text, frame.width))
    if seen is not None and (reason := next((each for each in Reason if each.value == seen.reason), None)):
        yield from (Line(each) for each in _wrapped(f"to do: {WAYS_OUT[reason]}", frame.width))
    for finding in seen.findings if seen is not None else ():
        yield from (Line(each, "slow") for each in _wrapped(f"! {finding}", frame.width))


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    wrapped = textwrap.wrap(printable(text, SENTENCE_MAX), max(width - 2, 10), max_lines=4, placeholder=" ...")
    return [f"  {line}" for line in wrapped]


def spark(probes: Sequence[Probe], timeout: float, blocks: str = BLOCKS) -> str:
    """A character for each probe: its part of the probe timeout as a level, `x` for a failed one."""

    def level(probe: Probe) -> str:
        part = probe.seconds / timeout if timeout > 0 else 1.0
        return "x" if probe.reason else blocks[min(int(part * len(blocks)), len(blocks) - 1)]

    return "".join(map(level, probes))


def _age(since: str, now: float) -> str:
    """How long ago a moment was; the two clocks may differ a little."""
    try:
        at = datetime.fromisoformat(since).timestamp()
    except ValueError:
        return "an unknown time"
    return format_seconds(float(max(0, round(now - at))))
