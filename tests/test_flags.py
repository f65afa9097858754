"""The command line: Go's flag grammar, its error lines, the table of all flags, and the usage text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe import flags
from livenessprobe.flags import BY_NAME, FLAGS, FlagError, HelpRequested, parse

DATA = Path(__file__).parent / "data"
VERSIONS = json.loads((DATA / "flags_by_version.json").read_text(encoding="utf-8"))
"""Release -> flag -> [type, default], from the -h of each release of the Go program."""
CONFLICT = ["--health-port=1", "--http-endpoint=:2"]


def plain(value: object) -> str | None:
    """The name of a case; pytest would escape others, which then cannot be asked for by their name."""
    words = " ".join(value) if isinstance(value, list) else ""
    return words if words.isascii() and words.isprintable() else None


# --- what is a flag, what is its value, and where flags end


@pytest.mark.parametrize(
    ("arguments", "given", "unread"),
    [
        ([], (), ()),
        (["-v=5"], (("v", "5"),), ()),
        (["--v=5"], (("v", "5"),), ()),
        (["-v", "5"], (("v", "5"),), ()),
        (["-v", "5", "-v=6"], (("v", "5"), ("v", "6")), ()),
        (["--v", "5"], (("v", "5"),), ()),
        (["-probe-timeout=2s", "-csi-address=/x"], (("probe-timeout", "2s"), ("csi-address", "/x")), ()),
        # Only the first = separates.
        (["--csi-address==x=y"], (("csi-address", "=x=y"),), ()),
        (["--csi-address="], (("csi-address", ""),), ()),
        (["--csi-address", ""], (("csi-address", ""),), ()),
        # A value flag takes the next argument whatever it looks like.
        (["--csi-address", "--v=bad"], (("csi-address", "--v=bad"),), ()),
        (["--csi-address", "--"], (("csi-address", "--"),), ()),
        (["--csi-address", "-"], (("csi-address", "-"),), ()),
        # A boolean takes its value only through =.
        (["--automaxprocs"], (("automaxprocs", "true"),), ()),
        (["--automaxprocs=F"], (("automaxprocs", "F"),), ()),
        (["--automaxprocs="], (("automaxprocs", ""),), ()),
        (["--automaxprocs", "false"], (("automaxprocs", "true"),), ("false",)),
        (["--log-json-split-stream", "--v=1"], (("log-json-split-stream", "true"), ("v", "1")), ()),
        # Where flags end.
        (["--v=1", "--", "--bogus"], (("v", "1"),), ("--bogus",)),
        (["--", "--"], (), ("--",)),
        (["--"], (), ()),
        (["--v=1", "-", "--bogus"], (("v", "1"),), ("-", "--bogus")),
        (["--v=1", "", "--bogus"], (("v", "1"),), ("", "--bogus")),
        (["--v=1", "oops", "--v=2"], (("v", "1"),), ("oops", "--v=2")),
        (["oops", "-h"], (), ("oops", "-h")),
        ([" --v=1"], (), (" --v=1",)),
        (["--v=1", "--v=2"], (("v", "1"), ("v", "2")), ()),
        # Images that hold several programs are told which by a first argument; it is passed over once.
        (["livenessprobe"], (), ()),
        (["livenessprobe", "--v=1"], (("v", "1"),), ()),
        (["livenessprobe", "livenessprobe", "--v=1"], (), ("livenessprobe", "--v=1")),
        (["--v=1", "livenessprobe", "--v=2"], (("v", "1"),), ("livenessprobe", "--v=2")),
        (["other", "--v=1"], (), ("other", "--v=1")),
    ],
    ids=plain,
)
def test_the_grammar_of_go(arguments: list[str], given: tuple, unread: tuple) -> None:
    line = parse(arguments)

    assert (line.given, line.unread) == (given, unread)


def test_the_last_of_a_repeated_flag_wins() -> None:
    assert parse(["--probe-timeout=1s", "--v=1", "--probe-timeout=2s"]).values() == {"probe-timeout": "2s", "v": "1"}


def test_vmodule_accumulates() -> None:
    line = parse(["--vmodule=main=1", "--v=3", "--vmodule=connection=5,a*=2", "-vmodule", "main=4"])

    assert line.values() == {"vmodule": "main=1,connection=5,a*=2,main=4", "v": "3"}
    assert flags.parse_vmodule(line.values()["vmodule"]) == (("main", 1), ("connection", 5), ("a*", 2), ("main", 4))


def test_an_emptied_vmodule_still_reads() -> None:
    """`--vmodule= --vmodule=main=1` makes an empty item, which is skipped."""
    assert flags.parse_vmodule(parse(["--vmodule=", "--vmodule=main=1"]).values()["vmodule"]) == (("main", 1),)


# --- what is refused, in Go's line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["---v=5"], "bad flag syntax: ---v=5"),
        (["---"], "bad flag syntax: ---"),
        (["-=x"], "bad flag syntax: -=x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["--="], "bad flag syntax: --="),
        (["-bogus"], "flag provided but not defined: -bogus"),
        (["--bogus=1"], "flag provided but not defined: -bogus"),
        (["--csi_address=/x"], "flag provided but not defined: -csi_address"),
        (["--CSI-Address=/x"], "flag provided but not defined: -CSI-Address"),
        (["-v5"], "flag provided but not defined: -v5"),
        (["-é"], "flag provided but not defined: -é"),
        (["--log-dir=/tmp"], "flag provided but not defined: -log-dir"),
        (["--timeouts=1s"], "flag provided but not defined: -timeouts"),
        (["--timeout=5"], 'invalid value "5" for flag -timeout: parse error'),
        (["- v"], "flag provided but not defined: - v"),
        (["--csi-address"], "flag needs an argument: -csi-address"),
        (["--probe-timeout"], "flag needs an argument: -probe-timeout"),
        (["-v"], "flag needs an argument: -v"),
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


@pytest.mark.parametrize("argument", ["-h", "--h", "-help", "--help", "-help=false", "--h=1"])
def test_help_is_asked_for_in_four_spellings(argument: str) -> None:
    with pytest.raises(HelpRequested):
        parse(["--v=1", argument, "--bogus"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--bogus", "-h"], "flag provided but not defined: -bogus"),
        (["--probe-timeout=bad", "--nope"], 'invalid value "bad" for flag -probe-timeout: parse error'),
        (["---", "--probe-timeout=bad"], "bad flag syntax: ---"),
    ],
)
def test_only_the_first_error_counts(arguments: list[str], line: str) -> None:
    with pytest.raises(FlagError) as refused:
        parse(arguments)

    assert str(refused.value) == line


@pytest.mark.parametrize("rest", [["--bogus", "--v=2"], ["---", "--v=2"], ["--v=x", "--v=2"], ["--v"]], ids=plain)
def test_an_error_tells_what_was_read_before_it(rest: list[str]) -> None:
    """Upstream acts on --automaxprocs while it parses, so its record is due even if a later flag is refused."""
    with pytest.raises(FlagError) as refused:
        parse(["--automaxprocs", "--v=1", *rest])

    assert refused.value.given == (("automaxprocs", "true"), ("v", "1"))


@pytest.mark.parametrize("text", ["2147483648", "-2147483649"])
def test_a_severity_has_32_bits(text: str) -> None:
    with pytest.raises(FlagError):
        parse([f"--stderrthreshold={text}"])


def test_a_command_has_flags_of_its_own() -> None:
    own = flags.Flag("at", flags.STRING, "now", "")

    assert parse(["--at=x", "--v=1"], [own]).values() == {"at": "x", "v": "1"}
    with pytest.raises(FlagError):
        parse(["--v=x"], [own])


# --- what is accepted


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("v", "0", 0),
        ("v", "05", 5),
        ("v", "2147483647", 2147483647),
        ("probe-timeout", "-1s", -1_000_000_000),
        ("probe-timeout", "0", 0),
        ("unreachable-grace", "1s", 1_000_000_000),
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
def test_a_backtrace_wants_a_go_file_and_a_line(text: str) -> None:
    with pytest.raises(FlagError, match="syntax error: expect file.go:234$"):
        parse([f"--log_backtrace_at={text}"])


# --- the table


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_of_every_release_is_known(version: str) -> None:
    """A manifest written for any release starts: same name, boolean or not, and its default is a value we take."""
    for name, (kind, default) in VERSIONS[version].items():
        assert BY_NAME[name].kind.is_bool == (kind == "bool"), name
        if default:
            assert parse([f"--{name}={default}"]).values() == {name: default}


def test_the_table_of_releases_is_whole() -> None:
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
    """Flags of our own do not look like upstream's in the usage text."""
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


