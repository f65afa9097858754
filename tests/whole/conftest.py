"""Fixtures for tests of the settings file: a mounted ConfigMap, and a sidecar that follows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ConfigMap, Start, nothing


@pytest.fixture
def mounted(folder: Path) -> Callable[..., ConfigMap]:
    """`mounted(content)` is a ConfigMap mounted in the test's folder."""
    return lambda content=nothing: ConfigMap(folder / "config", content)


@pytest.fixture
def follow(sidecar: Start) -> Start:
    """Starts sidecars that look at the file of a ConfigMap ten times a second."""
    return lambda config, *arguments, **options: sidecar(
        f"--config={config.path}", "--config-poll-interval=100ms", *arguments, **options
    )
