"""The documents name the release of the Go program that this program matches."""

from __future__ import annotations

import re

import pytest

from livenessprobe import UPSTREAM_VERSION
from tests.support import ROOT


@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "docs/differences.md", "docs/reliability.md"])
def test_documents_name_the_release_that_is_matched(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"Go program(?: of the same name, release|:[^.\n]* of| is|) v(\d+\.\d+)", text)

    assert set(named) == {UPSTREAM_VERSION.removeprefix("v").removesuffix(".0")}
