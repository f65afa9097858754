"""/metrics: the text as Go's client library writes it, the metrics of probes, and the negotiated form."""

from __future__ import annotations

import gzip
import platform
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from livenessprobe import UPSTREAM_VERSION, __version__
from livenessprobe.driver.result import Reason
from livenessprobe.metrics import NAMES_MAX, OTHER_DRIVER, UNKNOWN_DRIVER, Metrics, render

START = 1795224575.01
PLAIN = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
HISTOGRAM_HEAD = [
    "# HELP csi_sidecar_operations_seconds "
    "[ALPHA] Container Storage Interface operation duration with gRPC error code status total",
    "# TYPE csi_sidecar_operations_seconds histogram",
]
BOUNDS = ["0.1", "0.25", "0.5", "1", "2.5", "5", "10", "15", "25", "50", "120", "300", "600", "+Inf"]


def text_of(metrics: Metrics) -> str:
    return metrics.expose().body.decode(errors="surrogateescape")


def family(metrics: Metrics, name: str) -> list[str]:
    """The lines of one metric family, with its HELP and TYPE."""
    lines = text_of(metrics).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"# HELP {name} "))
    end = next((number for number in range(start + 1, len(lines)) if lines[number].startswith("# HELP ")), len(lines))
    return lines[start:end]


def value(metrics: Metrics, series: str) -> str:
    (found,) = (line.removeprefix(f"{series} ") for line in text_of(metrics).splitlines() if line.startswith(f"{series} "))
    return found


def histogram(labels: str, counts: list[int], total: str) -> list[str]:
    name = "csi_sidecar_operations_seconds"
    buckets = [f'{name}_bucket{{{labels},le="{bound}"}} {count}' for bound, count in zip(BOUNDS, counts, strict=True)]
    return [*buckets, f"{name}_sum{{{labels}}} {total}", f"{name}_count{{{labels}}} {counts[-1]}"]


# --- upstream's families, byte for byte


def test_the_histogram_is_gos_text() -> None:
    """Labels sorted by name with `le` last, whole bounds without `.0`, the sum before the count, no `_created`."""
    metrics = Metrics(START)
    metrics.name_driver("D")
    metrics.operation("/csi.v1.Identity/Probe", "OK", 0.0625)

    assert "\n".join(family(metrics, "csi_sidecar_operations_seconds")) == (
        "\n".join(HISTOGRAM_HEAD)
        + """
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="0.1"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="0.25"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="0.5"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="1"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="2.5"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="5"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="10"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="15"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="25"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="50"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="120"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="300"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="600"} 1
csi_sidecar_operations_seconds_bucket{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe",le="+Inf"} 1
csi_sidecar_operations_seconds_sum{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe"} 0.0625
csi_sidecar_operations_seconds_count{driver_name="D",grpc_status_code="OK",method_name="/csi.v1.Identity/Probe"} 1"""
    )


def test_the_start_time_is_gos_text() -> None:
    assert "\n".join(family(Metrics(START), "process_start_time_seconds")) == (
        """\
# HELP process_start_time_seconds [ALPHA] Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79522457501e+09"""
    )


