"""
Makes the Grafana dashboard: `python k8s/dashboard.py FILE` writes its JSON, always the same.

`make dashboard` runs it; the file in components/dashboard is never edited by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FLEET = 'job=~"$job", namespace=~"$namespace", node=~"$node"'
ONE = 'job=~"$job", namespace=~"$namespace", pod="$pod"'
POD = "namespace, pod, container"
OF_DRIVER = "driver_name, namespace, pod"


def named(expr: str) -> str:
    """The series of `expr` with the driver's name, of the drivers that are chosen."""
    return f'({expr}) * on ({POD}) group_left (driver_name) livenessprobe_driver_info{{{FLEET}, driver_name=~"$driver"}}'


def number_of(expr: str) -> str:
    """How many of the chosen drivers `expr` has series for, 0 included."""
    return f"count({named(expr)}) or vector(0)"


class Query(NamedTuple):
    """A PromQL expression, and the legend of its series."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """A panel; `unit` is Grafana's word for it."""

    kind: str
    title: str
    queries: tuple[Query, ...]
    width: int = 12
    description: str = ""
    unit: str = "none"
    bad_from: float = 1
    """A stat of this value or more is red."""


def lines(title: str, *queries: Query, unit: str = "none", description: str = "") -> Panel:
    """A panel with a line for each series, half as wide as the page."""
    return Panel("lines", title, queries, unit=unit, description=description)


INFINITE = float("inf")

OVERVIEW = (
    Panel("stat", "Drivers up", (Query(number_of(f"livenessprobe_driver_up{{{FLEET}}} == 1")),), 4, bad_from=INFINITE),
    Panel("stat", "Drivers down", (Query(number_of(f"livenessprobe_driver_up{{{FLEET}}} == 0")),), 4),
    Panel("stat", "Sidecars not scraped", (Query(f"count(up{{{FLEET}}} == 0) or vector(0)"),), 4),
    Panel(
        "stat",
        "Settings files ignored",
        (Query(number_of(f"livenessprobe_config_last_reload_successful{{{FLEET}}} == 0")),),
        4,
    ),
    Panel(
        "stat",
        "Settings that wait for a restart",
        (Query(number_of(f"livenessprobe_config_restart_needed{{{FLEET}}} == 1")),),
        4,
    ),
    Panel(
        "stat",
        "Kubelets that hang up too early",
        (Query(number_of(f"max_over_time(livenessprobe_kubelet_patience_seconds{{{FLEET}}}[1h]) > 0")),),
        4,
        "Before the probe timeout, within the last hour.",
    ),
    Panel(
        "states",
        "Drivers by name and node",
        (
            Query(
                f"max by ({OF_DRIVER}, node) ({named(f'livenessprobe_driver_up{{{FLEET}}}')})",
                "{{driver_name}} {{node}} {{pod}}",
            ),
        ),
        24,
        "Whether the last probe found the driver ready.",
    ),
    Panel(
        "table",
        "Drivers that are down now",
        (Query(f"max by ({OF_DRIVER}, node, reason) ({named(f'livenessprobe_unhealthy_reason{{{FLEET}}} == 1')})"),),
    ),
    lines(
        "Drivers that are down, by reason",
        Query(f"sum by (reason) ({named(f'livenessprobe_unhealthy_reason{{{FLEET}}}')}) > 0", "{{reason}}"),
    ),
    lines(
        "Probes beside their timeout",
        Query(
            "max by (driver_name) "
            f"({named(f'quantile_over_time(0.9, livenessprobe_last_probe_duration_seconds{{{FLEET}}}[10m])')})",
            "{{driver_name}}: nine of ten",
        ),
        Query(
            f"min by (driver_name) ({named(f'livenessprobe_probe_timeout_seconds{{{FLEET}}}')})", "{{driver_name}}: timeout"
        ),
        unit="s",
        description="Of the slowest pod of each driver. The histogram's first bucket is 0.1 s, too wide for this.",
    ),
    lines(
        "Restarts of sidecars within an hour",
        Query(
            f"sum by ({OF_DRIVER}) ({named(f'changes(process_start_time_seconds{{{FLEET}}}[1h])')}) > 0",
            "{{driver_name}} {{namespace}}/{{pod}}",
        ),
    ),
    lines(
        "Clients that hung up",
        Query(
            f"sum by ({OF_DRIVER}) ({named(f'increase(livenessprobe_callers_gone_total{{{FLEET}}}[$__rate_interval])')}) > 0",
            "{{driver_name}} {{namespace}}/{{pod}}",
        ),
    ),
    lines(
        "Settings files: ignored, or waiting for a restart",
        Query(
            f"max by ({OF_DRIVER}) ({named(f'livenessprobe_config_last_reload_successful{{{FLEET}}} == bool 0')}) > 0",
            "{{driver_name}} {{namespace}}/{{pod}}: ignored",
        ),
        Query(
            f"max by ({OF_DRIVER}, key) ({named(f'livenessprobe_config_restart_needed{{{FLEET}}} == 1')})",
            "{{driver_name}} {{namespace}}/{{pod}}: {{key}}",
        ),
    ),
)

