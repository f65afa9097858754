"""Keeps modules that a library imports and this program does not use out of memory: hidden, or with a placeholder."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from livenessprobe.klog.log import get_logger

log = get_logger(__file__)


@contextlib.contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """
    While this is entered, the modules `names` cannot be imported, unless they are loaded already.

    asyncio then works without TLS (OpenSSL takes 3.3 MiB), and Dynaconf without Flask and Jinja (12 MiB), which are installed
    because Quart needs them.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # Python documents None for "not to be found"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def hide_openssl() -> Iterator[None]:
    """
    While this is entered, hashlib is loaded without OpenSSL, which takes 0.7 MiB: hashes come from Python's own modules.

    Not where Python was built without these, as on Red Hat's systems.
    """
    try:
        for name in ("_md5", "_sha1"):
            importlib.import_module(name)
    except ImportError:
        yield
        return
    with hide_modules("_hashlib"):
        import hashlib  # noqa: F401  before the context ends, even with lazy imports

        yield


class Placeholder(ModuleType):
    """
    Stands for a module of which a library imports some names and this program uses none: each name is an empty class.

    Another name loads the real module, with a warning.  Submodules are the real ones.
    """

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        super().__init__(name)
        vars(self).update({each: type(each, (), {"__module__": name}) for each in names})

    def __getattr__(self, name: str) -> object:
        """An attribute that the placeholder lacks."""
        if name == "__path__":  # where the import system looks for submodules
            spec = _spec(self.__name__)
            if spec is not None and spec.submodule_search_locations is not None:
                return spec.submodule_search_locations
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            log.warning("A module is loaded that should not be needed; it costs memory", module=self.__name__, name=name)
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def install_placeholders(modules: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Install a placeholder for each of `modules`, a name and what is imported from it; returns the names that had none."""
    missing = [name for name in modules if name not in sys.modules]
    for name in missing:
        sys.modules[name] = Placeholder(name, modules[name])
    return missing


def forget_modules(*packages: str) -> None:
    """Forget the modules of `packages`, and all placeholders, so that the next import loads the real ones."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages or isinstance(module, Placeholder):
            del sys.modules[name]


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where the module is found; no module is imported, where importlib.util.find_spec imports the parent."""
    parent, _, _ = name.rpartition(".")
    if not parent:
        return importlib.machinery.PathFinder.find_spec(name)
    above = _spec(parent)
    return above and importlib.machinery.PathFinder.find_spec(name, above.submodule_search_locations)


UNUSED_BY_HYPERCORN = {
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
    # TLS, and other protocols than the one of web/http1
    "ssl": (
        *("OP_NO_COMPRESSION", "Purpose", "SSLContext", "SSLError", "TLSVersion", "VerifyFlags", "VerifyMode"),
        "create_default_context",
    ),
    "hypercorn.asyncio.run": ("worker_serve",),
    "hypercorn.protocol.h11": ("H11Protocol", "H2CProtocolRequiredError", "H2ProtocolAssumedError"),
    "hypercorn.protocol.h2": ("H2Protocol",),
}
"""Modules that Hypercorn imports and only other programs need, and the names that are imported from them."""
UNUSED_BY_PROMETHEUS = {
    # its own text, HTTP servers and clients, which load OpenSSL; livenessprobe.metrics writes the text
    "prometheus_client.exposition": (
        *("CONTENT_TYPE_LATEST", "CONTENT_TYPE_PLAIN_0_0_4", "CONTENT_TYPE_PLAIN_1_0_0", "MetricsHandler"),
        *("delete_from_gateway", "generate_latest", "instance_ip_grouping_key", "make_asgi_app", "make_wsgi_app"),
        *("push_to_gateway", "pushadd_to_gateway", "start_http_server", "start_wsgi_server", "write_to_textfile"),
    ),
}
"""The same of the Prometheus client."""
UNUSED_BY_QUART = {
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
