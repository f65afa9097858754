"""Turns text into `Settings`, and lists all mistakes: each value alone, then against the others.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from livenessprobe.driver.address import AddressError, CSIAddress, parse_csi_address, unexpanded
from livenessprobe.driver.methods import parse_method
from livenessprobe.gotext import format_duration, parse_duration, quote
from livenessprobe.klog.format import Options
from livenessprobe.settings import flags, ways_out
from livenessprobe.settings.layers import KEYS, Layer, Raw
from livenessprobe.settings.listen_address import ListenAddress, join_host_port, parse_listen_address
from livenessprobe.settings.mistakes import INVALID, Mistake
from livenessprobe.settings.model import Settings, Thresholds


def validate(raw: Layer, platform: str) -> tuple[Settings, tuple[Mistake, ...]]:
    """
    Settings from the text of every key, and all mistakes in them, in upstream's order.

    With mistakes the settings hold the default of each value that cannot be read, and may contradict each other.
    """
    sound, mistakes = dict(raw), []
    for key, flag in KEYS.items():
        if (unreadable := _unreadable(raw[key], flag.kind)) is not None:
            mistakes.append(unreadable)
            sound[key] = Raw(flag.default, "default")  # one mistake is told once, and not as a contradiction again
    typed = {key: flag.kind.check(sound[key].text) for key, flag in KEYS.items()}
    mistakes += [*_logging(sound, typed), *_conflicts(sound), *_bounds(sound, typed)]
    csi_address = _csi_address(sound["csi_address"], platform)
    http = _http(sound)
    metrics = _metrics(sound, http)
    mistakes += [each for each in (csi_address, http, metrics) if isinstance(each, Mistake)]
    mistakes += _probe_path(sound["probe_path"])
    if typed["http_endpoint"] or metrics:
        mistakes += _metrics_path(sound["metrics_path"], shared_with_healthz=metrics is None)
    # Most fields are the typed value of the key of the same name.
    fields = {name: typed[name] for name in Settings._fields if name in typed}
    timeout, grace = typed["probe_timeout"], typed["unreachable_grace"]
    fields |= {
        "csi_address": parse_csi_address(KEYS["csi_address"].default, platform)
        if isinstance(csi_address, Mistake)
        else csi_address,
        "http": ListenAddress("") if isinstance(http, Mistake) else http,
        "metrics": None if isinstance(metrics, Mistake) else metrics,
        "metrics_on_http": typed["http_endpoint"] != "" and metrics is None,
        "unreachable_grace": timeout if grace is None else min(grace, timeout),
        "thresholds": Thresholds(typed["failure_threshold"], typed["success_threshold"]),
        "log": Options(**{name: typed[name] for name in Options._fields}),
    }
    return Settings(**fields), tuple(mistakes)


def _unreadable(raw: Raw, kind: flags.Kind) -> Mistake | None:
    try:
        if "\0" in raw.text:
            raise ValueError("it holds a NUL character")
        kind.check(raw.text)
    except ValueError as reason:
        variable = unexpanded(raw.text)
        return _invalid(raw, f"{reason}; {variable}" if variable else f"{reason}{kind.hint}", code=2)
    return None


def _invalid(raw: Raw, reason: str, code: int = 1) -> Mistake:
    return Mistake(raw.source, INVALID, f"{raw}: {reason}", code)


def _logging(raw: Layer, typed: Mapping[str, Any]) -> Iterator[Mistake]:
    """component-base's validation, all findings in one record (logs/api/v1/options.go, Validate)."""
    findings, keys, hints = [], [], []
    if typed["log_flush_frequency"] <= 0:
        shown = quote(format_duration(parse_duration(raw["log_flush_frequency"].text)))
        findings.append(f"flushFrequency: Invalid value: {shown}: Must be greater than zero")
        keys.append("log_flush_frequency")
        hints.append("write 5s")
    log_format = typed["logging_format"]
    if log_format not in ("text", "json"):
        findings.append(f"format: Invalid value: {quote(log_format)}: Unsupported log format")
        keys.append("logging_format")
        hints.append("write text or json")
    if log_format != "text" and typed["vmodule"]:
        values = _values(raw["vmodule"], raw["logging_format"])
        findings.append("vmodule: Forbidden: Only supported for text log format" + (f" ({values})" if values else ""))
        keys += ["vmodule", "logging_format"]
        hints.append("leave one of the two out")
    for kind in ("text", "json"):
        for key, name in ((f"log_{kind}_split_stream", "splitStream"), (f"log_{kind}_info_buffer_size", "infoBufferSize")):
            if typed[key]:
                findings.append(f"options.{kind}.{name}: Forbidden: Feature LoggingAlphaOptions is disabled")
                keys.append(key)
                hints.append(f"leave out --{KEYS[key].name}")
    if findings:
        err = findings[0] if len(findings) == 1 else f"[{', '.join(findings)}]"
        sources = _sources(*(raw[key] for key in dict.fromkeys(keys)))
        yield Mistake(sources, "LoggingConfiguration is invalid", err, hint="; ".join(hints))


