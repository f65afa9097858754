"""Environment variables that no library may read."""

from __future__ import annotations

from collections.abc import MutableMapping

_OLD_SWITCHES = frozenset({"SETTINGS_MODULE", "PROJECT_ROOT"})
"""Variables that Dynaconf reads though they do not bear its name; each value goes through its casts."""


def remove_dynaconf_switches(environ: MutableMapping[str, str]) -> None:
    """Remove the variables that control Dynaconf, since they can run code and read files.  Call before Dynaconf is imported."""
    for name in [name for name in environ if "DYNACONF" in name or name in _OLD_SWITCHES]:
        del environ[name]
