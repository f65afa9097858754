"""Modules that are hidden or replaced while a library is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from livenessprobe.process.imports import stand_ins
from livenessprobe.web import app


def test_a_stand_in_can_be_called_derived_from_and_used_as_a_decorator() -> None:
    with stand_ins("no_such_module", "no_such_module.part"):
        import no_such_module  # type: ignore[import-not-found]
        from no_such_module.part import Base, decorate  # type: ignore[import-not-found]

        class Derived(Base):
            @decorate("x", y=1)
            def method(self) -> None: ...

        Derived.method.params.insert(0, no_such_module.Option("z"))
        assert Derived("a", b=2).anything()

    assert "no_such_module" not in sys.modules


def test_a_loaded_module_is_not_replaced() -> None:
    import json

    with stand_ins("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


@pytest.mark.parametrize("needs", ["", "import jinja2; assert jinja2.__version__"])
def test_quart_serves_with_stand_ins_and_with_all_of_it_if_it_cannot_do_without(needs: str, folder: Path) -> None:
    """Some later release may need what is left out: then it is loaded as usual."""
    code = f"""
import asyncio, sys
from livenessprobe.metrics import Metrics
from livenessprobe.web.app import create_app
from livenessprobe.web.health import Health
from livenessprobe.web.routes import Routes
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "quart.blueprints":
            exec({needs!r})
sys.meta_path.insert(0, Finder())
client = create_app(Health(None, Metrics(), Routes(True, "/metrics")), Metrics()).test_client()
response = asyncio.run(client.get("/metrics"))
print(response.status_code, "jinja2" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["200", str(bool(needs))]
    assert ("Quart needs packages" in done.stderr) is bool(needs)


def test_what_quart_is_loaded_without_is_installed_and_not_ours() -> None:
    assert {name.partition(".")[0] for name in app.WITHOUT_FUNCTION} == {"click", "jinja2"}
