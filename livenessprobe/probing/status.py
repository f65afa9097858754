"""
Everything that the pages show, as one value; gathered from objects that know it already.

Nothing here asks the driver or opens a file.  Text of clients and drivers is cut, and characters that are not printable are
escaped, so that no format of a page has to expect them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import NamedTuple

from livenessprobe import UPSTREAM_VERSION, __version__
from livenessprobe.driver.result import Reason
from livenessprobe.gotext import format_seconds, printable
from livenessprobe.probing import askers, history
from livenessprobe.probing.advice import IMPATIENT_KUBELET, NOBODY_ASKS_SECONDS, nobody_asks
from livenessprobe.probing.callers import Callers
from livenessprobe.probing.history import SENTENCE_MAX, History
from livenessprobe.probing.prober import Prober
from livenessprobe.settings import describe
from livenessprobe.settings.flags import BY_NAME, FLAGS
from livenessprobe.settings.layers import KEYS
from livenessprobe.settings.model import InForce, Loaded, Settings

ADDRESS_MAX = 200
"""Characters of an address or the value of a setting that are shown."""
SLOW = 0.5
"""A probe that took more than this part of the probe timeout is slow."""


class Moment(NamedTuple):
    """A moment of the monotonic clock, as people read it."""

    utc: float
    """Seconds since the epoch, as far as the clock is right now."""
    age: float
    """Seconds from then until now."""


class Now(NamedTuple):
    """The two clocks, read together."""

    monotonic: float
    utc: float

    def moment(self, at: float) -> Moment:
        """What the monotonic clock showed as `at`."""
        age = self.monotonic - at
        return Moment(self.utc - age, age)


class Program(NamedTuple):
    """The sidecar itself."""

    started: Moment
    python: str
    version: str
    upstream: str
    paths: tuple[str, ...]
    """The paths of the listener that was asked."""


class Driver(NamedTuple):
    """The driver as it was last reached."""

    name: str
    address: str
    socket: str
    """The path of its socket; empty for TCP."""
    since: Moment | None
    """When it told this name."""


class Report(NamedTuple):
    """What is reported of the driver, thresholds applied."""

    healthy: bool | None
    """None before the first probe has ended."""
    reason: str
    """Empty if it is healthy."""
    sentence: str
    since: Moment | None
    """Since when it is reported as healthy, or as unhealthy; reasons may have changed since."""
    failures: int
    """Probes that failed in a row, up to the last one."""
    failure_threshold: int
    success_threshold: int


class Restart(NamedTuple):
    """When a kubelet restarts the driver, estimated from its requests."""

    failed: int
    """Its requests in a row that failed."""
    threshold: int
    """The failureThreshold that is assumed."""
    period: float
    """Seconds between its requests; 0 if unknown."""
    seconds: float | None
    """Seconds until then; None if it is not to be expected, or the period is unknown."""


class Timing(NamedTuple):
    """Seconds."""

    probe_timeout: float
    last: float | None
    """How long the last probe took."""
    slowest: float | None
    """How long the slowest of the kept probes took."""
    headroom: float | None
    """What the slowest one left of the probe timeout."""
    kubelet_timeout: float
    """The shortest timeout of a kubelet that hung up early; 0 if none did."""


class Probe(NamedTuple):
    """One of the last probes."""

    started: Moment
    seconds: float
    reason: str
    """Empty if it found the driver ready."""
    callers: int
    slow: bool


class Change(NamedTuple):
    """One of the last changes of what is reported."""

    at: Moment
    lasted: float
    """Seconds until the next change, or until now."""
    reason: str
    """Empty if the driver became healthy."""
    sentence: str
    driver: str


class Caller(NamedTuple):
    """A client that asks for health."""

    place: str
    agent: str
    path: str
    requests: int
    period: float
    last: Moment
    longest: float
    """Its longest wait in seconds."""
    timeout: bool
    """Whether that wait ended with a hang-up, so that it is the timeout of the caller."""
    hang_ups: int
    failed: int


class Setting(NamedTuple):
    """One setting; `value` as a flag has it."""

    name: str
    value: str
    source: str


class Overridden(NamedTuple):
    """A value of the settings file without effect."""

    name: str
    value: str
    source: str
    """The file, the line and the key."""
    by: str
    """The flag or variable that wins."""


class Status(NamedTuple):
    """What a page shows."""

    at: float
    """When this was gathered, in seconds since the epoch."""
    program: Program
    report: Report
    driver: Driver
    restart: Restart | None
    """None if no kubelet has asked."""
    timing: Timing
    findings: tuple[str, ...]
    """What looks wrong, each with the way out."""
    changes: tuple[Change, ...]
    """The newest first."""
    probes: tuple[Probe, ...]
    """The oldest first."""
    probes_total: int
    """Since the history begins."""
    history_begins: Moment
    callers: tuple[Caller, ...]
    """Those with most requests first."""
    other_requests: int
    """Requests of callers that are not shown."""
    changed_settings: tuple[Setting, ...]
    """Settings whose value is not the default."""
    overridden: tuple[Overridden, ...]
    flags: tuple[Setting, ...]
    """All flags, sorted by name."""


class Process(NamedTuple):
    """The process, as it was at its start."""

    started: float
    """When that was, by the monotonic clock."""
    host_network: bool | None = None
    """Whether its network is the node's; None if that is not known."""


