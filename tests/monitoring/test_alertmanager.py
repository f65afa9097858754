"""The example for Alertmanager inhibits what it says, in a real Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitoring.servers import ask, serving
from tests.support import ROOT, eventually


@pytest.fixture
def alertmanager(folder: Path) -> Iterator[str]:
    """The URL of its alerts."""
    arguments = (f"--config.file={ROOT}/k8s/alertmanager.yaml", "--cluster.listen-address=")
    with serving("prometheus-alertmanager", folder, *arguments) as url:
        yield f"{url}/api/v2/alerts"


def test_a_driver_that_is_down_silences_its_other_alerts_and_nobody_elses(alertmanager: str) -> None:
    here, other = {"namespace": "csi", "pod": "here"}, {"namespace": "csi", "pod": "other"}
    names = (
        "CSIDriverProbeSlow",
        "CSIDriverFlapping",
        "CSIDriverNotAsked",
        "CSIKubeletGivesUpEarly",
        "LivenessProbeReloadFailed",
    )
    fired = [("CSIDriverDown", here), *((name, pod) for name in names for pod in (here, other))]
    ask(alertmanager, [{"labels": {"alertname": name, **pod}} for name, pod in fired])

    def suppressed() -> list[tuple[str, str]] | None:
        alerts = ask(alertmanager)
        if len(alerts) < len(fired) or any(alert["status"]["state"] == "unprocessed" for alert in alerts):
            return None
        return sorted(
            (alert["labels"]["pod"], alert["labels"]["alertname"]) for alert in alerts if alert["status"]["inhibitedBy"]
        )

    eventually(suppressed)
    assert suppressed() == [("here", name) for name in ("CSIDriverFlapping", "CSIDriverNotAsked", "CSIDriverProbeSlow")]