def test_observations_fall_into_their_buckets() -> None:
    metrics = Metrics(START)
    metrics.name_driver("D")
    for seconds in (0.3125, 2.5, 700.0, 0.0):
        metrics.operation("M", "Internal", seconds)

    labels = 'driver_name="D",grpc_status_code="Internal",method_name="M"'
    counts = [1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert family(metrics, "csi_sidecar_operations_seconds") == HISTOGRAM_HEAD + histogram(labels, counts, "702.8125")


def test_series_are_sorted_by_their_label_values() -> None:
    """By driver, then code, then method, whatever the order of calls; the lines of one series stay together."""
    metrics = Metrics(START)
    order = [("b", "OK", "P"), ("a", "Unavailable", "P"), ("a", "OK", "P"), ("B", "OK", "P"), ("a", "OK", "G")]
    for driver, code, method in order:
        metrics.name_driver(driver)
        metrics.operation(method, code, 0.0625)

    expected = list(HISTOGRAM_HEAD)
    for driver, code, method in sorted(order):
        expected += histogram(f'driver_name="{driver}",grpc_status_code="{code}",method_name="{method}"', [1] * 14, "0.0625")
    assert family(metrics, "csi_sidecar_operations_seconds") == expected


def test_calls_before_the_name_is_known_are_labelled_unknown_driver() -> None:
    metrics = Metrics(START)
    metrics.operation("/csi.v1.Identity/GetPluginInfo", "OK", 0.0625)
    metrics.name_driver("D")

    assert UNKNOWN_DRIVER == "unknown-driver"
    labels = 'driver_name="unknown-driver",grpc_status_code="OK",method_name="/csi.v1.Identity/GetPluginInfo"'
    assert value(metrics, f"csi_sidecar_operations_seconds_count{{{labels}}}") == "1"


def test_the_text_has_upstreams_and_our_families_and_no_others() -> None:
    """Sorted by name; nothing about Go or Python, and no process_* besides the start time."""
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text_of(Metrics(START)), re.MULTILINE)

    assert families == sorted(families)
    assert ("csi_sidecar_operations_seconds", "histogram") in families
    assert ("process_start_time_seconds", "gauge") in families
    ours = [name for name, _ in families if name.startswith("livenessprobe_")]
    assert len(ours) == len(families) - 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("livenessprobe_build_info", "gauge"),
        ("livenessprobe_callers_gone_total", "counter"),
        ("livenessprobe_config_last_reload_successful", "gauge"),
        ("livenessprobe_driver_connections_total", "counter"),
        ("livenessprobe_driver_info", "gauge"),
        ("livenessprobe_driver_up", "gauge"),
        ("livenessprobe_http_responses_total", "counter"),
        ("livenessprobe_last_probe_duration_seconds", "gauge"),
        ("livenessprobe_last_request_timestamp_seconds", "gauge"),
        ("livenessprobe_last_success_timestamp_seconds", "gauge"),
        ("livenessprobe_log_records_dropped", "gauge"),
        ("livenessprobe_probe_failures_total", "counter"),
        ("livenessprobe_probe_timeout_seconds", "gauge"),
        ("livenessprobe_repeated_probes_total", "counter"),
        ("livenessprobe_shared_probes_total", "counter"),
        ("livenessprobe_unhealthy_reason", "gauge"),
    ],
)
def test_the_names_of_metrics_never_change(name: str, kind: str) -> None:
    """Dashboards and alerts are written for them.  Each family has a HELP sentence."""
    heading, declaration = family(Metrics(START), name)[:2]

    assert re.fullmatch(rf"# HELP {name} [A-Z][^\n]+\.", heading)
    assert declaration == f"# TYPE {name} {kind}"


def test_every_line_ends_in_a_newline_and_none_is_empty() -> None:
    metrics = Metrics(START)
    metrics.operation("M", "OK", 1.0)

    assert re.fullmatch(r"(?:[^\n]+\n)+", text_of(metrics))


def test_there_are_no_created_series() -> None:
    metrics = Metrics(START)
    metrics.operation("M", "OK", 1.0)
    metrics.responded(200)

    assert "_created" not in text_of(metrics)


# --- escaping


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("fake.csi.test", "fake.csi.test"),
        ('a"b', 'a\\"b'),
        ("a\\b", "a\\\\b"),
        ("a\nb", "a\\nb"),
        ('\\"\n', '\\\\\\"\\n'),
        ("a\tb\r", "a\tb\r"),
        ("é 世界 {},=", "é 世界 {},="),
        ("", ""),
    ],
)
def test_label_values_are_escaped_as_by_go(name: str, shown: str) -> None:
    metrics = Metrics(START)
    metrics.name_driver(name)
    metrics.operation("M", "OK", 1.0)

    line = f'csi_sidecar_operations_seconds_count{{driver_name="{shown}",grpc_status_code="OK",method_name="M"}} 1'
    assert line in text_of(metrics).split("\n")


def test_a_name_that_is_not_utf8_is_exposed_unchanged() -> None:
    metrics = Metrics(START)
    metrics.name_driver(b"bad\xff".decode(errors="surrogateescape"))
    metrics.operation("M", "OK", 1.0)

    assert b'driver_name="bad\xff"' in metrics.expose().body


def test_help_texts_are_escaped_as_by_go() -> None:
    registry = CollectorRegistry()
    Gauge("g", 'a\\b\n"c"', registry=registry)

    assert render(registry.collect()) == '# HELP g a\\\\b\\n"c"\n# TYPE g gauge\ng 0\n'


def test_a_counter_has_its_full_name_in_help_and_type() -> None:
    """Go has no name without `_total`, and sorts by the full name."""
    registry = CollectorRegistry()
    Counter("b", "B.", ["x", "a"], registry=registry).labels("1", "2").inc(1e6)
    Gauge("b_first", "F.", registry=registry)

    assert render(registry.collect()) == (
        "# HELP b_first F.\n# TYPE b_first gauge\nb_first 0\n"
        '# HELP b_total B.\n# TYPE b_total counter\nb_total{a="2",x="1"} 1e+06\n'
    )