def gather(
    prober: Prober, callers: Callers, in_force: InForce, process: Process, paths: tuple[str, ...], now: Now
) -> Status:
    """The status at the moment `now`; `paths` are those of the listener that was asked."""
    started = process.started
    kept, settings = prober.history, prober.settings
    timing = _timing(kept, settings, callers.kubelet_timeout)
    flags = tuple(_flags(in_force.loaded))
    shown = sorted(callers.askers.known.values(), key=lambda each: -each.requests)
    program = Program(now.moment(started), platform.python_version(), __version__, UPSTREAM_VERSION, paths)
    return Status(
        at=now.utc,
        program=program,
        report=_report(prober, now),
        driver=_driver(prober, now),
        restart=_restart(callers, now),
        timing=timing,
        findings=(
            *_faults(in_force),
            *_unasked(callers, settings, process, program.started.age),
            *_impatience(timing),
            *_held_back(kept, now),
        ),
        changes=tuple(_changes(kept, now)),
        probes=tuple(_probe(probe, settings.probe_timeout, now) for probe in kept.probes),
        probes_total=kept.probes_total,
        history_begins=now.moment(started),
        callers=tuple(_caller(asker, now) for asker in shown),
        other_requests=callers.askers.dropped_requests,
        changed_settings=tuple(_changed(in_force.loaded, flags)),
        overridden=tuple(_overridden(in_force.loaded)),
        flags=flags,
    )


def _word(reason: Reason | None) -> str:
    return "" if reason is None else reason.value


def _report(prober: Prober, now: Now) -> Report:
    ready, thresholds = prober.standing.ready, prober.settings.thresholds
    failures = ready.failures
    if ready.report is None:
        return Report(None, "", "", None, failures, *thresholds)
    sentence = printable(ready.report.body, SENTENCE_MAX)
    since = now.moment(prober.history.side_since)
    return Report(ready.report.ready, _word(ready.report.reason), sentence, since, failures, *thresholds)


def _driver(prober: Prober, now: Now) -> Driver:
    address, name = prober.settings.csi_address, prober.driver_name
    socket = {"tcp": "", "abstract": f"@{address.name}"}.get(address.network, address.name)
    since = None if name.since is None else now.moment(name.since)
    return Driver(
        printable(name.text, ADDRESS_MAX), printable(address.text, ADDRESS_MAX), printable(socket, ADDRESS_MAX), since
    )


def _restart(callers: Callers, now: Now) -> Restart | None:
    found = callers.askers.restart(now.monotonic)
    return None if found is None else Restart(found.failed, askers.FAILURE_THRESHOLD, found.period, found.seconds)