# --- usage


def test_the_usage_text_begins_with_upstreams_to_the_letter() -> None:
    """People diff the output of --help."""
    upstream = (DATA / "help_upstream.txt").read_text(encoding="utf-8")

    assert flags.usage("{BIN}").startswith(upstream + "\n")


def test_the_usage_text_names_the_program_as_it_was_called() -> None:
    assert flags.usage("/opt/live ness").startswith("Usage of /opt/live ness:\n  -automaxprocs\n")


def test_the_usage_text_has_each_flag_once() -> None:
    rows = [line.split()[0] for line in flags.usage("x").splitlines() if line.startswith("  -")]

    assert sorted(rows) == sorted([*(f"-{flag.name}" for flag in FLAGS), *(f"-{name}" for name in flags.LONGHORN)])


@pytest.mark.parametrize(
    "row",
    [
        "  -log_file_max_size uint\n    \tDefines the maximum size a log file can grow to (no effect when "
        "-logtostderr=true). Unit is megabytes. If the value is 0, the maximum file size is unlimited. (default 1800)\n",
        "  -logtostderr\n    \tlog to standard error instead of files (default true)\n",
        "  -stderrthreshold value\n    \tlogs at or above this threshold go to stderr when writing to files and stderr "
        "(no effect when -logtostderr=true or -alsologtostderr=true) (default 2)\n",
        "  -log_dir string\n    \tIf non-empty, write log files in this directory (no effect when -logtostderr=true)\n",
        "  -connection-reuse duration\n",
        "  -config file\n    \tTOML file of settings.",
    ],
)
def test_rows_of_other_flags_have_gos_form(row: str) -> None:
    assert row in flags.usage("x")


