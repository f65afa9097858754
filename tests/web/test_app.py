"""What the Quart application answers, asked by its own test client; and how Quart is loaded."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from livenessprobe.driver.result import READY, ProbeResult
from livenessprobe.metrics import Exposition, Metrics
from livenessprobe.probing.standing import Standing
from livenessprobe.settings.model import Thresholds
from livenessprobe.web.app import Applications, create_app
from livenessprobe.web.health import Health
from livenessprobe.web.routes import Routes
from tests.support import eventually

ROUTES = Routes(healthz=True, metrics_path="/metrics")
ERRORS = [ZeroDivisionError("oh"), MemoryError(), RecursionError("deep"), OSError(24, "no more")]


class Answers:
    """Stands for `Callers`: reports `result`, or fails with it."""

    driver = "fake.csi.test"

    def __init__(self, result: ProbeResult | Exception = READY) -> None:
        self._result = result

    async def check(self, _caller: object) -> Standing:
        if isinstance(self._result, Exception):
            raise self._result
        return Standing().after(self._result, Thresholds(), 0.0)


def health(result: ProbeResult | Exception = READY, routes: Routes = ROUTES, metrics: Metrics | None = None) -> Health:
    return Health(Answers(result), metrics or Metrics(), routes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/healthz", 200, "ok"), ("/livez", 200, "ok"), ("/metrics", 200, "livenessprobe_healthy"), ("/x", 404, "not found")],
)
async def test_the_application_answers_health_metrics_and_404(path: str, status: int, body: str) -> None:
    client = create_app(health(), Metrics()).test_client()

    response = await client.get(path)

    assert response.status_code == status
    assert body in await response.get_data(as_text=True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "BREW"])
async def test_metrics_are_served_for_every_method(method: str) -> None:
    response = await create_app(health(), Metrics()).test_client().open("/metrics", method=method)

    assert response.status_code == 200
    assert "allow" not in response.headers


@pytest.mark.parametrize("path", ["/<int:x>", "/{a}", "/m/", "/static/x", "/healthz2"])
async def test_the_metrics_path_is_literal(path: str) -> None:
    """None of it is a pattern of werkzeug's."""
    client = create_app(health(routes=Routes(healthz=True, metrics_path=path)), Metrics()).test_client()

    assert (await client.get(path)).status_code == 200
    assert (await client.get("/metrics")).status_code == 404


@pytest.mark.parametrize("host", ["", "a..b", "x" * 300, "localhost:99999"])
async def test_any_host_is_served(host: str) -> None:
    response = await create_app(health(), Metrics()).test_client().get("/metrics", headers={"Host": host})

    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/startupz"])
@pytest.mark.parametrize("error", ERRORS)
async def test_health_that_fails_inside_is_a_500_with_a_reason_and_a_record(
    path: str, error: Exception, logged: list[str]
) -> None:
    response = await create_app(health(error), Metrics()).test_client().get(path)

    await assert_failure(response, error, logged)


@pytest.mark.parametrize("error", ERRORS)
async def test_a_scrape_that_fails_is_a_500_with_a_reason_and_a_record(error: Exception, logged: list[str]) -> None:
    class Failing(Metrics):
        def expose(self, *_: str) -> Exposition:
            raise error

    response = await create_app(health(), Failing()).test_client().get("/metrics")

    await assert_failure(response, error, logged)


@pytest.mark.parametrize("error", ERRORS)
async def test_an_inner_application_that_fails_is_a_500_with_a_reason_and_a_record(
    error: Exception, logged: list[str]
) -> None:
    """Whatever fails in Quart itself, before its own handlers of errors."""

    async def fail(*_: object) -> None:
        raise error

    app = create_app(health(), Metrics())
    app.asgi_app = Health(Answers(), Metrics(), ROUTES, fail)  # type: ignore[method-assign, arg-type]

    await assert_failure(await app.test_client().get("/metrics"), error, logged)


async def assert_failure(response: Any, error: Exception, logged: list[str]) -> None:
    assert (response.status_code, response.headers["x-livenessprobe-reason"]) == (500, "internal")
    assert await response.get_data(as_text=True) == f"livenessprobe: internal error: {error!r}"
    assert [line.partition(" err=")[0] for line in logged] == ['E "Request failed inside the sidecar"']