def _timing(kept: History, settings: Settings, kubelet_timeout: float) -> Timing:
    if not kept.probes:
        return Timing(settings.probe_timeout, None, None, None, kubelet_timeout)
    slowest = max(probe.seconds for probe in kept.probes)
    headroom = max(0.0, settings.probe_timeout - slowest)
    return Timing(settings.probe_timeout, kept.probes[-1].seconds, slowest, headroom, kubelet_timeout)


def _probe(probe: history.Probe, timeout: float, now: Now) -> Probe:
    slow = probe.reason is None and probe.seconds > timeout * SLOW
    return Probe(now.moment(probe.started), probe.seconds, _word(probe.reason), probe.callers, slow)


def _changes(kept: History, now: Now) -> Iterator[Change]:
    until = now.monotonic
    for change in reversed(kept.changes):
        sentence = printable(change.sentence, SENTENCE_MAX)
        driver = printable(change.driver, ADDRESS_MAX)
        yield Change(now.moment(change.at), until - change.at, _word(change.reason), sentence, driver)
        until = change.at


def _caller(asker: askers.Asker, now: Now) -> Caller:
    agent = printable(asker.agent.encode("latin-1", "replace").decode(errors="surrogateescape"), askers.AGENT_MAX)
    return Caller(
        place=asker.place,
        agent=agent,
        path=printable(asker.path, askers.PATH_MAX),
        requests=asker.requests,
        period=asker.period,
        last=now.moment(asker.last),
        longest=asker.longest,
        timeout=asker.left,
        hang_ups=asker.hang_ups,
        failed=asker.failed,
    )


def _flags(loaded: Loaded) -> Iterator[Setting]:
    values = describe.values(loaded)
    for flag in sorted(FLAGS, key=lambda flag: flag.name):
        if flag.key in KEYS:
            text, source = describe.as_text(values[flag.key]), loaded.raw[flag.key].source
            yield Setting(flag.name, printable(text, ADDRESS_MAX), printable(source, ADDRESS_MAX))
        else:
            yield Setting(flag.name, flag.default, "default")


def _changed(loaded: Loaded, flags: tuple[Setting, ...]) -> Iterator[Setting]:
    """Those of `flags` whose value is not the default."""
    for setting in flags:
        flag = BY_NAME[setting.name]
        if flag.key in KEYS and flag.kind.check(loaded.raw[flag.key].text) != flag.kind.check(flag.default):
            yield setting


def _overridden(loaded: Loaded) -> Iterator[Overridden]:
    for key, raw in loaded.overridden.items():
        texts = (KEYS[key].name, raw.text, raw.source, loaded.raw[key].source)
        yield Overridden(*(printable(text, ADDRESS_MAX) for text in texts))


def _faults(in_force: InForce) -> Iterator[str]:
    if in_force.fault:
        yield printable(f"The settings file is ignored: {in_force.fault}", SENTENCE_MAX)
    if in_force.pending:
        yield f"Settings of the file wait for a restart of this container: {', '.join(in_force.pending)}"
    yield from (printable(f"Without effect: {warning}", SENTENCE_MAX) for warning in in_force.loaded.warnings)


def _impatience(timing: Timing) -> Iterator[str]:
    if 0 < timing.kubelet_timeout < timing.probe_timeout:
        waits = f"after {format_seconds(round(timing.kubelet_timeout, 1))} of {format_seconds(timing.probe_timeout)}"
        yield f"{IMPATIENT_KUBELET.what} ({waits}): {IMPATIENT_KUBELET.way_out}"


def _held_back(kept: History, now: Now) -> Iterator[str]:
    if (held := kept.held_back) is not None:
        probes = "1 probe was" if kept.repeated_total == 1 else f"{kept.repeated_total} probes were"
        ago = format_seconds(round(now.monotonic - kept.repeated_at))
        yield f"{probes} made again as the sidecar was held back, the last one {ago} ago ({held.what}): {held.way_out}"


def _unasked(callers: Callers, settings: Settings, process: Process, up: float) -> Iterator[str]:
    if up > NOBODY_ASKS_SECONDS and not callers.askers.known and not settings.health_file:
        yield printable(str(nobody_asks(settings, host_network=process.host_network)), SENTENCE_MAX)
