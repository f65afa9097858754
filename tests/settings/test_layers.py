"""Two names for one setting, errors in the settings file, and proof that no flag, variable or file makes Dynaconf act."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from dynaconf.utils.parse_conf import converters, parse_conf_data
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe.settings import command_line, flags, layers
from livenessprobe.settings.file import read_settings_file
from livenessprobe.settings.layers import FILE_KEYS, KEYS, PREFIX, Raw, SettingsError
from livenessprobe.settings.model import Loaded
from livenessprobe.settings.variables import LONGHORN_VARIABLES
from tests.support import ROOT
from tests.values import as_file, as_flags, as_variables, load_all, two

PATH = "/srv/lp/settings.toml"
FLAG_ALIASES = {name: flags.BY_NAME[flag].key for name, flag in flags.LONGHORN.items()}
VARIABLE_ALIASES = dict(LONGHORN_VARIABLES)
ALIASED = sorted({*FLAG_ALIASES.values(), *VARIABLE_ALIASES.values()})


def read(
    given_flags: dict[str, str] | None = None, environ: dict[str, str] | None = None, file: bytes | None = None
) -> Loaded:
    return load_all(given_flags or {}, environ or {}, file, path=PATH)


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
"""Every two names of one setting in one source, in both orders."""


def read_names(place: str, **texts: str) -> Loaded:
    return read(texts) if place == "flag" else read({}, texts)


# --- two names, one setting


def longhorn_defaults() -> dict[str, str]:
    """The settings that Longhorn's own names select, as flags."""
    return {KEYS[key].name: text for key, text in layers.LONGHORN_DEFAULTS.items()}


def modes(environ: dict[str, str]) -> bool:
    """Whether one of Longhorn's own names is in `environ`."""
    return any(name.startswith("LIVENESS_PROBE_") for name in environ)


@pytest.mark.parametrize(("name", "key"), FLAG_ALIASES.items())
@settings(max_examples=3)
@given(data=st.data())
def test_a_flag_of_longhorns_image_is_another_name_of_a_setting(name: str, key: str, data: st.DataObject) -> None:
    text, _ = data.draw(two(key))

    loaded = read(command_line.parse([f"--{name}={text}"]).values())

    assert loaded.raw[key] == Raw(text, f"flag --{name}")
    assert loaded.settings == read({**longhorn_defaults(), KEYS[key].name: text}).settings


@pytest.mark.parametrize(("name", "key"), VARIABLE_ALIASES.items())
@settings(max_examples=3)
@given(data=st.data())
def test_a_variable_of_longhorns_image_is_another_name_of_a_setting(name: str, key: str, data: st.DataObject) -> None:
    text, _ = data.draw(two(key))

    loaded = read({}, {name: text})

    assert loaded.raw[key] == Raw(text, f"variable {name}")
    given = {} if name == "CSI_ENDPOINT" else longhorn_defaults()
    assert loaded.settings == read({**given, KEYS[key].name: text}).settings
    assert loaded.warnings == ()


@pytest.mark.parametrize(("name", "key"), [(name, key) for key in ALIASED for name in flag_names(key)])
@settings(max_examples=3)
@given(data=st.data())
def test_a_flag_wins_over_variables_by_any_name(name: str, key: str, data: st.DataObject) -> None:
    """The variables are neither checked nor compared with each other."""
    text, other = data.draw(two(key))
    for others in ([other, text], ["nonsense", "other nonsense"], ["nul\0", ""]):
        environ = dict(zip(variable_names(key), itertools.cycle(others), strict=False))

        loaded = read({name: text}, environ)

        assert loaded.raw[key] == Raw(text, f"flag --{name}")
        own_names = modes(environ) or name in flags.LONGHORN
        assert loaded.settings == read({**(longhorn_defaults() if own_names else {}), KEYS[key].name: text}).settings


