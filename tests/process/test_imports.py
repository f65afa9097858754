"""Placeholders for modules that are not used, and what happens if they are used after all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from livenessprobe.process import imports
from livenessprobe.process.imports import Placeholder

WARNING = 'W "A module is loaded that should not be needed; it costs memory" module="{}" name="{}"'


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package `shelf` with the modules `book` and `lamp`, which are forgotten after the test."""
    package = folder / "shelf"
    package.mkdir()
    (package / "__init__.py").write_text("from shelf.book import title\nwidth = 80\n")
    (package / "book.py").write_text("title = 'real'\nauthor = 'somebody'\n")
    (package / "lamp.py").write_text("import shelf\nwatts = 7\n")
    monkeypatch.syspath_prepend(folder)
    yield package
    imports.forget_modules("shelf")


def test_a_placeholder_has_its_names_and_costs_no_import(library: Path) -> None:
    assert imports.install_placeholders({"shelf": ("title",)}) == ["shelf"]

    from shelf import title  # type: ignore[import-not-found]

    assert isinstance(title, type)
    assert isinstance(sys.modules["shelf"], Placeholder)
    assert "shelf.book" not in sys.modules


def test_a_loaded_module_keeps_its_place(library: Path) -> None:
    real = importlib.import_module("shelf")

    assert imports.install_placeholders({"shelf": ("title",)}) == []
    assert sys.modules["shelf"] is real


def test_a_missing_name_loads_the_real_module_with_one_warning(library: Path, logged: list[str]) -> None:
    imports.install_placeholders({"shelf": ("title",)})

    from shelf import title, width

    assert (width, isinstance(title, type)) == (80, True)
    assert importlib.import_module("shelf").title == "real"
    assert logged == [WARNING.format("shelf", "width")]


def test_a_placeholder_that_is_still_held_after_that_gives_the_real_names(library: Path, logged: list[str]) -> None:
    imports.install_placeholders({"shelf": ()})
    held = sys.modules["shelf"]

    assert (held.width, held.title) == (80, "real")
    assert len(logged) == 1


def test_a_name_that_does_not_exist_at_all_is_an_import_error(library: Path, logged: list[str]) -> None:
    imports.install_placeholders({"shelf": ()})

    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from shelf import nothing  # noqa: F401
    assert len(logged) == 1


@pytest.mark.parametrize(("placeholder", "module"), [("shelf", "shelf.lamp"), ("shelf.book", "shelf.lamp")])
def test_submodules_and_neighbours_are_the_real_ones(
    placeholder: str, module: str, library: Path, logged: list[str]
) -> None:
    imports.install_placeholders({placeholder: ("title",)})

    assert importlib.import_module(module).watts == 7
    assert isinstance(sys.modules[placeholder], Placeholder)
    assert logged == []


def test_a_placeholder_within_a_package_loads_the_real_module_too(library: Path, logged: list[str]) -> None:
    imports.install_placeholders({"shelf.book": ("title",)})

    from shelf.book import author

    assert author == "somebody"
    assert logged == [WARNING.format("shelf.book", "author")]


def test_forgotten_placeholders_are_loaded_anew(library: Path) -> None:
    imports.install_placeholders({"shelf.book": ("title",), "elsewhere": ()})
    assert isinstance(importlib.import_module("shelf").title, type)

    imports.forget_modules("shelf")

    assert importlib.import_module("shelf").title == "real"
    assert "elsewhere" not in sys.modules