def test_a_command_has_its_own_flags_in_front() -> None:
    """As Go does, the first word in back quotes is the name of the value, and others keep theirs."""
    own = flags.Flag("at", flags.STRING, "now", "The `when` or `when` of it.")

    assert flags.usage("x", [own]).startswith(
        'Usage of x:\n  -at when\n    \tThe when or `when` of it. (default "now")\n  -automaxprocs\n'
    )


def test_the_usage_text_has_sections() -> None:
    without_flags = re.sub(r"  -.*\n    \t.*\n", "", flags.usage("x"))

    assert without_flags == (
        "Usage of x:\n"
        "\nFlags of older upstream releases, still accepted:\n"
        "\nFlags that upstream does not have:\n"
        "\nNames of Longhorn's image for the same:\n"
        "\nCommands (as first argument):\n"
        "  check [flags]\n"
        "    \tProbe once, and exit with 0 (healthy), 2 (not connected), 3 (call failed) or 4 (not ready).\n"
        "  config [flags]\n"
        "    \tPrint the settings in force as JSON, with the source of each, and exit.\n"
        "  demo [flags]\n"
        "    \tRun beside an example driver, to try this program on.\n"
    )


# --- properties

WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["-", "--", "---", "", "-h", "--help", "=", "-=", "true", "5", "1s", "-v5"]),
    st.builds(
        "{}{}{}{}".format, st.sampled_from(["-", "--"]), st.sampled_from(sorted(BY_NAME)), st.just("="), st.text(max_size=6)
    ),
    st.builds("--{}".format, st.sampled_from(sorted(BY_NAME))),
)


@settings(max_examples=400)
@given(st.lists(WORDS, max_size=8))
def test_any_arguments_are_read_or_refused(arguments: list[str]) -> None:
    """Nothing but FlagError and HelpRequested comes out, and what comes out is made of what went in."""
    try:
        line = parse(arguments)
    except (FlagError, HelpRequested):
        return

    assert list(line.unread) == arguments[len(arguments) - len(line.unread) :]
    for name, text in line.given:
        BY_NAME[name].kind.check(text)


@given(st.lists(WORDS, max_size=6), st.lists(st.text(max_size=6), max_size=4))
def test_nothing_after_a_double_dash_is_read(arguments: list[str], rest: list[str]) -> None:
    try:
        line = parse(arguments)
    except (FlagError, HelpRequested):
        return
    if line.unread or arguments[-1:] == ["--"]:
        return

    assert parse([*arguments, "--", *rest]) == flags.CommandLine(line.given, tuple(rest))


@given(st.binary(max_size=20))
def test_arguments_that_are_no_utf8_are_read_too(data: bytes) -> None:
    """A path may hold any bytes; Python hands them over as surrogate escapes."""
    text = data.decode(errors="surrogateescape")

    assert parse([f"--csi-address={text}"]).values() == {"csi-address": text}