@given(st.text(), st.floats(0, 1e9))
def test_a_scraper_reads_the_recorded_values(name: str, seconds: float) -> None:
    metrics = Metrics(START)
    metrics.name_driver(name)
    metrics.operation("M", "OK", seconds)

    (found,) = (f for f in text_string_to_metric_families(text_of(metrics)) if f.name == "csi_sidecar_operations_seconds")
    labels = {"driver_name": name, "grpc_status_code": "OK", "method_name": "M"}
    (total,) = (sample for sample in found.samples if sample.name.endswith("_sum"))
    assert (total.labels, total.value) == (labels, seconds)


# --- metrics of probes


def test_before_the_first_probe_driver_up_is_nan() -> None:
    metrics = Metrics(START)

    assert value(metrics, "livenessprobe_driver_up") == "NaN"
    assert value(metrics, "livenessprobe_last_success_timestamp_seconds") == "0"
    assert value(metrics, "livenessprobe_config_last_reload_successful") == "1"


@pytest.mark.parametrize("name", ["livenessprobe_probe_failures_total", "livenessprobe_unhealthy_reason"])
def test_every_reason_has_a_series_from_the_start(name: str) -> None:
    """So that rate() sees the first failure of each reason."""
    assert family(Metrics(START), name)[2:] == [
        f'{name}{{reason="{reason}"}} 0' for reason in sorted(reason.value for reason in Reason)
    ]


@given(st.lists(st.none() | st.sampled_from(Reason), min_size=1))
def test_the_last_failure_alone_is_the_unhealthy_reason(results: list[Reason | None]) -> None:
    """Exactly one reason while the driver is down, none while it is up."""
    metrics = Metrics(START)
    for result in results:
        metrics.probed(result, 1.0)

    lines = family(metrics, "livenessprobe_unhealthy_reason")[2:]

    last = results[-1]
    assert len(lines) == len(Reason)
    assert [line for line in lines if not line.endswith(" 0")] == (
        [] if last is None else [f'livenessprobe_unhealthy_reason{{reason="{last.value}"}} 1']
    )
    assert value(metrics, "livenessprobe_driver_up") == ("1" if last is None else "0")


def test_the_drivers_name_has_one_series_which_follows_the_name() -> None:
    """Names beyond the first eight are other-driver here too."""
    metrics = Metrics(START)
    shown = [family(metrics, "livenessprobe_driver_info")[2:]]
    for name in ["a", "a", "b", "a", *map(str, range(NAMES_MAX)), "b"]:
        metrics.name_driver(name)
        shown.append(family(metrics, "livenessprobe_driver_info")[2:])

    named = [UNKNOWN_DRIVER, "a", "a", "b", "a", *map(str, range(NAMES_MAX - 2)), OTHER_DRIVER, OTHER_DRIVER, "b"]
    assert shown == [[f'livenessprobe_driver_info{{driver_name="{name}"}} 1'] for name in named]


def test_a_good_probe_sets_the_driver_up() -> None:
    metrics = Metrics(START)
    before = time.time()
    metrics.probed(None, 0.25)
    after = time.time()

    assert value(metrics, "livenessprobe_driver_up") == "1"
    assert value(metrics, "livenessprobe_last_probe_duration_seconds") == "0.25"
    assert before <= float(value(metrics, "livenessprobe_last_success_timestamp_seconds")) <= after
    assert not any(line.endswith("} 1") for line in family(metrics, "livenessprobe_probe_failures_total"))


@pytest.mark.parametrize("reason", Reason)
def test_a_failed_probe_is_counted_by_its_reason(reason: Reason) -> None:
    metrics = Metrics(START)
    metrics.probed(None, 0.25)
    success = value(metrics, "livenessprobe_last_success_timestamp_seconds")
    metrics.probed(reason, 3.0)
    metrics.failed(reason)

    assert value(metrics, "livenessprobe_driver_up") == "0"
    assert value(metrics, "livenessprobe_last_probe_duration_seconds") == "3"
    assert value(metrics, "livenessprobe_last_success_timestamp_seconds") == success
    assert {
        line.rpartition(" ")[0]: line.rpartition(" ")[2]
        for line in family(metrics, "livenessprobe_probe_failures_total")[2:]
    } == {
        f'livenessprobe_probe_failures_total{{reason="{other.value}"}}': "1" if other is reason else "0" for other in Reason
    }


