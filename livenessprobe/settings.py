"""
One typed configuration from flags, environment and a TOML file.

The only room that knows Dynaconf or the environment.  Dynaconf merges layers of `Raw` values, which it passes on as
they are: since it is never shown a string, none of its casts (`@read_file`, `@format`, …) can act on one.  What comes out
is checked here once; a `Settings` that exists is valid.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from livenessprobe import flags, gotext
from livenessprobe.endpoint import (
    AddressError,
    CSIAddress,
    ListenAddress,
    join_host_port,
    parse_csi_address,
    parse_listen_address,
)
from livenessprobe.klogfmt import Options

PREFIX = "LIVENESSPROBE_"
_WILDCARD = "0.0.0.0"  # noqa: S104  upstream listens on all addresses, and says so in these words
DEFAULT_FILE = "/etc/livenessprobe/settings.toml"
FILE_LIMIT = 1 << 20
"""Bytes; a ConfigMap cannot hold more."""

KEYS: Mapping[str, flags.Flag] = {flag.key: flag for flag in flags.FLAGS if flag.name != "version"}
_NOT_IN_FILES = frozenset({"config", "config_strict"})
FILE_KEYS = tuple(key for key in KEYS if key not in _NOT_IN_FILES)


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


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, valid.  Times are seconds."""

    csi_address: CSIAddress
    http: ListenAddress
    """`--http-endpoint`, or 0.0.0.0 with `--health-port`."""
    metrics: ListenAddress | None
    """The separate listener of `--metrics-address`."""
    metrics_on_http: bool
    metrics_path: str
    probe_timeout: float
    """Zero or less: every probe fails at once, as in upstream."""
    unreachable_grace: float
    """At most the probe timeout."""
    connection_reuse: float
    automaxprocs: bool
    log: Options


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found out."""

    settings: Settings
    raw: Mapping[str, Raw]
    """Every key with its text and source."""
    warnings: tuple[str, ...] = ()
    file: str = ""
    """The settings file in use, or that would be if it were good."""
    file_error: str = ""
    """Why the file was passed over."""


def load(
    given: Mapping[str, str],
    environ: Mapping[str, str],
    platform: str = sys.platform,
    default_file: str = DEFAULT_FILE,
    read: Callable[[str], bytes] | None = None,
    *,
    check: Callable[[Settings], None] = lambda _: None,
) -> Loaded:
    """
    Merge `given` flags over `environ` over the file over defaults.

    A bad flag or variable raises SettingsError.  A bad file does so only with --config-strict; otherwise it is passed
    over as a whole and the reason is in `file_error`.  `check` may find more fault with settings, by SettingsError.
    """
    warnings: list[str] = []
    from_flags = {flags.BY_NAME[name].key: Raw(text, f"flag --{name}") for name, text in given.items() if name != "version"}
    from_environment = _from_environment(environ, warnings)
    above = merge(_defaults(), from_environment, from_flags)
    strict = _typed(above["config_strict"], KEYS["config_strict"])
    path, named = above["config"].text, bool(above["config"].text)
    if not named:
        path = default_file if default_file and os.path.exists(default_file) else ""
    if not path:
        return Loaded(_checked(above, platform, check), above, tuple(warnings))
    try:
        from_file = _from_file(path, (read or read_file)(path))
        merged = merge(_defaults(), from_file, from_environment, from_flags)
        return Loaded(_checked(merged, platform, check), merged, tuple(warnings), path)
    except (SettingsError, OSError, ValueError) as error:
        settings = _checked(above, platform, check)  # a fault that is there without the file too is not the file's
        reason = _file_sentence(path, error)
        if strict:
            refusal = SettingsError("Settings file refused", reason, file=path)
            refusal.log = settings.log
            raise refusal from None
        return Loaded(settings, above, tuple(warnings), path, reason)


def _checked(raw: Mapping[str, Raw], platform: str, check: Callable[[Settings], None]) -> Settings:
    settings = _build(raw, platform)
    try:
        check(settings)
    except SettingsError as error:
        error.log = settings.log
        raise
    return settings


# --- layers


def merge(*layers: Mapping[str, Raw]) -> dict[str, Raw]:
    """The topmost value of each key; later layers are above earlier ones."""
    # Switches of Dynaconf's own, which can run code and read files, stay out of its reach.
    for name in [name for name in os.environ if "DYNACONF" in name]:
        del os.environ[name]
    from dynaconf import Dynaconf

    dynaconf = Dynaconf(
        settings_files=[], core_loaders=[], loaders=[], load_dotenv=False, environments=False, envvar_prefix=False
    )
    for layer in layers:
        dynaconf.update({key.upper(): value for key, value in layer.items()})
    return {key: dynaconf[key.upper()] for key in KEYS}


def _defaults() -> dict[str, Raw]:
    return {key: Raw(flag.default, "default") for key, flag in KEYS.items()}


_SERVICE_LINK = re.compile(r"(SERVICE_|PORT(_|$)).*|.*_SERVICE_(HOST|PORT(_.*)?)|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?")


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Raw]:
    layer: dict[str, Raw] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        rest = name.removeprefix(PREFIX)
        # Kubernetes sets these for every Service whose name begins with livenessprobe.
        if _SERVICE_LINK.fullmatch(rest) or (rest.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))):
            continue
        key = rest.lower()
        if key in KEYS and rest == rest.upper():
            layer[key] = Raw(text, f"variable {name}")
        else:
            warnings.append(f"variable {name} is not a setting{_nearest(key, KEYS, lambda k: PREFIX + k.upper())}")
    return layer


def _nearest(key: str, known: Mapping[str, object] | tuple[str, ...], spell: Callable[[str], str]) -> str:
    import difflib

    near = difflib.get_close_matches(key.lower().replace("-", "_"), list(known), 1)
    return f"; did you mean {spell(near[0])}?" if near else ""


def read_file(path: str) -> bytes:
    """The content of a regular file of at most FILE_LIMIT bytes; never blocks on a FIFO or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a regular file")
        content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise ValueError(f"is larger than {FILE_LIMIT} bytes; a settings file has a few hundred")
    return content


