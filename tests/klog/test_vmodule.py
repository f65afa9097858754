"""Patterns of --vmodule, which match as Go's filepath.Match does."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livenessprobe.klog.vmodule import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("main", ["main"], ["Main", "mainx", "xmain", ""]),
        ("ma.n", ["ma.n"], ["main"]),
        ("a+", ["a+"], ["a", "aa"]),
        ("", [""], ["main"]),
        ("*", ["main", "", "connection"], ["a/b"]),
        ("con*", ["connection", "con"], ["xcon", "co"]),
        ("*n", ["main", "n"], ["nm"]),
        ("a*b*c", ["abc", "axxbyyc", "abbcc"], ["acb", "abcd"]),
        ("?", ["a", "é"], ["", "ab", "/"]),
        ("m?in", ["main", "m.in"], ["min", "maain"]),
        ("[ab]", ["a", "b"], ["c", "", "ab"]),
        ("[a-c]x", ["ax", "bx", "cx"], ["dx", "-x"]),
        ("[a-cx-z]", ["a", "c", "x"], ["d", "-"]),
        ("[^ab]", ["c", "^"], ["a", "b", ""]),
        ("[^a-c]*", ["main"], ["ab", ""]),
        ("[a^]", ["a", "^"], ["b"]),
        ("[[]", ["["], ["a", "[]"]),
        ("[[a]", ["[", "a"], ["]"]),
        ("[&|~]", ["&", "|", "~"], ["a"]),
        ("[a&&b]", ["a", "b", "&"], []),
        ("[!a]", ["!", "a"], ["b"]),
        ("[.]", ["."], ["a"]),
        ("[*?]", ["*", "?"], ["a"]),
        ("\\*", ["*"], ["main", "\\*"]),
        ("a\\?", ["a?"], ["ab"]),
        ("\\a", ["a"], ["\\a", "\a"]),
        ("\\\\", ["\\"], ["\\\\"]),
        ("[\\]]", ["]"], ["\\"]),
        ("[a\\-c]", ["a", "-", "c"], ["b"]),
        ("[\\^a]", ["^", "a"], ["b"]),
        ("a]", ["a]"], ["a"]),
        ("[c-a]", [], ["a", "b", "c", "-"]),
        ("[^c-a]", ["a", "b", "-", "\n"], ["", "ab"]),
        ("[a-bd-e]", ["b", "d"], ["c", "X", "-"]),
        # Malformed for Go: such a pattern matches no name.
        ("[", [], ["[", ""]),
        ("[a", [], ["a", "[a"]),
        ("[]", [], ["[]", ""]),
        ("[]a]", [], ["]", "a"]),
        ("[^", [], ["a", "[^"]),
        ("\\", [], ["\\", ""]),
        ("a\\", [], ["a", "a\\"]),
        ("[a\\", [], ["a"]),
        ("*[", [], ["a[", "a"]),
        ("[^]", [], ["^", "a"]),
        ("[-a]", [], ["-", "a"]),
        ("[a-]", [], ["-", "a"]),
        ("[a-z-9]", [], ["-", "a", "9"]),
        ("[a--b]", [], ["a", "-"]),
        ("[\\d]", ["d"], ["1"]),
        ("[\\z]", ["z"], ["\\"]),
        ("[z-ab]", ["b"], ["z", "a", "m"]),
    ],
)
def test_patterns_match_as_gos_filepath_match(pattern: str, matching: list[str], others: list[str]) -> None:
    match = compile_pattern(pattern)

    assert [name for name in matching if not match(name)] == []
    assert [name for name in others if match(name)] == []


@settings(max_examples=300)
@given(st.text(alphabet="[]\\*?^ab.&|~") | st.text(), st.text(alphabet="[]^ab.-") | st.text())
@example("[a--b]", "a")
def test_any_pattern_compiles_without_a_warning(pattern: str, name: str) -> None:
    """Python warns of character classes whose meaning may change; the user must not see such a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_pattern(pattern)(name) in (True, False)


@given(st.text())
def test_an_escaped_name_matches_itself_only(name: str) -> None:
    match = compile_pattern("".join(f"\\{character}" for character in name))

    assert match(name)
    assert not match(f"{name}x")