DETAIL = (
    Panel(
        "states",
        "Health",
        (
            Query(f"livenessprobe_driver_up{{{ONE}}}", "last probe"),
            Query(f"livenessprobe_healthy{{{ONE}}}", "reported"),
        ),
    ),
    Panel("states", "Reason", (Query(f"livenessprobe_unhealthy_reason{{{ONE}}} > 0", "{{reason}}"),)),
    lines(
        "Duration of probes",
        Query(f"livenessprobe_last_probe_duration_seconds{{{ONE}}}", "last probe"),
        Query(f"quantile_over_time(0.5, livenessprobe_last_probe_duration_seconds{{{ONE}}}[10m])", "median of ten minutes"),
        Query(f"livenessprobe_probe_timeout_seconds{{{ONE}}}", "probe timeout"),
        Query(f"livenessprobe_kubelet_patience_seconds{{{ONE}}} > 0", "a kubelet that hung up"),
        unit="s",
    ),
    lines(
        "Failures by reason",
        Query(f"increase(livenessprobe_probe_failures_total{{{ONE}}}[$__rate_interval]) > 0", "{{reason}}"),
    ),
    lines(
        "Calls to the driver per second",
        Query(
            "sum by (grpc_status_code, method_name) "
            f"(rate(csi_sidecar_operations_seconds_count{{{ONE}}}[$__rate_interval]))",
            "{{method_name}} {{grpc_status_code}}",
        ),
        Query(f"rate(livenessprobe_driver_connections_total{{{ONE}}}[$__rate_interval])", "connections"),
    ),
    lines(
        "HTTP responses per second",
        Query(f"sum by (code) (rate(livenessprobe_http_responses_total{{{ONE}}}[$__rate_interval]))", "{{code}}"),
        Query(f"rate(livenessprobe_callers_gone_total{{{ONE}}}[$__rate_interval])", "clients that hung up"),
    ),
    lines(
        "Time since",
        Query(f"time() - (livenessprobe_last_success_timestamp_seconds{{{ONE}}} > 0)", "the last good probe"),
        Query(f"time() - livenessprobe_last_request_timestamp_seconds{{{ONE}}}", "the last request for health"),
        Query(f"time() - process_start_time_seconds{{{ONE}}}", "the start of the sidecar"),
        unit="s",
    ),
    Panel(
        "table", "Versions", (Query(f"max by ({POD}, version, upstream, python) (livenessprobe_build_info{{{ONE}}})"),), 12
    ),
)

