"""
Where settings come from: flags, variables and a TOML file, as raw text with the name of who gave it.

The only room that knows Dynaconf, TOML or the process's environment.  Dynaconf merges layers of `Raw` values, which it
passes on as they are: since it is never shown a string, none of its casts (`@read_file`, `@format`, …) can act on one.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from livenessprobe import flags, gotext
from livenessprobe.klog.format import Options
from livenessprobe.process.imports import absent

PREFIX = "LIVENESSPROBE_"
DEFAULT_FILE = "/etc/livenessprobe/settings.toml"
FILE_LIMIT = 1 << 20
"""Bytes; a ConfigMap cannot hold more."""

KEYS: Mapping[str, flags.Flag] = {flag.key: flag for flag in flags.FLAGS if flag.name != "version"}
_NOT_IN_FILES = frozenset({"config", "config_strict"})
FILE_KEYS = tuple(key for key in KEYS if key not in _NOT_IN_FILES)

LONGHORN_VARIABLES: Mapping[str, str] = {
    "CSI_ENDPOINT": "csi_address",
    "LIVENESS_PROBE_INTERVAL": "interval",
    "LIVENESS_PROBE_TIMEOUT": "probe_timeout",
    "LIVENESS_PROBE_PATH": "probe_path",
    "LIVENESS_PROBE_RETRIES": "failure_threshold",
}
"""Variables that Longhorn's image documents, and the settings they stand for."""
_LONGHORN_PREFIX = "LIVENESS_PROBE_"
LONGHORN_DEFAULTS: Mapping[str, str] = {
    "csi_address": "unix:///csi/csi.sock",
    "interval": "10s",
    "probe_timeout": "3s",
    "failure_threshold": "3",
    "health_file": "/tmp/health",  # noqa: S108  as documented there
}
"""What Longhorn's image documents as its defaults."""

_DYNACONFS_OLD_NAMES = frozenset({"SETTINGS_MODULE", "PROJECT_ROOT"})
"""Switches of Dynaconf's that do not bear its name; each value goes through its casts."""


class SettingsError(Exception):
    """
    Settings that cannot be used.

    `message`, `pairs` and `err` are the log record for a person; `code` is the exit code.  `log` says how the record is
    to be written, as far as that is known.
    """

    def __init__(self, message: str, err: str | None = None, code: int = 1, **pairs: str) -> None:
        super().__init__(message if err is None else f"{message}: {err}")
        self.message = message
        self.err = err
        self.code = code
        self.pairs = pairs
        self.log = Options()


@dataclass(frozen=True, slots=True)
class Raw:
    """A value as text, and who gave it."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.source} = {gotext.quote(self.text)}"


Layer = Mapping[str, Raw]
"""Values by key."""


def merge(*layers: Layer) -> dict[str, Raw]:
    """The topmost value of each key; later layers are above earlier ones."""
    # Switches of Dynaconf's own, which can run code and read files, stay out of its reach.
    for name in [name for name in os.environ if "DYNACONF" in name or name in _DYNACONFS_OLD_NAMES]:
        del os.environ[name]
    # Where imports are lazy it loads its parts as they are used; after the first time Quart may be loading beside, with Jinja.
    with contextlib.nullcontext() if "dynaconf" in sys.modules else absent("flask", "jinja2"):
        from dynaconf import Dynaconf

        dynaconf = Dynaconf(
            settings_files=[], core_loaders=[], loaders=[], load_dotenv=False, environments=False, envvar_prefix=False
        )
        for layer in layers:
            dynaconf.update({key.upper(): value for key, value in layer.items()})
        return {key: dynaconf[key.upper()] for key in KEYS}


def overlay(*layers: Layer) -> dict[str, Raw]:
    """What `merge` returns, without the library: for a process too short-lived to pay for loading it."""
    return {key: raw for layer in layers for key, raw in layer.items() if key in KEYS}


def defaults(*, longhorn: bool = False) -> Layer:
    """The lowest layer; with what Longhorn's image documents, if that is meant."""
    layer = {key: Raw(flag.default, "default") for key, flag in KEYS.items()}
    if longhorn:
        layer |= {key: Raw(text, "default of Longhorn's image") for key, text in LONGHORN_DEFAULTS.items()}
    return layer


