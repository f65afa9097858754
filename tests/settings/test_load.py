"""Flags over variables over file over defaults, for every setting; and what a bad one of each costs."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from livenessprobe.settings.layers import FILE_KEYS, KEYS, PREFIX, Raw
from livenessprobe.settings.load import keep_restart_keys
from livenessprobe.settings.model import LIVE_KEYS, RESTART_KEYS, Loaded
from tests.values import GROUPS, PATH, VALID, Refused, Texts, as_file, as_flags, as_variables, load_all, native, two, typed


def read_all(flag: Texts, variable: Texts, file: bytes) -> Loaded:
    """Settings from all three places; the file is called x, unless a setting says otherwise."""
    return load_all(as_flags(flag), as_variables(variable), file, path="x")


def in_files(texts: Texts) -> Texts:
    """What of `texts` a file can hold."""
    return {key: text for key, text in texts.items() if key in FILE_KEYS}


def meanings(loaded: Loaded, keys: Texts) -> dict[str, object]:
    return {key: typed(key, loaded.raw[key].text) for key in keys}


# A failure names the settings at fault; to shrink a drawing of all of them would take minutes.
all_at_once = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate], max_examples=8)


# --- one value, three places


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@all_at_once
@given(data=st.data())
def test_a_value_reads_the_same_in_all_three_sources(keys: tuple[str, ...], data: st.DataObject) -> None:
    texts = data.draw(st.fixed_dictionaries({key: VALID[key] for key in keys}))
    filed = in_files(texts)

    by_flag = read_all(texts, {}, b"#")
    by_variable = read_all({}, texts, b"#")
    by_text = read_all({}, {}, as_file(filed))
    by_type = read_all({}, {}, as_file({key: native(key, text) for key, text in filed.items()}))

    found = (by_flag, by_variable, by_text, by_type)
    assert [(loaded.file_error, loaded.warnings) for loaded in found] == [("", ())] * 4
    assert by_flag.settings == by_variable.settings == by_text.settings == by_type.settings
    for loaded, given_texts in ((by_flag, texts), (by_variable, texts), (by_text, filed)):
        assert {key: loaded.raw[key].text for key in given_texts} == given_texts
        assert meanings(loaded, given_texts) == {key: typed(key, text) for key, text in given_texts.items()}
    assert meanings(by_type, filed) == meanings(by_flag, filed)


def test_the_two_groups_contain_every_setting() -> None:
    assert {key for keys in GROUPS for key in keys} == set(KEYS) == set(VALID)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("v = 0x10", "v", 16),
        ("v = +5", "v", 5),
        ("log_file_max_size = 1_000", "log_file_max_size", 1000),
        ("log_file_max_size = 18446744073709551615", "log_file_max_size", 2**64 - 1),
        ("stderrthreshold = -1", "stderrthreshold", -1),
        ("health_port = 80", "health_port", "80"),
        ("logtostderr = false", "logtostderr", False),
        ("logtostderr = 'F'", "logtostderr", False),
        ("automaxprocs = true", "automaxprocs", True),
        ("automaxprocs = ''", "automaxprocs", True),
        ("vmodule = []", "vmodule", ()),
        ("vmodule = ['a=1', \"b*=2\",\n]", "vmodule", (("a", 1), ("b*", 2))),
        ("vmodule = ['a=1,b*=2']", "vmodule", (("a", 1), ("b*", 2))),
        ('probe_timeout = """\n1m30s"""', "probe_timeout", 90.0),
        ('metrics_path = "/\\u00e9"', "metrics_path", "/é"),
        ("log_json_info_buffer_size = 0", "log_json_info_buffer_size", False),
        ("'v' = 3\r\n", "v", 3),
    ],
)
def test_tomls_own_types_and_spellings_are_read(line: str, key: str, value: object) -> None:
    loaded = read_all({}, {}, line.encode())

    assert loaded.file_error == ""
    assert typed(key, loaded.raw[key].text) == value


# --- precedence


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        ("flag", "variable"),
        ("flag", "file"),
        ("variable", "file"),
        ("flag", "default"),
        ("variable", "default"),
        ("file", "default"),
    ],
)
@all_at_once
@given(data=st.data())
def test_of_any_two_sources_the_higher_one_wins_for_every_setting(
    upper: str, lower: str, keys: tuple[str, ...], data: st.DataObject
) -> None:
    keys = tuple(key for key in keys if key in FILE_KEYS or "file" not in (upper, lower))
    pairs = data.draw(st.fixed_dictionaries({key: two(key) for key in keys}))
    winners, losers = ({key: pair[side] for key, pair in pairs.items()} for side in (0, 1))
    places: dict[str, Texts] = {"flag": {}, "variable": {}, "file": {}, "default": {}, lower: losers, upper: winners}

    loaded = read_all(places["flag"], places["variable"], as_file(places["file"]))

    assert {key: loaded.raw[key] for key in keys} == {
        key: Raw(text, source(upper, key, line)) for line, (key, text) in enumerate(winners.items(), 1)
    }
    assert {loaded.raw[key].source for key in KEYS if key not in keys} <= {"default"}
    assert loaded.settings == read_all(winners, {}, b"#").settings


def source(place: str, key: str, line: int) -> str:
    return {
        "flag": f"flag --{KEYS[key].name}",
        "variable": f"variable LIVENESSPROBE_{key.upper()}",
        "file": f"file x, line {line}, key {key}",
        "default": "default",
    }[place]


@pytest.mark.parametrize("keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@all_at_once
@given(data=st.data())
def test_the_source_of_each_setting_is_independent_of_the_others(keys: tuple[str, ...], data: st.DataObject) -> None:
    """Whatever other settings are given, in whichever place."""
    in_three = {
        key: st.fixed_dictionaries({}, optional=dict.fromkeys(("flag", "variable", "file"), VALID[key]))
        for key in keys
        if key in FILE_KEYS
    }
    drawn = data.draw(st.fixed_dictionaries(in_three))
    flag, variable, file = (
        {key: texts[place] for key, texts in drawn.items() if place in texts} for place in ("flag", "variable", "file")
    )
    expected = {key: Raw(KEYS[key].default, "default") for key in KEYS}
    expected |= {key: Raw(text, source("file", key, line)) for line, (key, text) in enumerate(file.items(), 1)}
    expected |= {key: Raw(text, source("variable", key, 0)) for key, text in variable.items()}
    expected |= {key: Raw(text, source("flag", key, 0)) for key, text in flag.items()}

    assert read_all(flag, variable, as_file(file)).raw == expected


@pytest.mark.parametrize(
    ("given_flags", "environ", "named"),
    [
        ({"config": "/f"}, {"LIVENESSPROBE_CONFIG": "/v"}, "/f"),
        ({}, {"LIVENESSPROBE_CONFIG": "/v"}, "/v"),
        ({}, {}, ""),
        ({"config": ""}, {"LIVENESSPROBE_CONFIG": "/v"}, ""),
    ],
)
def test_the_config_flag_names_the_file(given_flags: Texts, environ: Texts, named: str) -> None:
    assert load_all(given_flags, environ).raw["config"].text == named


def test_a_source_is_named_as_users_know_it() -> None:
    content = b'probe_timeout = "7s"\nv = 7\nmetrics_path = "/seven"\n'
    environ = {"LIVENESSPROBE_PROBE_TIMEOUT": "6s", "LIVENESSPROBE_V": "6"}

    loaded = load_all({"probe-timeout": "5s"}, environ, content, path="/etc/s.toml")

    assert (loaded.settings.probe_timeout, loaded.settings.log.v, loaded.settings.metrics_path) == (5.0, 6, "/seven")
    assert loaded.raw["probe_timeout"].source == "flag --probe-timeout"
    assert loaded.raw["v"].source == "variable LIVENESSPROBE_V"
    assert loaded.raw["metrics_path"].source == "file /etc/s.toml, line 3, key metrics_path"
    assert loaded.raw["csi_address"].source == "default"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"v = 1 # \xff", "is not UTF-8: "),
        (b'health_port = 1\nhttp_endpoint = ":2"', "Only one of `--health-port` and `--http-endpoint`"),
        (b'csi_address = "http://x"', 'scheme "http" is not supported'),
        (b"v = " + b"[" * 100_000, "is not TOML: "),
    ],
)
def test_a_bad_file_is_ignored_with_an_error_sentence(content: bytes, sentence: str) -> None:
    loaded = load_all(file=content, path="settings.toml")
    assert loaded.file_error.startswith("settings.toml: ")
    assert sentence in loaded.file_error
    assert loaded.settings == load_all().settings

    with pytest.raises(Refused, match="Settings file refused"):
        load_all({"config-strict": "true"}, {}, content, path="settings.toml")


# --- while the sidecar runs


def test_every_key_of_a_file_is_live_or_needs_a_restart() -> None:
    assert sorted([*LIVE_KEYS, *RESTART_KEYS]) == sorted(FILE_KEYS)


@pytest.mark.parametrize("running_keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@pytest.mark.parametrize("wanted_keys", GROUPS, ids=["without-http-endpoint", "with-http-endpoint"])
@all_at_once
@given(data=st.data())
def test_live_keys_follow_the_file_and_restart_keys_stay(
    running_keys: tuple[str, ...], wanted_keys: tuple[str, ...], data: st.DataObject
) -> None:
    """No mixture of two valid settings is refused: live keys contradict only each other."""
    running, wanted = (
        read_all({}, {}, as_file(data.draw(st.fixed_dictionaries({key: VALID[key] for key in keys if key in FILE_KEYS}))))
        for keys in (running_keys, wanted_keys)
    )

    followed = keep_restart_keys(running, wanted, "linux")

    assert followed.raw == {key: (wanted if key in LIVE_KEYS else running).raw[key] for key in KEYS}
    old, new, now = (loaded.settings for loaded in (running, wanted, followed))
    assert now.log == old.log._replace(v=new.log.v, vmodule=new.log.vmodule, logging_format=new.log.logging_format)
    live = {
        name: getattr(new, name)
        for name in (
            "probe_timeout",
            "unreachable_grace",
            "connection_reuse",
            "config_poll_interval",
            "interval",
            "thresholds",
        )
    }
    assert now == old._replace(log=now.log, **live)


# --- any input


@given(st.dictionaries(st.sampled_from([PREFIX + key.upper() for key in KEYS]), st.text(max_size=30), max_size=4))
def test_any_environment_is_settings_or_a_refusal(environ: dict[str, str]) -> None:
    environ.pop("LIVENESSPROBE_CONFIG", None)
    try:
        load_all({}, environ)
    except Refused as refused:
        assert refused.code in (1, 2)


@given(st.binary(max_size=200))
def test_any_file_is_settings_or_an_error_sentence(content: bytes) -> None:
    loaded = load_all(file=content)
    assert loaded.file_error == "" or loaded.file_error.startswith(f"{PATH}: ")
