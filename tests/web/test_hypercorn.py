"""The parts of Hypercorn that the server uses, most of them undocumented: each name, and how it is called."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable

import pytest
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


@pytest.mark.parametrize(
    ("called", "parameters"),
    [
        (HTTPStream, "app config context task_group ssl client server send stream_id"),
        (events.Request, "stream_id headers http_version method raw_path state"),
        (events.Response, "stream_id headers status_code"),
        (events.Body, "stream_id data"),
        (events.EndBody, "stream_id"),
        (events.StreamClosed, "stream_id"),
        (TaskGroup, "loop"),
        (TaskGroup.spawn, "self func args"),
        (WorkerContext, "max_requests"),
        (ASGIWrapper, "app"),
    ],
)
def test_each_is_called_with_the_parameters_that_it_has(called: Callable[..., object], parameters: str) -> None:
    """The parameters of events are their fields."""
    assert list(inspect.signature(called).parameters) == parameters.split()


def test_streams_are_awaited_and_tasks_are_not() -> None:
    coroutines = map(inspect.iscoroutinefunction, (HTTPStream.handle, HTTPStream.app_send, TaskGroup.spawn))

    assert [*coroutines] == [True, True, False]
    assert {"set", "is_set"} <= {*dir(WorkerContext(None).terminated)}


def test_a_configuration_has_the_logs_that_are_switched_off() -> None:
    assert {"accesslog", "errorlog"} <= {*dir(Config())}
