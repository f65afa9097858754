"""Two names for one setting, defaults, and two ways to merge that agree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.settings import flags, layers
from livenessprobe.settings.layers import KEYS, LONGHORN_DEFAULTS, PREFIX, Raw, defaults, merge, overlay
from livenessprobe.settings.model import Loaded
from tests.values import FLAG_ALIASES, VARIABLE_ALIASES, Refused, given_by, load_all, two

ALIASED = sorted({*FLAG_ALIASES.values(), *VARIABLE_ALIASES.values()})


# --- two names, one setting


def flag_names(key: str) -> list[str]:
    return [KEYS[key].name, *(name for name, aliased in FLAG_ALIASES.items() if aliased == key)]


def variable_names(key: str) -> list[str]:
    return [f"{PREFIX}{key.upper()}", *(name for name, aliased in VARIABLE_ALIASES.items() if aliased == key)]


PAIRS_OF_NAMES = [
    pytest.param(place, key, one, other, id=f"{one}-{other}")
    for key in ALIASED
    for place, names in (("flag", flag_names(key)), ("variable", variable_names(key)))
    for one, other in itertools.permutations(names, 2)
]
"""Every two names of one setting in one place, either first."""


DASHES = {"flag": "--", "variable": ""}


def read_names(place: str, **texts: str) -> Loaded:
    return load_all(texts) if place == "flag" else load_all({}, texts)


def longhorn_defaults() -> dict[str, str]:
    """The defaults that Longhorn's own names select, as flags."""
    return {KEYS[key].name: text for key, text in layers.LONGHORN_DEFAULTS.items()}


def modes(environ: dict[str, str]) -> bool:
    """Whether `environ` has one of Longhorn's own names."""
    return any(name.startswith("LIVENESS_PROBE_") for name in environ)


@pytest.mark.parametrize(
    ("place", "name", "key"),
    [
        (place, *alias)
        for place, aliases in (("flag", FLAG_ALIASES), ("variable", VARIABLE_ALIASES))
        for alias in aliases.items()
    ],
)
@settings(max_examples=3)
@given(data=st.data())
def test_a_name_of_longhorns_image_is_another_name_of_a_setting(
    place: str, name: str, key: str, data: st.DataObject
) -> None:
    text, _ = data.draw(two(key))

    loaded = read_names(place, **{name: text})

    assert loaded.raw[key] == Raw(text, f"{place} {DASHES[place]}{name}")
    lowest = {} if name == "CSI_ENDPOINT" else longhorn_defaults()
    assert loaded.settings == load_all({**lowest, KEYS[key].name: text}).settings
    assert loaded.warnings == ()


@pytest.mark.parametrize(("name", "key"), [(name, key) for key in ALIASED for name in flag_names(key)])
@settings(max_examples=3)
@given(data=st.data())
def test_a_flag_wins_over_variables_by_any_name(name: str, key: str, data: st.DataObject) -> None:
    """The variables are neither checked nor compared with each other."""
    text, other = data.draw(two(key))
    for others in ([other, text], ["nonsense", "other nonsense"], ["nul\0", ""]):
        environ = dict(zip(variable_names(key), itertools.cycle(others), strict=False))

        loaded = load_all({name: text}, environ)

        assert loaded.raw[key] == Raw(text, f"flag --{name}")
        own_names = modes(environ) or name in flags.LONGHORN
        assert loaded.settings == load_all({**(longhorn_defaults() if own_names else {}), KEYS[key].name: text}).settings


@pytest.mark.parametrize(("place", "key", "one", "other"), PAIRS_OF_NAMES)
@settings(max_examples=3)
@given(data=st.data())
def test_two_names_with_different_values_are_refused_by_both(
    place: str, key: str, one: str, other: str, data: st.DataObject
) -> None:
    text, other_text = data.draw(two(key))

    with pytest.raises(Refused) as refused:
        read_names(place, **{one: text, other: other_text})

    assert (refused.value.mistakes[0].message, refused.value.code) == ("Contradicting settings", 1)
    assert refused.value.mistakes[0].err == (
        f"{Raw(text, f'{place} {DASHES[place]}{one}')} and {Raw(other_text, f'{place} {DASHES[place]}{other}')} "
        "are the same setting; give one of them"
    )


SAME = {
    "csi_address": [("/csi/csi.sock", "unix:///csi/csi.sock"), ("unix:/csi/csi.sock", "unix:///csi/csi.sock")],
    "probe_timeout": [("60s", "1m"), ("1.5s", "1500ms"), ("-0s", "0")],
}


@pytest.mark.parametrize(("place", "key", "one", "other"), PAIRS_OF_NAMES)
@settings(max_examples=2)
@given(data=st.data())
def test_two_names_with_equal_values_are_accepted_and_the_projects_own_is_the_source(
    place: str, key: str, one: str, other: str, data: st.DataObject
) -> None:
    text, _ = data.draw(two(key))
    own = KEYS[key].name if place == "flag" else f"{PREFIX}{key.upper()}"
    named = own if own in (one, other) else one
    for pair in [(text, text), *SAME.get(key, [])]:
        for texts in (pair, pair[::-1]):
            given_texts = dict(zip((one, other), texts, strict=True))

            loaded = read_names(place, **given_texts)

            assert loaded.raw[key] == Raw(given_texts[named], f"{place} {DASHES[place]}{named}")


def test_contradicting_values_are_quoted_as_given() -> None:
    with pytest.raises(Refused) as refused:
        load_all({}, {"CSI_ENDPOINT": 'unix:///a "b"', "LIVENESSPROBE_CSI_ADDRESS": "/c\n"})

    assert str(refused.value) == (
        r'Contradicting settings: variable CSI_ENDPOINT = "unix:///a \"b\"" and '
        r'variable LIVENESSPROBE_CSI_ADDRESS = "/c\n" are the same setting; give one of them'
    )