async def test_metrics_are_read_on_the_event_loop() -> None:
    """They change on the event loop: in another thread some would be read before a change and some after it."""
    threads: list[threading.Thread] = []

    class Noting(Metrics):
        def expose(self, *headers: str) -> Exposition:
            threads.append(threading.current_thread())
            return super().expose(*headers)

    response = await create_app(health(), Noting()).test_client().get("/metrics")

    assert (response.status_code, threads) == (200, [threading.current_thread()])


# --- loading Quart


async def ask(app: Any, path: str, accept: str = "*/*") -> int:
    """The status of the response to a GET of `path`."""
    statuses: list[int] = []
    answered = asyncio.Event()

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])
        elif not event.get("more_body", False):
            answered.set()

    async def receive() -> dict[str, Any]:
        await answered.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"accept", accept.encode())],
        "client": ("127.0.0.1", 1),
        "path": path,
        "raw_path": path.encode(),
    }
    await app(scope, receive, send)
    (status,) = statuses
    return status


class Loading(Applications):
    """The applications of these listeners; `loads` has the thread of every load, and `fails` makes the next one fail."""

    def __init__(self, *healths: Health, **options: Any) -> None:
        super().__init__(healths or [health()], Metrics(), create=self._noted, **options)
        self.loads: list[str] = []
        self.fails = False

    def _noted(self, health: Health, metrics: Metrics) -> Any:
        self.loads.append(threading.current_thread().name)
        if self.fails:
            self.fails = False
            raise ImportError("no Quart today")
        return create_app(health, metrics)


async def test_quart_is_loaded_once_in_a_thread_of_its_own_after_the_first_health_response() -> None:
    applications = Loading()
    (app,) = applications.listeners
    loading = asyncio.create_task(applications.run())

    assert [await ask(app, path) for path in ("/nowhere", "/nowhere")] == [404, 404]
    await asyncio.sleep(0)
    assert applications.loads == []
    assert await ask(app, "/healthz") == 200
    await loading

    assert applications.loads == ["load Quart"]
    eventually(lambda: "load Quart" not in [thread.name for thread in threading.enumerate()])
    assert await ask(app, "/metrics") == await ask(app, "/healthz") == 200
    assert applications.loads == ["load Quart"]


async def test_a_metrics_request_that_comes_first_loads_quart_and_waits() -> None:
    applications = Loading()
    (app,) = applications.listeners

    statuses = await asyncio.gather(*(ask(app, "/metrics") for _ in range(5)))

    assert (statuses, applications.loads) == ([200] * 5, ["load Quart"])


async def test_without_a_health_request_quart_is_loaded_in_time() -> None:
    applications = Loading(load_after=0.05)

    await applications.run()

    assert applications.loads == ["load Quart"]


async def test_a_load_that_fails_is_a_500_the_next_request_tries_again_and_health_goes_on(logged: list[str]) -> None:
    applications = Loading()
    (app,) = applications.listeners
    applications.fails = True

    assert await ask(app, "/metrics") == 500
    assert await ask(app, "/healthz") == 200
    assert await ask(app, "/metrics") == 200

    assert [line.partition(" err=")[0] for line in logged] == ['E "Request failed inside the sidecar"']


async def test_every_listener_has_a_quart_application_of_its_own() -> None:
    healths = [health(routes=Routes(healthz=True, metrics_path=None)), health(routes=Routes(False, "/m"))]
    applications = Loading(*healths)

    await applications.load()

    first, second = applications.listeners
    assert type(first.current).__name__ == type(second.current).__name__ == "Quart"
    assert first.current is not second.current
    assert [await ask(first, "/m"), await ask(second, "/m")] == [404, 200]
    assert [await ask(first, "/healthz"), await ask(second, "/healthz")] == [200, 404]


def test_neither_health_nor_its_application_needs_quart() -> None:
    import subprocess

    code = "import livenessprobe.web.app, livenessprobe.web.health, sys; print('quart' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
