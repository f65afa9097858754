"""
The clients that ask for health, how often, and how long each waits; for the pages, never for labels of metrics.

Pure: times are seconds of any monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

ASKERS_MAX = 8
"""How many are kept: each client chooses its user agent."""
AGENT_MAX = 64
"""Bytes of a user agent that are kept."""
PATH_MAX = 16
"""Characters of a path that are kept; each path of health is shorter."""
FORGET_SECONDS = 600.0
"""Seconds; an asker that was not seen for longer is the first to be dropped."""
KUBELET = "kube-probe/"
"""The user agent of a kubelet's probe begins so."""
FAILURE_THRESHOLD = 3
"""Kubernetes' default of a probe's failureThreshold; the sidecar cannot see the pod's own."""
_SMOOTHING = 0.3
"""Weight of the last pause between two requests in `Asker.period`."""

Client = tuple[str, str, str]
"""Address (empty on a unix socket), user agent and path of a request."""


@dataclass(eq=False, slots=True)
class Asker:
    """All requests of one class of address, one user agent and one path."""

    place: str
    """The class of the address: `unix socket`, `loopback`, `link-local`, `private` or `public`."""
    agent: str
    """As the bytes came, each as one character."""
    path: str
    first: float
    last: float
    requests: int = 0
    period: float = 0.0
    """Seconds between two requests, smoothed; 0 after the first."""
    hang_ups: int = 0
    failed: int = 0
    """How many requests in a row ended with a failure, up to the last one; a hang-up is one, as for a kubelet."""
    longest: float = 0.0
    """The longest wait in seconds."""
    left: bool = False
    """Whether that wait ended with a hang-up: then the client's timeout is as long."""

    @property
    def is_kubelet(self) -> bool:
        """Whether the user agent is that of a kubelet."""
        return self.agent.startswith(KUBELET)

    def answered(self, seconds: float, *, good: bool) -> None:
        """A request has its response after `seconds`."""
        self.failed = 0 if good else self.failed + 1
        self._waited(seconds, left=False)

    def hung_up(self, seconds: float) -> None:
        """The client of a request has hung up after `seconds`."""
        self.hang_ups += 1
        self.failed += 1
        self._waited(seconds, left=True)

    def _waited(self, seconds: float, *, left: bool) -> None:
        if seconds >= self.longest:
            self.longest, self.left = seconds, left


class Restart(NamedTuple):
    """When a kubelet restarts the driver, as far as its requests show."""

    failed: int
    """Failed requests of the kubelet in a row."""
    period: float
    """Seconds between its requests; 0 if unknown."""
    seconds: float | None
    """Until it has had FAILURE_THRESHOLD failures; None if the period is unknown or there was no failure."""


class Askers:
    """The ASKERS_MAX askers that matter most: those seen lately; among them kubelets, then those with most requests."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], Asker] = {}
        self.dropped_requests = 0
        """Requests of askers that had to make place."""

    def came(self, client: Client, now: float) -> Asker:
        """A request of `client` has come; returns its asker, which is to be told how the request ends."""
        address, agent, path = client
        key = (place_of(address), agent[:AGENT_MAX], path[:PATH_MAX])
        asker = self.known.get(key)
        if asker is None:
            if len(self.known) >= ASKERS_MAX:
                self._drop(now)
            asker = self.known[key] = Asker(*key, first=now, last=now)
        elif asker.requests == 1:
            asker.period = now - asker.last
        else:
            asker.period += _SMOOTHING * (now - asker.last - asker.period)
        asker.requests += 1
        asker.last = now
        return asker

    def _drop(self, now: float) -> None:
        """Drop the asker that was not seen for longest, if it is long ago; else the asker of least weight."""
        dropped = min(self.known.values(), key=lambda each: each.last)
        if now - dropped.last <= FORGET_SECONDS:
            dropped = min(self.known.values(), key=lambda each: (each.is_kubelet, each.requests, each.last))
        del self.known[dropped.place, dropped.agent, dropped.path]
        self.dropped_requests += dropped.requests

    def restart(self, now: float) -> Restart | None:
        """The restart that is nearest: of the kubelet with most failures in a row; None if no kubelet has asked."""
        # A readiness probe restarts nothing.
        kubelets = [each for each in self.known.values() if each.is_kubelet and each.path != "/readyz"]
        if not kubelets:
            return None
        kubelet = max(kubelets, key=lambda each: (each.failed, each.last))
        seconds = None
        if kubelet.failed and kubelet.period:
            missing = FAILURE_THRESHOLD - kubelet.failed
            seconds = max(0.0, kubelet.last + missing * kubelet.period - now) if missing > 0 else 0.0
        return Restart(kubelet.failed, kubelet.period, seconds)


@lru_cache(maxsize=64)
def place_of(address: str) -> str:
    """The class of an IP `address`; the empty address is that of a client on a unix socket."""
    if not address:
        return "unix socket"
    ip = parse_ip(address)
    if ip is None:
        return "unknown"
    for place, belongs in (("loopback", ip.is_loopback), ("link-local", ip.is_link_local), ("private", ip.is_private)):
        if belongs:
            return place
    return "public"


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The IP address in `text`, as IPv4 if it is such an address in the form of IPv6; None if it is none."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
