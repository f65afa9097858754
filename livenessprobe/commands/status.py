"""
`livenessprobe status`: prints the page /statusz of the sidecar in this container, which has no curl and no shell.

One GET with the standard library; neither gRPC nor a web framework is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from livenessprobe.commands import sidecar
from livenessprobe.commands.sidecar import Answer, Place
from livenessprobe.gotext import printable
from livenessprobe.klog import log as klog
from livenessprobe.klog.writer import write_all
from livenessprobe.settings import command_line, flags

PRINTED, USAGE, NOT_CONNECTED, NO_PAGE = range(4)
"""Exit codes."""
SECONDS = 30.0
"""For the response: with 2 % of a CPU the sidecar needs 10 s to load what draws the first page."""
PAGE = "/statusz"
BEGINS = "livenessprobe "
"""Each page begins so."""
FLAGS = (
    flags.Flag(
        "url",
        flags.STRING,
        "",
        "Ask the sidecar at this `address`: http://host:port or unix:///path. Default: where it listens by its own flags, "
        "variables and file.",
    ),
)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the page, or one sentence why there is none; returns the exit code."""
    try:
        line = command_line.parse(arguments, FLAGS)
        values = line.values()
        url = values.pop("url", "")
        if line.unread:
            raise command_line.FlagError(f"{line.unread[0]!r} is no flag; flags begin with a dash")
        if url:
            place, path = sidecar.parse_url(url)
            return _show([place], PAGE if path in ("", "/") else path)
        loaded = sidecar.load_settings(values, environ)
    except command_line.HelpRequested:
        return _print(command_line.usage_of_command(sys.argv[0], "status", FLAGS), PRINTED)
    except command_line.FlagError as error:
        return _refuse(f"{error}{error.hint}", USAGE)
    if loaded.is_refused:
        return _refuse("; ".join(mistake.sentence for mistake in loaded.all_mistakes), USAGE)
    sidecar.tell_of_ignored_file("status", loaded)
    return _show([*sidecar.places(loaded.settings.http)], PAGE)


def _show(places: Sequence[Place], path: str) -> int:
    """Print the page of the first of `places` that accepts a connection."""
    fault = ""
    for place in places:
        try:
            answer = sidecar.get(place, path, "text/plain", SECONDS)
        except sidecar.NotConnected as error:
            fault = fault or f"cannot connect to {place}: {error}; give this command the sidecar's own flags, or --url"
        except TimeoutError:
            return _refuse(f"{place} sent no response within {SECONDS:.0f} s", NO_PAGE)
        except sidecar.NoAnswer as error:
            return _refuse(f"{place} sent no valid response: {error}", NO_PAGE)
        else:
            if answer.status == 200 and answer.body.startswith(BEGINS):
                return _print(_safe(answer), PRINTED)
            return _refuse(_why_not(place, path, answer), NO_PAGE)
    return _refuse(fault, NOT_CONNECTED)


def _safe(answer: Answer) -> str:
    """The page, which a terminal shows; whatever program has sent it."""
    return "\n".join(printable(line, len(line)) for line in answer.body.split("\n"))


def _why_not(place: Place, path: str, answer: Answer) -> str:
    if answer.status == 404:
        return (
            f"{place} has no page {path} for this client: --pages or --metrics-path of the sidecar hides it, or this is another "
            "program. A client is local only by a loopback address or a unix socket"
        )
    return f"{place} sent status {answer.status} and no page of a livenessprobe: this is another program"


def _refuse(sentence: str, code: int) -> int:
    try:
        write_all(2, f"livenessprobe status: {printable(sentence, 2000)}")
    except OSError:
        pass  # stderr may be closed; the exit code has the result
    return code


def _print(text: str, code: int) -> int:
    try:
        write_all(1, text.removesuffix("\n"))
    except OSError:
        pass  # a reader such as `head` may have closed the pipe
    return code


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call `main`; writes all log records before it returns."""
    try:
        return main(arguments, environ)
    finally:
        klog.flush()
