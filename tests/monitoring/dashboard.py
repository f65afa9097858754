"""The committed dashboard, and its queries as Grafana would send them."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from tests.support import ROOT

DASHBOARD = json.loads((ROOT / "k8s/components/dashboard/livenessprobe.json").read_text(encoding="utf-8"))
OPTIONAL = "Optional: restarts of containers; needs kube-state-metrics"


class Query(NamedTuple):
    """One query of a panel."""

    title: str
    letter: str
    expr: str
    legend: str
    """Empty in tables and in panels with a single number."""
    optional: bool


def panels() -> list[dict]:
    """All panels and rows, with those inside collapsed rows."""
    return [inner for panel in DASHBOARD["panels"] for inner in (panel, *panel.get("panels", []))]


def queries() -> list[Query]:
    optional = {inner["id"] for panel in DASHBOARD["panels"] if panel["title"] == OPTIONAL for inner in panel["panels"]}
    return [
        Query(panel["title"], target["refId"], target["expr"], target.get("legendFormat", ""), panel["id"] in optional)
        for panel in panels()
        for target in panel.get("targets", [])
    ]


def variables() -> dict[str, dict]:
    return {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def substituted(expr: str, chosen: dict[str, str]) -> str:
    """`expr` with variables replaced, as Grafana does it; a variable without a choice is an error."""
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]], expr)


def legend(query: Query, labels: dict[str, str]) -> str:
    """The name of a series in the panel; without a legend, its labels."""
    if query.legend:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend)
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
