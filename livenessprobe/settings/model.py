"""The types of valid settings: `Settings` has typed values, `Loaded` also the text and the source of each value."""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe.driver.address import CSIAddress
from livenessprobe.klog.format import Options
from livenessprobe.settings import flags
from livenessprobe.settings.layers import FILE_KEYS, Layer, Raw
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.mistakes import Mistake


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
    """The separate listener of `--metrics-address`; None also if `--http-endpoint` is the same address."""
    metrics_on_http: bool
    """Whether the listener of `--http-endpoint` serves metrics too."""
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
    """Settings, where they come from, and what is wrong with them."""

    settings: Settings
    """Valid if there are no `mistakes`.  With mistakes they are good for the log and for looking up the listeners only."""
    raw: Layer
    """Every key with its text and source."""
    warnings: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    """Of flags and variables: the process cannot start with them."""
    file: str = ""
    """The path of the settings file, good or bad; empty if there is none."""
    in_file: Layer = {}  # noqa: RUF012  never changed
    """The keys of a good file with their texts and lines."""
    file_mistakes: tuple[Mistake, ...] = ()
    """Why the file was ignored; each `err` is a sentence that names the file."""
    fingerprint: str = ""
    """Of the content of the file; empty if it could not be read."""

    @property
    def is_strict(self) -> bool:
        """Whether --config-strict is given, and readable."""
        try:
            return bool(flags.BOOL.check(self.raw["config_strict"].text))
        except ValueError:
            return False

    @property
    def is_refused(self) -> bool:
        """Whether the process cannot start; a bad file alone is a reason only with --config-strict."""
        return bool(self.mistakes or (self.is_strict and self.file_mistakes))

    @property
    def all_mistakes(self) -> tuple[Mistake, ...]:
        """Those of flags and variables, then those of the file."""
        if not self.is_strict:
            return (*self.mistakes, *self.file_mistakes)
        return (*self.mistakes, *(each._replace(message="Settings file refused") for each in self.file_mistakes))

    @property
    def overridden(self) -> dict[str, Raw]:
        """What the file says for keys of which a flag or a variable is in force.  Such texts are not checked."""
        by = ("flag ", "variable ")
        return {key: raw for key, raw in self.in_file.items() if self.raw[key].source.startswith(by)}

    @property
    def file_error(self) -> str:
        """The sentences of `file_mistakes`, one a line."""
        return "\n".join(str(mistake.err) for mistake in self.file_mistakes)


class InForce(NamedTuple):
    """The settings in force while the process runs, and what is wrong with their file."""

    loaded: Loaded
    fault: str = ""
    """Why the file was ignored when it was last read; empty if it was not."""
    pending: tuple[str, ...] = ()
    """Keys of the file that wait for a restart."""
