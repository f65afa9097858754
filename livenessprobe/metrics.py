"""
The metrics, and their text as the Prometheus client library for Go writes it.

prometheus_client keeps the numbers.  Its text differs from Go's in the spelling of `le`, the place of that label, `_created`
series and the order of series, so the text is written here; and so are the headers, which name the form of that text.
"""

from __future__ import annotations

import functools
import gzip
import re
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from livenessprobe import UPSTREAM_VERSION, __version__
from livenessprobe.driver.result import Reason
from livenessprobe.gotext import accept_clauses, format_float
from livenessprobe.process.start_time import process_start_time
from livenessprobe.process.starvation import Cause

UNKNOWN_DRIVER = "unknown-driver"
OTHER_DRIVER = "other-driver"
"""The label of names beyond NAMES_MAX: each name adds series that are never removed."""
NAMES_MAX = 8
# csi-lib-utils metrics.go, operationsLatencyBuckets.
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)


class Exposition(NamedTuple):
    """A response of /metrics."""

    body: bytes
    headers: dict[str, str]


class Metrics:
    """One registry, with a method or an attribute for each event that is measured."""

    def __init__(self, process_start: float | None = None) -> None:
        self._registry = CollectorRegistry()
        self._driver_name = UNKNOWN_DRIVER
        self._names: set[str] = set()
        self._process_start = process_start_time() if process_start is None else process_start
        self._operations = Histogram(
            "csi_sidecar_operations_seconds",
            "[ALPHA] Container Storage Interface operation duration with gRPC error code status total",
            ("driver_name", "grpc_status_code", "method_name"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        gauge = functools.partial(Gauge, registry=self._registry)
        counter = functools.partial(Counter, registry=self._registry)
        gauge("process_start_time_seconds", "[ALPHA] Start time of the process since unix epoch in seconds.").set(
            self._process_start
        )
        self.driver_up = gauge(
            "livenessprobe_driver_up", "Whether the last probe found the driver ready (1) or not (0); NaN before the first."
        )
        self.driver_up.set(float("nan"))
        self._reasons = gauge(
            "livenessprobe_unhealthy_reason",
            "Whether the last probe found the driver not ready for this reason (1) or not (0).",
            ("reason",),
        )
        for reason in Reason:
            self._reasons.labels(reason.value)
        self._reason: Reason | None = None
        self._driver_info = gauge(
            "livenessprobe_driver_info", "The driver's name, as the label of a constant 1.", ("driver_name",)
        )
        self._driver_info.labels(self._driver_name).set(1)
        self._healthy = gauge(
            "livenessprobe_healthy", "What is reported of the driver: healthy (1) or not (0); NaN before the first probe."
        )
        self._healthy.set(float("nan"))
        self._was_healthy: bool | None = None
        self._changes = counter(
            "livenessprobe_health_changes",
            "How often what is reported of the driver has changed, by what it became.",
            ("to",),
        )
        for to in ("healthy", "unhealthy"):
            self._changes.labels(to)
        self._failures = counter(
            "livenessprobe_probe_failures", "Probes that found the driver not ready, by reason.", ("reason",)
        )
        for reason in Reason:  # so that a rate sees the first failure of each kind
            self._failures.labels(reason.value)
        self._last_success = gauge(
            "livenessprobe_last_success_timestamp_seconds", "When a probe last found the driver ready, 0 for never."
        )
        self._last_duration = gauge("livenessprobe_last_probe_duration_seconds", "How long the last probe took.")
        self.probe_timeout = gauge(
            "livenessprobe_probe_timeout_seconds", "The probe timeout in force, to compare the last duration with."
        )
        self._last_request = gauge(
            "livenessprobe_last_request_timestamp_seconds",
            "When health was last requested; until then, when the process started.",
        )
        self._last_request.set(self._process_start)
        self._responses = counter("livenessprobe_http_responses", "HTTP responses, by status code.", ("code",))
        self.shared = counter("livenessprobe_shared_probes", "Health requests that joined a Probe in flight.")
        self._repeated = counter(
            "livenessprobe_repeated_probes",
            "Probes made again because this process itself was held back until their time ran out, by cause.",
            ("cause",),
        )
        for cause in Cause:
            self._repeated.labels(cause.value)
        self.callers_gone = counter(
            "livenessprobe_callers_gone", "Health requests whose client hung up before the response."
        )
        self.connections_closed = counter(
            "livenessprobe_http_connections_closed", "HTTP connections closed because there were too many."
        )
        self.kubelet_patience = gauge(
            "livenessprobe_kubelet_patience_seconds",
            "Shortest observed timeout of a kubelet that hangs up before the probe timeout; 0 if none did.",
        )
        self.connections = counter("livenessprobe_driver_connections", "Connections dialled to the driver.")
        self.log_records_dropped = gauge(
            "livenessprobe_log_records_dropped", "Log records dropped since the start because stderr was full."
        )
        self.tasks = gauge("livenessprobe_tasks", "Tasks in the event loop; a number that keeps growing is a fault.")
        self._config_good = gauge(
            "livenessprobe_config_last_reload_successful",
            "Whether the settings file was valid when last read (1) or ignored (0); 1 without a file.",
        )
        self._config_good.set(1)
        self._config_time = gauge(
            "livenessprobe_config_last_reload_success_timestamp_seconds", "When valid settings were last read."
        )
        self._config_hash = gauge(
            "livenessprobe_config_hash", "A number for the content of the settings file in force; 0 without a file."
        )
        self._restart_needed = gauge(
            "livenessprobe_config_restart_needed",
            "Whether the settings file has a value that needs a restart to apply.",
            ("key",),
        )
        gauge("livenessprobe_build_info", "Versions, as labels of a constant 1.", ("version", "upstream", "python")).labels(
            __version__, UPSTREAM_VERSION, sys.version.split()[0]
        ).set(1)

    def name_driver(self, name: str) -> None:
        """Label the calls that follow, and the only series of livenessprobe_driver_info, with the driver's `name`."""
        if len(self._names) < NAMES_MAX:
            self._names.add(name)
        self._driver_info.remove(self._driver_name)
        self._driver_name = name if name in self._names else OTHER_DRIVER
        self._driver_info.labels(self._driver_name).set(1)

    def operation(self, method: str, code: str, seconds: float) -> None:
        """Record one call to the driver, as csi-lib-utils' interceptor does."""
        self._operations.labels(self._driver_name, code, method).observe(seconds)

    def probed(self, reason: Reason | None, seconds: float) -> None:
        """Record what a probe found and how long it took."""
        self._last_duration.set(seconds)
        self.driver_up.set(reason is None)
        if self._reason is not None:
            self._reasons.labels(self._reason.value).set(0)
        if reason is None:
            self._last_success.set(time.time())
        else:
            self._reasons.labels(reason.value).set(1)
        self._reason = reason

    def failed(self, reason: Reason) -> None:
        """Count a failed probe, also one whose result changes nothing because a later probe has ended before it."""
        self._failures.labels(reason.value).inc()

    def repeated(self, cause: Cause) -> None:
        """Count a probe that is made again, since this process was held back."""
        self._repeated.labels(cause.value).inc()

    def reported(self, healthy: bool) -> None:
        """Record whether the driver is reported as healthy, thresholds applied."""
        if self._was_healthy is not None and self._was_healthy != healthy:
            self._changes.labels("healthy" if healthy else "unhealthy").inc()
        self._was_healthy = healthy
        self._healthy.set(healthy)

    def configured(self, fingerprint: str, restart_keys: dict[str, bool]) -> None:
        """Record valid settings: the hexadecimal fingerprint of their file, and which keys need a restart to apply."""
        self._config_good.set(1)
        self._config_time.set(time.time())
        self._config_hash.set(int(fingerprint[:12] or "0", 16))  # a float holds 48 bits exactly
        for key, needed in restart_keys.items():
            self._restart_needed.labels(key).set(needed)

    def misconfigured(self) -> None:
        """Record a settings file that was ignored."""
        self._config_good.set(0)

    def asked(self) -> None:
        """Record a request for health."""
        self._last_request.set(time.time())

    def responded(self, status: int) -> None:
        """Record one HTTP response."""
        self._responses.labels(str(status)).inc()

    def expose(self, accept: str = "", accept_encoding: str = "") -> Exposition:
        """All metrics, in the form that upstream's handler (promhttp) chooses by these request headers."""
        headers = {
            "Content-Type": f"text/plain; version=0.0.4; charset=utf-8; escaping={_escaping(accept)}",
            "Process-Start-Time-Unix": str(int(self._process_start)),
        }
        body = render(self._registry.collect()).encode(errors="surrogateescape")
        if _accepts_gzip(accept_encoding):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=5, mtime=0)
        return Exposition(body, headers)


# --- what the client accepts, read as Go's libraries read it


_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})


