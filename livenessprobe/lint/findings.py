"""The catalogue of findings: id, severity and title of each.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from livenessprobe.lint.nodes import Place

SEVERITIES = ("error", "warning", "info")
"""`error`: will break or mislead; `warning`: is likely to; `info`: advice."""
PAGE = "docs/lint.md"


class Rule(NamedTuple):
    """One kind of finding; the page has a section for each."""

    id: str
    severity: str
    title: str


_RULES = (
    Rule("LP001", "info", "Not judged"),
    Rule("LP002", "warning", "A key is given twice"),
    Rule("LP003", "info", "An ignored id is unknown or not needed"),
    Rule("LP004", "info", "The version is unknown"),
    Rule("LP005", "warning", "A value has the wrong type"),
    Rule("LP006", "info", "The swap does not replace the image"),
    Rule("LP101", "warning", "The kubelet gives up before the sidecar responds"),
    Rule("LP102", "error", "The probe asks a port where no sidecar listens"),
    Rule("LP103", "error", "The probe names a port that its container does not declare"),
    Rule("LP104", "error", "The probe cannot reach the address where the sidecar listens"),
    Rule("LP105", "error", "The liveness probe restarts the sidecar, not the driver"),
    Rule("LP106", "warning", "No liveness probe asks the sidecar"),
    Rule("LP107", "error", "The sidecar does not serve what the probe asks"),
    Rule("LP108", "info", "A driver that is not ready is restarted"),
    Rule("LP109", "warning", "The driver is killed while the sidecar restarts"),
    Rule("LP110", "error", "The driver is killed while it starts"),
    Rule("LP111", "error", "The probe succeeds whatever the driver does"),
    Rule("LP112", "warning", "The exec probe's container lacks the program"),
    Rule("LP113", "warning", "The limits are too small for an exec probe"),
    Rule("LP114", "error", "The health file is not shared"),
    Rule("LP115", "error", "Every probe fails"),
    Rule("LP201", "error", "The sidecar does not see the socket's folder"),
    Rule("LP202", "error", "Driver and sidecar see different files as the socket"),
    Rule("LP203", "warning", "The socket is mounted as a file"),
    Rule("LP204", "info", "The sidecar runs as another user than the driver"),
    Rule("LP205", "error", "The Go program cannot dial the address"),
    Rule("LP301", "error", "The sidecar does not know a flag"),
    Rule("LP302", "error", "The sidecar refuses a setting"),
    Rule("LP303", "error", "Two settings exclude each other"),
    Rule("LP304", "info", "A flag is deprecated or has no effect"),
    Rule("LP401", "warning", "The memory limit is too small"),
    Rule("LP501", "warning", "The settings file's ConfigMap may be misspelt"),
    Rule("LP502", "info", "The settings file's ConfigMap is not in the input"),
    Rule("LP503", "warning", "The settings file is never updated"),
    Rule("LP504", "warning", "The sidecar ignores its settings file"),
    Rule("LP601", "error", "Two sidecars listen on one port of the node"),
    Rule("LP602", "info", "No container declares the port of the metrics"),
    Rule("LP603", "warning", "The PodMonitor finds no sidecar"),
    Rule("LP701", "warning", "The address does not suit Windows"),
    Rule("LP702", "error", "A host process is not on the host's network"),
)
RULES: Mapping[str, Rule] = {rule.id: rule for rule in _RULES}


class Finding(NamedTuple):
    """Something in the manifest that a person should know."""

    id: str
    place: Place
    sentence: str
    severity: str
    owner: str = ""
    """Kind, namespace and name of the object."""
    container: str = ""

    @property
    def page(self) -> str:
        """The section about it."""
        return f"{PAGE}#{self.id.lower()}"


def at_least(severity: str, limit: str) -> bool:
    """Whether a severity is as grave as `limit`, or graver."""
    return SEVERITIES.index(severity) <= SEVERITIES.index(limit)
