"""Merges flags, variables, the settings file and defaults, and validates the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping

from livenessprobe.settings.file import FileContent, from_file, mistakes_of_file
from livenessprobe.settings.layers import KEYS, Layer, Raw, defaults, from_flags, merge
from livenessprobe.settings.mistakes import INVALID, Mistake
from livenessprobe.settings.model import LIVE_KEYS, Loaded
from livenessprobe.settings.validate import validate
from livenessprobe.settings.variables import from_environment, longhorn_is_meant

NO_FILE: Layer = {}
FILE_MISTAKES_MAX = 20
"""Mistakes of one file that are told; a file that is no settings file may have thousands."""


def load(
    given: Mapping[str, str],
    environ: Mapping[str, str],
    file: Layer = NO_FILE,
    *,
    unreadable: Collection[str] = (),
    platform: str = sys.platform,
    merger: Callable[..., dict[str, Raw]] = merge,
) -> Loaded:
    """
    `given` flags over `environ` over `file` over defaults, with all mistakes; raises nothing.

    `unreadable` are the keys of flags that are given and could not be read: texts that such flags override are not checked.
    """
    by_flag, contradictions = from_flags(given)
    by_flag = {**by_flag, **{key: Raw(KEYS[key].default, "default") for key in unreadable}}
    variables = from_environment(environ, by_flag)
    raw = merger(defaults(longhorn=longhorn_is_meant(given, environ)), file, variables.layer, by_flag)
    settings, mistakes = validate(raw, platform)
    return Loaded(settings, raw, variables.unknown, (*contradictions, *variables.mistakes, *mistakes))


def with_file(without: Loaded, file: FileContent, load: Callable[[Layer], Loaded]) -> Loaded:
    """What `load` makes of the file, or `without` the file and with the reasons in `file_mistakes`."""
    if file.fault:
        return without._replace(file=file.path, file_mistakes=(Mistake(f"file {file.path}", INVALID, file.fault),))
    if file.content is None:
        return without
    layer, mistakes = from_file(file.path, file.content)
    loaded = load(layer)
    mistakes += mistakes_of_file(file.path, (each for each in loaded.mistakes if each not in without.mistakes))
    if not mistakes:
        return loaded._replace(mistakes=without.mistakes, file=file.path, in_file=layer, fingerprint=file.fingerprint)
    if (more := len(mistakes) - FILE_MISTAKES_MAX) > 0:
        last = Mistake(f"file {file.path}", INVALID, f"{file.path}: {more} more mistakes")
        mistakes = (*mistakes[:FILE_MISTAKES_MAX], last)
    return without._replace(file=file.path, file_mistakes=mistakes, fingerprint=file.fingerprint)


def keep_restart_keys(running: Loaded, wanted: Loaded, platform: str = sys.platform) -> Loaded:
    """The live keys of `wanted` and the restart keys of `running`: valid, since live keys can contradict only each other."""
    raw = {key: (wanted if key in LIVE_KEYS else running).raw[key] for key in KEYS}
    settings, mistakes = validate(raw, platform)
    assert not mistakes, mistakes
    return wanted._replace(settings=settings, raw=raw)
