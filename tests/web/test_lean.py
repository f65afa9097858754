"""The lean Quart application of the sidecar's own process: it loads no module for which it has a placeholder."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from livenessprobe.process.imports import UNUSED_BY_HYPERCORN, UNUSED_BY_PROMETHEUS, UNUSED_BY_QUART
from tests.support import ROOT, FakeDriver, Start, injected

UNUSED = UNUSED_BY_HYPERCORN | UNUSED_BY_PROMETHEUS | UNUSED_BY_QUART


@pytest.mark.parametrize("name", UNUSED)
def test_the_names_of_a_placeholder_are_those_of_the_real_module(name: str) -> None:
    module = importlib.import_module(name)

    assert [each for each in UNUSED[name] if not hasattr(module, each)] == []


PROGRAM = """
import asyncio, sys
from livenessprobe.metrics import Metrics
from livenessprobe.process.imports import Placeholder
from livenessprobe.web import app
from livenessprobe.web.health import Health
from livenessprobe.web.routes import Routes

async def ask(app):
    events, answered = [{{"type": "http.request", "body": b"", "more_body": False}}], asyncio.Event()
    async def receive():
        if not events:
            await answered.wait()
            return {{"type": "http.disconnect"}}
        return events.pop()
    async def send(event):
        if event["type"] == "http.response.start":
            print(event["status"])
        elif not event.get("more_body", False):
            answered.set()
    scope = {{"type": "http", "http_version": "1.1", "scheme": "http", "method": "GET", "root_path": "", "query_string": b"",
             "headers": [(b"host", b"a")], "client": ("127.0.0.1", 1), "path": "/m", "raw_path": b"/m"}}
    await app(scope, receive, send)

{before}
for each in [app.create_lean_app(Health(None, Metrics(), Routes(False, "/m")), Metrics()) for _ in range(2)]:
    asyncio.run(ask(each))
print(*sorted(name for name, module in sys.modules.items() if isinstance(module, Placeholder)))
print(*sorted(sys.modules.keys() & {{"click.core", "jinja2.environment", "importlib.metadata"}}))
"""


def lean(before: str = "") -> tuple[list[str], str]:
    """What a process that has two lean applications prints: statuses, placeholders, needless modules.  And its log."""
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.splitlines(), done.stderr


def test_the_lean_application_needs_no_module_for_which_it_has_a_placeholder() -> None:
    assert lean() == (["200", "200", " ".join(sorted(UNUSED_BY_QUART)), ""], "")


BROKEN = """
create = app.create_app
def fail(*arguments):
    app.create_app = create
    create(*arguments)
    raise TypeError("AppGroup() takes no arguments")
app.create_app = fail
"""


def test_a_quart_that_needs_more_is_loaded_as_a_whole_with_a_warning() -> None:
    """As if a later Quart used a name during its import."""
    (*statuses, placeholders, _), log = lean(BROKEN)

    assert (statuses, placeholders) == (["200", "200"], "")
    assert log.count("Quart needs more than it should; loading all of it, which costs memory") == 1


def test_a_quart_that_cannot_be_loaded_at_all_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        lean("sys.modules['blinker'] = None")

    assert "import of blinker halted" in raised.value.stderr


def test_where_quart_is_loaded_already_there_are_no_placeholders() -> None:
    assert lean("import quart; quart.Quart")[0][:3] == ["200", "200", ""]


@pytest.mark.skipif("_md5" not in sys.builtin_module_names and not importlib.util.find_spec("_md5"), reason="OpenSSL's only")
def test_hashes_come_from_python_itself() -> None:
    code = "from livenessprobe.process.imports import hide_openssl\nwith hide_openssl(): pass\n"
    code += "import hashlib, sys; print('_hashlib' in sys.modules, hashlib.sha1(b'x').hexdigest()[:4], hashlib.md5().name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert (done.stdout, done.stderr) == ("False 11f6 md5\n", "")


def test_a_daemon_that_serves_metrics_loads_no_openssl_and_no_other_protocol(
    driver: FakeDriver, folder: Path, sidecar: Start
) -> None:
    """Nor a module for which it has a placeholder, which would be a warning in its log."""
    needless = ("_ssl", "_hashlib", "h2", "hpack", "http.server", "wsproto")
    at_the_end = f"""
import os, sys
end = os._exit
def show(code):
    print(*sorted(sys.modules.keys() & {set(needless)!r}), file=sys.stderr)
    end(code)
os._exit = show
"""
    process = sidecar(environ=injected(folder, at_the_end))
    process.await_name()

    assert (process.get().status, process.get("/metrics").status) == (200, 200)

    assert process.stop() == 0
    assert process.log().splitlines()[-1] == ""
    assert "should not be needed" not in process.log()
