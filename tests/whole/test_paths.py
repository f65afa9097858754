"""The paths /healthz, /livez, /readyz and /startupz of the whole process."""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest

from tests.support import FakeDriver, Sidecar, Start, eventually
from tests.support.names import AT_ONCE, NEVER

PATHS = ("/healthz", "/livez", "/readyz", "/startupz")


def _statuses(process: Sidecar) -> list[int]:
    return [process.get(path).status for path in PATHS]


def test_each_path_has_its_own_status_in_each_state(socket_path: str, sidecar: Start) -> None:
    process = sidecar(AT_ONCE, "--probe-timeout=500ms")
    driver = FakeDriver(socket_path)
    assert _statuses(process) == [500, 500, 500, 500]  # no driver yet
    driver.ready = False
    driver.start()
    assert _statuses(process) == [500, 200, 500, 500]
    driver.status = (grpc.StatusCode.INTERNAL, "backend gone")
    assert _statuses(process) == [500, 200, 500, 500]
    driver.ready, driver.status = None, None
    assert _statuses(process) == [200, 200, 200, 200]
    driver.ready = False
    assert _statuses(process) == [500, 200, 500, 200]
    driver.hang = True
    assert _statuses(process) == [500, 500, 500, 200]
    driver.stop()
    assert _statuses(process) == [500, 500, 500, 200]
    driver.hang = False
    driver.start()
    assert _statuses(process) == [500, 200, 500, 500]  # a new socket is a new driver, which has not been ready yet
    driver.ready = True
    assert _statuses(process) == [200, 200, 200, 200]
    driver.stop()


def test_all_paths_follow_schedule_and_thresholds(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar(NEVER)
    eventually(lambda: process.metric("livenessprobe_driver_up") == 1)
    assert _statuses(process) == [200] * 4
    assert driver.probes == 1
    process = sidecar("--failure-threshold=2")
    assert process.get("/readyz").status == 200
    driver.ready = False
    assert [process.get("/readyz").status for _ in range(2)] == [200, 500]


def test_the_paths_list_their_parts(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    driver.ready = False

    readyz = process.get("/readyz")

    assert readyz.body == (
        "[+]answers ok\n[-]ready failed: not_ready: driver responded but is not ready\nreadyz check failed\n"
    )
    assert readyz.reason == "not_ready"
    assert readyz.headers["content-type"] == "text/plain; charset=utf-8"
    assert process.get("/livez").body == "ok"
    assert process.get("/livez?verbose").body == "[+]answers ok\nlivez check passed\n"
    assert process.get("/startupz").body == (
        "[-]has-been-ready failed: not_ready: driver responded but is not ready\nstartupz check failed\n"
    )
    driver.ready = True
    assert process.get("/readyz").body == "ok"
    assert process.get("/readyz").reason is None
    assert process.get("/readyz?verbose").body == "[+]answers ok\n[+]ready ok\nreadyz check passed\n"
    assert process.get("/startupz?verbose=1").body == "[+]has-been-ready ok\nstartupz check passed\n"


def test_the_paths_answer_in_json_too(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    driver.ready = False

    answer = process.get("/readyz", Accept="application/json")

    assert (answer.status, answer.headers["content-type"], answer.reason) == (500, "application/json", "not_ready")
    failed = {"name": "ready", "ok": False, "reason": "not_ready", "message": "driver responded but is not ready"}
    told = json.loads(answer.body)
    assert told == {
        "check": "readyz",
        "status": "failed",
        "driver": told["driver"],
        "seconds": told["seconds"],
        "connected": True,
        "parts": [{"name": "answers", "ok": True}, failed],
    }
    answer = process.get("/livez?verbose", Accept="application/json, */*")
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
    assert process.get("/livez", Accept="text/plain, application/json").body == "ok"


def test_every_response_about_health_has_a_word_for_it(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar()
    paths = ("/healthz", "/livez", "/readyz", "/startupz")
    words: Callable[[], list[str]] = lambda: [process.get(path).headers["x-livenessprobe-reason"] for path in paths]  # noqa: E731
    assert words() == ["healthy"] * 4
    assert process.get(method="HEAD").headers["x-livenessprobe-reason"] == "healthy"
    driver.ready = False
    assert words() == ["not_ready", "healthy", "not_ready", "healthy"]
    driver.stop()
    told = json.loads(process.get("/livez", Accept="application/json").body)
    assert (told["driver"], told["connected"], told["seconds"] >= 2.9) == ("fake.csi.test", False, True)
    assert "x-livenessprobe-reason" not in process.get("/metrics").headers


@pytest.mark.parametrize("ready", [True, False])
def test_healthz_ignores_query_and_accept(driver: FakeDriver, sidecar: Start, ready: bool) -> None:
    driver.ready = ready
    process = sidecar()
    plain = process.get()
    for other in (process.get("/healthz?verbose"), process.get(Accept="application/json")):
        assert (other.status, other.body) == (plain.status, plain.body)
        assert {**other.headers, "date": ""} == {**plain.headers, "date": ""}


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_without_the_body(driver: FakeDriver, sidecar: Start, path: str) -> None:
    driver.ready = False
    process = sidecar()
    whole, head = process.get(path), process.get(path, "HEAD")
    assert head.body == ""
    assert (head.status, head.reason, head.headers["content-length"]) == (
        whole.status,
        whole.reason,
        whole.headers["content-length"],
    )


def test_metrics_path_wins_over_our_own_paths(driver: FakeDriver, sidecar: Start) -> None:
    process = sidecar("--metrics-path=/livez")
    assert process.get("/livez").body.startswith("# HELP ")
    assert process.get("/readyz").body == "ok"