def _from_file(path: str, content: bytes) -> dict[str, Raw]:
    if content.startswith(b"\xef\xbb\xbf"):
        raise ValueError("begins with a byte order mark; save it as UTF-8 without one")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"is not TOML: {error}") from None
    layer = {}
    for key, value in table.items():
        if key not in FILE_KEYS:
            raise ValueError(f"{_line(text, key)}{key} is not a setting{_nearest(key, FILE_KEYS, str)}")
        layer[key] = Raw(_as_text(key, value, _line(text, key)), f"file {path}, key {key}")
    return layer


def _line(text: str, key: str) -> str:
    found = re.search(rf"""^[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.]""", text, re.MULTILINE)
    return f"line {text.count(chr(10), 0, found.start()) + 1}: " if found else ""


def _as_text(key: str, value: object, line: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value) and key == "vmodule":
        return ",".join(value)
    raise ValueError(f"{line}{key} is a TOML {type(value).__name__}; write it as a string, such as {KEYS[key].default!r}")


def _file_sentence(path: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    return f"{path}: {error}"


# --- from text to types

_EXAMPLES = {
    "duration": "; write a duration such as 1m30s or 500ms",
    "": "; write true or false",
    "uint": "; write a number",
}


def _typed(raw: Raw, flag: flags.Flag) -> object:
    try:
        if "\0" in raw.text:
            raise ValueError("it holds a NUL character")
        return flag.kind.check(raw.text)
    except ValueError as reason:
        hint = _EXAMPLES.get(flag.kind.placeholder, "")
        raise SettingsError("Invalid setting", f"{raw.source} = {gotext.quote(raw.text)}: {reason}{hint}", code=2) from None


@dataclass(frozen=True, slots=True)
class _Values:
    """The typed values by key, for `_build` to put together."""

    raw: Mapping[str, Raw]
    typed: Mapping[str, object] = field(init=False)

    def __post_init__(self) -> None:
        typed = {
            key: _typed(self.raw[key], flag)
            for key, flag in KEYS.items()
            if not (key == "unreachable_grace" and self.raw[key].text == "")
        }
        object.__setattr__(self, "typed", typed)

    def text(self, key: str) -> str:
        return self.raw[key].text

    def flag(self, key: str) -> bool:
        return bool(self.typed[key])

    def number(self, key: str) -> int:
        value = self.typed[key]
        assert isinstance(value, int)  # noqa: S101  the flag table says so
        return value

    def seconds(self, key: str) -> float:
        return self.number(key) / 1e9


def _build(raw: Mapping[str, Raw], platform: str) -> Settings:
    values = _Values(raw)
    log = _log_options(values)
    try:
        _check_logging(values)
        _check_conflicts(values)
        _check_not_negative(values, "connection_reuse", "unreachable_grace")
        csi_address = _csi_address(values.text("csi_address"), platform)
        http, metrics = _listeners(values)
        timeout = values.seconds("probe_timeout")
        grace = values.seconds("unreachable_grace") if "unreachable_grace" in values.typed else timeout
        metrics_on_http = values.text("http_endpoint") != ""
        if metrics_on_http or metrics is not None:
            _check_metrics_path(values.text("metrics_path"), shared_with_healthz=metrics is None)
    except SettingsError as error:
        error.log = log
        raise
    return Settings(
        csi_address=csi_address,
        http=http,
        metrics=metrics,
        metrics_on_http=metrics_on_http,
        metrics_path=values.text("metrics_path"),
        probe_timeout=timeout,
        unreachable_grace=min(grace, timeout),
        connection_reuse=values.seconds("connection_reuse"),
        automaxprocs=values.flag("automaxprocs"),
        log=log,
    )


def _log_options(values: _Values) -> Options:
    vmodule = values.typed["vmodule"]
    assert isinstance(vmodule, tuple)  # noqa: S101  the flag table says so
    return Options(
        v=values.number("v"),
        vmodule=vmodule,
        logging_format="json" if values.text("logging_format") == "json" else "text",
        logtostderr=values.flag("logtostderr"),
        alsologtostderr=values.flag("alsologtostderr"),
        stderrthreshold=values.number("stderrthreshold"),
        log_dir=values.text("log_dir"),
        log_file=values.text("log_file"),
        log_file_max_size=values.number("log_file_max_size"),
        one_output=values.flag("one_output"),
        skip_headers=values.flag("skip_headers"),
        skip_log_headers=values.flag("skip_log_headers"),
        add_dir_header=values.flag("add_dir_header"),
    )


def _check_logging(values: _Values) -> None:
    """component-base's validation, all findings in one record (logs/api/v1/options.go, Validate)."""
    findings = []
    flush = values.number("log_flush_frequency")
    if flush <= 0:
        shown = gotext.quote(gotext.format_duration(flush))
        findings.append(f"flushFrequency: Invalid value: {shown}: Must be greater than zero")
    log_format = values.text("logging_format")
    if log_format not in ("text", "json"):
        findings.append(f"format: Invalid value: {gotext.quote(log_format)}: Unsupported log format")
    if log_format != "text" and values.typed["vmodule"]:
        findings.append("vmodule: Forbidden: Only supported for text log format")
    for kind in ("text", "json"):
        for key, name in ((f"log_{kind}_split_stream", "splitStream"), (f"log_{kind}_info_buffer_size", "infoBufferSize")):
            if values.flag(key):
                findings.append(f"options.{kind}.{name}: Forbidden: Feature LoggingAlphaOptions is disabled")
    if findings:
        err = findings[0] if len(findings) == 1 else f"[{', '.join(findings)}]"
        raise SettingsError("LoggingConfiguration is invalid", err)


def _check_conflicts(values: _Values) -> None:
    if not values.text("http_endpoint"):
        return
    if values.text("health_port") != KEYS["health_port"].default:
        raise SettingsError("Only one of `--health-port` and `--http-endpoint` can be explicitly set")
    if values.text("metrics_address"):
        raise SettingsError("Only one of `--metrics-address` and `--http-endpoint` can be explicitly set")


def _check_not_negative(values: _Values, *keys: str) -> None:
    for key in keys:
        value = values.typed.get(key, 0)
        if isinstance(value, int) and value < 0:
            raw = values.raw[key]
            raise SettingsError("Invalid setting", f"{raw.source} = {gotext.quote(raw.text)}: it must be 0s or more", code=2)


def _csi_address(text: str, platform: str) -> CSIAddress:
    try:
        return parse_csi_address(text, platform)
    except AddressError as error:
        raise SettingsError("Failed to establish connection to CSI driver", str(error)) from None


def _listeners(values: _Values) -> tuple[ListenAddress, ListenAddress | None]:
    text = values.text("http_endpoint") or join_host_port(_WILDCARD, values.text("health_port"))
    try:
        http = parse_listen_address(text)
    except AddressError as error:
        raise SettingsError("Failed to start http server", str(error)) from None
    text = values.text("metrics_address")
    if not text:
        return http, None
    try:
        return http, parse_listen_address(text)
    except AddressError as error:
        raise metrics_listener_error(text, values.text("metrics_path"), str(error)) from None


def metrics_listener_error(address: str, path: str, err: str) -> SettingsError:
    """Upstream's record for a separate metrics listener that cannot be opened."""
    message = "Failed to start prometheus metrics endpoint on specified address and path"
    return SettingsError(message, err, addr=address, path=path)


def _check_metrics_path(path: str, *, shared_with_healthz: bool) -> None:
    shown = f"--metrics-path {gotext.quote(path)}"
    if not path.startswith("/"):
        raise SettingsError("Invalid setting", f"{shown} must begin with a slash, as /metrics does")
    if re.search(r"[\s\x00-\x1f\x7f]", path):
        raise SettingsError("Invalid setting", f"{shown} must not contain blanks or control characters")
    if shared_with_healthz and path == "/healthz":
        raise SettingsError(
            "Invalid setting", f"{shown} is where health is served; choose another path or use --metrics-address"
        )
