"""What the settings are once they are checked: `Settings`, and `Loaded` with their sources."""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.driver.address import CSIAddress
from livenessprobe.klog.format import Options
from livenessprobe.settings.layers import FILE_KEYS, Layer
from livenessprobe.settings.listen_address import ListenAddress


class Thresholds(NamedTuple):
    """How many results of a kind in a row it takes to report that kind; 1 or more each."""

    failure: int = 1
    success: int = 1


LIVE_KEYS = (
    "config_poll_interval",
    "connection_reuse",
    "failure_threshold",
    "interval",
    "logging_format",
    "probe_timeout",
    "success_threshold",
    "unreachable_grace",
    "v",
    "vmodule",
)
"""Keys that a running process takes from a changed file: an operator may need them during an incident."""
RESTART_KEYS = tuple(key for key in FILE_KEYS if key not in LIVE_KEYS)
"""Keys that keep their value until the next start."""


class Settings(NamedTuple):
    """All settings, valid.  Times are seconds."""

    csi_address: CSIAddress
    http: ListenAddress
    """`--http-endpoint`, or 0.0.0.0 with `--health-port`."""
    metrics: ListenAddress | None
    """The separate listener of `--metrics-address`."""
    metrics_on_http: bool
    metrics_path: str
    probe_timeout: float
    """Zero or less: every probe fails at once, as in upstream."""
    unreachable_grace: float
    """At most the probe timeout."""
    connection_reuse: float
    automaxprocs: bool
    config_poll_interval: float
    """0: never."""
    interval: float
    """0: no probes but those that requests ask for."""
    thresholds: Thresholds
    probe_path: str
    health_service: str
    health_file: str
    exit_on_failure: bool
    termination_log: str
    http_idle_timeout: float
    http_max_connections: int
    http_max_header_bytes: int
    log: Options


class Loaded(NamedTuple):
    """What `load` found out."""

    settings: Settings
    raw: Layer
    """Every key with its text and source."""
    warnings: tuple[str, ...] = ()
    file: str = ""
    """The settings file in use, or that would be if it were good; empty if there is none."""
    file_error: str = ""
    """Why the file was passed over."""
    fingerprint: str = ""
    """That of the file's content, as far as it could be read."""
