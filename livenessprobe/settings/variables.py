"""Reads environment variables as a layer: `LIVENESSPROBE_…`, and the names documented for Longhorn's image."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import NamedTuple

from livenessprobe.settings import flags
from livenessprobe.settings.layers import KEYS, PREFIX, Layer, Raw, layer_of
from livenessprobe.settings.mistakes import Mistake, nearest

LONGHORN_VARIABLES: Mapping[str, str] = {
    "CSI_ENDPOINT": "csi_address",
    "LIVENESS_PROBE_INTERVAL": "interval",
    "LIVENESS_PROBE_TIMEOUT": "probe_timeout",
    "LIVENESS_PROBE_PATH": "probe_path",
    "LIVENESS_PROBE_RETRIES": "failure_threshold",
}
"""Variables of Longhorn's image, and their settings."""
_LONGHORN_PREFIX = "LIVENESS_PROBE_"


def longhorn_is_meant(given: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """
    Whether the process was started with a flag or a variable of Longhorn's image.

    CSI_ENDPOINT does not count: many manifests set it for their own use.
    """
    names = LONGHORN_VARIABLES.keys() - {"CSI_ENDPOINT"}
    return not flags.LONGHORN.keys().isdisjoint(given) or any(
        name in environ and not is_service_link(name, environ[name]) for name in names
    )


_SERVICE_LINK = re.compile(r"(SERVICE_|PORT(_|$)).*|.*_SERVICE_(HOST|PORT(_.*)?)|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?")


class Variables(NamedTuple):
    """The settings among the variables."""

    layer: Layer
    unknown: tuple[str, ...]
    """A sentence for each unknown variable with the prefix of a setting."""
    mistakes: tuple[Mistake, ...]
    """Variables that contradict each other."""


def from_environment(environ: Mapping[str, str], overridden: Container[str] = ()) -> Variables:
    """The settings in `environ`.  Keys `overridden` by flags are left out, so their values are not checked."""
    found, unknown = [], []
    for name, text in environ.items():
        key = _variable_key(name)
        if key is not None and not is_service_link(name, text):
            if key not in overridden:
                found.append((key, Raw(text, f"variable {name}")))
        elif name.startswith((PREFIX, _LONGHORN_PREFIX)) and not is_service_link(name, text):
            unknown.append(f"variable {name} is not a setting{_nearest_variable(name)}")
    layer, mistakes = layer_of(found)
    return Variables(layer, tuple(unknown), mistakes)


def _variable_key(name: str) -> str | None:
    if name in LONGHORN_VARIABLES:
        return LONGHORN_VARIABLES[name]
    key = name.removeprefix(PREFIX).lower()
    return key if name == f"{PREFIX}{key.upper()}" and key in KEYS else None


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes sets the variable for a Service whose name begins with livenessprobe or liveness-probe."""
    prefix = PREFIX if name.startswith(PREFIX) else _LONGHORN_PREFIX
    if not name.startswith(prefix):
        return False
    rest = name.removeprefix(prefix)
    return bool(_SERVICE_LINK.fullmatch(rest)) or (
        rest.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))
    )


def _nearest_variable(name: str) -> str:
    # Compared without the prefix, which would make any two names similar.
    known = {key.upper(): f"{PREFIX}{key.upper()}" for key in KEYS}
    if name.startswith(PREFIX):  # a name of Longhorn's image would select the defaults of that image
        return nearest(name.upper().removeprefix(PREFIX), known)
    known |= {longhorns.removeprefix(_LONGHORN_PREFIX): longhorns for longhorns in LONGHORN_VARIABLES}
    return nearest(name.upper().removeprefix(_LONGHORN_PREFIX), known)
