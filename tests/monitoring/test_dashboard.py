"""Grafana can show the dashboard: ids, places, data sources, variables, and queries that can be parsed."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path

import pytest

from tests.monitoring.dashboard import DASHBOARD, OPTIONAL, panels, queries, substituted, variables
from tests.monitoring.servers import program
from tests.test_docs import exposed

BUILT_IN = {"__rate_interval": "4m"}
CHOSEN = {name: ".*" for name in ("job", "namespace", "driver", "node", "pod")} | BUILT_IN


def test_ids_are_unique() -> None:
    ids = [panel["id"] for panel in panels()]

    assert all(isinstance(each, int) for each in ids)
    assert sorted(set(ids)) == sorted(ids)


def test_no_panel_overlaps_another_one_or_leaves_the_page() -> None:
    places = {panel["id"]: panel["gridPos"] for panel in panels()}

    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places.values())
    assert [pair for pair in combinations(places, 2) if overlap(*(places[each] for each in pair))] == []


def overlap(one: dict, other: dict) -> bool:
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


def test_places_that_overlap_are_found() -> None:
    assert overlap({"x": 0, "y": 0, "w": 12, "h": 8}, {"x": 11, "y": 7, "w": 1, "h": 1})
    assert not overlap({"x": 0, "y": 0, "w": 12, "h": 8}, {"x": 12, "y": 0, "w": 12, "h": 8})


def test_each_panel_has_a_title_of_its_own_and_a_query() -> None:
    titles = [panel["title"] for panel in panels()]

    assert len(set(titles)) == len(titles)
    assert [panel["title"] for panel in panels() if panel["type"] != "row" and not panel.get("targets")] == []


def test_everything_asks_the_chosen_data_source() -> None:
    asking = [panel for panel in panels() if panel["type"] != "row"]
    asking += [target for panel in asking for target in panel["targets"]]
    asking += [variable for name, variable in variables().items() if name != "datasource"]

    assert {json.dumps(each["datasource"], sort_keys=True) for each in asking} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }
    assert (variables()["datasource"]["type"], variables()["datasource"]["query"]) == ("datasource", "prometheus")


def test_each_variable_is_used_and_each_that_is_used_exists() -> None:
    texts = [query.expr for query in queries()] + [str(each["query"]) for each in variables().values()]
    used = set(re.findall(r"\$(\w+)", " ".join(texts)))

    assert used - BUILT_IN.keys() == variables().keys() - {"datasource"}


def test_a_variable_is_asked_for_behind_those_in_its_query() -> None:
    names = list(variables())
    asked = {name: re.findall(r"\$(\w+)", str(variable["query"])) for name, variable in variables().items()}

    assert {name: [each for each in used if names.index(each) >= names.index(name)] for name, used in asked.items()} == {
        name: [] for name in names
    }


def test_queries_use_only_metrics_that_exist() -> None:
    named = {name for query in queries() for name in re.findall(r"\b(?:livenessprobe|csi_sidecar)_\w+", query.expr)}

    assert named <= exposed()[1]
    assert len(named) >= 15


def test_only_the_optional_row_needs_kube_state_metrics_and_it_is_collapsed() -> None:
    foreign = {query.title: query.optional for query in queries() if "kube_" in query.expr}
    (row,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == OPTIONAL)

    assert set(foreign.values()) == {True}
    assert row["collapsed"] is True
    assert [panel["title"] for panel in row["panels"]] == list(foreign)


def test_prometheus_can_parse_each_query(folder: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": substituted(query.expr, CHOSEN)} for number, query in enumerate(queries())
    ]
    file = folder / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.title} {query.letter}")
def test_each_query_is_of_the_chosen_drivers(query: object) -> None:
    assert re.search(r"\$(job|namespace|pod)\b", query.expr)  # type: ignore[attr-defined]
