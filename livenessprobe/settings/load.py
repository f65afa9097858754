"""Merges flags, variables, the settings file and defaults, and validates the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from livenessprobe.settings import flags
from livenessprobe.settings.file import FileContent, fault_of_file, from_file
from livenessprobe.settings.layers import KEYS, Layer, Raw, SettingsError, defaults, from_flags, merge
from livenessprobe.settings.model import LIVE_KEYS, Loaded
from livenessprobe.settings.validate import validate
from livenessprobe.settings.variables import from_environment, longhorn_is_meant

NO_FILE: Layer = {}


def load(
    given: Mapping[str, str],
    environ: Mapping[str, str],
    file: Layer = NO_FILE,
    *,
    platform: str = sys.platform,
    merger: Callable[..., dict[str, Raw]] = merge,
) -> Loaded:
    """`given` flags over `environ` over `file` over defaults; raises SettingsError for the first invalid setting."""
    by_flag = from_flags(given)
    by_variable, warnings = from_environment(environ, by_flag)
    raw = merger(defaults(longhorn=longhorn_is_meant(given, environ)), file, by_variable, by_flag)
    return Loaded(validate(raw, platform), raw, warnings)


def with_file(without: Loaded, file: FileContent, load: Callable[[Layer], Loaded]) -> Loaded:
    """
    What `load` makes of the file, or `without` the file and with the reason in `file_error`.

    With --config-strict a bad file raises SettingsError instead.
    """
    fault = file.fault
    if file.content is not None:
        try:
            return load(from_file(file.path, file.content))._replace(file=file.path, fingerprint=file.fingerprint)
        except (SettingsError, ValueError) as error:
            fault = fault_of_file(file.path, error)
    if fault and flags.BOOL.check(without.raw["config_strict"].text):
        raise SettingsError("Settings file refused", fault, log=without.settings.log)
    return without._replace(file=file.path if fault else "", file_error=fault, fingerprint=file.fingerprint)


def keep_restart_keys(running: Loaded, wanted: Loaded, platform: str = sys.platform) -> Loaded:
    """The live keys of `wanted` and the restart keys of `running`: valid, since live keys can contradict only each other."""
    raw = {key: (wanted if key in LIVE_KEYS else running).raw[key] for key in KEYS}
    return wanted._replace(settings=validate(raw, platform), raw=raw)
