"""
The command line: Go's flag grammar, and the usage text.  Pure.

The grammar is that of Go's `flag` package, measured (upstream v2.20): one or two dashes, values after `=` or as the next
argument, booleans only after `=`.  Parsing ends at the first argument that is not a flag, or at the first error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from livenessprobe.gotext import quote
from livenessprobe.settings.flags import BY_NAME, FLAGS, LONGHORN, STRING, Flag, Group, find


class FlagError(Exception):
    """
    A command line that Go would refuse with exit code 2; the text is Go's error line.

    `given` holds the flags before the error: upstream acts on some flags while it parses.
    """

    def __init__(self, message: str, given: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.given = given


class HelpRequested(Exception):
    """`-h` or `-help` came before any error."""


class CommandLine(NamedTuple):
    """A command line that Go accepts."""

    given: tuple[tuple[str, str], ...]
    """Flag names and texts in the order given, repetitions included."""
    unread: tuple[str, ...] = ()
    """The arguments behind the flags, without a `--` in front."""

    def values(self) -> dict[str, str]:
        """One text for each flag: the last one wins; the texts of `-vmodule` are joined."""
        texts: dict[str, str] = {}
        for name, text in self.given:
            texts[name] = f"{texts[name]},{text}" if name == "vmodule" and name in texts else text
        return texts


def parse(arguments: Sequence[str], more: Sequence[Flag] = ()) -> CommandLine:
    """
    The flags in `arguments`, which may begin with the program's name; `more` are flags of a command.

    Raises FlagError or HelpRequested at the first argument that asks for it.
    """
    given: list[tuple[str, str]] = []
    # Images with several programs take the program's name as first argument; their manifests keep it.
    rest = list(arguments)
    if rest[:1] == ["livenessprobe"]:
        del rest[0]
    while rest and rest[0].startswith("-") and rest[0] != "-":
        argument = rest.pop(0)
        if argument == "--":
            break
        name, equals, text = argument[2 if argument.startswith("--") else 1 :].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {argument}", tuple(given))
        flag = next((flag for flag in more if flag.name == name), None) or find(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequested
            raise FlagError(f"flag provided but not defined: -{name}", tuple(given))
        if not equals:
            if flag.kind.is_bool:
                text = "true"
            elif not rest:
                raise FlagError(f"flag needs an argument: -{name}", tuple(given))
            else:
                text = rest.pop(0)
        try:
            flag.kind.check(text)
        except ValueError as reason:
            raise FlagError(_refusal(flag, name, text, reason), tuple(given)) from None
        given.append((name, text))
    return CommandLine(tuple(given), tuple(rest))


def _refusal(flag: Flag, name: str, text: str, reason: ValueError) -> str:
    if flag.kind.is_bool:
        return f"invalid boolean value {quote(text)} for -{name}: {reason}"
    return f"invalid value {quote(text)} for flag -{name}: {reason}"


def usage(program: str, more: Sequence[Flag] = ()) -> str:
    """The text of `--help`: upstream's flags exactly as upstream prints them, then the other flags and the commands."""
    sections = [
        f"Usage of {program}:",
        *rows(more),
        *_rows("upstream"),
        "",
        "Flags of older upstream releases, still accepted:",
        *_rows("old"),
        "",
        "Flags that upstream does not have:",
        *_rows("own"),
        "",
        "Flags of Longhorn's image:",
        *(f"  -{name} {BY_NAME[flag].kind.placeholder}\n    \tThe same as -{flag}." for name, flag in LONGHORN.items()),
        "",
        "Commands (as first argument):",
        "  check [flags]\n    \tProbe once, and exit with 0 (healthy), 2 (not connected), 3 (call failed) or 4 (not ready).",
        "  config [flags]\n    \tPrint the settings in force as JSON, with the source of each, and exit.",
        "  demo [flags]\n    \tRun with an example driver, to try this program.",
        "  lint [flags] [FILE]\n    \tTell what the kubelet will do with manifests, and what is wrong with them.",
    ]
    return "\n".join(sections) + "\n"


def _rows(group: Group) -> list[str]:
    return rows([flag for flag in FLAGS if flag.group == group])


def rows(table: Sequence[Flag]) -> list[str]:
    """The usage text of each flag."""
    return [_row(flag) for flag in table]


def _row(flag: Flag) -> str:
    # Go takes the first back-quoted word of the text as the name of the value (flag.UnquoteUsage).
    placeholder, text = flag.kind.placeholder, flag.usage
    if match := re.search(r"`([^`]*)`", text):
        placeholder = match[1]
        text = text.replace(f"`{placeholder}`", placeholder, 1)
    row = f"  -{flag.name}" + (f" {placeholder}" if placeholder else "") + f"\n    \t{text}"
    if flag.default in ("", "0", "false"):
        return row
    default = quote(flag.default) if flag.kind is STRING else flag.default
    return f"{row} (default {default})"