@pytest.mark.parametrize(("place", "key", "one", "other"), PAIRS_OF_NAMES)
@settings(max_examples=3)
@given(data=st.data())
def test_two_names_with_different_values_are_refused_by_both(
    place: str, key: str, one: str, other: str, data: st.DataObject
) -> None:
    text, other_text = data.draw(two(key))
    dashes = "--" if place == "flag" else ""

    with pytest.raises(SettingsError) as refused:
        read_names(place, **{one: text, other: other_text})

    assert (refused.value.message, refused.value.code) == ("Contradicting settings", 1)
    assert refused.value.err == (
        f"{Raw(text, f'{place} {dashes}{one}')} and {Raw(other_text, f'{place} {dashes}{other}')} "
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

            assert loaded.raw[key] == Raw(given_texts[named], f"{place} {'--' if place == 'flag' else ''}{named}")


def test_contradicting_values_are_quoted_as_given() -> None:
    with pytest.raises(SettingsError) as refused:
        read({}, {"CSI_ENDPOINT": 'unix:///a "b"', "LIVENESSPROBE_CSI_ADDRESS": "/c\n"})

    assert str(refused.value) == (
        r'Contradicting settings: variable CSI_ENDPOINT = "unix:///a \"b\"" and '
        r'variable LIVENESSPROBE_CSI_ADDRESS = "/c\n" are the same setting; give one of them'
    )


# --- variables that are no settings


def service_links(service: str, ports: list[tuple[str, int, str]], address: str) -> dict[str, str]:
    """The variables that the kubelet sets for a Service (pkg/kubelet/envvars); ports are (name, number, protocol)."""
    name = service.upper().replace("-", "_")
    environ = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0][1])}
    for port_name, port, _ in ports:
        if port_name:
            environ[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(port)
    for number, (_, port, protocol) in enumerate(ports):
        url = f"{protocol.lower()}://{address}:{port}"
        prefix = f"{name}_PORT_{port}_{protocol}"
        if number == 0:
            environ[f"{name}_PORT"] = url
        environ |= {prefix: url, f"{prefix}_PROTO": protocol.lower(), f"{prefix}_PORT": str(port), f"{prefix}_ADDR": address}
    return environ


SUFFIXES = st.sampled_from([key.replace("_", "-") for key in KEYS] + ["timeout", "port", "service", "x1"])
PORT_NAMES = st.sampled_from(["", "healthz", "http-metrics", "port", "tcp"])
PORTS = st.lists(
    st.tuples(PORT_NAMES, st.integers(1, 65535), st.sampled_from(["TCP", "UDP", "SCTP"])), min_size=1, max_size=3
)


@given(
    service=st.builds(
        "{}{}".format, st.sampled_from(["livenessprobe", "liveness-probe"]), st.just("") | SUFFIXES.map("-{}".format)
    ),
    ports=PORTS,
    address=st.sampled_from(["10.96.0.7", "[fd00::7]"]),
)
def test_variables_of_kubernetes_services_are_ignored(service: str, ports: list[tuple[str, int, str]], address: str) -> None:
    loaded = read({}, service_links(service, ports, address))

    assert loaded.warnings == ()
    assert loaded.raw == read().raw


@pytest.mark.parametrize(
    ("environ", "code", "sentence"),
    [
        ({"LIVENESSPROBE_HEALTH_PORT": "80:80"}, 1, "variable LIVENESSPROBE_HEALTH_PORT"),
        ({"LIVENESSPROBE_CSI_ADDRESS": "tcp://10.0.0.1"}, 1, "variable LIVENESSPROBE_CSI_ADDRESS"),
        ({"LIVENESS_PROBE_TIMEOUT": "tcp://10.0.0.1:80"}, 2, "variable LIVENESS_PROBE_TIMEOUT"),
    ],
)
def test_a_setting_that_looks_like_a_service_variable_is_still_a_setting(
    environ: dict[str, str], code: int, sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read({}, environ)

    assert refused.value.code == code
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LIVENESSPROBE_PROBE_TIMEUOT", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_PROBETIMEOUT", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_probe_timeout", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_HEALTHPORT", "; did you mean LIVENESSPROBE_HEALTH_PORT?"),
        ("LIVENESS_PROBE_TIMOUT", "; did you mean LIVENESS_PROBE_TIMEOUT?"),
        ("LIVENESS_PROBE_CSI_ADDRESS", "; did you mean LIVENESSPROBE_CSI_ADDRESS?"),
        ("LIVENESSPROBE_PROBE_TIMEOUT__X", "; did you mean LIVENESSPROBE_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_TIMEOUT", "; did you mean LIVENESS_PROBE_TIMEOUT?"),
        ("LIVENESSPROBE_", ""),
        ("LIVENESSPROBE_REPLICAS", ""),
        ("LIVENESSPROBE_QWJZK_QWJZK_QWJZK", ""),
    ],
)
def test_an_unknown_variable_is_a_warning_with_the_nearest_name(name: str, hint: str) -> None:
    loaded = read({}, {name: "1s", "LIVENESSPROBE_V": "3"})

    assert loaded.warnings == (f"variable {name} is not a setting{hint}",)
    assert loaded.settings == read({"v": "3"}).settings


