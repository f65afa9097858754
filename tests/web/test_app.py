"""The ASGI application's responses, without a server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from livenessprobe.klog import log as klog
from livenessprobe.klog.format import Options, render_text
from livenessprobe.metrics import Exposition, Metrics
from livenessprobe.web.app import App
from livenessprobe.web.routes import Mux

HEALTH = Mux(healthz=True, metrics_path="/metrics")
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "scheme": "http",
    "method": "GET",
    "root_path": "",
    "query_string": b"",
    "headers": [],
    "client": ("127.0.0.1", 1),
}


class Broken:
    """A stand-in for `Callers` that always raises."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def check(self, _caller: object) -> None:
        raise self._error


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every record as "SEVERITY message", without time, process and source."""
    bare, lines = Options(skip_headers=True), list[str]()
    monkeypatch.setattr(klog._sink, "put", lambda record: lines.append(f"{record.severity} {render_text(record, bare)}"))
    return lines


async def ask(app: App, path: str) -> list[dict[str, Any]]:
    """All ASGI events that the application sends."""
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event()

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)
        if event["type"] == "http.response.body" and not event.get("more_body", False):
            answered.set()

    async def receive() -> dict[str, Any]:
        await answered.wait()  # a client that disconnects after it has the response
        return {"type": "http.disconnect"}

    await app(SCOPE | {"path": path, "raw_path": path.encode()}, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/startupz", "/metrics"])
@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), MemoryError(), RecursionError("deep"), OSError(24, "no more")])
async def test_a_fault_while_answering_is_a_500_and_a_record(
    path: str, error: Exception, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(_app: App) -> None:
        raise error

    monkeypatch.setattr(App, "_load", load)
    metrics = Metrics()

    start, body = await ask(App(Broken(error), metrics, lambda: HEALTH), path)

    headers = {name.lower(): value for name, value in start["headers"]}
    assert (start["status"], headers[b"x-livenessprobe-reason"]) == (500, b"internal")
    assert body["body"] == f"livenessprobe: internal error: {error!r}".encode()
    assert [line.partition(" err=")[0] for line in logged] == ['E "Request failed inside the sidecar"']
    assert b'livenessprobe_http_responses_total{code="500"} 1' in metrics.expose().body


async def test_metrics_are_read_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """All metrics change on the event loop.  Read in another thread, half of them might be older than the rest."""
    threads: list[threading.Thread] = []
    expose = Metrics.expose

    def noted(metrics: Metrics, *headers: str) -> Exposition:
        threads.append(threading.current_thread())
        return expose(metrics, *headers)

    monkeypatch.setattr(Metrics, "expose", noted)

    start, *_ = await ask(App(Broken(OSError()), Metrics(), lambda: HEALTH), "/metrics")

    assert (start["status"], threads) == (200, [threading.current_thread()])