def longhorn_is_meant(given: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """
    Whether flags or variables are those that only Longhorn's image has.

    CSI_ENDPOINT says nothing: many manifests set it for their own expansion.
    """
    names = LONGHORN_VARIABLES.keys() - {"CSI_ENDPOINT"}
    return not flags.LONGHORN.keys().isdisjoint(given) or any(
        name in environ and not _is_service_link(name, environ[name]) for name in names
    )


def from_flags(given: Mapping[str, str]) -> Layer:
    """The layer of flags as `commandline.CommandLine.values` gives them; raises SettingsError for two that contradict."""
    found = ((flags.find(name), Raw(text, f"flag --{name}")) for name, text in given.items())
    return _layer((flag.key, raw) for flag, raw in found if flag is not None and flag.key in KEYS)


# --- variables

_SERVICE_LINK = re.compile(r"(SERVICE_|PORT(_|$)).*|.*_SERVICE_(HOST|PORT(_.*)?)|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?")


def from_environment(environ: Mapping[str, str], overridden: Container[str] = ()) -> tuple[Layer, tuple[str, ...]]:
    """
    The layer of variables, and a sentence for each one that looks like a setting and is none.

    Keys that are `overridden` by flags are left out, and so never complained about.  Raises SettingsError for two
    variables that contradict.
    """
    found, unknown = [], []
    for name, text in environ.items():
        key = _variable_key(name)
        if key is not None and not _is_service_link(name, text):
            if key not in overridden:
                found.append((key, Raw(text, f"variable {name}")))
        elif name.startswith((PREFIX, _LONGHORN_PREFIX)) and not _is_service_link(name, text):
            unknown.append(f"variable {name} is not a setting{_nearest_variable(name)}")
    return _layer(found), tuple(unknown)


def _variable_key(name: str) -> str | None:
    if name in LONGHORN_VARIABLES:
        return LONGHORN_VARIABLES[name]
    key = name.removeprefix(PREFIX).lower()
    return key if name == f"{PREFIX}{key.upper()}" and key in KEYS else None


def _is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes sets it for a Service whose name begins with livenessprobe (or liveness-probe)."""
    prefix = PREFIX if name.startswith(PREFIX) else _LONGHORN_PREFIX
    if not name.startswith(prefix):
        return False
    rest = name.removeprefix(prefix)
    return bool(_SERVICE_LINK.fullmatch(rest)) or (
        rest.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))
    )


def _nearest_variable(name: str) -> str:
    # What they all begin with would make any two of them alike.
    known = {key.upper(): f"{PREFIX}{key.upper()}" for key in KEYS}
    known |= {longhorns.removeprefix(_LONGHORN_PREFIX): longhorns for longhorns in LONGHORN_VARIABLES}
    return _nearest(name.upper().removeprefix(PREFIX).removeprefix(_LONGHORN_PREFIX), known)


def _nearest(name: str, known: Mapping[str, str]) -> str:
    """A hint at one of `known`: what `name` is compared with, and what is shown for it."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {known[near[0]]}?" if near else ""


# --- one place, two spellings


def _layer(found: Iterable[tuple[str, Raw]]) -> Layer:
    """Values by key; raises SettingsError where a setting is given under two names with different values."""
    layer: dict[str, Raw] = {}
    for key, raw in found:
        other = layer.get(key)
        if other is not None and not _says_the_same(key, raw.text, other.text):
            raise SettingsError("Contradicting settings", f"{other} and {raw} are the same setting; give one of them")
        if other is None or raw.source in (f"flag --{KEYS[key].name}", f"variable {PREFIX}{key.upper()}"):
            layer[key] = raw
    return layer


def _says_the_same(key: str, one: str, other: str) -> bool:
    if key == "csi_address":
        one, other = (re.sub("^unix:(//)?", "", text) for text in (one, other))
    try:
        return KEYS[key].kind.check(one) == KEYS[key].kind.check(other)
    except ValueError:
        return one == other


# --- the file


def read_file(path: str) -> bytes:
    """The content of a regular file of at most FILE_LIMIT bytes; never blocks on a FIFO or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:  # it does not close what it refuses: a folder
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("is not a regular file")
            content = file.read(FILE_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(content) > FILE_LIMIT:
        raise ValueError(f"is larger than {FILE_LIMIT} bytes; a settings file has a few thousand")
    return content


def fingerprint(content: bytes) -> str:
    """Tells one content from another."""
    import hashlib  # OpenSSL is loaded with it

    return hashlib.sha256(content).hexdigest()


def from_file(path: str, content: bytes) -> Layer:
    """The layer of a TOML file; raises ValueError with a sentence."""
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
        table = tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"is not TOML: {error}") from None
    layer = {}
    for key, value in table.items():
        line = _line(text, key)
        where = f"line {line}: " if line else ""
        if key not in FILE_KEYS:
            raise ValueError(f"{where}{_printable(key)} is not a setting{_nearest_key(key)}")
        layer[key] = Raw(_as_text(key, value, where), f"file {path}, " + (f"line {line}, " if line else "") + f"key {key}")
    return layer


def _nearest_key(key: str) -> str:
    if key in _NOT_IN_FILES:
        return f" of the file's; give it as --{KEYS[key].name} or {PREFIX}{key.upper()}"
    plain = key.lower().replace("-", "_")
    flag = flags.find(plain)  # a flag of Longhorn's, perhaps
    if flag is not None and flag.key in FILE_KEYS:
        return f"; did you mean {flag.key}?"
    return _nearest(plain, {known: known for known in FILE_KEYS})


def _printable(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else gotext.quote(key)


_SEARCHED = 1 << 14
"""Characters; what comes after is not worth parsing a file again and again for a number."""


def _line(text: str, key: str) -> int:
    """The number of the line that gives `key`; 0 if that cannot be told."""
    name = re.escape(key)
    # Possessive, or a long line of blanks would take the square of its length.
    lines = re.finditer(rf"""^[ \t]*+(?:\[{{1,2}}+[ \t]*+)?["']?{name}["']?[ \t]*+[=.\]]""", text, re.MULTILINE)
    starts = [match.start() for _, match in zip(range(10), lines, strict=False)]
    for start in starts:
        # What looks like the key may be a line of a text that goes over several; then what is before it is no TOML.
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


_EXPECTED: Mapping[flags.Kind, str] = {
    flags.DURATION: 'a duration as text, such as "1m30s"',
    flags.OPTIONAL_DURATION: 'a duration as text, such as "1m30s"',
    flags.BOOL: "true or false",
    flags.AUTOMAXPROCS: "true or false",
    flags.VERBOSITY: "a whole number, such as 5",
    flags.SIZE: "a whole number, such as 1800",
    flags.COUNT: "a whole number, such as 3",
    flags.VMODULE: 'a list such as ["prober=5"]',
}
_NUMBERS = (flags.VERBOSITY, flags.SIZE, flags.COUNT, flags.THRESHOLD, flags.QUANTITY)


def _as_text(key: str, value: object, where: str) -> str:
    """A TOML value as the text that a flag would have."""
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
    expected = _EXPECTED.get(kind, 'a text, such as "…"')
    raise ValueError(f"{where}{key} is {_toml_type(value)}; write {expected}")


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


# --- what a person is told

_INVALID = "Invalid setting"
_SENTENCE_MAX = 1000
"""Characters; a file may hold a value of a million."""


def refusal(raw: Raw, reason: str, kind: flags.Kind) -> SettingsError:
    """The error for a value that is not of its `kind`."""
    hint = f"; write {_EXPECTED[kind].replace(' as text', '')}" if kind in _EXPECTED else ""
    return invalid(raw, f"{reason}{hint}", code=2)


def invalid(raw: Raw, reason: str, code: int = 1) -> SettingsError:
    """The error for a value that cannot be used."""
    return SettingsError(_INVALID, f"{raw}: {reason}", code)


def fault_of_file(path: str, error: Exception) -> str:
    """Why the file at `path` is passed over, as a sentence that names it once."""
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    sentence = str(error).removeprefix(f"{_INVALID}: ").replace(f"file {path}, ", "")
    if len(sentence) > _SENTENCE_MAX:
        sentence = f"{sentence[:_SENTENCE_MAX]}… (and {len(sentence) - _SENTENCE_MAX} more)"
    return f"{path}: {sentence}"