def test_variables_without_our_prefix_are_ignored() -> None:
    others = (
        "ADDRESS",
        "CSI_ADDRESS",
        "HEALTH_PORT",
        "PROBE_TIMEOUT",
        "V",
        "livenessprobe_v",
        "XLIVENESSPROBE_V",
        "LIVENESSPROBE",
    )
    loaded = read({}, dict.fromkeys(others, "nonsense"))

    assert (loaded.settings, loaded.warnings) == (read().settings, ())


# --- errors in a file

FAULTS = [
    # names
    ('probe_timeot = "5s"', "line 1: probe_timeot is not a setting; did you mean probe_timeout?"),
    ('\n\nprobe-timeout = "5s"', "line 3: probe-timeout is not a setting; did you mean probe_timeout?"),
    ('PROBE_TIMEOUT = "5s"', "line 1: PROBE_TIMEOUT is not a setting; did you mean probe_timeout?"),
    ('"probe timeout" = "5s"', 'line 1: "probe timeout" is not a setting; did you mean probe_timeout?'),
    ("healthPort = 80", "line 1: healthPort is not a setting; did you mean health_port?"),
    ("http-endpoint = ':80'", "line 1: http-endpoint is not a setting; did you mean http_endpoint?"),
    ("log-dir = '/a'", "line 1: log-dir is not a setting; did you mean log_dir?"),
    ("zzzzzzzz = 1", "line 1: zzzzzzzz is not a setting"),
    ("version = true", "line 1: version is not a setting"),
    ("'' = 1", 'line 1: "" is not a setting'),
    ("v = 1\n\n[server]\nport = 80", "line 3: server is not a setting"),
    (
        "config = 'other'",
        "line 1: config is not a setting of the file's; give it as --config or LIVENESSPROBE_CONFIG",
    ),
    (
        "v = 1\nconfig_strict = true",
        "line 2: config_strict is not a setting of the file's; give it as --config-strict or LIVENESSPROBE_CONFIG_STRICT",
    ),
    # types
    ("probe_timeout = 5", 'line 1: probe_timeout is the number 5; write a duration as text, such as "1m30s"'),
    ("probe_timeout = 0.5", 'line 1: probe_timeout is the number 0.5; write a duration as text, such as "1m30s"'),
    ("unreachable_grace = true", 'line 1: unreachable_grace is the boolean true; write a duration as text, such as "1m30s"'),
    ("probe_timeout = 00:00:05", 'line 1: probe_timeout is a date or a time; write a duration as text, such as "1m30s"'),
    ("logtostderr = 1", "line 1: logtostderr is the number 1; write true or false"),
    ("automaxprocs = []", "line 1: automaxprocs is an array; write true or false"),
    ("v = 1.5", "line 1: v is the number 1.5; write a whole number, such as 5"),
    ("v = true", "line 1: v is the boolean true; write a whole number, such as 5"),
    ("[v]\nx = 1", "line 1: v is a table; write a whole number, such as 5"),
    ("log_file_max_size = {}", "line 1: log_file_max_size is a table; write a whole number, such as 1800"),
    ("vmodule = 5", 'line 1: vmodule is the number 5; write a list such as ["prober=5"]'),
    ("vmodule = [5]", 'line 1: vmodule is an array; write a list such as ["prober=5"]'),
    ("csi_address = ['/a']", 'line 1: csi_address is an array; write a text, such as "…"'),
    ("metrics_path = 1979-05-27", 'line 1: metrics_path is a date or a time; write a text, such as "…"'),
    # values
    ("probe_timeout = '5'", 'line 1, key probe_timeout = "5": parse error; write a duration, such as "1m30s"'),
    ("logtostderr = 'yes'", 'line 1, key logtostderr = "yes": parse error; write true or false'),
    ("connection_reuse = '-1s'", 'line 1, key connection_reuse = "-1s": it must be 0s or more'),
    ("config_poll_interval = '1ms'", 'line 1, key config_poll_interval = "1ms": it must be 100ms or more, or 0s for never'),
    ('log_dir = "a\\u0000"', r'line 1, key log_dir = "a\x00": it holds a NUL character'),
    (
        "http_endpoint = ':1'\nmetrics_path = 'm'",
        'line 2, key metrics_path = "m": it must begin with a slash, as /metrics does',
    ),
    (
        "vmodule = ['prober']",
        'line 1, key vmodule = "prober": "prober" does not have the pattern=N format; write a list such as ["prober=5"]',
    ),
    (
        "v = -1",
        'line 1, key v = "-1": strconv.ParseUint: parsing "-1": invalid syntax; write a whole number, such as 5',
    ),
    (
        "health_port = '80:80'",
        "Failed to start http server: listen tcp: address 0.0.0.0:80:80: too many colons in address "
        "(line 1, key health_port)",
    ),
    # the whole file
    ("", "is empty; a file of comments alone says that the defaults are meant"),
    (" \n\n", "is empty; a file of comments alone says that the defaults are meant"),
    ("\ufeffv = 1", "begins with a byte order mark; save it as UTF-8 without one"),
    ("v = 1\nv = 2", "is not TOML: Cannot overwrite a value (at end of document)"),
    ("v = ", "is not TOML: Invalid value (at end of document)"),
    ("v: 1", "is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 2)"),
]


