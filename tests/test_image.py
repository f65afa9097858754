"""How the image's modules are compiled."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from image.assemble import compile_all, without_annotations, without_docstrings


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'doc'\nfrom __future__ import annotations\nx = 1", "from __future__ import annotations\nx = 1"),
        ("'doc'", ""),
        ("def f():\n    'doc'", "def f():\n    pass"),
        ("def f():\n    'doc'\n    return 1", "def f():\n    return 1"),
        ("async def f():\n    'doc'\n    assert g()", "async def f():\n    assert g()"),
        ("class A:\n    'doc'\n\n    def f(self):\n        'doc'", "class A:\n\n    def f(self):\n        pass"),
        ("def f():\n    x = 1\n    'no doc'\n    return 'text'", "def f():\n    x = 1\n    'no doc'\n    return 'text'"),
        ("def f():\n    f'no {doc}'", "def f():\n    f'no {doc}'"),
    ],
)
def test_docstrings_go_and_all_else_stays(source: str, expected: str) -> None:
    assert ast.unparse(without_docstrings(ast.parse(source))) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a: int, /, b: A=1, *c: B, d: C, **e: D) -> E:\n    pass", "def f(a, /, b=1, *c, d, **e):\n    pass"),
        ("async def f() -> E:\n    g = lambda x: x", "async def f():\n    g = lambda x: x"),
        ("class A(NamedTuple):\n    x: int = 1", "class A(NamedTuple):\n    x: int = 1"),
        ("@property\ndef f(a: A):\n    pass", "@property\ndef f(a):\n    pass"),
        ("@f.setter\ndef f(a: A):\n    pass", "@f.setter\ndef f(a):\n    pass"),
        ("@a.b.contextmanager()\ndef f(a: A):\n    pass", "@a.b.contextmanager()\ndef f(a):\n    pass"),
        ("@f.register\ndef _(a: A):\n    pass", "@f.register\ndef _(a: A):\n    pass"),
        ("@property\n@known[1]\ndef f(a: A):\n    pass", "@property\n@known[1]\ndef f(a: A):\n    pass"),
    ],
)
def test_annotations_go_where_nothing_reads_them(source: str, expected: str) -> None:
    assert ast.unparse(without_annotations(ast.parse(source))) == expected


def test_a_module_is_compiled_once_and_for_all_with_its_assertions(tmp_path: Path) -> None:
    """Python takes the compiled module though the source has changed since."""
    (tmp_path / "library").mkdir()
    module = tmp_path / "library/wise.py"
    module.write_text("'doc'\ndef f():\n    'doc'\n    assert not 1, __doc__\n")
    compile_all(tmp_path, Path("/there"))
    module.write_text("not Python")

    done = subprocess.run(
        [sys.executable, "-c", "from library import wise; print(wise.f.__doc__); wise.f()"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "None\n"
    assert '/library/wise.py", line 4, in f' in done.stderr
    assert done.stderr.endswith("AssertionError: None\n")


def test_a_module_that_does_not_compile_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def")

    with pytest.raises(SyntaxError, match=r"bad\.py"):
        compile_all(tmp_path, Path("/there"))
    assert not Path(importlib.util.cache_from_source(tmp_path / "bad.py")).exists()
