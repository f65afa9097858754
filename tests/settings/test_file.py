"""The settings file: what is wrong with it, on which line, and how to write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livenessprobe.settings.file import FileContent, read_settings_file
from livenessprobe.settings.layers import FILE_KEYS, KEYS, Raw
from tests.support import ROOT
from tests.values import FLAG_ALIASES, PATH, VARIABLE_ALIASES, Refused, as_file, as_variables, load_all

# --- the faults of a file

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
    ("config = 'other'", "line 1: config is not a setting of the file's; give it as --config or LIVENESSPROBE_CONFIG"),
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
    ("v = -1", 'line 1, key v = "-1": strconv.ParseUint: parsing "-1": invalid syntax; write a whole number, such as 5'),
    (
        "health_port = '80:80'",
        "Failed to start http server: listen tcp: address 0.0.0.0:80:80: too many colons in address "
        "(line 1, key health_port); write the port alone: 80; --http-endpoint takes an address",
    ),
    # of the whole
    ("", "is empty; a file of comments alone says that the defaults are meant"),
    (" \n\n", "is empty; a file of comments alone says that the defaults are meant"),
    ("\ufeffv = 1", "begins with a byte order mark; save it as UTF-8 without one"),
    ("v = 1\nv = 2", "is not TOML: Cannot overwrite a value (at end of document)"),
    ("v = ", "is not TOML: Invalid value (at end of document)"),
    (
        "probe_timeout = 2s",
        "is not TOML: Expected newline or end of document after a statement (at line 1, column 18); "
        'write probe_timeout = "2s"',
    ),
    (
        "v = 1\ncsi_address = /csi/csi.sock # the driver's\n",
        'is not TOML: Invalid value (at line 2, column 15); write csi_address = "/csi/csi.sock"',
    ),
    ("logtostderr = True", "is not TOML: Invalid value (at line 1, column 15); write logtostderr = true"),
    ("logtostderr = maybe", "is not TOML: Invalid value (at line 1, column 15)"),
    ("v: 1", "is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 2)"),
]


@pytest.mark.parametrize(("content", "sentence"), FAULTS)
def test_an_error_names_the_line_and_the_fix(content: str, sentence: str) -> None:
    loaded = load_all(file=content.encode())

    assert loaded.file_error == f"{PATH}: {sentence}"
    assert loaded.settings == load_all().settings

    with pytest.raises(Refused) as refused:
        load_all({"config-strict": "true"}, file=content.encode())
    assert (str(refused.value), refused.value.code) == (f"Settings file refused: {PATH}: {sentence}", 1)


@pytest.mark.parametrize("name", FLAG_ALIASES)
def test_a_flag_of_longhorns_image_is_no_key_but_gets_a_hint(name: str) -> None:
    loaded = load_all(file=f"{name} = 1".encode())

    assert loaded.file_error == f"{PATH}: line 1: {name} is not a setting; did you mean {FLAG_ALIASES[name]}?"


@pytest.mark.parametrize("name", VARIABLE_ALIASES)
def test_a_variable_of_longhorns_image_is_no_key(name: str) -> None:
    assert f"line 1: {name} is not a setting" in load_all(file=f"{name} = 1".encode()).file_error


@pytest.mark.parametrize("key", FILE_KEYS)
@pytest.mark.parametrize("value", ["{}", "1.5", "[[]]"])
def test_a_value_of_a_wrong_type_is_refused_for_every_setting(key: str, value: str) -> None:
    loaded = load_all(file=f"# first\n{key} = {value}".encode())

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
    assert load_all(file=content.encode()).raw["v"] == Raw("1", f"file {PATH}, line {line}, key v")


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
    assert load_all(file=content.encode()).file_error.startswith(f"{PATH}: line {line}: v is ")


def test_an_ambiguous_line_is_left_out() -> None:
    """An escape in a key, or more similar lines than a person writes."""
    assert load_all(file=rb'"\u0076" = 1').raw["v"].source == f"file {PATH}, key v"
    assert load_all(file=b"log_dir = '''\n" + b"v = 9\n" * 20 + b"'''\nv = 1").raw["v"].source == f"file {PATH}, key v"


NAMES = st.sampled_from([*KEYS, "timeout", "probe-timeout", "file", "x"])
VALUES = st.sampled_from(["", ":1", "/a", "1s", "0", "json", "a=1", "80:80", "http://x", "\0", 1, -1, True, ["a=1"], ["a"]])


@given(
    file=st.dictionaries(NAMES, VALUES, max_size=4), environ=st.dictionaries(st.sampled_from(FILE_KEYS), VALUES, max_size=1)
)
def test_any_error_of_a_file_names_the_file_once(file: dict[str, object], environ: dict[str, object]) -> None:
    texts = {key: text for key, text in environ.items() if isinstance(text, str)}
    try:
        mistakes = load_all({}, as_variables(texts), as_file(file)).file_mistakes
    except Refused as refused:
        assert PATH not in str(refused), "without the file it is refused as well"
        mistakes = tuple(mistake for mistake in refused.mistakes if PATH in mistake.source)
    for mistake in mistakes:
        assert mistake.err.startswith(f"{PATH}: ")
        assert mistake.err.count(PATH) == 1


# --- reading


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
        assert (file.fault or load_all(file=file.content, path=path).file_error) == f"{path}: {sentence}"


@pytest.mark.parametrize("blanks", [b" ", b"[ \t"])
def test_a_large_file_of_blanks_is_read_quickly(blanks: bytes) -> None:
    """Health checks wait meanwhile: a line of a million blanks once took hours."""
    script = (
        "import contextlib, sys; from livenessprobe.settings.file import from_file\n"
        "with contextlib.suppress(ValueError): from_file('x', sys.stdin.buffer.read())"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=b"v = 1\n" + blanks * 300_000, check=True, timeout=20)


def test_the_default_file_is_used_if_it_exists(folder: Path) -> None:
    default, named = str(folder / "default.toml"), str(folder / "named.toml")

    assert read_settings_file("", default) == FileContent(default)
    (folder / "default.toml").write_text("v = 3\n")

    assert read_settings_file("", default).content == b"v = 3\n"
    assert read_settings_file(named, default) == FileContent(named, fault=f"{named}: No such file or directory")