@pytest.mark.parametrize(("content", "sentence"), FAULTS)
def test_an_error_names_the_line_and_the_fix(content: str, sentence: str) -> None:
    loaded = read(file=content.encode())

    assert loaded.file_error == f"{PATH}: {sentence}"
    assert loaded.settings == read().settings

    with pytest.raises(SettingsError) as refused:
        read({"config-strict": "true"}, file=content.encode())
    assert (str(refused.value), refused.value.code) == (f"Settings file refused: {PATH}: {sentence}", 1)


@pytest.mark.parametrize("name", FLAG_ALIASES)
def test_a_flag_of_longhorns_image_is_no_key_but_gets_a_hint(name: str) -> None:
    loaded = read(file=f"{name} = 1".encode())

    assert loaded.file_error == f"{PATH}: line 1: {name} is not a setting; did you mean {FLAG_ALIASES[name]}?"


@pytest.mark.parametrize("name", VARIABLE_ALIASES)
def test_a_variable_of_longhorns_image_is_no_key(name: str) -> None:
    assert f"line 1: {name} is not a setting" in read(file=f"{name} = 1".encode()).file_error


@pytest.mark.parametrize("key", FILE_KEYS)
@pytest.mark.parametrize("value", ["{}", "1.5", "[[]]"])
def test_a_value_of_a_wrong_type_is_refused_for_every_setting(key: str, value: str) -> None:
    loaded = read(file=f"# first\n{key} = {value}".encode())

    assert loaded.file_error.startswith(f"{PATH}: line 2: {key} is ")
    assert "; write " in loaded.file_error


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("v = 1", 1),
        ("# v = 9\n#v=9\n   # v = 9\nv = 1", 4),
        ("\n\t v\t=\t1", 2),
        ("\r\n\r\nv = 1\r\n", 3),
        ('"v" = 1', 1),
        ("'v' = 1", 1),
        ('metrics_path = """/\nv = 9\n"""\nv = 1', 4),
        ("metrics_path = '''/\nv = 9\nv = 8\n'''\nv = 1", 5),
        ('v = 1\nmetrics_path = """/\nv = 9\n"""', 1),
        ("vmodule = [\n'a=1', # ]\n'v=9',\n]\nv = 1", 5),
        ("metrics_path = '/v = 9'\nv = 1", 2),
        ("log_dir = 'v'\nv = 1", 2),
        ("stderrthreshold = 1\nv = 1\nlog_dir = 'v'", 2),
    ],
)
def test_the_source_of_a_value_has_its_line(content: str, line: int) -> None:
    assert read(file=content.encode()).raw["v"] == Raw("1", f"file {PATH}, line {line}, key v")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("v.x = 1", 1),
        ("log_dir = ''\n v . x = 1", 2),
        ("log_dir = ''\n[v]", 2),
        ("log_dir = ''\n\n\t[ v ]\nx = 1", 3),
        ("log_dir = ''\n[v.x]\ny = 1", 2),
        ("log_dir = ''\n['v'.x]\ny = 1", 2),
        ("log_dir = ''\n[[v]]\nx = 1", 2),
        ('log_dir = """\n[v]\n"""\n[v]', 4),
        ('metrics_path = """\nv = 1.5\n"""\nv = 1.5', 4),
    ],
)
def test_an_error_has_the_line_of_its_key(content: str, line: int) -> None:
    assert read(file=content.encode()).file_error.startswith(f"{PATH}: line {line}: v is ")


def test_an_ambiguous_line_is_left_out() -> None:
    """The key has an escape, or there are more lookalike lines than a real file has."""
    assert read(file=rb'"\u0076" = 1').raw["v"].source == f"file {PATH}, key v"
    assert read(file=b"log_dir = '''\n" + b"v = 9\n" * 20 + b"'''\nv = 1").raw["v"].source == f"file {PATH}, key v"