# --- the lowest layer

DOCUMENTED = {
    "csi_address": "unix:///csi/csi.sock",
    "interval": "10s",
    "probe_timeout": "3s",
    "failure_threshold": "3",
    "health_file": "/tmp/health",
}
"""The defaults that Longhorn's image documents."""


def test_the_defaults_are_those_of_the_flags() -> None:
    assert defaults() == {key: Raw(flag.default, "default") for key, flag in KEYS.items()}


def test_longhorns_defaults_are_those_it_documents_and_no_others_change() -> None:
    ours, theirs = defaults(), defaults(longhorn=True)

    assert dict(LONGHORN_DEFAULTS) == DOCUMENTED
    assert theirs.keys() == ours.keys()
    for key, raw in theirs.items():
        assert raw == (Raw(DOCUMENTED[key], "default of Longhorn's image") if key in DOCUMENTED else ours[key])


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        # As documented, in whole or in part.
        (
            (
                "--endpoint=unix:///csi/csi.sock",
                "--interval=10s",
                "--timeout=3s",
                "--retries=3",
                "--probe-path=/csi.v1.Identity/Probe",
            ),
            {},
            ("/csi/csi.sock", 10.0, 3.0, 3, "/tmp/health"),
        ),
        (
            (),
            {
                "CSI_ENDPOINT": "unix:///csi/csi.sock",
                "LIVENESS_PROBE_INTERVAL": "10s",
                "LIVENESS_PROBE_TIMEOUT": "3s",
                "LIVENESS_PROBE_PATH": "/csi.v1.Identity/Probe",
                "LIVENESS_PROBE_RETRIES": "3",
            },
            ("/csi/csi.sock", 10.0, 3.0, 3, "/tmp/health"),
        ),
        (("--retries=5",), {}, ("/csi/csi.sock", 10.0, 3.0, 5, "/tmp/health")),
        (("--timeout=1s", "--endpoint=/a.sock"), {}, ("/a.sock", 10.0, 1.0, 3, "/tmp/health")),
        ((), {"LIVENESS_PROBE_INTERVAL": "1m"}, ("/csi/csi.sock", 60.0, 3.0, 3, "/tmp/health")),
        ((), {"LIVENESS_PROBE_PATH": "/a.B/C", "CSI_ENDPOINT": "/a.sock"}, ("/a.sock", 10.0, 3.0, 3, "/tmp/health")),
        # Other flags and variables win over its defaults.
        (("--retries=3", "--health-file=", "--interval=0s"), {}, ("/csi/csi.sock", 0.0, 3.0, 3, "")),
        (("--retries=3",), {"LIVENESSPROBE_HEALTH_FILE": "/run/h"}, ("/csi/csi.sock", 10.0, 3.0, 3, "/run/h")),
        # Without its names the defaults are those of the Go program.
        ((), {}, ("/run/csi/socket", 0.0, 3.0, 1, "")),
        (("--interval=10s",), {}, ("/run/csi/socket", 10.0, 3.0, 1, "")),
        ((), {"LIVENESSPROBE_INTERVAL": "10s"}, ("/run/csi/socket", 10.0, 3.0, 1, "")),
        ((), {"CSI_ENDPOINT": "unix:///a.sock"}, ("/a.sock", 0.0, 3.0, 1, "")),
        (("--csi-address=/b.sock",), {"CSI_ENDPOINT": "unix:///a.sock"}, ("/b.sock", 0.0, 3.0, 1, "")),
    ],
)
def test_longhorns_names_change_the_defaults(
    arguments: tuple[str, ...], environ: dict[str, str], expected: tuple[object, ...]
) -> None:
    found = load_all(given_by(*arguments), environ, merger=overlay).settings

    shown = (found.csi_address.name, found.interval, found.probe_timeout, found.thresholds.failure, found.health_file)
    assert shown == expected


def test_an_interval_in_the_file_changes_nothing_but_the_interval() -> None:
    plain = load_all(merger=overlay).settings
    by_file = load_all({"config": "x"}, {}, b'interval = "10s"', merger=overlay).settings

    assert by_file.interval == 10.0
    assert (by_file.csi_address, by_file.probe_timeout, by_file.thresholds, by_file.health_file) == (
        plain.csi_address,
        plain.probe_timeout,
        plain.thresholds,
        plain.health_file,
    )


# --- two ways to merge

RAWS = st.builds(
    Raw, st.text(max_size=10) | st.sampled_from(["@int 3", "@none", "dynaconf_merge", "true", "[1]"]), st.text(max_size=5)
)


LAYERS = st.lists(st.dictionaries(st.sampled_from(list(KEYS)), RAWS, max_size=8), max_size=4)


@settings(max_examples=40)  # Dynaconf is slow
@given(LAYERS, st.booleans())
def test_the_small_merge_function_agrees_with_dynaconf(layers: list[dict[str, Raw]], longhorn: bool) -> None:
    lowest = defaults(longhorn=longhorn)

    assert overlay(lowest, *layers) == merge(lowest, *layers)


@given(LAYERS)
def test_the_topmost_value_of_each_key_counts(layers: list[dict[str, Raw]]) -> None:
    lowest = defaults()
    merged = overlay(lowest, *layers)

    assert merged.keys() == KEYS.keys()
    for key, raw in merged.items():
        assert raw is [layer[key] for layer in [lowest, *layers] if key in layer][-1]
