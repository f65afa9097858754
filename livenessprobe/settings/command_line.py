"""
The command line: Go's flag grammar, and the usage text.  Pure.

The grammar is that of Go's `flag` package, measured (upstream v2.20): one or two dashes, values after `=` or as the next
argument, booleans only after `=`.  Parsing ends at the first argument that is not a flag, or at the first error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from livenessprobe.driver.address import unexpanded
from livenessprobe.gotext import quote
from livenessprobe.settings.flags import BY_NAME, FLAGS, LONGHORN, STRING, Flag, Group, find
from livenessprobe.settings.mistakes import nearest

COMMANDS: Mapping[str, str] = {
    "check": "Probe once, and exit with 0 (healthy), 2 (not connected), 3 (call failed) or 4 (not ready).",
    "config": "Print the settings in force as JSON, with the source of each, and exit.",
    "demo": "Run with an example driver, to try this program.",
    "doctor": "Find mistakes in the wiring of the pod: settings, socket, driver, ports, memory.",
    "lint": "Tell what the kubelet will do with manifests, and what is wrong with them.",
    "status": "Print the status page of the running sidecar, and exit with 0, or with 2 (not connected) or 3 (no page).",
    "watch": "Show live what the sidecars at the URLs behind the flags report; q ends it.",
}
"""What the program can do besides serving."""
_MEANT = {
    "help": "--help",
    "version": "--version",
    "health": "check",
    "probe": "check",
    "test": "check",
    "settings": "config",
    "example": "demo",
    "diagnose": "doctor",
    "debug": "doctor",
}
"""Words that other programs have for a command or a flag of this one."""


class FlagError(Exception):
    """
    A command line that Go would refuse with exit code 2; the text is Go's error line.

    `hint` is the way out, to be put behind the text.  `before` holds the flags before the error: upstream acts on some flags
    while it parses.  `key` is the setting whose flag was refused; empty if there is no such flag.
    """

    def __init__(self, message: str, hint: str = "", before: CommandLine | None = None, key: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.before = before or CommandLine()
        self.key = key


class HelpRequested(Exception):
    """`-h` or `-help` came before any error."""


class CommandLine(NamedTuple):
    """A command line that Go accepts."""

    given: tuple[tuple[str, str], ...] = ()
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
            hint = "; a flag has one or two dashes and a name"
            raise FlagError(f"bad flag syntax: {argument}", hint, CommandLine(tuple(given)))
        flag = next((flag for flag in more if flag.name == name), None) or find(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequested
            line = CommandLine(tuple(given))
            raise FlagError(f"flag provided but not defined: -{name}", _nearest_flag(name, line, more), line)
        if not equals:
            if flag.kind.is_bool:
                text = "true"
            elif not rest:
                hint = f"; write --{name}={flag.kind.placeholder.upper()}"
                raise FlagError(f"flag needs an argument: -{name}", hint, CommandLine(tuple(given)), flag.key)
            else:
                text = rest.pop(0)
        try:
            flag.kind.check(text)
        except ValueError as reason:
            line = CommandLine(tuple(given))
            raise FlagError(_refusal(flag, name, text, reason), _hint(flag, text), line, flag.key) from None
        given.append((name, text))
    return CommandLine(tuple(given), tuple(rest))


def _hint(flag: Flag, text: str) -> str:
    variable = unexpanded(text)
    return f"; {variable}" if variable else flag.kind.hint


def _refusal(flag: Flag, name: str, text: str, reason: ValueError) -> str:
    if flag.kind.is_bool:
        return f"invalid boolean value {quote(text)} for -{name}: {reason}"
    return f"invalid value {quote(text)} for flag -{name}: {reason}"


def _nearest_flag(name: str, before: CommandLine, more: Sequence[Flag]) -> str:
    known = [*(flag.name for flag in more), *BY_NAME, "help"]
    if any(given in LONGHORN for given, _ in before.given):  # else a flag of that image would select its defaults
        known += LONGHORN
    plain = {each.lower().replace("_", "-"): f"--{each}" for each in known}
    return nearest(name.lower().replace("_", "-"), plain) or "; --help lists all flags"


def first_word(arguments: Sequence[str]) -> tuple[str, str]:
    """The first argument if it is no flag, with a sentence about what may be meant; both empty if it is one."""
    word = next(iter(arguments[arguments[:1] == ["livenessprobe"] :]), "")
    if not word or (word.startswith("-") and word != "-"):
        return "", ""
    if word in COMMANDS:
        return word, f"{word} is a command only as the first argument of the program"
    if word[0] in "\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}":
        return word, f"it begins with a dash that is no hyphen; write --{word.lstrip(word[0] + '-')}"
    known = {each: each for each in COMMANDS} | _MEANT
    return word, nearest(word.lower(), known).removeprefix("; ") or f"the commands are {', '.join(COMMANDS)}"


def usage(program: str) -> str:
    """The text of `--help`: upstream's flags exactly as upstream prints them, then the other flags and the commands."""
    commands = (f"  {name} [flags]\n    \t{text}" for name, text in COMMANDS.items())
    return "\n".join([f"Usage of {program}:", *_sections(), "", "Commands (as first argument):", *commands]) + "\n"


def usage_of_command(program: str, command: str, more: Sequence[Flag] = ()) -> str:
    """The text of `--help` behind `command`: its purpose, its own flags, which are `more`, and the sidecar's flags."""
    own = ["", "Flags of this command:", *map(_row, more)] if more else []
    head = [
        f"Usage of {program} {command} [flags]:",
        f"  {COMMANDS[command]}",
        *own,
        "",
        "Flags of the sidecar, with the same meaning:",
    ]
    return "\n".join([*head, *_sections()]) + "\n"


def _sections() -> list[str]:
    return [
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
    ]


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