NAMES = st.sampled_from([*KEYS, "timeout", "probe-timeout", "file", "x"])
VALUES = st.sampled_from(["", ":1", "/a", "1s", "0", "json", "a=1", "80:80", "http://x", "\0", 1, -1, True, ["a=1"], ["a"]])


@given(
    file=st.dictionaries(NAMES, VALUES, max_size=4), environ=st.dictionaries(st.sampled_from(FILE_KEYS), VALUES, max_size=1)
)
def test_any_error_of_a_file_names_the_file_once(file: dict[str, object], environ: dict[str, object]) -> None:
    texts = {key: text for key, text in environ.items() if isinstance(text, str)}
    try:
        error = read({}, as_variables(texts), as_file(file)).file_error
    except SettingsError as refused:
        assert PATH not in str(refused), "without the file it is refused as well"
    else:
        assert error == "" or (error.startswith(f"{PATH}: ") and error.count(PATH) == 1)


def test_an_unreadable_file_is_named_once(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "large").write_bytes(b"#" * 2_000_000)
    (folder / "latin").write_bytes(b"v = 1 # \xe9")
    for name, sentence in {
        "fifo": "is not a regular file",
        "large": "is larger than 1048576 bytes; a settings file has a few thousand",
        "latin": "is not UTF-8: unexpected end of data at byte 8",
        "none": "No such file or directory",
        "": "Is a directory",
    }.items():
        path = f"{folder}/{name}"
        file = read_settings_file(path)
        assert (file.fault or load_all({}, {}, file.content, path=path).file_error) == f"{path}: {sentence}"


@pytest.mark.parametrize("blanks", [b" ", b"[ \t"])
def test_a_large_file_of_blanks_is_read_quickly(blanks: bytes) -> None:
    """A health check waits for this: a line of a million blanks once took hours."""
    script = (
        "import contextlib, sys; from livenessprobe.settings.file import from_file\n"
        "with contextlib.suppress(ValueError): from_file('x', sys.stdin.buffer.read())"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=b"v = 1\n" + blanks * 300_000, check=True, timeout=20)


# --- contradictions

PLACES = ("flag", "variable", "file")


def read_sides(**sides: tuple[str, str]) -> str:
    """The error for settings given as key=(place, text): the refusal, or the error of the file."""
    given_flags = as_flags({key: text for key, (place, text) in sides.items() if place == "flag"})
    environ = as_variables({key: text for key, (place, text) in sides.items() if place == "variable"})
    file = as_file({key: text for key, (place, text) in sides.items() if place == "file"})
    try:
        return read(given_flags, environ, file).file_error
    except SettingsError as refused:
        return str(refused)


def side(place: str, key: str, text: str, line: int) -> str:
    shown = json.dumps(text)
    return {
        "flag": f"flag --{KEYS[key].name} = {shown}",
        "variable": f"variable LIVENESSPROBE_{key.upper()} = {shown}",
        "file": f"line {line}, key {key} = {shown}",
    }[place]


@pytest.mark.parametrize(("other", "text"), [("health_port", "2"), ("metrics_address", ":2")])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other_place", PLACES)
def test_two_listeners_for_one_purpose_are_refused_by_both(other: str, text: str, place: str, other_place: str) -> None:
    said = read_sides(**{other: (other_place, text), "http_endpoint": (place, ":1")})

    upstream = f"Only one of `--{KEYS[other].name}` and `--http-endpoint` can be explicitly set"
    line = 2 if other_place == "file" else 1
    sides = f"{side(other_place, other, text, 1)} and {side(place, 'http_endpoint', ':1', line)}"
    if place == other_place == "flag":
        assert said == upstream  # upstream's record names no sources
    else:
        path = f"{PATH}: " if "file" in (place, other_place) else ""
        assert said == f"{path}{upstream}: {sides}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("other_place", PLACES)
def test_vmodule_and_json_are_refused_by_both(place: str, other_place: str) -> None:
    said = read_sides(vmodule=(place, "a=1"), logging_format=(other_place, "json"))

    upstream = "LoggingConfiguration is invalid: vmodule: Forbidden: Only supported for text log format"
    sides = f" ({side(place, 'vmodule', 'a=1', 1)} and "
    sides += f"{side(other_place, 'logging_format', 'json', 2 if place == 'file' else 1)})"
    path = f"{PATH}: " if "file" in (place, other_place) else ""
    assert said == path + upstream + ("" if place == other_place == "flag" else sides)


# --- Dynaconf never acts

