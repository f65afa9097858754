"""All flags: names, defaults and values, compared with each release of the Go program."""

from __future__ import annotations

import json

import pytest

from livenessprobe.settings import flags
from livenessprobe.settings.command_line import FlagError, parse
from livenessprobe.settings.flags import BY_NAME, FLAGS
from tests.support import ROOT, plain

VERSIONS = json.loads((ROOT / "tests" / "data" / "flags_by_version.json").read_text(encoding="utf-8"))
"""Release -> flag -> [type, default], from the -h of each release of the Go program."""


# --- accepted values


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("v", "0", 0),
        ("v", "05", 5),
        ("v", "2147483647", 2147483647),
        ("probe-timeout", "-1s", -1.0),
        ("probe-timeout", "0", 0),
        ("unreachable-grace", "1s", 1.0),
        ("unreachable-grace", "", None),
        ("vmodule", "", ()),
        ("vmodule", ",,", ()),
        ("vmodule", "main=1,", (("main", 1),)),
        ("vmodule", "*=5", (("*", 5),)),
        ("vmodule", "[=5", (("[", 5),)),
        ("vmodule", "a=0", (("a", 0),)),
        ("automaxprocs", "", True),
        ("automaxprocs", "T", True),
        ("automaxprocs", "0", False),
        ("log-json-info-buffer-size", "0", False),
        ("log-json-info-buffer-size", "0.0Ki", False),
        ("log-json-info-buffer-size", "1Ki", True),
        ("log-json-info-buffer-size", "1k", True),
        ("log-json-info-buffer-size", "-1e3", True),
        ("log-text-info-buffer-size", ".5", True),
        ("connection-timeout", "any text", "any text"),
        ("log_backtrace_at", "", ""),
        ("log_backtrace_at", "main.go:12", "main.go:12"),
        ("log_file_max_size", "0", 0),
        ("log_file_max_size", "18446744073709551615", 18446744073709551615),
        ("stderrthreshold", "2", 2),
        ("stderrthreshold", "99", 99),
        ("stderrthreshold", "-1", -1),
        ("stderrthreshold", "2147483647", 2147483647),
        ("stderrthreshold", "-2147483648", -2147483648),
        ("stderrthreshold", "INFO", 0),
        ("stderrthreshold", "warning", 1),
        ("stderrthreshold", "Error", 2),
        ("stderrthreshold", "fatal", 3),
        ("logtostderr", "F", False),
    ],
)
def test_a_value_that_go_accepts_has_its_meaning(name: str, text: str, value: object) -> None:
    assert parse([f"--{name}={text}"]).values() == {name: text}
    assert BY_NAME[name].kind.check(text) == value


@pytest.mark.parametrize("text", ["0", "main.go:0", "main.go:", ":5", "main.go", "main.go:-1", "main.go:1x"])
def test_a_backtrace_needs_a_go_file_and_a_line(text: str) -> None:
    with pytest.raises(FlagError, match="syntax error: expect file.go:234$"):
        parse([f"--log_backtrace_at={text}"])


# --- the table


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_of_every_release_is_known(version: str) -> None:
    """
    A manifest written for any release starts: the name is known, booleans are booleans, and the default is a valid
    value.
    """
    for name, (kind, default) in VERSIONS[version].items():
        assert BY_NAME[name].kind.is_bool == (kind == "bool"), name
        if default:
            assert parse([f"--{name}={default}"]).values() == {name: default}


def test_the_table_of_releases_is_complete() -> None:
    assert (len(VERSIONS), len({name for version in VERSIONS.values() for name in version})) == (22, 27)


def test_defaults_are_those_of_the_newest_release() -> None:
    """Go prints no default for its own types, whose zero value is "0" or nothing."""
    ours = {flag.name: flag.default for flag in FLAGS if flag.group == "upstream"}
    go = {name: default for name, (_, default) in VERSIONS["HEAD"].items()}

    assert {name: "" if go.get(name) == "" else default for name, default in ours.items()} == go
    assert {ours[name] for name in go if go[name] == ""} == {"", "0"}


def test_old_flags_have_the_defaults_of_the_last_release_that_had_them() -> None:
    last = {name: default for version in VERSIONS.values() for name, (_, default) in version.items()}

    for flag in FLAGS:
        if flag.group == "old":
            assert flag.default == last[flag.name], flag.name


def test_a_flag_of_upstream_is_in_upstreams_group() -> None:
    """Flags of our own are not shown among upstream's in the usage text."""
    groups = {flag.name: flag.group for flag in FLAGS}
    known = {name for version in VERSIONS.values() for name in version}

    assert {name for name, group in groups.items() if group == "upstream"} == set(VERSIONS["HEAD"])
    assert {name for name, group in groups.items() if group == "old"} == known - set(VERSIONS["HEAD"])
    assert {name for name, group in groups.items() if group == "own"}.isdisjoint(known)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_default_is_a_value_of_its_flag(flag: flags.Flag) -> None:
    flag.kind.check(flag.default)


