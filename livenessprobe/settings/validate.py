"""Turns text into valid `Settings`: checks every value alone, then against the others.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from livenessprobe.driver.address import AddressError, CSIAddress, parse_csi_address
from livenessprobe.driver.methods import parse_method
from livenessprobe.gotext import format_duration, parse_duration, quote
from livenessprobe.klog.format import Options
from livenessprobe.settings import flags
from livenessprobe.settings.layers import INVALID, KEYS, Layer, Raw, SettingsError
from livenessprobe.settings.listen_address import ListenAddress, join_host_port, parse_listen_address
from livenessprobe.settings.model import Settings, Thresholds


def validate(raw: Layer, platform: str) -> Settings:
    """Valid settings from the text of every key; raises SettingsError for the first fault."""
    typed = {key: _typed(raw[key], flag.kind) for key, flag in KEYS.items()}
    log = Options(**{name: typed[name] for name in Options._fields})
    try:
        _check_logging(raw, typed)
        _check_conflicts(raw)
        _check_bounds(raw, typed)
        csi_address = _csi_address(raw["csi_address"], platform)
        http, metrics = _listeners(raw)
        _check_probe_path(raw["probe_path"])
        if typed["http_endpoint"] or metrics:
            _check_metrics_path(raw["metrics_path"], shared_with_healthz=metrics is None)
    except SettingsError as error:
        error.log = log
        raise
    # Most fields are the typed value of the key of the same name.
    fields = {name: typed[name] for name in Settings._fields if name in typed}
    timeout, grace = typed["probe_timeout"], typed["unreachable_grace"]
    fields |= {
        "csi_address": csi_address,
        "http": http,
        "metrics": metrics,
        "metrics_on_http": typed["http_endpoint"] != "" and metrics is None,
        "unreachable_grace": timeout if grace is None else min(grace, timeout),
        "thresholds": Thresholds(typed["failure_threshold"], typed["success_threshold"]),
        "log": log,
    }
    return Settings(**fields)


def _typed(raw: Raw, kind: flags.Kind) -> Any:
    try:
        if "\0" in raw.text:
            raise ValueError("it holds a NUL character")
        return kind.check(raw.text)
    except ValueError as reason:
        hint = f"; write {kind.expected.replace(' as text', '')}" if kind.expected else ""
        raise _invalid(raw, f"{reason}{hint}", code=2) from None


def _invalid(raw: Raw, reason: str, code: int = 1) -> SettingsError:
    return SettingsError(INVALID, f"{raw}: {reason}", code)


def _check_logging(raw: Layer, typed: Mapping[str, Any]) -> None:
    """component-base's validation, all findings in one record (logs/api/v1/options.go, Validate)."""
    findings = []
    if typed["log_flush_frequency"] <= 0:
        shown = quote(format_duration(parse_duration(raw["log_flush_frequency"].text)))
        findings.append(f"flushFrequency: Invalid value: {shown}: Must be greater than zero")
    log_format = typed["logging_format"]
    if log_format not in ("text", "json"):
        findings.append(f"format: Invalid value: {quote(log_format)}: Unsupported log format")
    if log_format != "text" and typed["vmodule"]:
        sources = _sources(raw["vmodule"], raw["logging_format"])
        findings.append("vmodule: Forbidden: Only supported for text log format" + (f" ({sources})" if sources else ""))
    for kind in ("text", "json"):
        for key, name in ((f"log_{kind}_split_stream", "splitStream"), (f"log_{kind}_info_buffer_size", "infoBufferSize")):
            if typed[key]:
                findings.append(f"options.{kind}.{name}: Forbidden: Feature LoggingAlphaOptions is disabled")
    if findings:
        err = findings[0] if len(findings) == 1 else f"[{', '.join(findings)}]"
        raise SettingsError("LoggingConfiguration is invalid", err)


def _check_conflicts(raw: Layer) -> None:
    if not raw["http_endpoint"].text:
        return
    if (port := raw["health_port"]).text != KEYS["health_port"].default:
        message = "Only one of `--health-port` and `--http-endpoint` can be explicitly set"
        raise SettingsError(message, _sources(port, raw["http_endpoint"]))


def _sources(*raws: Raw) -> str | None:
    """The values that contradict each other, with their sources; None for flags alone, since upstream's record has no err."""
    return None if all(raw.source.startswith("flag ") for raw in raws) else " and ".join(map(str, raws))


def _check_bounds(raw: Layer, typed: Mapping[str, Any]) -> None:
    for key in ("connection_reuse", "unreachable_grace", "config_poll_interval", "interval"):
        if (typed[key] or 0) < 0:
            raise _invalid(raw[key], "it must be 0s or more", code=2)
    for key in ("config_poll_interval", "interval"):
        if 0 < typed[key] < 0.1:  # a file or a driver changes too seldom for more frequent looks
            raise _invalid(raw[key], "it must be 100ms or more, or 0s for never", code=2)
    if typed["http_idle_timeout"] < 1:
        raise _invalid(raw["http_idle_timeout"], "it must be 1s or more", code=2)
    if not 1024 <= typed["http_max_header_bytes"] <= 1 << 20:
        raise _invalid(raw["http_max_header_bytes"], "it must be between 1024 and 1048576", code=2)


def _check_probe_path(raw: Raw) -> None:
    try:
        parse_method(raw.text)
    except ValueError as error:
        raise _invalid(raw, str(error)) from None


def _csi_address(raw: Raw, platform: str) -> CSIAddress:
    try:
        return parse_csi_address(raw.text, platform)
    except AddressError as error:
        raise SettingsError("Failed to establish connection to CSI driver", f"{error}{source_of(raw)}") from None


def source_of(raw: Raw) -> str:
    """The source of a value, as it follows the text of upstream's records; empty for a flag, so that such a record is upstream's."""
    return "" if raw.source.startswith("flag ") else f" ({raw.source})"


def _listeners(raw: Layer) -> tuple[ListenAddress, ListenAddress | None]:
    # Upstream listens on all addresses, and says so in these words.
    text = raw["http_endpoint"].text or join_host_port("0.0.0.0", raw["health_port"].text)  # noqa: S104
    try:
        http = parse_listen_address(text)
    except AddressError as error:
        raise SettingsError("Failed to start http server", f"{error}{source_of(http_setting(raw))}") from None
    metrics = raw["metrics_address"]
    if not metrics.text:
        return http, None
    try:
        separate = parse_listen_address(metrics.text)
    except AddressError as error:
        raise metrics_listener_error(metrics.text, raw["metrics_path"].text, f"{error}{source_of(metrics)}") from None
    return http, None if raw["http_endpoint"].text and separate.is_same_as(http) else separate


def http_setting(raw: Layer) -> Raw:
    """The setting that says where health is served."""
    return raw["http_endpoint"] if raw["http_endpoint"].text else raw["health_port"]


def metrics_listener_error(address: str, path: str, err: str, log: Options = Options()) -> SettingsError:
    """Upstream's record for a separate metrics listener that cannot be opened."""
    message = "Failed to start prometheus metrics endpoint on specified address and path"
    return SettingsError(message, err, log=log, addr=address, path=path)


def _check_metrics_path(raw: Raw, *, shared_with_healthz: bool) -> None:
    if not raw.text.startswith("/"):
        raise _invalid(raw, "it must begin with a slash, as /metrics does")
    if re.search(r"[\s\x00-\x1f\x7f]", raw.text):
        raise _invalid(raw, "it must not contain blanks or control characters")
    if shared_with_healthz and raw.text == "/healthz":
        raise _invalid(raw, "that is where health is served; choose another path, or use --metrics-address")
