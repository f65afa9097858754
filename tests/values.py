"""Valid values of every setting, drawn at random, and how TOML writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hypothesis import strategies as st

from livenessprobe import gotext
from livenessprobe.settings import command_line, flags
from livenessprobe.settings.file import FileContent, fingerprint
from livenessprobe.settings.layers import KEYS, PREFIX, Layer, Raw, merge, overlay
from livenessprobe.settings.load import NO_FILE, load, with_file
from livenessprobe.settings.mistakes import Mistake
from livenessprobe.settings.model import Loaded, Settings
from livenessprobe.settings.variables import LONGHORN_VARIABLES

Texts = Mapping[str, str]
"""Values by key, as a flag would have them."""
NOTHING: Texts = {}

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_DURATION = st.integers(1, 10**13).map(gotext.format_duration) | st.sampled_from(["90s", "1.5h", "+250ms", "2h0m1s"])
_ADDRESS = st.sampled_from(["", ":1", "127.0.0.1:80", "[::1]:http", "unix:///run/h.sock"])

_OF_KIND = {
    flags.STRING: _TEXT,
    flags.DURATION: _DURATION,
    flags.OPTIONAL_DURATION: st.just("") | _DURATION,
    flags.BOOL: st.sampled_from(["true", "false", "T", "0"]),
    flags.AUTOMAXPROCS: st.sampled_from(["", "false", "1"]),
    flags.VERBOSITY: st.integers(0, 2**31 - 1).map(str) | st.just("007"),
    flags.VMODULE: st.sampled_from(["", "main=3", "a=1,b*=2", "a=1"]),
    flags.COUNT: st.integers(1, 2**31 - 1).map(str),
    flags.THRESHOLD: st.sampled_from(["INFO", "error", "2", "-1"]),
    flags.PAGES_TO: st.sampled_from(flags.PAGES),
    flags.SIZE: st.integers(0, 2**64 - 1).map(str),
    flags.QUANTITY: st.sampled_from(["0", "0Ki", "0.0"]),
    flags.BACKTRACE: st.sampled_from(["", "main.go:7"]),
}
_OF_KEY = {
    "config": _TEXT.filter(bool),
    "config_poll_interval": st.just("0s") | st.integers(10**8, 10**12).map(gotext.format_duration),
    "csi_address": st.sampled_from(["/a/b.sock", "unix:///c.sock", "tcp://h:1", "unix-abstract:x", "./d.sock"]),
    "http_idle_timeout": st.integers(10**9, 10**13).map(gotext.format_duration),
    "http_max_header_bytes": st.integers(1024, 1 << 20).map(str),
    "interval": st.just("0s") | st.integers(10**8, 10**13).map(gotext.format_duration),
    "probe_path": st.sampled_from(["/csi.v1.Identity/Probe", "/grpc.health.v1.Health/Check", "/a.B/C"]),
    "health_port": st.sampled_from(["1", "9808", "http"]),
    "http_endpoint": _ADDRESS,
    "log_json_split_stream": st.sampled_from(["false", "0", "F"]),
    "log_text_split_stream": st.sampled_from(["false", "0", "F"]),
    "logging_format": st.sampled_from(["text", "json"]),
    "metrics_address": _ADDRESS,
    "metrics_path": st.sampled_from(["/metrics", "/m", "/a/b/", "/%2F"]),
    "probe_timeout": _DURATION | st.sampled_from(["0", "-1s"]),
}
VALID = {key: _OF_KEY.get(key, _OF_KIND[flag.kind]) for key, flag in KEYS.items()}

GROUPS = (
    tuple(key for key in KEYS if key not in ("http_endpoint", "logging_format")),
    tuple(key for key in KEYS if key not in ("health_port", "vmodule")),
)
"""Keys of which no two forbid each other, whatever their values.  Together they are all keys."""


def typed(key: str, text: str) -> object:
    return KEYS[key].kind.check(text)


def two(key: str) -> st.SearchStrategy[tuple[str, str]]:
    """Two valid values that differ in more than their spelling, where there are two."""
    one_value = key.endswith(("_split_stream", "_buffer_size"))
    pairs = st.lists(VALID[key], min_size=2, max_size=2, unique_by=str if one_value else lambda text: typed(key, text))
    return pairs.map(tuple)


FLAG_ALIASES = {name: flags.BY_NAME[flag].key for name, flag in flags.LONGHORN.items()}
VARIABLE_ALIASES = dict(LONGHORN_VARIABLES)
"""The names of Longhorn's image for settings, and their keys."""


def given_by(*arguments: str) -> Texts:
    """The flags of a command line."""
    return command_line.parse(list(arguments)).values()


PATH = "/srv/lp/settings.toml"


class Refused(Exception):
    """Settings with which the process cannot start; the text is the first mistake."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(mistakes[0].sentence)
        self.mistakes = mistakes
        self.code = max(mistake.code for mistake in mistakes)


def load_all(
    given: Texts = NOTHING,
    environ: Texts = NOTHING,
    file: bytes | None = None,
    *,
    path: str = PATH,
    platform: str = "linux",
    merger: Callable[..., dict[str, Raw]] = merge,
) -> Loaded:
    """Settings from flags, variables and the content of a file at `path`, or no file; raises Refused."""

    def load_layer(layer: Layer = NO_FILE) -> Loaded:
        return load(given, environ, layer, platform=platform, merger=merger)

    loaded = load_layer()
    if file is not None:
        loaded = with_file(loaded, FileContent(path, file, fingerprint=fingerprint(file)), load_layer)
    if loaded.is_refused:
        raise Refused(loaded.all_mistakes)
    return loaded


def make_settings(**texts: str) -> Settings:
    """Settings from values by key: `make_settings(probe_timeout="1s")`."""
    return load_all(as_flags(texts), merger=overlay).settings


def as_flags(texts: Texts) -> dict[str, str]:
    return {KEYS[key].name: text for key, text in texts.items()}


def as_variables(texts: Texts) -> dict[str, str]:
    return {f"{PREFIX}{key.upper()}": text for key, text in texts.items()}


def as_file(values: Mapping[str, object]) -> bytes:
    """A TOML file with one line for each key."""
    return "".join(f"{key} = {toml(value)}\n" for key, value in values.items()).encode() or b"#"


def toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', lambda found: f"\\u{ord(found[0]):04x}", value) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
    raise TypeError(value)


def native(key: str, text: str) -> object:
    """`text` as the type that TOML has for it, where it has one."""
    match typed(key, text):
        case bool(wanted) if KEYS[key].kind.is_bool:
            return wanted
        case bool():
            return 0  # a quantity
        case int(number) if KEYS[key].kind in (flags.VERBOSITY, flags.SIZE, flags.THRESHOLD):
            return number
        case tuple(pairs):
            return [f"{pattern}={level}" for pattern, level in pairs]
    return int(text) if key == "health_port" and text.isdigit() else text