def test_names_and_keys_are_unique() -> None:
    assert len({flag.key for flag in FLAGS}) == len({flag.name for flag in FLAGS}) == len(FLAGS) == len(BY_NAME)


# --- refusals, with Go's error lines


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--timeout=5"], 'invalid value "5" for flag -timeout: parse error'),
        (["--probe-timeout=5"], 'invalid value "5" for flag -probe-timeout: parse error'),
        (["--probe-timeout="], 'invalid value "" for flag -probe-timeout: parse error'),
        (["--probe-timeout", "-h"], 'invalid value "-h" for flag -probe-timeout: parse error'),
        (['--probe-timeout=a"\n'], 'invalid value "a\\"\\n" for flag -probe-timeout: parse error'),
        (["--log-flush-frequency=1d"], 'invalid value "1d" for flag -log-flush-frequency: parse error'),
        (["-v=abc"], 'invalid value "abc" for flag -v: strconv.ParseUint: parsing "abc": invalid syntax'),
        (["-v=+5"], 'invalid value "+5" for flag -v: strconv.ParseUint: parsing "+5": invalid syntax'),
        (["-v=0x5"], 'invalid value "0x5" for flag -v: strconv.ParseUint: parsing "0x5": invalid syntax'),
        (["-v", "-5"], 'invalid value "-5" for flag -v: strconv.ParseUint: parsing "-5": invalid syntax'),
        (["-v="], 'invalid value "" for flag -v: strconv.ParseUint: parsing "": invalid syntax'),
        (
            ["-v=2147483648"],
            'invalid value "2147483648" for flag -v: strconv.ParseUint: parsing "2147483648": value out of range',
        ),
        (["--vmodule=main"], 'invalid value "main" for flag -vmodule: "main" does not have the pattern=N format'),
        (["--vmodule==5"], 'invalid value "=5" for flag -vmodule: "=5" does not have the pattern=N format'),
        (["--vmodule=a="], 'invalid value "a=" for flag -vmodule: "a=" does not have the pattern=N format'),
        (["--vmodule=a=1=2"], 'invalid value "a=1=2" for flag -vmodule: "a=1=2" does not have the pattern=N format'),
        (["--vmodule=b=1,a"], 'invalid value "b=1,a" for flag -vmodule: "a" does not have the pattern=N format'),
        (
            ["--vmodule=main=-1"],
            'invalid value "main=-1" for flag -vmodule: parsing verbosity in "main=-1": '
            'strconv.ParseUint: parsing "-1": invalid syntax',
        ),
        (
            ["--vmodule=main=2147483648"],
            'invalid value "main=2147483648" for flag -vmodule: parsing verbosity in "main=2147483648": '
            'strconv.ParseUint: parsing "2147483648": value out of range',
        ),
        *[
            (
                [f"--automaxprocs={text}"],
                f'invalid boolean value "{text}" for -automaxprocs: strconv.ParseBool: parsing "{text}": invalid syntax',
            )
            for text in ("yes", "on", "tRUE", "2")
        ],
        (["--log-json-split-stream=maybe"], 'invalid boolean value "maybe" for -log-json-split-stream: parse error'),
        (["--log-text-split-stream="], 'invalid boolean value "" for -log-text-split-stream: parse error'),
        (["--logtostderr=yes"], 'invalid boolean value "yes" for -logtostderr: parse error'),
        (
            ["--log-json-info-buffer-size=1K"],
            'invalid value "1K" for flag -log-json-info-buffer-size: unable to parse quantity\'s suffix',
        ),
        *[
            (
                [f"--log-text-info-buffer-size={text}"],
                f'invalid value "{text}" for flag -log-text-info-buffer-size: quantities must match the regular expression '
                "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            )
            for text in ("", "1KB", "x", " 1", "-", ".")
        ],
        (["--log_file_max_size=-1"], 'invalid value "-1" for flag -log_file_max_size: parse error'),
        (
            ["--log_file_max_size=18446744073709551616"],
            'invalid value "18446744073709551616" for flag -log_file_max_size: value out of range',
        ),
        (
            ["--log_backtrace_at=main.c:1"],
            'invalid value "main.c:1" for flag -log_backtrace_at: syntax error: expect file.go:234',
        ),
        (
            ["--stderrthreshold=LOUD"],
            'invalid value "LOUD" for flag -stderrthreshold: strconv.ParseInt: parsing "LOUD": invalid syntax',
        ),
        (["--failure-threshold=0"], 'invalid value "0" for flag -failure-threshold: it must be 1 or more'),
        (
            ["--failure-threshold=2147483648"],
            'invalid value "2147483648" for flag -failure-threshold: '
            'strconv.ParseUint: parsing "2147483648": value out of range',
        ),
    ],
    ids=plain,
)
def test_the_error_lines_of_go(arguments: list[str], line: str) -> None:
    with pytest.raises(FlagError) as refused:
        parse(arguments)

    assert str(refused.value) == line


@pytest.mark.parametrize("text", ["2147483648", "-2147483649"])
def test_a_severity_has_32_bits(text: str) -> None:
    with pytest.raises(FlagError):
        parse([f"--stderrthreshold={text}"])