TEXT_KEYS = ("log_dir", "log_file", "connection_timeout")
PAYLOADS = ("/etc/hostname", "{env[PATH]} {{ 7 * 7 }}")


@pytest.mark.parametrize("cast", sorted(converters))
@pytest.mark.parametrize("place", PLACES)
def test_no_cast_of_dynaconf_acts(cast: str, place: str) -> None:
    for payload in PAYLOADS:
        texts = {"log_dir": f"{cast} {payload}", "log_file": f"@int {cast} {payload}", "connection_timeout": f"{cast}"}
        given_flags = as_flags(texts) if place == "flag" else {}
        environ = as_variables(texts) if place == "variable" else {}

        loaded = read(given_flags, environ, as_file(texts) if place == "file" else None)

        assert {key: loaded.raw[key].text for key in TEXT_KEYS} == texts
        assert (loaded.settings.log.log_dir, loaded.settings.log.log_file) == (texts["log_dir"], texts["log_file"])


@pytest.mark.parametrize("cast", sorted(converters))
def test_each_cast_would_act_if_dynaconf_saw_it(cast: str) -> None:
    """Proves that the test above tests something."""
    text = f"{cast} 7"
    with warnings.catch_warnings(action="ignore"):
        assert parse_conf_data(text, tomlfy=False, box_settings={}) is not text


@pytest.mark.parametrize("cast", sorted(converters))
def test_no_cast_gives_a_setting_its_type(cast: str) -> None:
    """`@int 3` is no number, and `@int x=3` in a list is only text."""
    with pytest.raises(SettingsError) as refused:
        read({}, as_variables({"v": f"{cast} 3"}))

    assert f'v = "{cast} 3": strconv.ParseUint' in read(file=as_file({"v": f"{cast} 3"})).file_error
    assert f'variable LIVENESSPROBE_V = "{cast} 3": strconv.ParseUint' in str(refused.value)
    assert read(file=as_file({"vmodule": [f"{cast} x=3"]})).settings.log.vmodule == ((f"{cast} x", 3),)


@pytest.mark.parametrize(
    "content",
    [
        "probe_timeout__x = '1s'",
        "V__0 = 1",
        "dynaconf_include = ['other.toml']",
        "DYNACONF_INCLUDE = 'other.toml'",
        "dynaconf_merge = true",
        "dynaconf_merge_unique = true",
        "includes_for_dynaconf = ['other.toml']",
        "PRELOAD_FOR_DYNACONF = ['other.py']",
        "AUTO_CAST_FOR_DYNACONF = true",
        "loaders_for_dynaconf = ['evil']",
        "'probe_timeout.x' = '1s'",
        "'vmodule[0]' = 'a=1'",
        "yaml = 'other.yaml'",
        "SETTINGS_MODULE = 'evil'",
        "__class__ = 1",
        "store = 1",
        "[default]\nv = 9",
        "[development]\nv = 9",
        "[production]\nv = 9",
        "[global]\nv = 9",
        "[dynaconf]\nv = 9",
    ],
)
def test_dynaconfs_own_keys_are_no_settings(content: str) -> None:
    loaded = read(file=content.encode())

    assert loaded.file_error.startswith(f"{PATH}: line 1: ")
    assert " is not a setting" in loaded.file_error
    assert loaded.raw == read().raw


@pytest.mark.parametrize(
    ("content", "key", "text"),
    [
        ("vmodule = ['dynaconf_merge']", None, '"dynaconf_merge" does not have the pattern=N format'),
        ("log_dir = {dynaconf_merge = true}", None, "log_dir is a table"),
        ("log_dir = 'dynaconf_merge'", "log_dir", "dynaconf_merge"),
        ("log_dir = '@del'", "log_dir", "@del"),
        ("log_dir = '%(PATH)s $PATH ${PATH} `id` $(id) ~'", "log_dir", "%(PATH)s $PATH ${PATH} `id` $(id) ~"),
        ("log_dir = 'null'", "log_dir", "null"),
        ("log_dir = '1e3'", "log_dir", "1e3"),
        ("log_dir = '[1]'", "log_dir", "[1]"),
    ],
)
def test_values_are_not_merged_expanded_or_parsed_again(content: str, key: str | None, text: str) -> None:
    loaded = read(file=content.encode())

    if key is None:
        assert text in loaded.file_error
    else:
        assert loaded.raw[key].text == text


