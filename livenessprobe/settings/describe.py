"""Shows the settings in force as JSON, and lists what a reload would change.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from livenessprobe import gotext
from livenessprobe.driver.address import CSIAddress
from livenessprobe.settings import flags
from livenessprobe.settings.layers import KEYS, Raw
from livenessprobe.settings.listen_address import ListenAddress
from livenessprobe.settings.model import LIVE_KEYS, Loaded


class Change(NamedTuple):
    """A setting whose value differs; both values as JSON shows them."""

    key: str
    old: object
    new: object
    source: str
    live: bool
    """Whether a running process takes the new value."""


def changes(running: Loaded, wanted: Loaded) -> tuple[Change, ...]:
    """The differences of `wanted` from `running`, in the order of the keys.  `60s` for `1m` is no difference."""
    old, new = values(running), values(wanted)
    if running.settings.csi_address.target == wanted.settings.csi_address.target:
        new["csi_address"] = old["csi_address"]  # another spelling of the same socket
    return tuple(
        Change(key, old[key], new[key], wanted.raw[key].source, key in LIVE_KEYS) for key in KEYS if old[key] != new[key]
    )


class Overridden(NamedTuple):
    """A setting that has changed in the file and has no effect; both values as JSON shows them."""

    key: str
    running: object
    wanted: object
    source: str
    """The file, the line and the key."""
    by: str
    """The flag or the variable."""


def newly_overridden(running: Loaded, wanted: Loaded) -> tuple[Overridden, ...]:
    """The keys of the file of `wanted` that differ from those of `running` and are overridden, in the order of the file."""
    shown = values(wanted)
    return tuple(
        Overridden(key, shown[key], _filed(key, raw), raw.source, wanted.raw[key].source)
        for key, raw in wanted.overridden.items()
        if key not in running.in_file or _filed(key, running.in_file[key]) != _filed(key, raw)
    )


def _filed(key: str, raw: Raw) -> object:
    """What a file says; an overridden text may be unreadable."""
    try:
        return _shown(KEYS[key].kind, raw.text)
    except ValueError:
        return raw.text


def values(loaded: Loaded) -> dict[str, object]:
    """Each key with its value: booleans and numbers as such, durations in Go's form, vmodule as a list."""
    shown = {key: _shown(flag.kind, loaded.raw[key].text) for key, flag in KEYS.items()}
    if loaded.settings.unreachable_grace == loaded.settings.probe_timeout:
        # The grace is empty or longer than the timeout.  The timeout may be negative, the grace may not.
        shown["unreachable_grace"] = "0s" if loaded.settings.probe_timeout < 0 else shown["probe_timeout"]
    return shown


def _shown(kind: flags.Kind, text: str) -> object:
    match kind.check(text):
        case float():
            return gotext.format_duration(gotext.parse_duration(text))
        case tuple(pairs):
            return [f"{pattern}={level}" for pattern, level in pairs]
        case typed:
            return text if kind is flags.QUANTITY else typed


def document(loaded: Loaded) -> dict[str, object]:
    """What `livenessprobe config` prints."""
    settings = loaded.settings
    shown, overridden = values(loaded), loaded.overridden
    listen = [_listener(settings.http, ["healthz", "metrics"] if settings.metrics_on_http else ["healthz"])]
    if settings.metrics is not None:
        listen.append(_listener(settings.metrics, ["metrics"]))
    return {
        "settings": {
            key: {"value": shown[key], "source": loaded.raw[key].source}
            | ({"overridden": {"value": _filed(key, raw), "source": raw.source}} if (raw := overridden.get(key)) else {})
            for key in KEYS
        },
        "target": settings.csi_address.target,
        "dial": _dial(settings.csi_address),
        "listen": listen,
    }


def _dial(address: CSIAddress) -> dict[str, str]:
    if address.network == "tcp":
        return {"network": "tcp", "address": address.name}
    return {"network": "unix", "path": f"@{address.name}" if address.network == "abstract" else address.name}


def _listener(address: ListenAddress, serves: list[str]) -> dict[str, object]:
    return {"address": address.path or address.text, "serves": serves, "dual_stack": address.dual_stack}


def as_text(value: object) -> str:
    """A value of `values` as a flag has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(str, value))
    return str(value)
