"""The modules that a running sidecar has loaded; each costs CPU at every start and memory on every node."""

from __future__ import annotations

import re
import sys

import pytest

from tests.support import FakeDriver, Start, not_on_windows

pytestmark = not_on_windows("other parts of asyncio")

BUDGETS = {False: 245, True: 95}
"""The most modules of other packages than the standard library and livenessprobe, by whether imports are lazy."""
UNUSED = (
    *(
        "quart",
        "werkzeug",
        "flask",
        "jinja2",
        "markupsafe",
        "click",
        "blinker",
        "itsdangerous",
        "aiofiles",
    ),  # needed for /metrics only
    *("rich", "pygments"),  # needed for a terminal only
    *("unittest", "doctest", "pydoc", "sqlite3"),
)
"""Packages that answering /healthz does not need."""
UNUSED_IF_LAZY = ("h2", "hpack", "wsproto", "priority", "email", "_ssl", "_hashlib")
"""Packages that are not loaded either if imports are lazy."""


@pytest.mark.parametrize(
    "lazy",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif("sys.version_info < (3, 15)", reason="Python before 3.15 has no lazy imports")
        ),
    ],
)
def test_answering_healthz_loads_no_needless_module(lazy: bool, driver: FakeDriver, sidecar: Start) -> None:
    environ = {"PYTHONVERBOSE": "1", "PYTHON_LAZY_IMPORTS": "all" if lazy else "normal"}
    process = sidecar(environ=environ)
    process.await_name()
    assert process.get().status == 200

    loaded = set(re.findall(r"^import '?([\w.]+)'? #", process.log(), re.MULTILINE))
    foreign = [name for name in loaded if name.partition(".")[0] not in {*sys.stdlib_module_names, "livenessprobe"}]
    assert sorted(loaded.intersection(UNUSED + (UNUSED_IF_LAZY if lazy else ()))) == []
    assert 50 < len(foreign) <= BUDGETS[lazy], sorted(foreign)
