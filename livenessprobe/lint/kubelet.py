"""
The kubelet's arithmetic: from the numbers of a probe to the seconds until a container is killed.  Pure.

Source: Kubernetes, pkg/kubelet/prober/worker.go and pkg/kubelet/kuberuntime/kuberuntime_container.go.  A worker probes at the ticks
of a ticker that keeps one tick, so a probe that takes longer than the period is followed by the next at once: failed probes
start max(period, duration) apart.  The formulas hold if a probe of the healthy driver takes no longer than a failed one, or a
small part of the period.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MINIMUM_GRACE = 2
"""Seconds: the kubelet never gives a container less between SIGTERM and SIGKILL (minimumGracePeriodInSeconds)."""
POD_GRACE = 30
"""The default of a pod's terminationGracePeriodSeconds."""


class Range(NamedTuple):
    """From `least` to `most` seconds."""

    least: float
    most: float

    def capped(self, limit: float) -> Range:
        """The range with both ends at most `limit`."""
        return Range(min(self.least, limit), min(self.most, limit))


AT_ONCE = Range(0.0, 0.0)


class Timing(NamedTuple):
    """The numbers of a probe, with Kubernetes' defaults."""

    initial_delay: int = 0
    period: int = 10
    timeout: int = 1
    failure: int = 3
    success: int = 1
    grace: int | None = None
    """The probe's own terminationGracePeriodSeconds."""


class Failing(NamedTuple):
    """How a fault of the driver shows in the responses that a probe gets."""

    takes: Range
    """Seconds until one probe has failed, at most the probe's timeoutSeconds."""
    lag: Range = AT_ONCE
    """Seconds from the fault until the sidecar reports it."""
    hidden: tuple[int, int] = (0, 0)
    """Least and most number of failed probes that are still answered with success, by --failure-threshold."""


class TimeToKill(NamedTuple):
    """Seconds from a fault until the kubelet decides to kill the container, and until its process is gone."""

    in_flight: float
    """The least, if a probe was in flight when the fault came."""
    least: float
    """The least otherwise."""
    most: float
    gone: float
    """The most until the process is gone."""

    @property
    def whole(self) -> Range:
        """Every possible course of events."""
        return Range(self.in_flight, self.most)


def grace_period(timing: Timing, pod_grace: int, *, pre_stop: bool) -> int:
    """
    Seconds from the decision to kill until the process is gone, at most.

    The preStop hook runs within the grace period; after a hook that used all of it the container still has MINIMUM_GRACE.
    """
    grace = pod_grace if timing.grace is None else timing.grace
    return grace + MINIMUM_GRACE if pre_stop else max(grace, MINIMUM_GRACE)


def time_to_kill(timing: Timing, failing: Failing, grace: int) -> TimeToKill:
    """From a fault of a running driver to the end of its container, by a liveness probe or a startup probe that fails."""
    takes = failing.takes.capped(timing.timeout)
    fewest, most_probes = (timing.failure - 1 + hidden for hidden in failing.hidden)
    shortest, longest = max(timing.period, takes.least), max(timing.period, takes.most)
    in_flight = failing.lag.least + fewest * shortest
    most = failing.lag.most + most_probes * longest + takes.most + longest
    return TimeToKill(in_flight, in_flight + takes.least, most, most + grace)


def time_to_start(timing: Timing, takes: Range) -> Range:
    """
    Seconds that a container has, from its start until its first probes have failed too often.

    The kubelet keeps the time of the start in whole seconds, so a probe may come up to 1 s before initialDelaySeconds is over.
    """
    takes = takes.capped(timing.timeout)
    delay = max(0, timing.initial_delay - 1)
    least = delay + (timing.failure - 1) * max(timing.period, takes.least) + takes.least
    longest = max(timing.period, takes.most)
    return Range(least, timing.initial_delay + timing.period + (timing.failure - 1) * longest + takes.most)


def on_schedule(interval: float, failures: int, takes: float) -> Range:
    """
    Seconds from a fault until a sidecar that probes every `interval` seconds reports it, after `failures` failed probes.

    A probe that takes longer than the interval also takes the place of the probes that it overlaps.
    """
    step = max(1, math.ceil(takes / interval)) * interval
    return Range((failures - 1) * max(interval, takes), interval + (failures - 1) * step + takes)
