"""Alerts: metrics, tests, runbook and inhibition fit them.  `make manifests` tests when each of them fires."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT
from tests.test_docs import exposed, section, strings_of_the_code
from tests.test_manifests import built, yaml


def rules() -> list[dict]:
    (group,) = built("overlays/complete")["PrometheusRule"]["spec"]["groups"]
    return group["rules"]


def test_alerts_use_only_metrics_that_exist() -> None:
    known = exposed()[1]

    named = {rule["alert"]: set(re.findall(r"\blivenessprobe_\w+", str(rule))) for rule in rules()}

    assert {alert: names - known for alert, names in named.items()} == {alert: set() for alert in named}
    assert [rule["expr"] for rule in rules() if not named[rule["alert"]]] == [
        'up{job="livenessprobe"} == 0',
        'absent(up{job="livenessprobe"})',
    ]


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case
        for test in yaml.safe_load((ROOT / "tests" / "data" / "alerts.yaml").read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
    ]

    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == {rule["alert"] for rule in rules()}


RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def test_each_alert_links_to_its_section_of_the_runbook() -> None:
    page = "https://github.com/OWNER/REPOSITORY/blob/main/docs/runbook.md"

    assert re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in rules()]
    assert {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules()} == {
        rule["alert"]: f"{page}#{rule['alert'].lower()}" for rule in rules()
    }


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_each_section_of_the_runbook_leads_from_the_meaning_to_what_to_do(alert: str) -> None:
    text = section(RUNBOOK, f"## {alert}")

    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    diagnosis = text.partition("**Diagnosis.**")[2].partition("**Mitigation.**")[0]
    assert re.search(r"^    kubectl \S", diagnosis, re.MULTILINE)


def test_the_runbook_searches_logs_for_records_that_exist() -> None:
    """In another case where the search ignores it, and with the choices of a pattern one by one."""
    searched = re.findall(r"grep(?: -\w+)* '([^']+)'", RUNBOOK)
    in_logs = [text for text in searched if text != "Last State"]
    texts = [text.lower() for text in strings_of_the_code()]
    found = [re.sub(r"\((.*)\)", word, text) for text in in_logs for word in re.findall(r"\w[\w ]+(?=[|)])", text) or [""]]

    assert len(found) >= 6
    assert [text for text in found if not any(text.lower() in each for each in texts)] == []


def test_a_driver_that_is_down_has_no_further_notification_about_it() -> None:
    text = (ROOT / "k8s" / "alertmanager.yaml").read_text(encoding="utf-8")
    (inhibition,) = yaml.safe_load(text)["inhibit_rules"]
    alerts = {rule["alert"] for rule in rules()}

    (source,) = re.findall(r"\w+$", inhibition["source_matchers"][0])
    targets = set(re.findall(r"CSI\w+", inhibition["target_matchers"][0]))
    assert source == "CSIDriverDown"
    assert targets == {"CSIDriverProbeSlow", "CSIDriverFlapping", "CSIDriverNotAsked"}
    assert {source, *targets} <= alerts
    assert inhibition["equal"] == ["namespace", "pod"]