def _escaping(accept: str) -> str:
    """The `escaping` of the Content-Type: the last valid one up to the first text type (expfmt.Negotiate)."""
    escaping = "underscores"
    for clause in accept_clauses(accept):
        if clause.parameters.get("escaping") in _ESCAPINGS:
            escaping = clause.parameters["escaping"]
        if (clause.kind, clause.subtype) == ("text", "plain") and clause.parameters.get("version", "") in ("", "0.0.4"):
            break
    return escaping


_CODING = re.compile(r"([-!#$%&'*+.^_`|~0-9A-Za-z/]+)[ \t]*(?:;[ \t]*q=([01](?:\.[0-9]*)?))?[ \t]*")


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is wanted more than no coding (httputil.NegotiateContentEncoding)."""
    gzip_quality = identity_quality = -1.0
    rest = accept_encoding.lstrip(" \t")
    while (coding := _CODING.match(rest)) is not None:
        rest = rest[coding.end() :]
        if coding[2] is None and rest.startswith(";"):
            break
        quality = float(coding[2] or 1)
        if coding[1] in ("gzip", "*"):
            gzip_quality = max(gzip_quality, quality)
        if coding[1] in ("identity", "*"):
            identity_quality = max(identity_quality, quality)
        if not rest.startswith(","):
            break
        rest = rest[1:].lstrip(" \t")
    return gzip_quality > max(identity_quality, 0)


def render(families: Iterable[Metric]) -> str:
    """Prometheus' text format, byte for byte as Go's expfmt package writes it."""
    lines = []
    for family in sorted(families, key=_family_name):
        name = _family_name(family)
        text = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {family.type}"]
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        lines += [_sample_line(sample) for sample in sorted(samples, key=_series)]
    return "\n".join(lines) + "\n"


def _family_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _series(sample: Sample) -> tuple[list[str], bool]:
    """A sort key: by label values, and within a histogram the count last; the order of buckets stays."""
    values = [value for label, value in sorted(sample.labels.items()) if label != "le"]
    return values, sample.name.endswith("_count")


def _sample_line(sample: Sample) -> str:
    labels = sorted(sample.labels.items(), key=lambda pair: (pair[0] == "le", pair[0]))
    inside = ",".join(f'{label}="{_label_value(label, value)}"' for label, value in labels)
    series = f"{sample.name}{{{inside}}}" if inside else sample.name
    return f"{series} {format_float(sample.value)}"


def _label_value(label: str, value: str) -> str:
    if label == "le":
        return format_float(float(value))
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
