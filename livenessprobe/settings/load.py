"""`load`: flags, variables, the settings file and defaults become one valid `Loaded`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from livenessprobe.settings.file import fault_of_file, fingerprint, from_file, read_file
from livenessprobe.settings.layers import (
    DEFAULT_FILE,
    KEYS,
    Layer,
    Raw,
    SettingsError,
    defaults,
    from_flags,
    merge,
)
from livenessprobe.settings.model import LIVE_KEYS, Loaded, Settings
from livenessprobe.settings.validate import METRICS_LISTENER_MESSAGE, build, source_of, typed_value
from livenessprobe.settings.variables import from_environment, longhorn_is_meant


def load(
    given: Mapping[str, str],
    environ: Mapping[str, str],
    platform: str = sys.platform,
    default_file: str = DEFAULT_FILE,
    read: Callable[[str], bytes] = read_file,
    *,
    check: Callable[[Settings], None] = lambda _: None,
    merge: Callable[..., dict[str, Raw]] = merge,
) -> Loaded:
    """
    Merge `given` flags over `environ` over the file over defaults.

    A bad flag or variable raises SettingsError.  A bad file does so only with --config-strict; otherwise it is passed
    over as a whole and the reason is in `file_error`.  `check` may find fault with the listeners, by SettingsError.
    """
    by_flag = from_flags(given)
    by_variable, warnings = from_environment(environ, by_flag)
    lowest = defaults(longhorn=longhorn_is_meant(given, environ))
    above = merge(lowest, by_variable, by_flag)
    strict = typed_value(above["config_strict"], KEYS["config_strict"])
    path, named = above["config"].text or default_file, bool(above["config"].text)
    content, fault = _content(path, read, named=named)
    if content is not None:
        try:
            merged = merge(lowest, from_file(path, content), by_variable, by_flag)
            return Loaded(_checked(merged, platform, check), merged, warnings, path, "", fingerprint(content))
        except (SettingsError, ValueError) as error:
            fault = fault_of_file(path, error)
    settings = _checked(above, platform, check)  # what is wrong without the file too is not the file's fault
    if fault and strict:
        refused = SettingsError("Settings file refused", fault)
        refused.log = settings.log
        raise refused
    return Loaded(
        settings, above, warnings, path if fault else "", fault, fingerprint(content) if content is not None else ""
    )


def _content(path: str, read: Callable[[str], bytes], *, named: bool) -> tuple[bytes | None, str]:
    """What is in the file, or why that cannot be told; neither where there is no file and none was named."""
    try:
        return (read(path) if path else None), ""
    except FileNotFoundError as error:
        return None, fault_of_file(path, error) if named else ""
    except (OSError, ValueError) as error:
        return None, fault_of_file(path, error)


def keep_restart_keys(running: Loaded, wanted: Loaded, platform: str = sys.platform) -> Loaded:
    """The live keys of `wanted` and the restart keys of `running`: valid, since live keys can contradict only each other."""
    raw = {key: (wanted if key in LIVE_KEYS else running).raw[key] for key in KEYS}
    return wanted._replace(settings=build(raw, platform), raw=raw)


def _checked(raw: Layer, platform: str, check: Callable[[Settings], None]) -> Settings:
    settings = build(raw, platform)
    try:
        check(settings)
    except SettingsError as error:
        refused = SettingsError(error.message, f"{error.err}{source_of(_listens_by(raw, error))}", error.code, **error.pairs)
        refused.log = settings.log
        raise refused from None
    return settings


def _listens_by(raw: Layer, error: SettingsError) -> Raw:
    """The setting that says where to listen, for the listener that `error` is about."""
    if error.message == METRICS_LISTENER_MESSAGE:
        return raw["metrics_address"]
    return raw["http_endpoint"] if raw["http_endpoint"].text else raw["health_port"]
