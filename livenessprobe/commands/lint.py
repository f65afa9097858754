"""`livenessprobe lint`: what the kubelet will do with a manifest, before it does it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from livenessprobe.gotext import quote
from livenessprobe.klog.writer import write_all
from livenessprobe.lint import output
from livenessprobe.lint.findings import RULES, SEVERITIES, at_least
from livenessprobe.lint.judge import Judgement, Options, judge
from livenessprobe.lint.reading import MAX_BYTES, STDIN, ExtraMissingError, Read, read
from livenessprobe.settings import command_line, flags

CLEAN, FINDINGS, UNUSABLE = range(3)
"""Exit codes."""
OUTPUTS = ("text", "json", "sarif", "github")

FLAGS = (
    flags.Flag("as", flags.STRING, "", "`ours`: judge every sidecar as after the swap of the image."),
    flags.Flag(
        "diff", flags.STRING, "", "The `file` or folder of the manifests before a change; tells what the change does."
    ),
    flags.Flag("driver-start", flags.DURATION, "0s", "How long the driver needs to start. 0s: not known."),
    flags.Flag(
        "fail-on", flags.STRING, "error", "Exit with 1 for findings of this `severity` and graver: error, warning, info."
    ),
    flags.Flag("ignore", flags.STRING, "", "`Ids` of findings to leave out, such as LP101,LP304."),
    flags.Flag("max-bytes", flags.COUNT, str(MAX_BYTES), "How much input is read, in bytes."),
    flags.Flag("output", flags.STRING, "text", "`text`, json, sarif or github."),
    flags.Flag(
        "skip-unreadable", flags.BOOL, "false", "Leave out documents that cannot be read, as if they were not there."
    ),
    flags.Flag("stdin-name", flags.STRING, "", "The `name` of standard input in the output."),
)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Judge the files, folders or, for `-` or nothing, standard input; prints the result and returns the exit code.

    0: nothing at or above --fail-on; 1: something; 2: a bad command line, or input that cannot be judged.
    """
    try:
        values, names = _parse(arguments)
        options = _options(values)
    except command_line.HelpRequested:
        _print(usage())
        return CLEAN
    except command_line.FlagError as error:
        write_all(2, f"livenessprobe lint: {error}{error.hint}")
        return UNUSABLE
    limit = flags.COUNT.check(values["max-bytes"])
    try:
        new = read(names or [STDIN], max_bytes=limit, stdin_name=values["stdin-name"])
        old = read([values["diff"]], max_bytes=limit) if values["diff"] else None
    except ExtraMissingError as error:
        write_all(2, f"livenessprobe lint: {error}")
        return UNUSABLE
    if flags.BOOL.check(values["skip-unreadable"]):
        for each in (new, old):
            if each is not None:
                each.unusable.clear()
    judgement = judge(new, options)
    counted = judgement.findings
    if old is not None:
        before = judge(old, options._replace(as_ours=False))
        told, counted = output.difference(before, judgement)
        new.unusable[:0] = old.unusable
        _print("\n".join([told, *(f"{each.place.file}:{each.place.line}: {each.sentence}" for each in new.unusable)]))
    else:
        _print(_rendered(values["output"], judgement, new, environ))
    if new.unusable:
        return UNUSABLE
    return FINDINGS if any(at_least(each.severity, values["fail-on"]) for each in counted) else CLEAN


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Flags and names in any order; raises FlagError or HelpRequested."""
    values = {flag.name: flag.default for flag in FLAGS}
    names: list[str] = []
    rest = list(arguments)
    while rest:
        if rest[0] == STDIN or not rest[0].startswith("-"):
            names.append(rest.pop(0))
            continue
        line = command_line.parse(rest, FLAGS)
        for name, text in line.given:
            if name not in values:  # the grammar also knows the flags of the sidecar
                raise command_line.FlagError(f"flag provided but not defined: -{name}")
            values[name] = text
        rest = list(line.unread)
    return values, names


def _options(values: Mapping[str, str]) -> Options:
    for name, allowed in (("as", ("", "ours")), ("fail-on", SEVERITIES), ("output", OUTPUTS)):
        if values[name] not in allowed:
            raise command_line.FlagError(f"--{name}={values[name]}: write {' or '.join(filter(None, allowed))}")
    if values["diff"] and values["output"] != "text":
        raise command_line.FlagError(f"--diff prints text only; remove --output={values['output']}")
    ids = frozenset(filter(None, re.split(r"[\s,;]+", values["ignore"])))
    if unknown := sorted(ids - RULES.keys()):
        raise command_line.FlagError(f"--ignore={unknown[0]}: no finding has this id; docs/lint.md lists them")
    return Options(values["as"] == "ours", flags.DURATION.check(values["driver-start"]), ids)


def usage() -> str:
    """The text of `--help`."""
    rows = command_line.rows(FLAGS)
    return "\n".join(["Usage of livenessprobe lint [flags] [FILE or folder]…, or - for standard input:", *rows])


def _rendered(kind: str, judgement: Judgement, found: Read, environ: Mapping[str, str]) -> str:
    match kind:
        case "json":
            return output.as_json(judgement, found.unusable)
        case "sarif":
            return output.sarif(judgement, found.unusable, os.getcwd().replace("\\", "/"))
        case "github":
            return output.github(judgement, found.unusable)
    colour = bool(sys.stdout and sys.stdout.isatty()) and "NO_COLOR" not in environ
    return output.text(judgement, found.unusable, found.lines, output.Paint(colour=colour))


def _print(text: str) -> None:
    try:
        write_all(1, text.removesuffix("\n"))
    except OSError as error:
        write_all(2, f"livenessprobe lint: standard output: {quote(str(error))}")
