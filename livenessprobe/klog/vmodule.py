"""The file name patterns of `-vmodule`, matched as Go's filepath.Match does.  Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

_RUNE = r"(?:\\.|[^\\\]-])"
_PATTERN = re.compile(
    rf"(?P<many>\*)|(?P<one>\?)|\[(?P<not>\^|(?!\^))(?P<ranges>(?:{_RUNE}(?:-{_RUNE})?)+)\]|(?P<rune>\\.|[^\\\[])", re.DOTALL
)
_RANGE = re.compile(rf"({_RUNE})(?:-({_RUNE}))?", re.DOTALL)


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches `pattern`, as a function of the name; a malformed pattern matches none."""
    out, position = [], 0
    while position < len(pattern):
        token = _PATTERN.match(pattern, position)
        if token is None:
            return lambda _: False
        out.append(_as_regex(token))
        position = token.end()
    compiled = re.compile("".join(out), re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _as_regex(token: re.Match[str]) -> str:
    if token["many"]:
        return "[^/]*"
    if token["one"]:
        return "[^/]"
    if token["rune"]:
        return re.escape(token["rune"][-1])
    ranges = [(low[-1], (high or low)[-1]) for low, high in _RANGE.findall(token["ranges"])]
    inside = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in ranges if low <= high)
    if not inside:  # Go accepts ranges that run backwards; they match nothing
        return "." if token["not"] else "(?!)"
    return f"[{token['not']}{inside}]"
