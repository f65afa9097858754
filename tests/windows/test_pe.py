"""`image/windows/check_pe` finds missing libraries and functions; tested on small programs, where mingw is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

MINGW = shutil.which("x86_64-w64-mingw32-gcc")
pytestmark = pytest.mark.skipif(MINGW is None, reason="mingw is missing; `make windows-tree` installs it")


def build(name: Path, source: str, *more: str) -> None:
    subprocess.run([str(MINGW), "-O1", "-s", "-x", "c", "-", "-o", str(name), *more], input=source.encode(), check=True)


@pytest.fixture
def tree(folder: Path) -> Path:
    """A program and the library that it needs."""
    build(folder / "helper.dll", "__declspec(dllexport) int helper(void) { return 0; }", "-shared")
    build(
        folder / "program.exe",
        "int helper(void); int main(void) { return helper(); }",
        "-x",
        "none",
        str(folder / "helper.dll"),
    )
    return folder


def check(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "image/windows/check_pe", folder], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip()


def test_a_complete_program_passes(tree: Path) -> None:
    assert check(tree) == (0, "every import of every library is resolved")


def test_a_missing_library_is_named_with_the_program_that_needs_it(tree: Path) -> None:
    (tree / "helper.dll").unlink()

    assert check(tree) == (1, "program.exe: there is no helper.dll (helper)")


def test_a_library_without_the_function_is_named(tree: Path) -> None:
    build(tree / "helper.dll", "__declspec(dllexport) int other(void) { return 0; }", "-shared")

    assert check(tree) == (1, "program.exe: helper.dll has no helper")


def test_a_library_that_nanoserver_lacks_counts_as_missing(folder: Path) -> None:
    build(
        folder / "program.exe",
        "#include <windows.h>\nint main(void) { return !ShellExecuteA(0, 0, 0, 0, 0, 0); }",
        "-lshell32",
    )

    assert check(folder) == (1, "program.exe: there is no shell32.dll (ShellExecuteA)")


def test_an_empty_folder_is_no_image(folder: Path) -> None:
    assert check(folder) == (1, f"{folder} has no program")
