"""Reads the TOML settings file, at most 1 MiB, as a layer; errors and sources give the line and the key."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from livenessprobe import gotext
from livenessprobe.process import threads
from livenessprobe.settings import flags
from livenessprobe.settings.layers import DEFAULT_FILE, FILE_KEYS, KEYS, NOT_IN_FILES, PREFIX, Layer, Raw
from livenessprobe.settings.mistakes import INVALID, Mistake, nearest

FILE_LIMIT = 1 << 20
"""Bytes; a ConfigMap cannot hold more."""
HUNG_SECONDS = 5.0
"""How long a start waits for the file."""


class FileContent(NamedTuple):
    """What is at `path`: content with its fingerprint, a fault, or neither where there is no file and need be none."""

    path: str
    content: bytes | None = None
    fault: str = ""
    fingerprint: str = ""


def read_settings_file(named: str, default: str = DEFAULT_FILE) -> FileContent:
    """The content of the file `named` by --config, or of the default file, which may be missing; for the start."""
    path = named or default
    try:
        return threads.run_apart(partial(look, path, expected=bool(named)), HUNG_SECONDS)
    except TimeoutError:
        return FileContent(path, fault=f"settings file {path}: its file system does not respond")


def look(path: str, *, expected: bool) -> FileContent:
    """The content of the file at `path`; a missing file is a fault if it is `expected`."""
    try:
        content = read_file(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError) and not expected
        return FileContent(path, fault="" if missing else fault_of_file(path, error))
    return FileContent(path, content, fingerprint=fingerprint(content))


def read_file(path: str) -> bytes:
    """The content of a regular file of at most FILE_LIMIT bytes; never blocks on a FIFO or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:  # fdopen() does not close a folder that it refuses
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("is not a regular file")
            content = file.read(FILE_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(content) > FILE_LIMIT:
        raise ValueError(f"is larger than {FILE_LIMIT} bytes; a settings file has a few thousand")
    return content


def fingerprint(content: bytes) -> str:
    """Equal for equal content; hexadecimal."""
    import hashlib  # loads OpenSSL

    return hashlib.sha256(content).hexdigest()


def from_file(path: str, content: bytes) -> tuple[Layer, tuple[Mistake, ...]]:
    """The layer of a TOML file, and its mistakes: one for the whole file, or one for each key that cannot be read."""
    try:
        text, table = _parse(content)
    except ValueError as error:
        return {}, (_mistake(f"file {path}", path, str(error)),)
    layer, mistakes = {}, []
    for key, value in table.items():
        line = _line(text, key)
        source = f"file {path}, " + (f"line {line}, " if line else "") + f"key {key}"
        try:
            layer[key] = Raw(_as_text(key, value), source)
        except ValueError as error:
            mistakes.append(_mistake(source, path, (f"line {line}: " if line else "") + str(error)))
    return layer, tuple(mistakes)


def _parse(content: bytes) -> tuple[str, dict[str, object]]:
    """A TOML file as text and as values by key; raises ValueError with what is wrong with the whole of it."""
    import tomllib

    if content.startswith(b"\xef\xbb\xbf"):
        raise ValueError("begins with a byte order mark; save it as UTF-8 without one")
    if not content.strip():
        raise ValueError("is empty; a file of comments alone says that the defaults are meant")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        return text, tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"is not TOML: {error}{_quotes(text, str(error))}") from None


def _quotes(text: str, error: str) -> str:
    """What to write if the line of tomllib's `error` has a value without quotes; empty if it has none."""
    place = re.search(r"\(at line ([0-9]+), ", error)
    line = text.split("\n")[int(place[1]) - 1] if place else ""
    bare = re.fullmatch(r"""\s*([A-Za-z0-9_-]+)\s*=\s*([^\s"'\[{#][^"'#]*?)\s*(?:#.*)?""", line)
    if bare is None:
        return ""
    key, value = bare.groups()
    kind = KEYS[key].kind if key in FILE_KEYS else flags.STRING
    meant = value.lower() if kind.is_bool else value
    try:
        kind.check(meant)
    except ValueError:
        return ""
    return f"; write {key} = {meant}" if kind.is_bool else f"; write {key} = {gotext.quote(meant)}"


