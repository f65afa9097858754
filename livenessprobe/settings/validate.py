"""From text to typed values: every setting checked, alone and beside the others.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from livenessprobe import gotext
from livenessprobe.driver.address import AddressError, CSIAddress, parse_csi_address
from livenessprobe.driver.methods import parse_method
from livenessprobe.klog.format import Options
from livenessprobe.settings import flags
from livenessprobe.settings.layers import (
    KEYS,
    Layer,
    Raw,
    SettingsError,
    invalid,
    refusal,
)
from livenessprobe.settings.listen_address import ListenAddress, join_host_port, parse_listen_address
from livenessprobe.settings.model import Settings, Thresholds

INTERVAL_MIN = 100_000_000
"""Nanoseconds; looking at a file or a driver more often than every 100ms helps nobody."""
_WILDCARD = "0.0.0.0"  # noqa: S104  upstream listens on all addresses, and says so in these words


def typed_value(raw: Raw, flag: flags.Flag) -> object:
    """The typed value of `raw`; raises SettingsError with a sentence."""
    try:
        if "\0" in raw.text:
            raise ValueError("it holds a NUL character")
        return flag.kind.check(raw.text)
    except ValueError as reason:
        raise refusal(raw, str(reason), flag.kind) from None


@dataclass(frozen=True, slots=True)
class _Values:
    """The typed values by key, for `build` to put together."""

    raw: Layer
    typed: Mapping[str, object] = field(init=False)

    def __post_init__(self) -> None:
        typed = {key: typed_value(self.raw[key], flag) for key, flag in KEYS.items()}
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


def build(raw: Layer, platform: str) -> Settings:
    """Valid settings from the text of every key; raises SettingsError."""
    values = _Values(raw)
    log = _log_options(values)
    try:
        _check_logging(values)
        _check_conflicts(values)
        _check_not_negative(values, "connection_reuse", "unreachable_grace", "config_poll_interval", "interval")
        _check_intervals(values, "config_poll_interval", "interval")
        _check_http_limits(values)
        csi_address = _csi_address(values.raw["csi_address"], platform)
        http, metrics = _listeners(values)
        timeout = values.seconds("probe_timeout")
        grace = timeout if values.typed["unreachable_grace"] is None else values.seconds("unreachable_grace")
        metrics_on_http = values.text("http_endpoint") != ""
        probe_path = _probe_path(values.raw["probe_path"])
        if metrics_on_http or metrics is not None:
            _check_metrics_path(values.raw["metrics_path"], shared_with_healthz=metrics is None)
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
        config_poll_interval=values.seconds("config_poll_interval"),
        interval=values.seconds("interval"),
        thresholds=Thresholds(values.number("failure_threshold"), values.number("success_threshold")),
        probe_path=probe_path,
        health_service=values.text("health_service"),
        health_file=values.text("health_file"),
        exit_on_failure=values.flag("exit_on_failure"),
        termination_log=values.text("termination_log"),
        http_idle_timeout=values.seconds("http_idle_timeout"),
        http_max_connections=values.number("http_max_connections"),
        http_max_header_bytes=values.number("http_max_header_bytes"),
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
        sides = _sides(values, "vmodule", "logging_format")
        findings.append("vmodule: Forbidden: Only supported for text log format" + (f" ({sides})" if sides else ""))
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
    for key in ("health_port", "metrics_address"):
        if values.text(key) != KEYS[key].default:
            message = f"Only one of `--{KEYS[key].name}` and `--http-endpoint` can be explicitly set"
            raise SettingsError(message, _sides(values, key, "http_endpoint"))


def _sides(values: _Values, *keys: str) -> str | None:
    """Who gave the values that contradict each other; None where flags alone did, as upstream's record has no room for it."""
    raws = [values.raw[key] for key in keys]
    return None if all(raw.source.startswith("flag ") for raw in raws) else " and ".join(map(str, raws))


def _check_not_negative(values: _Values, *keys: str) -> None:
    for key in keys:
        value = values.typed[key]
        if isinstance(value, int) and value < 0:
            raise invalid(values.raw[key], "it must be 0s or more", code=2)


def _check_intervals(values: _Values, *keys: str) -> None:
    for key in keys:
        if 0 < values.number(key) < INTERVAL_MIN:
            raise invalid(values.raw[key], "it must be 100ms or more, or 0s for never", code=2)


def _check_http_limits(values: _Values) -> None:
    if values.number("http_idle_timeout") < 1_000_000_000:
        raise invalid(values.raw["http_idle_timeout"], "it must be 1s or more", code=2)
    if not 1024 <= values.number("http_max_header_bytes") <= 1 << 20:
        raise invalid(values.raw["http_max_header_bytes"], "it must be between 1024 and 1048576", code=2)


def _probe_path(raw: Raw) -> str:
    try:
        return parse_method(raw.text)
    except ValueError as error:
        raise invalid(raw, str(error)) from None


def _csi_address(raw: Raw, platform: str) -> CSIAddress:
    try:
        return parse_csi_address(raw.text, platform)
    except AddressError as error:
        raise SettingsError("Failed to establish connection to CSI driver", f"{error}{source_of(raw)}") from None


def source_of(raw: Raw) -> str:
    """Where a value is from, for upstream's records; for a flag they stay as they are."""
    return "" if raw.source.startswith("flag ") else f" ({raw.source})"


def _listeners(values: _Values) -> tuple[ListenAddress, ListenAddress | None]:
    text = values.text("http_endpoint") or join_host_port(_WILDCARD, values.text("health_port"))
    try:
        http = parse_listen_address(text)
    except AddressError as error:
        raise SettingsError("Failed to start http server", f"{error}{source_of(http_setting(values.raw))}") from None
    raw = values.raw["metrics_address"]
    if not raw.text:
        return http, None
    try:
        return http, parse_listen_address(raw.text)
    except AddressError as error:
        raise metrics_listener_error(raw.text, values.text("metrics_path"), f"{error}{source_of(raw)}") from None


def http_setting(raw: Layer) -> Raw:
    """The setting that says where health is served."""
    return raw["http_endpoint"] if raw["http_endpoint"].text else raw["health_port"]


def metrics_listener_error(address: str, path: str, err: str, log: Options = Options()) -> SettingsError:
    """Upstream's record for a separate metrics listener that cannot be opened."""
    message = "Failed to start prometheus metrics endpoint on specified address and path"
    return SettingsError(message, err, log=log, addr=address, path=path)


def _check_metrics_path(raw: Raw, *, shared_with_healthz: bool) -> None:
    if not raw.text.startswith("/"):
        raise invalid(raw, "it must begin with a slash, as /metrics does")
    if re.search(r"[\s\x00-\x1f\x7f]", raw.text):
        raise invalid(raw, "it must not contain blanks or control characters")
    if shared_with_healthz and raw.text == "/healthz":
        raise invalid(raw, "that is where health is served; choose another path, or use --metrics-address")