def _conflicts(raw: Layer) -> Iterator[Mistake]:
    endpoint, port = raw["http_endpoint"], raw["health_port"]
    if endpoint.text and port.text != KEYS["health_port"].default:
        message = "Only one of `--health-port` and `--http-endpoint` can be explicitly set"
        yield Mistake(_sources(port, endpoint), message, _values(port, endpoint))


def _sources(*raws: Raw) -> str:
    return " and ".join(raw.source for raw in raws)


def _values(*raws: Raw) -> str | None:
    """The values that contradict each other, with their sources; None for flags alone, since upstream's record has no err."""
    return None if all(raw.source.startswith("flag ") for raw in raws) else " and ".join(map(str, raws))


def _bounds(raw: Layer, typed: Mapping[str, Any]) -> Iterator[Mistake]:
    for key in ("connection_reuse", "unreachable_grace", "config_poll_interval", "interval"):
        if (typed[key] or 0) < 0:
            yield _invalid(raw[key], "it must be 0s or more", code=2)
    for key in ("config_poll_interval", "interval"):
        if 0 < typed[key] < 0.1:  # a file or a driver changes too seldom for more frequent looks
            yield _invalid(raw[key], "it must be 100ms or more, or 0s for never", code=2)
    if typed["http_idle_timeout"] < 1:
        yield _invalid(raw["http_idle_timeout"], "it must be 1s or more", code=2)
    if not 1024 <= typed["http_max_header_bytes"] <= 1 << 20:
        yield _invalid(raw["http_max_header_bytes"], "it must be between 1024 and 1048576", code=2)


def _probe_path(raw: Raw) -> Iterator[Mistake]:
    try:
        parse_method(raw.text)
    except ValueError as error:
        yield _invalid(raw, str(error))


def _csi_address(raw: Raw, platform: str) -> CSIAddress | Mistake:
    try:
        return parse_csi_address(raw.text, platform)
    except AddressError as error:
        message, hint = "Failed to establish connection to CSI driver", ways_out.of_csi_address(raw.text)
        return Mistake(raw.source, message, f"{error}{_source_of(raw)}", hint=hint)


def _source_of(raw: Raw) -> str:
    """The source of a value, as it follows the text of upstream's records; empty for a flag, so that such a record is upstream's."""
    return "" if raw.source.startswith("flag ") else f" ({raw.source})"


def _http(raw: Layer) -> ListenAddress | Mistake:
    # Upstream listens on all addresses, and says so in these words.
    text = raw["http_endpoint"].text or join_host_port("0.0.0.0", raw["health_port"].text)  # noqa: S104
    try:
        return parse_listen_address(text)
    except AddressError as error:
        return http_listener_mistake(raw, str(error))


def _metrics(raw: Layer, http: ListenAddress | Mistake) -> ListenAddress | Mistake | None:
    """The address of metrics alone; None if there is none, or if it is that of --http-endpoint: one listener serves both."""
    if not raw["metrics_address"].text:
        return None
    try:
        separate = parse_listen_address(raw["metrics_address"].text)
    except AddressError as error:
        return metrics_listener_mistake(raw, str(error))
    shared = raw["http_endpoint"].text and isinstance(http, ListenAddress) and separate.is_same_as(http)
    return None if shared else separate


def http_listener_mistake(raw: Layer, cause: str, taken: str | None = None) -> Mistake:
    """
    Upstream's record for a listener of health that cannot be opened.

    `taken` is what is known about an address that exists and cannot be had; None if the address itself is wrong.
    """
    key = "http_endpoint" if raw["http_endpoint"].text else "health_port"
    of_text = ways_out.of_listen_address if raw["http_endpoint"].text else ways_out.of_health_port
    hint = of_text(raw[key].text) if taken is None else ways_out.of_taken(taken, KEYS[key].name)
    return Mistake(raw[key].source, "Failed to start http server", f"{cause}{_source_of(raw[key])}", hint=hint)


def metrics_listener_mistake(raw: Layer, cause: str, taken: str | None = None) -> Mistake:
    """Upstream's record for a separate listener of metrics that cannot be opened; `taken` as for that of health."""
    setting = raw["metrics_address"]
    hint = ways_out.of_listen_address(setting.text) if taken is None else ways_out.of_taken(taken, "metrics-address")
    message = "Failed to start prometheus metrics endpoint on specified address and path"
    pairs = (("addr", setting.text), ("path", raw["metrics_path"].text))
    return Mistake(setting.source, message, f"{cause}{_source_of(setting)}", pairs=pairs, hint=hint)


def _metrics_path(raw: Raw, *, shared_with_healthz: bool) -> Iterator[Mistake]:
    if not raw.text.startswith("/"):
        yield _invalid(raw, "it must begin with a slash, as /metrics does")
    elif re.search(r"[\s\x00-\x1f\x7f]", raw.text):
        yield _invalid(raw, "it must not contain blanks or control characters")
    elif shared_with_healthz and raw.text == "/healthz":
        yield _invalid(raw, "that is where health is served; choose another path, or use --metrics-address")