def _nearest_key(key: str) -> str:
    if key in NOT_IN_FILES:
        return f" of the file's; give it as --{KEYS[key].name} or {PREFIX}{key.upper()}"
    plain = key.lower().replace("-", "_")
    flag = flags.find(plain)  # knows Longhorn's names too
    if flag is not None and flag.key in FILE_KEYS:
        return f"; did you mean {flag.key}?"
    return nearest(plain, {known: known for known in FILE_KEYS})


_SEARCHED = 1 << 14
"""Characters; to find a line number after them would mean to parse too much again and again."""


def _line(text: str, key: str) -> int:
    """The number of the line that sets `key`; 0 if unknown."""
    name = re.escape(key)
    # Possessive quantifiers: a long line of blanks would otherwise take time with the square of its length.
    lines = re.finditer(rf"""^[ \t]*+(?:\[{{1,2}}+[ \t]*+)?["']?{name}["']?[ \t]*+[=.\]]""", text, re.MULTILINE)
    starts = [match.start() for _, match in zip(range(10), lines, strict=False)]
    for start in starts:
        # The match may be a line inside a multi-line text; then the part of the file before it is not TOML.
        if len(starts) == 1 or (start < _SEARCHED and _is_toml(text[:start])):
            return text.count("\n", 0, start) + 1
    return 0


def _is_toml(text: str) -> bool:
    import tomllib

    try:
        tomllib.loads(text)
    except (RecursionError, ValueError):
        return False
    return True


_NUMBERS = (flags.VERBOSITY, flags.SIZE, flags.COUNT, flags.THRESHOLD, flags.QUANTITY)


def _as_text(key: str, value: object) -> str:
    """A TOML value as the text of a flag; raises ValueError for a key that is no setting, and for a value of a wrong type."""
    if key not in FILE_KEYS:
        shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else gotext.quote(key)
        raise ValueError(f"{shown} is not a setting{_nearest_key(key)}")
    kind = KEYS[key].kind
    match value:
        case str():
            return value
        case bool() if kind.is_bool:
            return "true" if value else "false"
        case int() if not isinstance(value, bool) and (kind in _NUMBERS or key == "health_port"):
            return str(value)
        case list() if kind is flags.VMODULE and all(isinstance(item, str) for item in value):
            return ",".join(value)
    expected = kind.expected or 'a text, such as "…"'
    raise ValueError(f"{key} is {_toml_type(value)}; write {expected}")


def _toml_type(value: object) -> str:
    match value:
        case bool():
            return f"the boolean {'true' if value else 'false'}"
        case int() | float():
            return f"the number {value}"
        case list():
            return "an array"
        case dict():
            return "a table"
    return "a date or a time"


_SENTENCE_MAX = 1000
"""Characters; a file may hold a value of a million."""


def fault_of_file(path: str, error: Exception) -> str:
    """Why the file at `path` cannot be read, as a sentence that names it."""
    return _sentence(path, error.strerror or str(error) if isinstance(error, OSError) else str(error))


def mistakes_of_file(path: str, mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """Mistakes that settings have because of the file at `path`, in the form of those of `from_file`."""
    return tuple(_mistake(each.source, path, each.sentence.removeprefix(f"{INVALID}: ")) for each in mistakes)


def _mistake(source: str, path: str, sentence: str) -> Mistake:
    """A mistake whose `err` is a sentence that names the file once."""
    return Mistake(source, INVALID, _sentence(path, sentence.replace(f"file {path}, ", "")))


def _sentence(path: str, sentence: str) -> str:
    if len(sentence) > _SENTENCE_MAX:
        sentence = f"{sentence[:_SENTENCE_MAX]}… (and {len(sentence) - _SENTENCE_MAX} more)"
    return f"{path}: {sentence}"
