"""
Merges the layers of settings (defaults, file, variables, flags); each value is still text, and knows its source.

The only module that imports Dynaconf.  Dynaconf merges layers of `Raw` values and returns the objects unchanged: without a string
to work on, none of its casts (`@read_file`, `@format`, …) can act.

Dynaconf's extension points could do more: a custom loader with a SourceMetadata for each key, validators whose `cast` gives
the type and whose errors `validate_all` collects, and `get_history` for the source.  They are not used.  Measured on CPython 3.11
with the 43 keys and four layers: 22 ms of CPU for each load instead of 8 with Dynaconf 3.3.5, 123 ms instead of 20 with 3.2.13 (a
plain dict takes 0.06), and 0.08 MiB more memory.  Values would have to be plain strings: casts are then off only by `auto_cast=False`,
which the variable AUTO_CAST_FOR_DYNACONF overrides; the tuples of `vmodule` come back as lists; and a ValidationError carries one
sentence, where upstream's records have a message, an error and keys.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from livenessprobe import gotext
from livenessprobe.process.imports import hide_modules
from livenessprobe.settings import flags
from livenessprobe.settings.mistakes import Mistake

PREFIX = "LIVENESSPROBE_"
DEFAULT_FILE = "/etc/livenessprobe/settings.toml"

KEYS: Mapping[str, flags.Flag] = {flag.key: flag for flag in flags.FLAGS if flag.name != "version"}
NOT_IN_FILES = frozenset({"config", "config_strict"})
FILE_KEYS = tuple(key for key in KEYS if key not in NOT_IN_FILES)
LONGHORN_DEFAULTS: Mapping[str, str] = {
    "csi_address": "unix:///csi/csi.sock",
    "interval": "10s",
    "probe_timeout": "3s",
    "failure_threshold": "3",
    "health_file": "/tmp/health",  # noqa: S108  as documented there
}
"""What Longhorn's image documents as its defaults."""


_UNUSED = ("flask", "jinja2", "dynaconf.vendor.dotenv.cli")
"""Modules that Dynaconf uses if they can be imported."""


@dataclass(frozen=True, slots=True, repr=False)  # with a repr it loads inspect, dis and ast
class Raw:
    """A value as text, and its source, such as `flag --v`."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.source} = {gotext.quote(self.text)}"


Layer = Mapping[str, Raw]
"""Values by key."""


def merge(*layers: Layer) -> dict[str, Raw]:
    """
    The topmost value of each key; later layers are above earlier ones.

    The process must have called `environment.remove_dynaconf_switches`.
    """
    # With lazy imports Dynaconf loads its parts when they are first used.  Later, Quart may be loading Jinja in its own thread.
    with contextlib.nullcontext() if "dynaconf" in sys.modules else hide_modules(*_UNUSED):
        from dynaconf import Dynaconf

        dynaconf = Dynaconf(
            settings_files=[], core_loaders=[], loaders=[], load_dotenv=False, environments=False, envvar_prefix=False
        )
        for layer in layers:
            dynaconf.update({key.upper(): value for key, value in layer.items()})
        return {key: dynaconf[key.upper()] for key in KEYS}


def overlay(*layers: Layer) -> dict[str, Raw]:
    """What `merge` returns, without Dynaconf: for a process too short-lived to pay for loading it."""
    return {key: raw for layer in layers for key, raw in layer.items() if key in KEYS}


def defaults(*, longhorn: bool = False) -> Layer:
    """The lowest layer: the defaults of the flags or, where they differ, those of Longhorn's image."""
    layer = {key: Raw(flag.default, "default") for key, flag in KEYS.items()}
    if longhorn:
        layer |= {key: Raw(text, "default of Longhorn's image") for key, text in LONGHORN_DEFAULTS.items()}
    return layer


def from_flags(given: Mapping[str, str]) -> tuple[Layer, tuple[Mistake, ...]]:
    """The layer of flags, given by name; a mistake for each two of them that contradict each other."""
    found = ((flags.find(name), Raw(text, f"flag --{name}")) for name, text in given.items())
    return layer_of((flag.key, raw) for flag, raw in found if flag is not None and flag.key in KEYS)


def layer_of(found: Iterable[tuple[str, Raw]]) -> tuple[Layer, tuple[Mistake, ...]]:
    """Values by key; a mistake for each setting with two names and two different values."""
    layer: dict[str, Raw] = {}
    mistakes = []
    for key, raw in found:
        other = layer.get(key)
        if other is not None and not _says_the_same(key, raw.text, other.text):
            err = f"{other} and {raw} are the same setting; give one of them"
            mistakes.append(Mistake(f"{other.source} and {raw.source}", "Contradicting settings", err))
        if other is None or raw.source in (f"flag --{KEYS[key].name}", f"variable {PREFIX}{key.upper()}"):
            layer[key] = raw
    return layer, tuple(mistakes)


def _says_the_same(key: str, one: str, other: str) -> bool:
    if key == "csi_address":
        one, other = (re.sub("^unix:(//)?", "", text) for text in (one, other))
    try:
        return bool(KEYS[key].kind.check(one) == KEYS[key].kind.check(other))
    except ValueError:
        return one == other
