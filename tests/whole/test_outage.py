"""A scripted outage: the status page in three formats, metrics, the log, `status` and `watch` tell the same story."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from tests.support import FakeDriver, Sidecar, Start, command, eventually, watching
from tests.support.names import AT_ONCE

STORY = ("", "deadline", "socket_missing", "")
"""What was reported, one after another; empty for healthy."""
MARKS = "..sxxx."
FAILURES = {"deadline": 2, "socket_missing": 1}
NAME = "back.csi.test"


@pytest.fixture
def watched(socket_path: str, sidecar: Start) -> Iterator[tuple[Sidecar, subprocess.Popen[str]]]:
    """A sidecar after an outage (healthy, slow, hung, killed, and back with another name), and what has watched it."""
    driver = FakeDriver(socket_path)
    driver.start()
    process = sidecar("--probe-timeout=1s", AT_ONCE)
    process.await_name()

    def ask(*statuses: int) -> None:
        assert [process.get(User_Agent="kube-probe/1.35").status for _ in statuses] == [*statuses]

    ask(200, 200)
    with watching(url_of(process)) as watch:
        assert watch.stdout.readline().endswith(f" {url_of(process)} healthy (fake.csi.test)\n")
        driver.delay = 0.6
        ask(200)
        driver.delay, driver.hang = 0.0, True
        ask(500, 500)
        driver.stop()
        ask(500)
        driver.hang, driver.name = False, NAME
        driver.start()
        ask(200)
        process.await_log(f'"CSI driver name" driver="{NAME}"')
        yield process, watch
    driver.stop()


def url_of(process: Sidecar) -> str:
    return f"http://127.0.0.1:{process.port}"


def test_everything_tells_the_same_story(watched: tuple[Sidecar, subprocess.Popen[str]]) -> None:
    process, watch = watched
    told = json.loads(process.get("/statusz", Accept="application/json").body)
    text, page = process.get("/statusz").body, process.get("/statusz", Accept="text/html").body

    # JSON
    assert tuple(change["reason"] for change in reversed(told["changes"])) == STORY
    assert "".join(mark(probe) for probe in told["probes"]) == MARKS
    assert (told["report"]["healthy"], told["driver"]["name"], told["probesTotal"]) == (True, NAME, len(MARKS))

    # text
    assert re.search(r"^Health: healthy since ", text, re.MULTILINE)
    assert f"\nDriver: {NAME} at " in text
    assert f"\n  {MARKS}\n" in text
    table = text.partition("\nLast changes:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split(" | ")[3].partition(":")[0] for line in reversed(table)] == [reason or "healthy" for reason in STORY]
    sentences = {change["sentence"] for change in told["changes"] if change["reason"]}
    assert all(f": {sentence}\n" in f"{text}\n" for sentence in sentences)

    # HTML
    assert "<strong>✓ healthy</strong>" in page
    assert f'aria-label="Last probes, the oldest first: {MARKS}"' in page
    assert all(sentence in unescape(page) for sentence in sentences)
    assert NAME in page

    # metrics
    figures = process.figures()
    for reason, count in FAILURES.items():
        assert figures[f'livenessprobe_probe_failures_total{{reason="{reason}"}}'] == count
        assert sum(probe["reason"] == reason for probe in told["probes"]) == count
    assert figures['livenessprobe_health_changes_total{to="unhealthy"}'] == 1
    assert figures['livenessprobe_health_changes_total{to="healthy"}'] == 1
    assert (figures["livenessprobe_healthy"], figures["livenessprobe_driver_up"]) == (1, 1)
    assert figures["livenessprobe_last_probe_duration_seconds"] == pytest.approx(told["timing"]["last"], abs=1e-5)

    # the log
    unhealthy = [
        re.search(r'reason="(\w+)" detail="(.*)"$', record) for record in process.records("CSI driver is unhealthy")
    ]
    assert tuple(found[1] for found in unhealthy if found) == STORY[1:3]
    assert {found[2] for found in unhealthy if found} == sentences
    (again,) = process.records("CSI driver is healthy again")
    lasted = sum(change["lasted"] for change in told["changes"] if change["reason"])
    assert again.endswith(f'unhealthyFor="{lasted:.3f}'.rstrip("0") + 's"')

    # the commands
    printed = command("status", f"--url={url_of(process)}").out
    assert without_ages(printed) == without_ages(process.get("/statusz").body)
    changes = told["changes"][-2::-1]  # without the first, which was over when the watch began
    lines = [watch.stdout.readline() for _ in changes]
    watch.terminate()
    assert lines == [f"{change['at']} {url_of(process)} {words(change)} ({change['driver']})\n" for change in changes]
    assert watch.communicate(timeout=10) == ("", "")


def words(change: dict[str, Any]) -> str:
    return f"unhealthy {change['reason']}: {change['sentence']}" if change["reason"] else "healthy"


def mark(probe: dict[str, Any]) -> str:
    return "x" if probe["reason"] else "s" if probe["slow"] else "."


def without_ages(text: str) -> str:
    """The page without what changes from one second to the next."""
    text = re.sub(r"^Up: .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\(\S+ ago\)(?: \| \S+)?|last \S+ ago", "", text)


def test_the_kubelets_failures_are_counted_until_the_driver_is_back(socket_path: str, sidecar: Start) -> None:
    process = sidecar("--probe-timeout=500ms", AT_ONCE)
    for _ in range(2):
        assert process.get(User_Agent="kube-probe/1.35").status == 500
    assert "\nKubelet: 2 failed answers in a row, one every " in process.get("/statusz").body

    with FakeDriver(socket_path):
        eventually(lambda: process.get(User_Agent="kube-probe/1.35").status == 200)
        assert "\nKubelet: 0 failed answers in a row, one every " in process.get("/statusz").body
