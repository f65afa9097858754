"""
A tree of YAML values, each with its file and line.  Pure.

Plain scalars mean what they mean to Kubernetes, whose YAML is go-yaml's version 2: booleans of YAML 1.1, octal numbers with a
leading zero, no sexagesimal numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

Scalar = str | int | float | bool | None
Value: TypeAlias = "Scalar | dict[str, Node] | list[Node]"


class Place(NamedTuple):
    """A position in the input; both numbers count from 1."""

    file: str
    line: int
    column: int = 1


class Node:
    """A value and its place.  A node that is missing in the input has the value None and the place of its parent."""

    __slots__ = ("column", "file", "line", "missing", "value")

    def __init__(self, value: Value, file: str, line: int, column: int = 1, *, missing: bool = False) -> None:
        self.value = value
        self.file = file
        self.line = line
        self.column = column
        self.missing = missing

    @property
    def place(self) -> Place:
        """Where the value stands."""
        return Place(self.file, self.line, self.column)

    def at(self, *path: str | int) -> Node:
        """The node below, by keys and indexes; a missing node if there is none."""
        node = self
        for step in path:
            below: Node | None = None
            if isinstance(node.value, dict) and isinstance(step, str):
                below = node.value.get(step)
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                below = node.value[step]
            if below is None:
                return Node(None, node.file, node.line, node.column, missing=True)
            node = below
        return node

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of a mapping; none of any other value."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> Sequence[Node]:
        """The items of a list; none of any other value."""
        return self.value if isinstance(self.value, list) else ()

    @property
    def text(self) -> str:
        """A string; empty for any other value."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """A whole number; None for any other value."""
        value = self.value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def texts(self) -> dict[str, str]:
        """The entries of a mapping that are strings, such as labels."""
        return {key: node.value for key, node in self.entries.items() if isinstance(node.value, str)}

    def described(self) -> str:
        """The value in words, for a sentence about its type."""
        match self.value:
            case None:
                return "null"
            case bool():
                return f"the boolean {str(self.value).lower()}"
            case int() | float():
                return f"the number {self.value}"
            case str():
                return f"the text {self.value!r}"
            case dict():
                return "a mapping"
        return "a list"


class Document(NamedTuple):
    """One object of the input; the items of a List are documents of their own."""

    node: Node

    @property
    def kind(self) -> str:
        """The object's kind; empty if it has none."""
        return self.node.at("kind").text

    @property
    def name(self) -> str:
        """The object's name; empty if it has none."""
        return self.node.at("metadata", "name").text

    @property
    def namespace(self) -> str:
        """The object's namespace; empty if the manifest leaves it out."""
        return self.node.at("metadata", "namespace").text


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, each once, even if aliases repeat it."""
    seen = set()
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        below = found.value.values() if isinstance(found.value, dict) else found.items
        waiting.extend(reversed([*below]))


_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"})
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTEGERS = (
    (re.compile(r"[-+]?0b[01]+"), 2),
    (re.compile(r"[-+]?0x[0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?0o?[0-7]+"), 8),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
_SPECIAL = {".inf": "inf", ".Inf": "inf", ".INF": "inf", ".nan": "nan", ".NaN": "nan", ".NAN": "nan"}
_LONGEST_NUMBER = 64
"""Characters; a longer run of digits is no number that Kubernetes could use."""


def resolve(text: str) -> Scalar:
    """A plain scalar as a value."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] not in "+-.0123456789" or len(text) > _LONGEST_NUMBER:
        return text
    digits = text.replace("_", "")
    for pattern, base in _INTEGERS:
        if pattern.fullmatch(digits):
            return int(digits.replace("0o", "0", 1) if base == 8 else digits, base)
    if _FLOAT.fullmatch(digits):
        return float(digits)
    sign, special = (digits[0], digits[1:]) if digits[0] in "+-" else ("", digits)
    return float(sign + _SPECIAL[special]) if special in _SPECIAL else text