OPTIONAL = (
    lines(
        "Restarts of containers within an hour",
        Query(
            'sum by (namespace, pod, container) (increase(kube_pod_container_status_restarts_total{namespace=~"$namespace"}[1h])'
            f" and on (namespace, pod) livenessprobe_driver_info{{{FLEET}}}) > 0",
            "{{namespace}}/{{pod}} {{container}}",
        ),
    ),
    Panel(
        "table",
        "How containers ended the last time",
        (
            Query(
                "max by (namespace, pod, container, reason) "
                '(kube_pod_container_status_last_terminated_reason{namespace=~"$namespace"} == 1'
                f" and on (namespace, pod) livenessprobe_driver_info{{{FLEET}}})"
            ),
        ),
    ),
)

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
VARIABLES = {
    "job": "label_values(livenessprobe_driver_up, job)",
    "namespace": 'label_values(livenessprobe_driver_up{job=~"$job"}, namespace)',
    "driver": 'label_values(livenessprobe_driver_info{job=~"$job", namespace=~"$namespace"}, driver_name)',
    "node": 'label_values(livenessprobe_driver_up{job=~"$job", namespace=~"$namespace"}, node)',
    "pod": 'label_values(livenessprobe_driver_info{job=~"$job", namespace=~"$namespace", driver_name=~"$driver"}, pod)',
}
"""Each after the variables in its query."""
CHOSEN_ALONE = ("pod",)
HEIGHTS = {"stat": 4, "states": 8, "lines": 8, "table": 8}


def built(panel: Panel, number: int) -> stat.Panel | statetimeline.Panel | timeseries.Panel | table.Panel:
    """`panel` for Grafana, with `number` as its id."""
    match panel.kind:
        case "stat":
            steps = [models.Threshold(value=None, color="green")]
            if panel.bad_from != INFINITE:
                steps.append(models.Threshold(value=panel.bad_from, color="red"))
            last = common.ReduceDataOptions().calcs(["lastNotNull"])
            thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
            made = stat.Panel().reduce_options(last).thresholds(thresholds).graph_mode(looks.BigValueGraphMode.NONE)
        case "states":
            words = {"0": ("down", "red"), "1": ("up", "green")}
            if panel.title == "Reason":
                words = {"1": ("yes", "red")}
            mapped = {
                value: models.ValueMappingResult(text=text, color=color, index=place)
                for place, (value, (text, color)) in enumerate(words.items())
            }
            made = statetimeline.Panel().mappings([models.ValueMap(options=mapped)]).show_value(looks.VisibilityMode.NEVER)
        case "table":
            shown = {"excludeByName": {"Time": True, "Value": True}}
            made = table.Panel().with_transformation(models.DataTransformerConfig(id_val="organize", options=shown))
        case _:
            made = timeseries.Panel().unit(panel.unit).min(0).fill_opacity(10).show_points(looks.VisibilityMode.NEVER)
    made = made.id(number).title(panel.title).description(panel.description).datasource(SOURCE)
    for query, letter in zip(panel.queries, "ABCDEFGH", strict=False):
        made = made.with_target(target(query, letter, instant=panel.kind in ("stat", "table")))
    return made.span(panel.width).height(HEIGHTS[panel.kind])


def target(query: Query, letter: str, *, instant: bool) -> prometheus.Dataquery:
    """`query` for Grafana; `instant` asks for the present values only, with all labels."""
    made = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE)
    made = made.legend_format(query.legend) if query.legend else made
    return made.format(PromQueryFormat.TABLE).instant() if instant else made.range()


def variables() -> Iterator[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    """The choices at the top of the page."""
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    for name, query in VARIABLES.items():
        made = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE).query(query)
        made = made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
        if name not in CHOSEN_ALONE:
            # Matches series without the label too: not every Prometheus sets `node`.
            made = made.multi(multi=True).include_all(include_all=True).all_value(".*")
        yield made


def document() -> models.Dashboard:
    """The whole dashboard."""
    numbers = count(1)
    page = (
        dashboard.Dashboard("CSI drivers by livenessprobe")
        .uid("livenessprobe")
        .description("Health of CSI drivers as their sidecars livenessprobe report it.")
        .tags(["csi", "kubernetes", "storage"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables()))
    )
    for title, panels in (("All drivers", OVERVIEW), ("One driver: $pod", DETAIL)):
        page = page.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            page = page.with_panel(built(panel, next(numbers)))
    title = "Optional: restarts of containers; needs kube-state-metrics"
    row = dashboard.Row(title).id(next(numbers)).collapsed(collapsed=True)
    for panel in OPTIONAL:
        row = row.with_panel(built(panel, next(numbers)))
    return page.with_row(row).build()


if __name__ == "__main__":
    text = json.dumps(document(), cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False)
    Path(sys.argv[1]).write_text(f"{text}\n", encoding="utf-8")