def test_responses_are_counted_by_status() -> None:
    metrics = Metrics(START)
    for status in (500, 200, 404, 200):
        metrics.responded(status)

    assert family(metrics, "livenessprobe_http_responses_total")[1:] == [
        "# TYPE livenessprobe_http_responses_total counter",
        'livenessprobe_http_responses_total{code="200"} 2',
        'livenessprobe_http_responses_total{code="404"} 1',
        'livenessprobe_http_responses_total{code="500"} 1',
    ]


def test_versions_are_labels() -> None:
    labels = f'python="{platform.python_version()}",upstream="{UPSTREAM_VERSION}",version="{__version__}"'

    assert family(Metrics(START), "livenessprobe_build_info")[2:] == [f"livenessprobe_build_info{{{labels}}} 1"]


def test_two_registries_share_nothing() -> None:
    first, second = Metrics(START), Metrics(START)
    first.probed(None, 1.0)
    first.shared.inc()

    assert value(second, "livenessprobe_driver_up") == "NaN"
    assert value(second, "livenessprobe_shared_probes_total") == "0"


# --- negotiation

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


@pytest.mark.parametrize(
    ("accept", "escaping"),
    [
        ("", "underscores"),
        ("text/plain", "underscores"),
        ("*/*", "underscores"),
        ("application/json", "underscores"),
        ("application/openmetrics-text;version=1.0.0", "underscores"),
        (PROMETHEUS_2, "underscores"),
        (PROMETHEUS_3, "allow-utf-8"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", "allow-utf-8"),
        ("text/plain; version=0.0.4; escaping=allow-utf-8; q=0.5", "allow-utf-8"),
        ("text/plain;escaping=dots", "dots"),
        ("text/plain;escaping=values", "values"),
        ("text/plain;escaping=underscores", "underscores"),
        ("text/plain;escaping=nonsense", "underscores"),
        # Not offered; the scraper gets text, which its Accept header allows too.
        (PROTOBUF, "underscores"),
        (f"{PROTOBUF},{PROMETHEUS_2}", "underscores"),
        ("\x00,;;==/", "underscores"),
    ],
)
def test_the_content_type_is_text_with_the_accepted_escaping(accept: str, escaping: str) -> None:
    metrics = Metrics(START)
    exposition = metrics.expose(accept)

    assert exposition.headers == {
        "Content-Type": f"text/plain; version=0.0.4; charset=utf-8; escaping={escaping}",
        "Process-Start-Time-Unix": "1795224575",
    }
    assert exposition.body == metrics.expose().body


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("gzip", True),
        ("gzip, zstd", True),
        ("zstd;q=1.0, gzip;q=0.5", True),
        ("deflate, gzip ; q=1", True),
        ("gzip;q=0.001", True),
        (" gzip ", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("zstd", False),
        ("*", False),
        ("GZIP", False),
        ("x-gzip", False),
        ("gzip2", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=abc", False),
        ("gzip;level=1", False),
    ],
)
def test_gzip_is_the_only_compression(accept_encoding: str, compressed: bool) -> None:
    metrics = Metrics(START)
    metrics.operation("M", "OK", 1.0)
    plain = metrics.expose()

    exposition = metrics.expose("", accept_encoding)

    if not compressed:
        assert exposition == plain
        return
    assert exposition.headers == {**plain.headers, "Content-Encoding": "gzip"}
    assert gzip.decompress(exposition.body) == plain.body
    assert len(exposition.body) < len(plain.body) / 3


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_request_headers_are_answered(accept: str, accept_encoding: str) -> None:
    exposition = Metrics(START).expose(accept, accept_encoding)

    assert exposition.headers["Content-Type"].startswith("text/plain; version=0.0.4; charset=utf-8; escaping=")


def test_driver_names_make_a_bounded_number_of_labels() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.name_driver(f"driver-{number}")
        metrics.operation("/csi.v1.Identity/Probe", "OK", 0.1)

    labels = set(re.findall(r'driver_name="([^"]*)"', metrics.expose().body.decode()))

    assert labels == {*(f"driver-{number}" for number in range(NAMES_MAX)), OTHER_DRIVER}
    metrics.name_driver("driver-3")  # a known name stays
    metrics.operation("/csi.v1.Identity/Probe", "OK", 0.1)
    series = r'\ncsi_sidecar_operations_seconds_count\{driver_name="driver-3".*\} 2\n'
    assert re.search(series, metrics.expose().body.decode())