# A process in which environment, working directory, flags, variables and file all try to make Dynaconf act.  An audit
# hook records everything that the process opens, imports, runs and connects to.
AUDIT = """
import json, os, sys

seen, hearing = [], False

def hear(event, arguments):
    global hearing
    if not hearing or event == "os.unsetenv":
        return
    hearing = False
    match event:
        case "open":
            what = str(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else "a descriptor"
        case "exec":
            what = getattr(arguments[0], "co_filename", "text")
        case "compile":
            what = f"{arguments[1]}"
        case "import":
            what = arguments[0]
        case "marshal.loads" | "object.__getattr__" | "object.__setattr__" | "sys._getframe":
            what = ""
        case _:
            what = repr(arguments)[:300]
    seen.append(f"{event} {what}")
    hearing = True

def load(path):
    global hearing
    from livenessprobe import cli
    started = []
    cli._print_settings = lambda start: started.append(start.loaded) or 0
    arguments = ["config", *flags, *([f"--config={path}"] if path else [])]
    hearing = True
    code = cli.main(arguments)
    hearing = False
    return [[str(raw) for raw in loaded.raw.values()] + [loaded.file_error] for loaded in started], code

def events():
    found = sorted(set(seen))
    seen.clear()
    return found

sys.addaudithook(hear)
path, switches, values, flags = json.loads(sys.argv[1])
report = {"first": [load(path), events()]}
report["left"] = sorted({name for name in os.environ if "DYNACONF" in name} | (set(switches) & set(os.environ)))
report["again"] = [load(path), events()]
report["bare"] = [load(""), events()]
report["each"] = []
for name in switches:
    for value in values:
        os.environ[name] = value
        report["each"].append([name, value, [load(""), events()]])
        os.environ.pop(name, None)
report["changed"] = sorted(name for name in os.environ if "EVIL" in name)

# Proof that the inputs work: Dynaconf in its usual form acts on them.
import dynaconf
os.environ["SETTINGS_FILE_FOR_DYNACONF"] = "evil.py"
hearing = True
dynaconf.Dynaconf(load_dotenv=True).get("V")
hearing = False
report["trap"] = events()
print(json.dumps(report))
"""


