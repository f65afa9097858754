"""Modules that the web libraries import and only other programs need, with the names that are imported from them.  Pure."""

from __future__ import annotations

OF_HYPERCORN = {
    # Types of messages and protocols: classes that are slow to make, for type checkers alone.
    "hypercorn.typing": (
        *("ASGIFramework", "ASGIReceiveCallable", "ASGIReceiveEvent", "ASGISendCallable", "ASGISendEvent", "AppWrapper"),
        *("ConnectionState", "Event", "Framework", "H11SendableEvent", "HTTPResponseBodyEvent", "HTTPResponseStartEvent"),
        *("HTTPScope", "LifespanScope", "LifespanShutdownCompleteEvent", "LifespanShutdownFailedEvent"),
        *("LifespanStartupCompleteEvent", "LifespanStartupFailedEvent", "LifespanState", "ResponseSummary", "Scope"),
        *("SingleTask", "TaskGroup", "WSGIFramework", "WWWScope", "WebsocketAcceptEvent", "WebsocketCloseEvent"),
        *("WebsocketResponseBodyEvent", "WebsocketResponseStartEvent", "WebsocketScope", "WorkerContext"),
    ),
    "multiprocessing.synchronize": ("Event",),
}

OF_QUART = {
    # the command line and the test client
    "quart.cli": ("AppGroup",),
    "quart.testing": (
        *("QuartClient", "QuartCliRunner", "TestApp", "no_op_push", "sentinel"),
        *("make_test_body_with_headers", "make_test_headers_path_and_query_string", "make_test_scope"),
    ),
    # templates
    "jinja2": ("BaseLoader", "Environment", "FileSystemLoader", "Template", "TemplateNotFound"),
    # the same of Flask and werkzeug, on whose base classes Quart stands
    "click": (),
    "flask.cli": ("AppGroup",),
    "werkzeug.serving": ("is_running_from_reloader", "run_simple"),
    "werkzeug.test": ("Client",),
}
"""Modules that Quart imports and only other programs need, and the names that are imported from them."""
