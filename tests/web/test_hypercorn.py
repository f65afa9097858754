"""The parts of Hypercorn that the server uses, most of them undocumented: each name, and how it is called."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol import events
from hypercorn.protocol.http_stream import HTTPStream

from tests.support import ROOT

USED = {
    "hypercorn.app_wrappers": {"ASGIWrapper"},
    "hypercorn.asyncio.task_group": {"TaskGroup"},
    "hypercorn.asyncio.worker_context": {"WorkerContext"},
    "hypercorn.config": {"Config"},
    "hypercorn.protocol.events": {"Body", "EndBody", "Request", "Response", "StreamClosed"},
    "hypercorn.protocol.http_stream": {"HTTPStream"},
}


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_no_other_name_of_hypercorn_is_imported() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "livenessprobe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.ImportFrom(module=str(module)) if module.startswith("hypercorn"):
                    found.setdefault(module, set()).update(alias.name for alias in node.names)
                case ast.Import() if any(alias.name.startswith("hypercorn") for alias in node.names):
                    raise AssertionError(f"{path}: import the names that are used")

    assert found == USED


def test_a_stream_is_made_of_an_application_and_a_place_to_send_events() -> None:
    assert parameters(HTTPStream) == [
        *("app", "config", "context", "task_group", "ssl", "client", "server", "send", "stream_id")
    ]
    assert inspect.iscoroutinefunction(HTTPStream.handle)
    assert inspect.iscoroutinefunction(HTTPStream.app_send)


def test_events_have_the_fields_that_are_read_and_given() -> None:
    def names(event: type) -> list[str]:
        return [field.name for field in fields(event)]

    assert names(events.Request) == ["stream_id", "headers", "http_version", "method", "raw_path", "state"]
    assert names(events.Response) == ["stream_id", "headers", "status_code"]
    assert names(events.Body) == ["stream_id", "data"]
    assert names(events.EndBody) == names(events.StreamClosed) == ["stream_id"]


def test_a_task_group_runs_functions_and_a_context_tells_of_the_end() -> None:
    assert parameters(TaskGroup) == ["loop"]
    assert parameters(TaskGroup.spawn) == ["self", "func", "args"]
    assert not inspect.iscoroutinefunction(TaskGroup.spawn)
    assert parameters(WorkerContext) == ["max_requests"]
    assert {"set", "is_set"} <= {*dir(WorkerContext(None).terminated)}
    assert parameters(ASGIWrapper) == ["app"]


def test_a_configuration_gives_the_headers_of_every_response() -> None:
    config = Config()
    config.include_server_header = False

    assert [name for name, _ in config.response_headers("h11")] == [b"date"]
    assert {"accesslog", "errorlog"} <= {*dir(config)}
