"""What all tests share: the root of the repository, waiting, marks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def not_on_windows(why: str) -> pytest.MarkDecorator:
    """A mark, for a test or as a file's `pytestmark`, that skips on Windows what Windows lacks."""
    return pytest.mark.skipif(sys.platform == "win32", reason=f"Windows: {why}")


def plain(value: object) -> str | None:
    """The test id of a parameter; None if pytest would escape it, since an escaped id cannot be selected by name."""
    words = " ".join(value) if isinstance(value, list) else ""
    return words if words.isascii() and words.isprintable() else None


def eventually(what: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `what()` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds}s"
        time.sleep(0.01)
