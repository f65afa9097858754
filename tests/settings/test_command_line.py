"""The command line: Go's flag grammar, its error lines, and the usage text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livenessprobe import __main__ as program
from livenessprobe.settings import flags
from livenessprobe.settings.command_line import (
    COMMANDS,
    CommandLine,
    FlagError,
    HelpRequested,
    first_word,
    parse,
    usage,
    usage_of_command,
)
from livenessprobe.settings.flags import BY_NAME, FLAGS
from tests.support import ROOT, plain

DATA = ROOT / "tests" / "data"


# --- which words are flags and values, and where flags end


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
        # Images that hold several programs name the program in the first argument; it is skipped once.
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


def test_an_empty_vmodule_item_is_skipped() -> None:
    """`--vmodule= --vmodule=main=1` makes an empty item."""
    assert flags.parse_vmodule(parse(["--vmodule=", "--vmodule=main=1"]).values()["vmodule"]) == (("main", 1),)


# --- refusals, with Go's error lines


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
        (["- v"], "flag provided but not defined: - v"),
        (["--csi-address"], "flag needs an argument: -csi-address"),
        (["--probe-timeout"], "flag needs an argument: -probe-timeout"),
        (["-v"], "flag needs an argument: -v"),
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
def test_an_error_carries_the_flags_read_before_it(rest: list[str]) -> None:
    """Upstream acts on --automaxprocs while it parses, so its record must be logged even if a later flag is refused."""
    with pytest.raises(FlagError) as refused:
        parse(["--automaxprocs", "--v=1", *rest])

    assert refused.value.before.given == (("automaxprocs", "true"), ("v", "1"))


def test_a_command_has_flags_of_its_own() -> None:
    own = flags.Flag("at", flags.STRING, "now", "")

    assert parse(["--at=x", "--v=1"], [own]).values() == {"at": "x", "v": "1"}
    with pytest.raises(FlagError):
        parse(["--v=x"], [own])


# --- hints


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--prob-timeout=3s"], "; did you mean --probe-timeout?"),
        (["--csi_address=/a"], "; did you mean --csi-address?"),
        (["--CSI-Address=/a"], "; did you mean --csi-address?"),
        (["--address=/a"], "; did you mean --csi-address?"),
        (["--log-dir=/a"], "; did you mean --log_dir?"),
        (["-v5"], "; did you mean --v?"),
        (["--hlep"], "; did you mean --help?"),
        (["--bogus"], "; --help lists all flags"),
        # A flag of Longhorn's image selects the defaults of that image, so only its users are told of it.
        (["--timout=3s"], "; did you mean --probe-timeout?"),
        (["--retires=3"], "; --help lists all flags"),
        (["--timeout=3s", "--retires=3"], "; did you mean --retries?"),
        (["--probe-timeout=3"], '; write a duration, such as "1m30s"'),
        (["--automaxprocs=maybe"], "; write true or false"),
        (["--v=x"], "; write a whole number, such as 5"),
        (["--vmodule=x"], '; write a list such as ["prober=5"]'),
        (["--stderrthreshold=x"], "; write INFO, WARNING, ERROR, FATAL or a whole number"),
        (["--probe-timeout"], "; write --probe-timeout=DURATION"),
        (["---v=1"], "; a flag has one or two dashes and a name"),
    ],
)
def test_an_error_has_a_way_out(arguments: list[str], hint: str) -> None:
    with pytest.raises(FlagError) as refused:
        parse(arguments)

    assert refused.value.hint == hint


def test_a_command_suggests_its_own_flags_too() -> None:
    with pytest.raises(FlagError) as refused:
        parse(["--ouput=json"], [flags.Flag("output", flags.STRING, "", "")])

    assert refused.value.hint == "; did you mean --output?"


@pytest.mark.parametrize(
    ("arguments", "word", "meant"),
    [
        ([], "", ""),
        (["--v=1", "chek"], "", ""),
        (["--", "chek"], "", ""),
        (["chek"], "chek", "did you mean check?"),
        (["livenessprobe", "chek", "--v=1"], "chek", "did you mean check?"),
        (["livenessprobe", "--v=1"], "", ""),
        (["livenessprobe", "check"], "check", "check is a command only as the first argument of the program"),
        (["Config"], "Config", "did you mean config?"),
        (["help"], "help", "did you mean --help?"),
        (["version"], "version", "did you mean --version?"),
        (["status"], "status", "status is a command only as the first argument of the program"),
        (["/bin/sh"], "/bin/sh", "the commands are check, config, demo, doctor, lint, status, watch"),
        (["-"], "-", "the commands are check, config, demo, doctor, lint, status, watch"),
        (["\N{EN DASH}-v=5"], "\N{EN DASH}-v=5", "it begins with a dash that is no hyphen; write --v=5"),
        (["\N{EM DASH}v=5"], "\N{EM DASH}v=5", "it begins with a dash that is no hyphen; write --v=5"),
    ],
)
def test_a_first_argument_that_is_no_flag_is_named(arguments: list[str], word: str, meant: str) -> None:
    assert first_word(arguments) == (word, meant)


# --- usage


def test_the_usage_text_begins_with_upstreams_to_the_letter() -> None:
    """Users diff the output of --help."""
    upstream = (DATA / "help_upstream.txt").read_text(encoding="utf-8")

    assert usage("{BIN}").startswith(upstream + "\n")


def test_the_usage_text_names_the_program_as_it_was_called() -> None:
    assert usage("/opt/live ness").startswith("Usage of /opt/live ness:\n  -automaxprocs\n")


def test_the_usage_text_has_each_flag_once() -> None:
    rows = [line.split()[0] for line in usage("x").splitlines() if line.startswith("  -")]

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
    assert row in usage("x")


def test_a_command_has_its_own_flags_in_front() -> None:
    """As in Go, the first word in back quotes names the value; later back quotes stay."""
    own = flags.Flag("at", flags.STRING, "now", "The `when` or `when` of it.")

    assert usage_of_command("x", "check", [own]).startswith(
        "Usage of x check [flags]:\n"
        "  Probe once, and exit with 0 (healthy), 2 (not connected), 3 (call failed) or 4 (not ready).\n"
        "\nFlags of this command:\n"
        '  -at when\n    \tThe when or `when` of it. (default "now")\n'
        "\nFlags of the sidecar, with the same meaning:\n"
        "  -automaxprocs\n"
    )


def test_the_usage_text_of_a_command_has_no_other_commands() -> None:
    text = usage_of_command("x", "config")

    assert text.startswith("Usage of x config [flags]:\n  Print the settings in force as JSON")
    assert "demo" not in text


def test_the_usage_text_has_sections() -> None:
    without_flags = re.sub(r"  -.*\n    \t.*\n", "", usage("x"))

    assert without_flags == (
        "Usage of x:\n"
        "\nFlags of older upstream releases, still accepted:\n"
        "\nFlags that upstream does not have:\n"
        "\nFlags of Longhorn's image:\n"
        "\nCommands (as first argument):\n"
        "  check [flags]\n"
        "    \tProbe once, and exit with 0 (healthy), 2 (not connected), 3 (call failed) or 4 (not ready).\n"
        "  config [flags]\n"
        "    \tPrint the settings in force as JSON, with the source of each, and exit.\n"
        "  demo [flags]\n"
        "    \tRun with an example driver, to try this program.\n"
        "  doctor [flags]\n"
        "    \tFind mistakes in the wiring of the pod: settings, socket, driver, ports, memory.\n"
        "  lint [flags]\n"
        "    \tTell what the kubelet will do with manifests, and what is wrong with them.\n"
        "  status [flags]\n"
        "    \tPrint the status page of the running sidecar, and exit with 0, or with 2 (not connected) or 3 (no page).\n"
        "  watch [flags]\n"
        "    \tShow live what the sidecars at the URLs behind the flags report; q ends it.\n"
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
    """Parsing raises nothing but FlagError and HelpRequested, and a result consists of the given arguments."""
    try:
        line = parse(arguments)
    except (FlagError, HelpRequested):
        return

    assert list(line.unread) == arguments[len(arguments) - len(line.unread) :]
    for name, text in line.given:
        BY_NAME[name].kind.check(text)


@given(st.lists(WORDS, max_size=8))
def test_a_first_argument_is_named_if_it_ends_the_flags(arguments: list[str]) -> None:
    try:
        line = parse(arguments)
    except (FlagError, HelpRequested):
        assert first_word(arguments) == ("", "")
        return
    word, meant = first_word(arguments)

    assert bool(word) is bool(meant)
    if word:
        assert (line.given, line.unread) == ((), tuple(arguments))


@given(st.lists(WORDS, max_size=6), st.lists(st.text(max_size=6), max_size=4))
def test_nothing_after_a_double_dash_is_read(arguments: list[str], rest: list[str]) -> None:
    try:
        line = parse(arguments)
    except (FlagError, HelpRequested):
        return
    if line.unread or arguments[-1:] == ["--"]:
        return

    assert parse([*arguments, "--", *rest]) == CommandLine(line.given, tuple(rest))


@given(st.binary(max_size=20))
def test_arguments_that_are_not_utf8_are_read_too(data: bytes) -> None:
    """A path may hold any bytes; Python passes them as surrogate escapes."""
    text = data.decode(errors="surrogateescape")

    assert parse([f"--csi-address={text}"]).values() == {"csi-address": text}


def test_no_command_is_taken_for_the_sidecar() -> None:
    """Which would leave a termination message in place of the sidecar beside it."""
    assert set(program.COMMANDS) == set(COMMANDS)
