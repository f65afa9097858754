"""Which source files a pattern of `-vmodule` means.  Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

_RUNE = r"(?:\\.|[^\\\]-])"
_PATTERN = re.compile(
    rf"(?P<many>\*)|(?P<one>\?)|\[(?P<not>\^|(?!\^))(?P<ranges>(?:{_RUNE}(?:-{_RUNE})?)+)\]|(?P<rune>\\.|[^\\\[])", re.DOTALL
)
_RANGE = re.compile(rf"({_RUNE})(?:-({_RUNE}))?", re.DOTALL)


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Go's filepath.Match for one `-vmodule` pattern; a malformed one matches nothing."""
    out, position = [], 0
    while position < len(pattern):
        token = _PATTERN.match(pattern, position)
        if token is None:
            return lambda _: False
        out.append(_translated(token))
        position = token.end()
    compiled = re.compile("".join(out), re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _translated(token: re.Match[str]) -> str:
    if token["many"]:
        return "[^/]*"
    if token["one"]:
        return "[^/]"
    if token["rune"]:
        return re.escape(token["rune"][-1])
    ranges = [(low[-1], (high or low)[-1]) for low, high in _RANGE.findall(token["ranges"])]
    inside = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in ranges if low <= high)
    if not inside:  # ranges that run backwards hold nothing
        return "." if token["not"] else "(?!)"
    return f"[{token['not']}{inside}]"
