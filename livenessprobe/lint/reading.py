"""
Reads YAML and JSON into documents: each on its own, so that one bad document does not hide the others.

PyYAML's `compose` with libyaml gives every node its place and constructs no object.  It is the only module that imports PyYAML, and
the only one of this package that reads files.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from livenessprobe.lint.nodes import Document, Node, Place, resolve, walk

MAX_BYTES = 32 << 20
"""Bytes of all input together."""
SUFFIXES = (".yaml", ".yml", ".json")
"""Files that are read from a folder."""
MAX_NODES = 2_000_000
"""Values in one document; each takes about 1 KiB of memory."""
MAX_DEPTH = 250
"""Levels; Kubernetes' own objects have about 20, schemas of custom resources about 100."""
STDIN = "-"


class Unusable(NamedTuple):
    """A part of the input that cannot be judged, and why."""

    place: Place
    sentence: str


class Read(NamedTuple):
    """The documents of the input, and its unreadable parts."""

    documents: list[Document]
    unusable: list[Unusable]
    duplicates: list[tuple[Place, str]]
    """Keys that a mapping has twice, each with the place of the key that counts."""
    lines: dict[str, list[str]]
    """The lines of each file."""


class ExtraMissingError(Exception):
    """PyYAML is not installed."""


class _Fault(Exception):
    """Why a document is unusable; `line` and `column` count from 0 within its text."""

    def __init__(self, line: int, column: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line
        self.column = column


def read(names: Sequence[str], *, max_bytes: int = MAX_BYTES, stdin_name: str = "") -> Read:
    """
    The documents of files, folders and, for `-`, of standard input, which is called `stdin_name`.

    Raises ExtraMissingError.  Everything else that is wrong is in `unusable`.
    """
    _loader()
    found = Read([], [], [], {})
    left = max_bytes
    for name in _files(names, found):
        shown = stdin_name or "<stdin>" if name == STDIN else name
        try:
            content = _content(name, left)
        except OSError as error:
            found.unusable.append(Unusable(Place(shown, 1), f"cannot be read: {error.strerror or error}"))
            continue
        if content is None:
            sentence = f"the input is larger than {max_bytes} bytes; lint it in parts, or raise --max-bytes"
            found.unusable.append(Unusable(Place(shown, 1), sentence))
            break
        left -= len(content)
        parse(content, shown, found)
    return found


def _files(names: Sequence[str], found: Read) -> Iterator[str]:
    for name in names:
        if name == STDIN or not os.path.isdir(name):
            yield name
            continue
        inside = sorted(
            os.path.join(folder, each) for folder, _, files in os.walk(name) for each in files if each.endswith(SUFFIXES)
        )
        if not inside:
            found.unusable.append(Unusable(Place(name, 1), f"the folder has no file that ends in {', '.join(SUFFIXES)}"))
        yield from inside


def _content(name: str, limit: int) -> bytes | None:
    """What is in the file, or None if it is longer than `limit` bytes: then at most one byte more is read."""
    if name == STDIN:
        content = sys.stdin.buffer.read(limit + 1)
    else:
        with open(name, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                return None
            content = file.read(limit + 1)  # of a pipe the size is not known before
    return content if len(content) <= limit else None


_SEPARATOR = re.compile(rb"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_NO_CONTENT = re.compile(rb"(?:\A---)?(?:[ \t\r\n]|^%[^\n]*+$|#[^\n]*+|^\.\.\.[ \t\r]*+$)*+", re.MULTILINE)


def parse(content: bytes, file: str, found: Read) -> None:
    """Add the documents in `content` to `found`."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    found.lines[file] = content.decode(errors="replace").split("\n")
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(content) if match.start())]
    line = 0
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        part = content[start:end]
        if not _NO_CONTENT.fullmatch(part):
            try:
                root = _Document(part, file, line, found.duplicates).node
                found.documents.extend(Document(node) for node in _objects(root))
            except _Fault as fault:
                place = Place(file, line + fault.line + 1, fault.column + 1)
                found.unusable.append(Unusable(place, str(fault)))
        line += part.count(b"\n")


def _objects(root: Node) -> Iterator[Node]:
    """The object itself, or the items of a List."""
    if root.at("kind").text.endswith("List") and root.at("items").items:
        for item in root.at("items").items:
            yield from _objects(item)
    elif root.entries:
        yield root


class _Document:
    """Composes one document, and turns PyYAML's nodes into ours."""

    def __init__(self, content: bytes, file: str, line: int, duplicates: list[tuple[Place, str]]) -> None:
        self._file, self._line, self._duplicates = file, line, duplicates
        self._done: dict[int, tuple[Node, int]] = {}
        self._open: set[int] = set()
        text = _decoded(content)
        self._is_template = "{{" in text
        root = self._composed(text)
        if root is None:
            self.node = Node(None, file, line + 1)
            return
        self.node, size = self._converted(root, 0)
        _refuse_bomb(size, len(self._done))
        if self._is_template:
            self._refuse_unrendered()

    def _composed(self, text: str) -> Any:
        """PyYAML's root node, or None for an empty document."""
        yaml, loader = _loader()
        try:
            return yaml.compose(text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            if (from_json := _from_json(text, self._file, self._line)) is not None:
                return from_json
            mark = error.problem_mark or error.context_mark
            raise self._fault(text, mark, error.problem or error.context or "is not YAML") from None
        except yaml.YAMLError as error:  # a character that YAML forbids
            raise _Fault(0, 0, f"is not YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise _Fault(0, 0, f"is nested deeper than {MAX_DEPTH} levels") from None

    def _fault(self, text: str, mark: Any, problem: str) -> _Fault:
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = text.split("\n")
        shown = lines[line] if line < len(lines) else ""
        if self._is_template:
            return self._unrendered(line, column)
        if "\t" in shown[: column + 1]:
            return _Fault(line, shown.index("\t"), "has a tab; YAML is indented with blanks")
        return _Fault(line, column, f"is not YAML: {problem}")

    @staticmethod
    def _unrendered(line: int, column: int) -> _Fault:
        return _Fault(line, column, "is a template that is not rendered; lint the output of helm template")

    def _refuse_unrendered(self) -> None:
        """Raise for a template's text in a pod; texts of other objects, such as alerts, may have braces of their own."""
        for node in walk(self.node):
            if {"containers", "initContainers"} & node.entries.keys():
                for below in walk(node):
                    if _TEMPLATE.search(below.text):
                        raise self._unrendered(below.line - self._line - 1, below.column - 1)

    def _converted(self, node: Any, depth: int) -> tuple[Node, int]:
        """Our node for PyYAML's, and the number of nodes that it would be without aliases."""
        if isinstance(node, Node):  # from JSON
            return node, 1
        done = self._done.get(id(node))
        if done is not None:
            return done
        mark = node.start_mark
        if id(node) in self._open:
            raise _Fault(mark.line, mark.column, "has an alias that contains itself")
        if depth > MAX_DEPTH:
            raise _Fault(mark.line, mark.column, f"is nested deeper than {MAX_DEPTH} levels")
        if node.tag not in _TAGS:
            raise _Fault(mark.line, mark.column, f"has the tag {node.tag!r}, which no Kubernetes object has")
        self._open.add(id(node))
        size = 1
        value: Any
        if node.id == "mapping":
            value, size = self._mapping(node, depth)
        elif node.id == "sequence":
            value = []
            for each in node.value:
                below, count = self._converted(each, depth + 1)
                value.append(below)
                size += count
        else:
            value = resolve(node.value) if node.tag == _PLAIN else _tagged(node)
        self._open.remove(id(node))
        converted = Node(value, self._file, self._line + mark.line + 1, mark.column + 1), size
        self._done[id(node)] = converted
        return converted

    def _mapping(self, node: Any, depth: int) -> tuple[dict[str, Node], int]:
        """The entries, those of merged mappings below its own; the last of equal keys counts, as for Kubernetes."""
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        size = 1
        for key, each in node.value:
            mark = key.start_mark
            if key.id != "scalar":
                raise (
                    self._unrendered(mark.line, mark.column)
                    if self._is_template
                    else _Fault(mark.line, mark.column, "has a list or a mapping as a key")
                )
            below, count = self._converted(each, depth + 1)
            size += 1 + count
            if key.value == "<<" and key.tag == _PLAIN:
                for source in below.items or [below]:
                    merged = {**source.entries, **merged}
                continue
            if key.value in own:
                self._duplicates.append((Place(self._file, self._line + mark.line + 1, mark.column + 1), key.value))
            own[key.value] = below
        return {**merged, **own}, size


_PLAIN = "plain"
_CORE = "tag:yaml.org,2002:"
_TAGS = frozenset({_PLAIN, *(_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "binary"))})
_TEMPLATE = re.compile(
    r"\{\{-?\s*(?:\.|\$|\"|(?:if|else|end|range|with|include|template|toYaml|tpl|default|printf|quote)\b)"
)


def _tagged(node: Any) -> Any:
    """The value of a scalar in quotes, in a block, or with a tag of its own."""
    name = node.tag.removeprefix(_CORE)
    return node.value if name in ("str", "binary") else resolve(node.value)


@functools.cache
def _loader() -> tuple[Any, Any]:
    """PyYAML, and a loader that leaves it to `resolve` what plain scalars mean; raises ExtraMissingError."""
    try:
        import yaml
    except ImportError:
        raise ExtraMissingError("PyYAML is missing; pip install 'livenessprobe[lint]'") from None
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        nodes = 0

        def resolve(self, kind: Any, _value: Any, implicit: Any) -> Any:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values in one document")
            if kind is yaml.ScalarNode:
                return _PLAIN if implicit[0] else f"{_CORE}str"
            return f"{_CORE}{'map' if kind is yaml.MappingNode else 'seq'}"

    return yaml, Loader


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before) - before.rfind(b"\n") - 1
        raise _Fault(before.count(b"\n"), column, f"is not UTF-8: {error.reason}") from None


def _from_json(text: str, file: str, line: int) -> Node | None:
    """The root of a JSON text that is no YAML, such as one with surrogates; all nodes have the place of its beginning."""
    if text.lstrip()[:1] not in ("{", "["):
        return None

    def node(value: Any) -> Node:
        if isinstance(value, dict):
            value = {key: node(each) for key, each in value.items()}
        elif isinstance(value, list):
            value = [node(each) for each in value]
        return Node(value, file, line + 1)

    try:
        return node(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _refuse_bomb(size: int, distinct: int) -> None:
    """Raise for aliases that multiply as go-yaml refuses them (decode.go, allowedAliasRatio)."""
    ratio = 100 if size < 400_000 else 10 if size < 4_000_000 else 1.2
    if size > 1000 and size > ratio * distinct:
        raise _Fault(0, 0, f"has aliases that stand for {size} values; Kubernetes refuses that")
