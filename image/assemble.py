"""
Makes the files that the image adds to its base; run by the interpreter that the image will have.

`python3 assemble.py TREE PACKAGES …` makes TREE/python, and TREE/app from the installed packages.  Each becomes a layer
of the image; the first rarely changes.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
LOCAL = Path(sys.base_prefix)

LEFT_OUT = (
    # for interactive use
    *("idlelib", "tkinter", "turtle.py", "turtledemo", "pydoc_data", "profiling", "_tkinter.*", "readline.*"),
    # for installing and building
    *("ensurepip", "venv", "site-packages", "dist-packages", "config-*", "_sysconfig*", "build-details*"),
    # for testing Python itself
    *("test", "tests", "_test*.so", "_ctypes_test*.so", "_xxtestfuzz*.so", "xx*.so"),
    # their libraries are not in the base, and nothing here uses them
    *("sqlite3", "_sqlite3.*", "curses", "_curses*", "dbm", "_dbm.*", "_gdbm.*", "_bz2.*", "_lzma.*", "_uuid.*"),
    *("_ctypes.*",),
    "__pycache__",
)
"""Not copied from the standard library."""

UNUSED = (
    *("bin", "__pycache__"),
    # rich loads these for source code and Markdown, which the log does not have
    *("pygments", "pygments-*", "markdown_it", "markdown_it_py-*", "mdurl", "mdurl-*"),
)
"""Not copied from the packages."""

READ_NO_ANNOTATIONS = frozenset(
    {
        *("property", "setter", "getter", "staticmethod", "classmethod", "abstractmethod", "overload"),
        *("contextmanager", "asynccontextmanager"),
    }
)
"""Decorators that do not read annotations; others may, as functools.singledispatch does."""

PROGRAM = """\
#!{interpreter} {options}
import sys

sys.argv[0] = "/livenessprobe"
sys.path.append("/app")
from livenessprobe.__main__ import main

sys.exit(main())
"""
"""/app/bin/livenessprobe, which launcher.c executes.  Its name becomes the name of the process."""


def python(tree: Path) -> None:
    """Copy the interpreter, its shared libraries, its standard library, and `cat`."""
    local = tree / LOCAL.relative_to("/")
    (local / "bin").mkdir(parents=True)
    shutil.copy(LOCAL / "bin" / NAME, local / "bin")
    library = local / "lib" / NAME
    shutil.copytree(LOCAL / "lib" / NAME, library, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for shared in LOCAL.glob("lib/lib*.so*"):
        shutil.copy(shared, local / "lib", follow_symlinks=False)
    compile_all(library, LOCAL / "lib" / NAME)
    cat(tree)


def cat(tree: Path) -> None:
    """Copy Debian's cat, for exec probes that `cat` a health file, and its package's status, for scanners."""
    for each in ("usr/bin/cat", "usr/share/doc/coreutils/copyright"):
        (tree / each).parent.mkdir(parents=True)
        shutil.copy(Path("/", each), tree / each)
    status = tree / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    paragraph = subprocess.run(["dpkg-query", "--status", "coreutils"], stdout=subprocess.PIPE, check=True).stdout
    (status / "coreutils").write_bytes(paragraph)


def app(tree: Path, installed: Sequence[str]) -> None:
    """Copy the packages without modules that are never loaded, and write the program."""
    packages = tree / "app"
    for folder in installed:
        shutil.copytree(folder, packages, ignore=shutil.ignore_patterns(*UNUSED), dirs_exist_ok=True)
    compile_all(packages, Path("/app"))
    program = packages / "bin/livenessprobe"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(interpreter=LOCAL / "bin" / NAME, options=options()))
    program.chmod(0o755)


def options() -> str:
    """
    The options of the program's first line, as one word, since Linux passes no more.

    -I: no variable and no folder of the pod adds code.  -S: modules come only from the standard library and /app.
    """
    lazy = sys.version_info >= (3, 15)
    return "-ISXlazy_imports=all" if lazy else "-IS"


def compile_all(folder: Path, place: Path) -> None:
    """
    Compile all modules in `folder`, which will be at `place`; a module that does not compile raises.

    Without docstrings and annotations of functions: 5 and 12 % of the memory, and nothing here reads them.

    By hash and unchecked (PEP 552): times would differ between builds, and a comparison with each source costs time at each
    start.
    """
    for path in sorted(folder.rglob("*.py")):
        source, name = path.read_bytes(), str(place / path.relative_to(folder))
        module = without_annotations(without_docstrings(ast.parse(source, name)))
        code = compile(module, name, "exec", dont_inherit=True)
        compiled = Path(importlib.util.cache_from_source(path))
        compiled.parent.mkdir(exist_ok=True)
        unchecked = (0b01).to_bytes(4, "little")
        header = importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source)
        compiled.write_bytes(header + marshal.dumps(code))


def without_docstrings(module: ast.Module) -> ast.Module:
    """The module as `python -OO` would compile it, but with its assertions."""
    for node in ast.walk(module):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body.pop(0)
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.copy_location(ast.Pass(), docstring))
    return module


def without_annotations(module: ast.Module) -> ast.Module:
    """The module without the annotations of functions; those of classes stay, since they are the fields of named tuples."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and READ_NO_ANNOTATIONS.issuperset(_decorators(node)):
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
    return module


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The last word of each decorator of `function`, as `setter` of `@text.setter`."""
    for each in function.decorator_list:
        named = each.func if isinstance(each, ast.Call) else each
        yield named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""


if __name__ == "__main__":
    os.umask(0o022)
    python(Path(sys.argv[1], "python"))
    app(Path(sys.argv[1], "app"), sys.argv[2:])
