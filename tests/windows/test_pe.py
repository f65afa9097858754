"""`image/windows/check_pe` finds what Windows would not: run on programs of a few functions, where mingw is at hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

MINGW = shutil.which("x86_64-w64-mingw32-gcc")
pytestmark = pytest.mark.skipif(MINGW is None, reason="no mingw here to make programs with; `make windows-tree` installs it")


def build(name: Path, source: str, *more: str) -> None:
    subprocess.run([str(MINGW), "-O1", "-s", "-x", "c", "-", "-o", str(name), *more], input=source.encode(), check=True)


@pytest.fixture
def tree(folder: Path) -> Path:
    """A program and the library it needs."""
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


def test_a_program_with_all_it_needs_is_fine(tree: Path) -> None:
    assert check(tree) == (0, "every import of every library is resolved")


def test_a_library_that_is_missing_is_named_with_what_wants_it(tree: Path) -> None:
    (tree / "helper.dll").unlink()

    assert check(tree) == (1, "program.exe: there is no helper.dll (helper)")


def test_a_library_without_the_function_is_as_bad(tree: Path) -> None:
    build(tree / "helper.dll", "__declspec(dllexport) int other(void) { return 0; }", "-shared")

    assert check(tree) == (1, "program.exe: helper.dll has no helper")


def test_what_only_a_whole_windows_has_is_not_counted_on(folder: Path) -> None:
    build(
        folder / "program.exe",
        "#include <windows.h>\nint main(void) { return !ShellExecuteA(0, 0, 0, 0, 0, 0); }",
        "-lshell32",
    )

    assert check(folder) == (1, "program.exe: there is no shell32.dll (ShellExecuteA)")


def test_an_empty_folder_is_no_image(folder: Path) -> None:
    assert check(folder) == (1, f"{folder} has no program")