def switches() -> list[str]:
    """Every variable that Dynaconf is known to read, by new names and old."""
    from dynaconf import default_settings
    from dynaconf.base import UPPER_DEFAULT_SETTINGS
    from dynaconf.utils import RENAMED_VARS

    documented = {
        f"{name}_FOR_DYNACONF"
        for name in """
        APPLY_DEFAULT_ON_NONE AUTO_CAST COMMENTJSON_ENABLED CORE_LOADERS DEFAULT_ENV DOTENV_OVERRIDE DOTENV_PATH
        DOTENV_VERBOSE DOTTED_LOOKUP ENCODING ENV ENVIRONMENTS ENVVAR ENVVAR_PREFIX ENV_SWITCHER FORCE_ENV FRESH_VARS
        IGNORE_UNKNOWN_ENVVARS INCLUDES INDEX_SEPARATOR INSTANCE LOADERS LOAD_DOTENV LOWERCASE_READ MAIN_ENV
        MERGE_ENABLED NESTED_SEPARATOR PRELOAD REDIS REDIS_ENABLED REDIS_HOST REDIS_PORT REDIS_URL ROOT_PATH SECRETS
        SETTINGS_FILE SETTINGS_FILES SILENT_ERRORS SKIP_FILES SYSENV_FALLBACK VALIDATE_ON_UPDATE VAULT VAULT_ENABLED
        VAULT_URL VAULT_TOKEN VAULT_ROOT_TOKEN YAML_LOADER
        """.split()
    }
    prefixed = {"DYNACONF_V", "DYNACONF_LOG_DIR", "DYNACONF_LOG_DIR__x", "DYNACONF_INCLUDE", "DYNACONF_DYNABOXIFY"}
    found = {name for name in [*UPPER_DEFAULT_SETTINGS, *dir(default_settings)] if name.endswith("_FOR_DYNACONF")}
    return sorted(documented | prefixed | found | set(RENAMED_VARS))


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("hostile")
    cwd = folder / "cwd"
    cwd.mkdir()
    for name in ("evil.py", "settings.py", "dynaconf_hooks.py", ".secrets.py"):
        (cwd / name).write_text("V = 9\nLOG_DIR = '/evil'\n")
    for name in ("settings.toml", ".secrets.toml", "settings.local.toml", "config.toml", "evil.toml"):
        (cwd / name).write_text("v = 9\nV = 9\nlog_dir = '/evil'\n[default]\nv = 9\nlog_dir = '/evil'\n")
    (cwd / ".env").write_text("LIVENESSPROBE_V=9\nDYNACONF_V=9\nEVIL_BY_DOTENV=1\n")
    (cwd / "settings.yaml").write_text("v: 9\n")
    (cwd / "settings.json").write_text('{"v": 9}')
    file = folder / "settings.toml"
    texts = {"log_dir": "@read_file /etc/hostname", "metrics_path": "/@jinja{{7*7}}", "log_file": "@format {env[PATH]}"}
    file.write_bytes(as_file({"connection_timeout": "@read_file /etc/hostname", **texts}) + b"vmodule = ['@get V=3']\n")

    values = [f"{cwd}/evil.py", "@int nonsense", "true"]
    tried = switches()
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    environ |= dict(zip(tried, itertools.cycle(values), strict=False))
    environ |= {"LIVENESSPROBE_LOG_DIR": "@format {env[HOME]}", "PYTHONPATH": str(ROOT), "YAML": "settings.yaml"}
    # Nothing is looked up for a unix socket.
    arguments = ["--connection-timeout=@jinja {{ 7 * 7 }}", "--http-endpoint=unix:///x"]
    argument = json.dumps([str(file), tried, values, arguments])
    # -P: files that Python itself would import from the working directory do not count.
    done = subprocess.run(
        [sys.executable, "-P", "-c", AUDIT, argument], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {**json.loads(done.stdout), "file": [str(file)], "cwd": [str(cwd)]}


def test_texts_of_all_sources_are_unchanged(audit: dict[str, list]) -> None:
    ([[*raws, file_error]], code), _ = audit["first"]

    assert (file_error, code) == ("", 0)
    assert 'variable LIVENESSPROBE_LOG_DIR = "@format {env[HOME]}"' in raws
    assert 'flag --connection-timeout = "@jinja {{ 7 * 7 }}"' in raws
    assert f'file {audit["file"][0]}, line 4, key log_file = "@format {{env[PATH]}}"' in raws
    assert 'default = "0"' in raws  # v


def test_only_the_settings_file_is_read(audit: dict[str, list]) -> None:
    """Except Dynaconf's own default_settings.py, which it imports again for each instance."""
    _, events = audit["again"]
    own = os.path.join("dynaconf", "")

    foreign = {event for event in events if own not in event}
    assert foreign == {"marshal.loads ", "open a descriptor", f"open {audit['file'][0]}"}
    assert {event.split()[0] for event in events if own in event} <= {"open", "exec"}
    assert all("default_settings." in event for event in events if own in event)


def test_no_variable_of_dynaconf_changes_anything(audit: dict[str, list]) -> None:
    different = [(name, value) for name, value, outcome in audit["each"] if outcome != audit["bare"]]

    assert different == []
    assert len(audit["each"]) > 200


def test_all_variables_of_dynaconf_together_open_only_imported_files(audit: dict[str, list]) -> None:
    outcome, events = audit["first"]
    libraries = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, str(ROOT / "livenessprobe"))})
    libraries += (sys.prefix, sys.base_prefix)

    opened = [event.removeprefix("open ") for event in events if event.startswith("open ")]
    foreign = [path for path in opened if not path.startswith(libraries)]
    run = {event.removeprefix("exec ") for event in events if event.startswith("exec ")}

    assert outcome == audit["again"][0]
    assert sorted(foreign) == sorted(["a descriptor", audit["file"][0]])
    assert [path for path in run if not path.startswith((*libraries, "<"))] == []
    assert [event for event in events if event.startswith("import ") and "evil" in event] == []
    kinds = {event.split()[0] for event in events}
    assert kinds <= {"open", "exec", "import", "compile", "marshal.loads", "os.listdir", "os.scandir"} | {
        kind for kind in kinds if kind.startswith(("object.", "sys._", "code.", "function.", "builtins.id", "cpython."))
    }, sorted(kinds)


def test_dynaconfs_variables_are_removed_and_none_is_added(audit: dict[str, list]) -> None:
    assert (audit["left"], audit["changed"]) == ([], [])


def test_dynaconf_in_its_usual_form_acts_on_these_inputs(audit: dict[str, list]) -> None:
    """Proves that the tests above test something."""
    assert {f"exec {audit['cwd'][0]}/evil.py", f"open {audit['cwd'][0]}/.env"} <= set(audit["trap"])


def test_the_tried_variables_are_those_of_dynaconf() -> None:
    tried = switches()

    assert len(tried) > 70
    assert {"SETTINGS_MODULE", "PROJECT_ROOT", "AUTO_CAST_FOR_DYNACONF", "VAULT_URL_FOR_DYNACONF"} <= set(tried)
