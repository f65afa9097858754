"""The command itself: reads the settings as the sidecar does, prints what it finds, returns the exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

from livenessprobe.commands.doctor.checks import judge
from livenessprobe.commands.doctor.facts import Given
from livenessprobe.commands.doctor.findings import has_errors, render_json, render_text
from livenessprobe.commands.doctor.gather import gather
from livenessprobe.commands.sidecar import load_settings
from livenessprobe.klog import log as klog
from livenessprobe.klog.writer import write_all
from livenessprobe.process import memory
from livenessprobe.settings import command_line, flags
from livenessprobe.settings.layers import KEYS

WELL, ERRORS, USAGE = range(3)
"""Exit codes: no error (warnings do not count), an error, a wrong --output."""

FLAGS = (flags.Flag("output", flags.STRING, "text", "`text`: a line for each finding. json: one object."),)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Judge the pod for the sidecar's flags in `arguments`; prints the findings and returns the exit code."""
    try:
        output, given = _read(arguments, environ)
    except command_line.HelpRequested:
        _print(command_line.usage_of_command(sys.argv[0], "doctor", FLAGS))
        return WELL
    if output not in ("text", "json"):
        write_all(2, f"livenessprobe doctor: --output={output}: write text or json")
        return USAGE
    memory.enable_collection()
    findings = judge(gather(given))
    _print(render_json(findings) if output == "json" else render_text(findings))
    return ERRORS if has_errors(findings) else WELL


def _read(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[str, Given]:
    """The value of --output, and the settings, with what is wrong with them; raises HelpRequested."""
    # Taken out first: a wrong flag, or an argument that is no flag, hides what is behind it.
    outputs = [each.partition("=")[2] for each in arguments if _OUTPUT.match(each)]
    fault, unreadable = "", []
    try:
        line = command_line.parse([each for each in arguments if not _OUTPUT.match(each)])
    except command_line.FlagError as error:
        line, fault, unreadable = error.before, f"{error}{error.hint}", [error.key] if error.key in KEYS else []
    loaded = load_settings(line.values(), environ, unreadable)
    return (outputs or ["text"])[-1], Given(loaded, environ, line.unread, fault)


_OUTPUT = re.compile("--?output=")


def _print(text: str) -> None:
    try:
        write_all(1, text.removesuffix("\n"))
    except OSError:
        pass  # stdout may be closed; the exit code has the result


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call `main`; writes all log records before it returns."""
    try:
        return main(arguments, environ)
    finally:
        klog.flush()
