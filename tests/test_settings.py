"""Flags over variables over file over defaults; what a bad one of each costs; what nothing in them can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe import flags, gotext
from livenessprobe.settings import Loaded, load
from livenessprobe.sources import FILE_KEYS, KEYS, PREFIX, Raw, SettingsError

VALID = {
    flags.STRING: st.sampled_from(["/a/b.sock", "/c"]),
    flags.OPTIONAL_DURATION: st.just("") | st.integers(1, 10**12).map(gotext.format_duration),
    flags.DURATION: st.integers(1, 10**12).map(gotext.format_duration),
    flags.BOOL: st.sampled_from(["true", "false", "T", "0"]),
    flags.AUTOMAXPROCS: st.sampled_from(["true", "false", "1"]),
    flags.VERBOSITY: st.integers(0, 2**31 - 1).map(str),
    flags.VMODULE: st.sampled_from(["", "main=3", "a=1,b=2"]),
    flags.COUNT: st.integers(1, 2**31 - 1).map(str),
    flags.THRESHOLD: st.sampled_from(["INFO", "error", "2"]),
    flags.SIZE: st.integers(0, 2**64 - 1).map(str),
    flags.QUANTITY: st.just("0"),
    flags.BACKTRACE: st.sampled_from(["", "main.go:7"]),
}
# Strings that not every value fits.
SPECIAL = {
    "http_idle_timeout": st.integers(10**9, 10**12).map(gotext.format_duration),
    "http_max_header_bytes": st.integers(1024, 1 << 20).map(str),
    "interval": st.just("0s") | st.integers(10**8, 10**12).map(gotext.format_duration),
    "probe_path": st.sampled_from(["/csi.v1.Identity/Probe", "/grpc.health.v1.Health/Check", "/a.B/C"]),
    "config_poll_interval": st.just("0s") | st.integers(10**8, 10**12).map(gotext.format_duration),
    "http_endpoint": st.just(""),
    "metrics_address": st.sampled_from(["", ":1"]),
    "health_port": st.sampled_from(["1", "9808"]),
    "logging_format": st.just("text"),
    "log_text_split_stream": st.just("false"),
    "log_json_split_stream": st.just("false"),
}


def read(arguments: dict[str, str] | None = None, environ: dict[str, str] | None = None, default_file: str = "") -> Loaded:
    return load(arguments or {}, environ or {}, "linux", default_file)


def toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("key", FILE_KEYS)
@given(data=st.data())
def test_a_value_reads_the_same_in_all_three_places(key: str, data: st.DataObject) -> None:
    flag = KEYS[key]
    text = data.draw(SPECIAL.get(key, VALID[flag.kind]))
    content = f"{key} = {toml(text)}\n".encode()

    by_flag = read({flag.name: text})
    by_variable = read({}, {f"{PREFIX}{key.upper()}": text})
    by_file = load({"config": "x"}, {}, "linux", "", lambda _: content)

    assert by_flag.settings == by_variable.settings == by_file.settings
    assert by_file.file_error == ""
    assert by_file.raw[key] == Raw(text, f"file x, line 1, key {key}")


def test_flag_wins_over_variable_over_file_over_default(folder: Path) -> None:
    file = folder / "settings.toml"
    file.write_text('probe_timeout = "7s"\nv = 7\nmetrics_path = "/seven"\n')
    environ = {"LIVENESSPROBE_CONFIG": str(file), "LIVENESSPROBE_PROBE_TIMEOUT": "6s", "LIVENESSPROBE_V": "6"}

    loaded = read({"probe-timeout": "5s"}, environ)

    assert (loaded.settings.probe_timeout, loaded.settings.log.v, loaded.settings.metrics_path) == (5.0, 6, "/seven")
    assert loaded.raw["probe_timeout"].source == "flag --probe-timeout"
    assert loaded.raw["v"].source == "variable LIVENESSPROBE_V"
    assert loaded.raw["metrics_path"].source == f"file {file}, line 3, key metrics_path"
    assert loaded.raw["csi_address"].source == "default"


def test_the_default_file_is_used_if_it_is_there(folder: Path) -> None:
    file = folder / "settings.toml"
    assert read(default_file=str(file)).file == ""
    file.write_text("v = 3\n")
    assert read(default_file=str(file)).settings.log.v == 3


def test_the_grace_is_the_probe_timeout_unless_given() -> None:
    assert read({"probe-timeout": "27s"}).settings.unreachable_grace == 27
    assert read({"unreachable-grace": "0s"}).settings.unreachable_grace == 0
    assert read({"unreachable-grace": "1m"}).settings.unreachable_grace == 3  # more than the timeout means nothing


@pytest.mark.parametrize(
    ("given_flags", "environ", "code", "record"),
    [
        ({}, {"PROBE_TIMEOUT": "3"}, 2, 'variable LIVENESSPROBE_PROBE_TIMEOUT = "3": parse error; write a duration'),
        ({}, {"LOGTOSTDERR": "yes"}, 2, 'variable LIVENESSPROBE_LOGTOSTDERR = "yes": parse error; write true or false'),
        ({"connection-reuse": "-1s"}, {}, 2, 'flag --connection-reuse = "-1s": it must be 0s or more'),
        ({"unreachable-grace": "-1s"}, {}, 2, 'flag --unreachable-grace = "-1s": it must be 0s or more'),
        ({"http-endpoint": ":1"}, {"HEALTH_PORT": "2"}, 1, "Only one of `--health-port` and `--http-endpoint`"),
        (
            {"http-endpoint": ":1", "metrics-path": "metrics"},
            {},
            1,
            'flag --metrics-path = "metrics": it must begin with a slash',
        ),
        ({"http-endpoint": ":1", "metrics-path": "/a b"}, {}, 1, "must not contain blanks"),
        ({"http-endpoint": ":1", "metrics-path": "/healthz"}, {}, 1, "where health is served"),
        ({"metrics-address": "abc"}, {}, 1, "listen tcp: address abc: missing port in address"),
        ({"health-port": "80:80"}, {}, 1, "listen tcp: address 0.0.0.0:80:80: too many colons in address"),
        ({"csi-address": "csi.sock"}, {}, 1, '"csi.sock" is neither a path nor host:port'),
    ],
)
def test_a_bad_flag_or_variable_is_refused(
    given_flags: dict[str, str], environ: dict[str, str], code: int, record: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read(given_flags, {PREFIX + name: text for name, text in environ.items()})
    assert refused.value.code == code
    assert record in str(refused.value)


def test_a_variable_that_a_flag_overrides_is_not_validated() -> None:
    assert read({"probe-timeout": "1s"}, {"LIVENESSPROBE_PROBE_TIMEOUT": "nonsense"}).settings.probe_timeout == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'probe_timeot = "5s"', "line 1: probe_timeot is not a setting; did you mean probe_timeout?"),
        (b'\n\nprobe-timeout = "5s"', "line 3: probe-timeout is not a setting; did you mean probe_timeout?"),
        (b"probe_timeout = 5", 'line 1: probe_timeout is the number 5; write a duration as text, such as "1m30s"'),
        (b"v = 1.5", "line 1: v is the number 1.5; write a whole number, such as 5"),
        (b"[v]\nx = 1", "line 1: v is a table; write a whole number"),
        (b'config = "other"', "config is not a setting"),
        (b"v = 1\nv = 2", "is not TOML: "),
        (b"v = ", "is not TOML: "),
        (b"\xef\xbb\xbfv = 1", "begins with a byte order mark"),
        (b"v = 1 # \xff", "is not UTF-8: "),
        (b'health_port = 1\nhttp_endpoint = ":2"', "Only one of `--health-port` and `--http-endpoint`"),
        (b'csi_address = "http://x"', 'scheme "http" is not supported'),
        (b"v = " + b"[" * 100_000, "is not TOML: "),
    ],
)
def test_a_bad_file_is_passed_over_with_a_sentence(content: bytes, sentence: str) -> None:
    loaded = load({"config": "settings.toml"}, {}, "linux", "", lambda _: content)
    assert loaded.file_error.startswith("settings.toml: ")
    assert sentence in loaded.file_error
    assert loaded.settings == read().settings

    with pytest.raises(SettingsError, match="Settings file refused"):
        load({"config": "settings.toml", "config-strict": "true"}, {}, "linux", "", lambda _: content)


def test_what_is_no_file_is_passed_over_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "large").write_bytes(b"#" * 2_000_000)
    open_before = len(os.listdir("/dev/fd"))
    for name, sentence in (
        ("fifo", "is not a regular file"),
        ("large", "is larger than"),
        ("none", "No such file"),
        ("", "Is a directory"),
    ):
        loaded = read({"config": f"{folder}/{name}"})
        assert sentence in loaded.file_error, loaded.file_error
    assert len(os.listdir("/dev/fd")) <= open_before


def test_unknown_variables_are_named_and_service_links_are_not() -> None:
    environ = {
        "LIVENESSPROBE_PROBE_TIMEUOT": "1s",
        "LIVENESSPROBE_PORT": "tcp://10.0.0.1:80",
        "LIVENESSPROBE_PORT_80_TCP_ADDR": "10.0.0.1",
        "LIVENESSPROBE_SERVICE_HOST": "10.0.0.1",
        "LIVENESSPROBE_SERVICE_PORT_HEALTHZ": "80",
        "LIVENESSPROBE_HEALTH_PORT": "tcp://10.0.0.1:9808",
        "LIVENESSPROBE_HEALTH_SERVICE_HOST": "10.0.0.1",
        "LIVENESSPROBE_HEALTH_PORT_9808_TCP": "tcp://10.0.0.1:9808",
        "ADDRESS": "/nonsense",
        "CSI_ADDRESS": "/nonsense",
        "HEALTH_PORT": "nonsense",
    }
    loaded = read({}, environ)
    assert loaded.settings == read().settings
    assert loaded.warnings == (
        "variable LIVENESSPROBE_PROBE_TIMEUOT is not a setting; did you mean LIVENESSPROBE_PROBE_TIMEOUT?",
    )


@pytest.mark.parametrize(
    "spell", ["@format /{env[PATH]}", "/@read_file /etc/passwd", "/@jinja {{ 1 + 1 }}", "/@int 3", "/%(PATH)s/x"]
)
def test_dynaconfs_casts_act_on_nothing(spell: str) -> None:
    """From the environment, from a flag and from the file: the text is the value."""
    assert read({"metrics-path": spell}).settings.metrics_path == spell
    assert read({}, {"LIVENESSPROBE_METRICS_PATH": spell}).settings.metrics_path == spell
    content = f"metrics_path = '{spell}'".encode()
    assert load({"config": "x"}, {}, "linux", "", lambda _: content).settings.metrics_path == spell


def test_dynaconfs_own_switches_are_out_of_reach(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("LIVENESSPROBE_V=9\nDYNACONF_V=9\n")
    (folder / "settings.toml").write_text("v = 9\n")
    (folder / "evil.py").write_text("raise SystemExit('ran foreign code')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name, text in {
        "AUTO_CAST_FOR_DYNACONF": "true",
        "LOADERS_FOR_DYNACONF": '["evil"]',
        "CORE_LOADERS_FOR_DYNACONF": '["PY", "TOML"]',
        "LOAD_DOTENV_FOR_DYNACONF": "true",
        "SETTINGS_FILE_FOR_DYNACONF": str(folder / "settings.toml"),
        "ENVVAR_PREFIX_FOR_DYNACONF": "LIVENESSPROBE",
        "INSTANCE_FOR_DYNACONF": "evil.x",
        "DYNACONF_V": "9",
    }.items():
        monkeypatch.setenv(name, text)
    loaded = read({}, {"LIVENESSPROBE_METRICS_PATH": "/@read_file /etc/passwd"})
    assert (loaded.settings.log.v, loaded.settings.metrics_path) == (0, "/@read_file /etc/passwd")


@given(st.dictionaries(st.sampled_from([PREFIX + key.upper() for key in KEYS]), st.text(max_size=30), max_size=4))
def test_no_environment_ends_in_anything_but_settings_or_a_refusal(environ: dict[str, str]) -> None:
    environ.pop("LIVENESSPROBE_CONFIG", None)
    try:
        read({}, environ)
    except SettingsError as refused:
        assert refused.code in (1, 2)


@given(st.binary(max_size=200))
def test_no_file_ends_in_anything_but_settings_or_a_sentence(content: bytes) -> None:
    loaded = load({"config": "x"}, {}, "linux", "", lambda _: content)
    assert loaded.file_error == "" or loaded.file_error.startswith("x: ")
