"""The types of valid settings: `Settings` has typed values, `Loaded` also the text and the source of each value."""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.driver.address import CSIAddress
from livenessprobe.klog.format import Options
from livenessprobe.settings.layers import FILE_KEYS, Layer
from livenessprobe.settings.listen_address import ListenAddress


class Thresholds(NamedTuple):
    """Results in a row until the report changes: failures to unhealthy, successes to healthy; 1 or more each."""

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
    """0: probe only on request."""
    thresholds: Thresholds
    pages: str
    """To whom pages are shown: `local`, `all` or `off`."""
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
    """Valid settings, and where they come from."""

    settings: Settings
    raw: Layer
    """Every key with its text and source."""
    warnings: tuple[str, ...] = ()
    file: str = ""
    """The path of the settings file, good or bad; empty if there is none."""
    file_error: str = ""
    """Why the file was ignored."""
    fingerprint: str = ""
    """Of the content of the file; empty if it could not be read."""


class InForce(NamedTuple):
    """The settings in force while the process runs, and what is wrong with their file."""

    loaded: Loaded
    fault: str = ""
    """Why the file was ignored when it was last read; empty if it was not."""
    pending: tuple[str, ...] = ()
    """Keys of the file that wait for a restart."""
