"""
The table of all flags: name, type, default and usage text.  Pure.

Values read as Go's `flag` package and upstream's own types read them, measured (upstream v2.20); `command_line` has the grammar.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from livenessprobe.driver.methods import PROBE
from livenessprobe.gotext import parse_bool, parse_seconds, parse_uint, quote

Group = Literal["upstream", "old", "own"]


class Kind(NamedTuple):
    """A type of value: its name in Go's usage text, and the texts that it accepts."""

    placeholder: str
    check: Callable[[str], Any]
    """Returns the typed value, durations as seconds; raises ValueError with Go's reason."""
    expected: str = ""
    """A value of the type in a settings file, as a fault says it; empty if any text is accepted."""
    is_bool: bool = False

    @property
    def hint(self) -> str:
        """What to write instead of a refused value, to be put behind the reason; empty if the reason says it."""
        return f"; write {self.expected.replace(' as text', '')}" if self.expected else ""


class Flag(NamedTuple):
    """One row of the table.  `default` is text, as it would be given."""

    name: str
    kind: Kind
    default: str
    usage: str
    group: Group = "upstream"

    @property
    def key(self) -> str:
        """The flag's name as a setting: `--probe-timeout` is `probe_timeout`."""
        return self.name.replace("-", "_")


def _plain_bool(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError("parse error") from None


def _size(text: str) -> int:
    try:
        return parse_uint(text, 64)
    except ValueError as error:
        raise ValueError("value out of range" if "range" in str(error) else "parse error") from None


def parse_vmodule(text: str) -> tuple[tuple[str, int], ...]:
    """`pattern=N,…` as (pattern, level) pairs; empty items are skipped (component-base, VModuleConfiguration.Set)."""
    pairs = []
    for item in filter(None, text.split(",")):
        pattern, *levels = item.split("=")
        if not pattern or len(levels) != 1 or not levels[0]:
            raise ValueError(f"{quote(item)} does not have the pattern=N format")
        try:
            pairs.append((pattern, parse_uint(levels[0], 31)))
        except ValueError as error:
            raise ValueError(f"parsing verbosity in {quote(item)}: {error}") from None
    return tuple(pairs)


_QUANTITY = re.compile(r"([+-]?)([0-9]*\.?[0-9]*)([eEinumkKMGTP]*[-+]?[0-9]*)")
_QUANTITY_SUFFIX = re.compile(r"(|[numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)")
_QUANTITY_PATTERN = "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _quantity(text: str) -> bool:
    """Whether a Kubernetes quantity differs from zero; only zero is allowed, so the amount does not matter."""
    match = _QUANTITY.fullmatch(text)
    if match is None or not match[2].strip("."):
        raise ValueError(f"quantities must match the regular expression {_QUANTITY_PATTERN}")
    if not _QUANTITY_SUFFIX.fullmatch(match[3]):
        raise ValueError("unable to parse quantity's suffix")
    return match[2].strip("0.") != ""


def _count(text: str) -> int:
    count = parse_uint(text, 31)
    if count < 1:
        raise ValueError("it must be 1 or more")
    return count


SEVERITIES = ("INFO", "WARNING", "ERROR", "FATAL")


def _threshold(text: str) -> int:
    if text.upper() in SEVERITIES:
        return SEVERITIES.index(text.upper())
    if re.fullmatch(r"[+-]?[0-9]{1,10}", text) and -(1 << 31) <= int(text) < 1 << 31:
        return int(text)
    raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")


def _backtrace(text: str) -> str:
    if text and not re.fullmatch(r"[^:]+\.go:0*[1-9][0-9]*", text):
        raise ValueError("syntax error: expect file.go:234")
    return text


PAGES = ("local", "all", "off")


def _pages(text: str) -> str:
    if text not in PAGES:
        raise ValueError(f"it must be {', '.join(PAGES[:-1])} or {PAGES[-1]}")
    return text


STRING = Kind("string", str)
PAGES_TO = Kind("string", _pages, '"local", "all" or "off"')
DURATION = Kind("duration", parse_seconds, 'a duration as text, such as "1m30s"')
OPTIONAL_DURATION = Kind("duration", lambda text: parse_seconds(text) if text else None, DURATION.expected)
BOOL = Kind("", _plain_bool, "true or false", is_bool=True)
AUTOMAXPROCS = Kind("", lambda text: text == "" or parse_bool(text), BOOL.expected, is_bool=True)
VERBOSITY = Kind("value", functools.partial(parse_uint, bits=31), "a whole number, such as 5")
VMODULE = Kind("value", parse_vmodule, 'a list such as ["prober=5"]')
QUANTITY = Kind("value", _quantity, "0")
THRESHOLD = Kind("value", _threshold, "INFO, WARNING, ERROR, FATAL or a whole number")
BACKTRACE = Kind("value", _backtrace)
SIZE = Kind("uint", _size, "a whole number, such as 1800")
COUNT = Kind("count", _count, "a whole number, such as 3")

_BUFFER_SIZE = (
    "the info messages can be buffered for a while to increase performance. The default value of zero bytes disables "
    "buffering. The size can be specified as number of bytes (512), multiples of 1000 (1K), multiples of 1024 (2Ki), or "
    "powers of those (3M, 4G, 5Mi, 6Gi). Enable the LoggingAlphaOptions feature gate to use this."
)
_SPLIT_STREAM = (
    "write error messages to stderr and info messages to stdout. The default is to write a single stream to stdout. "
    "Enable the LoggingAlphaOptions feature gate to use this."
)

_old = functools.partial(Flag, group="old")
_own = functools.partial(Flag, group="own")

# The usage texts of the upstream group are exactly upstream's, since people diff the output of --help.
FLAGS: tuple[Flag, ...] = (
    Flag("automaxprocs", AUTOMAXPROCS, "false", "automatically set GOMAXPROCS to match Linux container CPU quota"),
    Flag("csi-address", STRING, "/run/csi/socket", "Address of the CSI driver socket."),
    Flag(
        "health-port",
        STRING,
        "9808",
        "(deprecated) TCP ports for listening healthz requests. The default is `9808`. If set, `--http-endpoint` cannot "
        "be set.",
    ),
    Flag(
        "http-endpoint",
        STRING,
        "",
        "The TCP network address where the HTTP server for diagnostics, including CSI driver health check and metrics. "
        "The default is empty string, which means the server is disabled. If set, `--health-port` and "
        "`--metrics-address` cannot be explicitly set.",
    ),
    Flag("log-flush-frequency", DURATION, "5s", "Maximum number of seconds between log flushes"),
    Flag("log-json-info-buffer-size", QUANTITY, "0", f"[Alpha] In JSON format with split output streams, {_BUFFER_SIZE}"),
    Flag("log-json-split-stream", BOOL, "false", f"[Alpha] In JSON format, {_SPLIT_STREAM}"),
    Flag("log-text-info-buffer-size", QUANTITY, "0", f"[Alpha] In text format with split output streams, {_BUFFER_SIZE}"),
    Flag("log-text-split-stream", BOOL, "false", f"[Alpha] In text format, {_SPLIT_STREAM}"),
    Flag(
        "logging-format",
        STRING,
        "text",
        'Sets the log format. Permitted formats: "json" (gated by LoggingBetaOptions), "text".',
    ),
    Flag(
        "metrics-address",
        STRING,
        "",
        "(deprecated) The TCP network address where the prometheus metrics endpoint will listen (example: `:8080`). The "
        "default is empty string, which means metrics endpoint is disabled. If set, `--http-endpoint` cannot be set, and "
        "the address cannot resolve to localhost + the port from `--health-port`.",
    ),
    Flag(
        "metrics-path", STRING, "/metrics", "The HTTP path where prometheus metrics will be exposed. Default is `/metrics`."
    ),
    Flag("probe-timeout", DURATION, "3s", "Probe timeout in seconds."),
    Flag("v", VERBOSITY, "0", "number for the log level verbosity"),
    Flag(
        "vmodule",
        VMODULE,
        "",
        "comma-separated list of pattern=N settings for file-filtered logging (only works for text log format)",
    ),
    _old("add_dir_header", BOOL, "false", "If true, adds the file directory to the header of the log messages"),
    _old("alsologtostderr", BOOL, "false", "log to standard error as well as files (no effect when -logtostderr=true)"),
    _old("connection-timeout", STRING, "", "This option is deprecated."),
    _old("log_backtrace_at", BACKTRACE, "", "when logging hits line file:N, emit a stack trace"),
    _old("log_dir", STRING, "", "If non-empty, write log files in this directory (no effect when -logtostderr=true)"),
    _old("log_file", STRING, "", "If non-empty, use this log file (no effect when -logtostderr=true)"),
    _old(
        "log_file_max_size",
        SIZE,
        "1800",
        "Defines the maximum size a log file can grow to (no effect when -logtostderr=true). Unit is megabytes. If the "
        "value is 0, the maximum file size is unlimited.",
    ),
    _old("logtostderr", BOOL, "true", "log to standard error instead of files"),
    _old(
        "one_output",
        BOOL,
        "false",
        "If true, only write logs to their native severity level (vs also writing to each lower severity level; no "
        "effect when -logtostderr=true)",
    ),
    _old("skip_headers", BOOL, "false", "If true, avoid header prefixes in the log messages"),
    _old(
        "skip_log_headers", BOOL, "false", "If true, avoid headers when opening log files (no effect when -logtostderr=true)"
    ),
    _old(
        "stderrthreshold",
        THRESHOLD,
        "2",
        "logs at or above this threshold go to stderr when writing to files and stderr (no effect when -logtostderr=true "
        "or -alsologtostderr=true)",
    ),
    _own(
        "config",
        STRING,
        "",
        "TOML `file` of settings. Flags and LIVENESSPROBE_ variables win over it. Default: "
        "/etc/livenessprobe/settings.toml, if it exists.",
    ),
    _own("config-poll-interval", DURATION, "5s", "How often the settings file is checked for changes. 0s: only on SIGHUP."),
    _own("config-strict", BOOL, "false", "Refuse to start with a bad settings file instead of ignoring it."),
    _own(
        "connection-reuse",
        DURATION,
        "1s",
        "How long one connection to the driver may serve probes. 0s: each probe has its own connection.",
    ),
    _own(
        "exit-on-failure",
        BOOL,
        "false",
        "Exit with code 3 after --failure-threshold failures in a row. This restarts the sidecar, not the driver.",
    ),
    _own("failure-threshold", COUNT, "1", "Failures in a row until the driver is reported as unhealthy."),
    _own("health-file", STRING, "", "A `file` that exists while the driver is healthy, for exec probes. Default: none."),
    _own(
        "health-service",
        STRING,
        "",
        "The service that --probe-path=/grpc.health.v1.Health/Check asks about. Default: the server as a whole.",
    ),
    _own("http-idle-timeout", DURATION, "75s", "How long an HTTP connection may be open without a complete request."),
    _own(
        "http-max-connections",
        COUNT,
        "100",
        "How many HTTP connections may be open on a listener; never more than half of the spare file descriptors. Above it "
        "the connections longest without a complete request are closed.",
    ),
    _own(
        "http-max-header-bytes",
        COUNT,
        "16384",
        "How long the first line and the headers of an HTTP request may be together.",
    ),
    _own(
        "interval",
        DURATION,
        "0s",
        "Time between probes on a schedule; /healthz then reports the last result. 0s: probe when /healthz is requested.",
    ),
    _own(
        "pages",
        PAGES_TO,
        "local",
        "To whom /statusz and /flagz are shown: `local`, clients on a loopback address or a unix socket; all; or off, nobody.",
    ),
    _own(
        "probe-path",
        STRING,
        PROBE,
        "The gRPC `method` that a probe calls. Methods other than CSI's Probe and gRPC's health check are healthy if they succeed.",
    ),
    _own("success-threshold", COUNT, "1", "Successes in a row until the driver is reported as healthy again."),
    _own(
        "termination-log",
        STRING,
        "/dev/termination-log",
        "The `file` where the process leaves one line for the kubelet: why it ended. A missing file is not created.",
    ),
    _own(
        "unreachable-grace",
        OPTIONAL_DURATION,
        "",
        "How long a probe keeps dialling a driver that cannot be reached. 0s: fail at once. Default: the probe timeout.",
    ),
    _own("version", BOOL, "false", "Print the version of this program and the upstream version it matches, then exit."),
)

BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}

LONGHORN: Mapping[str, str] = {"endpoint": "csi-address", "timeout": "probe-timeout", "retries": "failure-threshold"}
"""Flags of Longhorn's image, and the flags of the same meaning here."""


def find(name: str) -> Flag | None:
    """The flag called `name` here or in Longhorn's image."""
    return BY_NAME.get(LONGHORN.get(name, name))
