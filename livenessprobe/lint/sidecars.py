"""Recognizes sidecars, and reads their settings as the program itself would.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from livenessprobe.lint.nodes import Node
from livenessprobe.lint.pods import Argument, Container, is_placeholder
from livenessprobe.lint.programs import (
    GO_FLAGS,
    Program,
    go_default_timeout,
    is_named_livenessprobe,
    missing_flag,
    program_of,
)
from livenessprobe.settings import command_line, flags
from livenessprobe.settings.file import FileContent
from livenessprobe.settings.layers import DEFAULT_FILE, PREFIX, Layer, overlay
from livenessprobe.settings.load import NO_FILE, load, with_file
from livenessprobe.settings.model import Loaded, Settings
from livenessprobe.settings.variables import LONGHORN_VARIABLES

OWN_FLAGS = frozenset({flag.name for flag in flags.FLAGS if flag.group == "own"} - {"version"})
_PROGRAM = re.compile(r"(?:.*[/\\])?liveness-?probe(?:\.exe)?", re.IGNORECASE)


class Mistake(NamedTuple):
    """Settings that the sidecar refuses, or that have no effect."""

    kind: str
    """`flag`: not known; `value`: refused; `conflict`: not together; `deprecated`: works, but should go."""
    node: Node
    sentence: str


class File(NamedTuple):
    """The settings file of a sidecar, as far as the input tells."""

    path: str
    mount: Node | None = None
    config_map: str = ""
    """The ConfigMap that is mounted there."""
    found: bool = False
    """Whether the ConfigMap is in the input, and has the file."""
    fault: str = ""
    """Why the sidecar ignores the file."""


class Sidecar:
    """A livenessprobe sidecar, this program or the Go program."""

    def __init__(self, container: Container, *, as_ours: bool) -> None:
        self.container = container
        self.mistakes: list[Mistake] = []
        self.unjudged: set[str] = set()
        """Keys whose values the manifest does not tell."""
        given, self._unread = self._given()
        own = bool(OWN_FLAGS & given.keys()) or any(name.startswith(PREFIX) for name in container.environ)
        self.program: Program = program_of(container.image, own_flags=own, as_ours=as_ours)
        self.file = File("")
        self.loaded: Loaded | None = self._load(given)

    @property
    def settings(self) -> Settings | None:
        """The settings in force; None if the sidecar refuses them."""
        return self.loaded.settings if self.loaded else None

    def knows(self, *keys: str) -> bool:
        """Whether the manifest tells the values of all these settings."""
        return self.loaded is not None and self.unjudged.isdisjoint(keys)

    def node_of(self, key: str) -> Node:
        """Where a setting is given; the container itself if it has its default."""
        for argument in reversed(self.container.arguments):
            flag = flags.find(_name(argument.text))
            if flag is not None and flag.key == key:
                return argument.node
        for each in self.container.node.at("env").items:
            name = each.at("name").text
            if LONGHORN_VARIABLES.get(name) == key or name == f"{PREFIX}{key.upper()}":
                return each
        return self.container.node.at("name")

    def says(self, key: str) -> str:
        """A setting and its value, as the manifest has it, for a sentence."""
        assert self.loaded
        raw = self.loaded.raw[key]
        name = flags.BY_NAME[key.replace("_", "-")].name
        return f"--{name}={raw.text}" + ("" if raw.source.startswith("flag") else f" ({raw.source})")

    # --- arguments

    def _given(self) -> tuple[dict[str, str], Sequence[str]]:
        """Flags by name; a flag with a placeholder is left out, and an unreadable flag is a mistake."""
        texts = self._known(self.container.arguments)
        while True:
            try:
                line = command_line.parse(texts)
            except command_line.HelpRequested:
                self._mistake("value", "help", "prints the usage and ends; remove it")
                return {}, ()
            except command_line.FlagError as error:
                name = str(error).rpartition(" -")[2].partition(":")[0]
                broken = next((text for text in texts if _name(text) == name), None)
                flag = flags.find(name)
                if flag is not None or broken is None:
                    hint = flag.kind.expected if flag is not None else ""
                    self._mistake("value", name, f"is refused: {error}; {f'write {hint}' if hint else 'correct it'}")
                else:
                    self._unknown_flag(name)
                if broken is None:
                    return {}, ()
                del texts[texts.index(broken)]
            else:
                return line.values(), line.unread

    def _unknown_flag(self, name: str) -> None:
        import difflib

        near = difflib.get_close_matches(name, [*flags.BY_NAME], 1)
        hint = f"; did you mean --{near[0]}?" if near else "; remove it"
        self._mistake("flag", name, f"--{name} is no flag of livenessprobe, which ends with exit code 2{hint}")

    def _known(self, arguments: Sequence[Argument]) -> list[str]:
        texts = []
        rest = [argument.text for argument in arguments]
        while rest:
            text = rest.pop(0)
            flag = flags.find(_name(text))
            if not is_placeholder(text):
                takes_next = flag is not None and "=" not in text and not flag.kind.is_bool
                if flag is not None and takes_next and rest and is_placeholder(rest[0]):
                    self.unjudged.add(flag.key)
                    del rest[0]
                else:
                    texts.append(text)
            elif flag is not None:
                self.unjudged.add(flag.key)
            else:
                self.unjudged.add("arguments")
        return texts

    def _mistake(self, kind: str, name: str, sentence: str) -> None:
        arguments = self.container.arguments
        node = next((each.node for each in reversed(arguments) if _name(each.text) == name), self.container.node.at("name"))
        self.mistakes.append(Mistake(kind, node, sentence))

    # --- settings

    def _load(self, given: dict[str, str]) -> Loaded | None:
        if self.program.ours:
            return self._load_ours(given)
        version = self.program.go
        for name in [*given]:
            if reason := missing_flag(name, version):
                ends = "it ends with exit code 2; remove the flag"
                self._mistake("flag", name, f"--{name} is refused by {self.program.text}: {reason}, so {ends}")
                del given[name]
        if "connection-timeout" in given and version < (1, 1):
            given["probe-timeout"] = given["connection-timeout"]
        elif "connection-timeout" in given:
            self._no_effect("connection-timeout")
        given.setdefault("probe-timeout", go_default_timeout(version))
        return self._checked(given, {})

    def _load_ours(self, given: dict[str, str]) -> Loaded | None:
        environ = {}
        for name, text in self.container.environ.items():
            key = LONGHORN_VARIABLES.get(name) or name.removeprefix(PREFIX).lower()
            if is_placeholder(text):
                self.unjudged.add(key)
            else:
                environ[name] = text
        for name in {"connection-timeout", "log_backtrace_at"} & given.keys():
            self._no_effect(name)
        loaded = self._checked(given, environ)
        return self._with_file(loaded, given, environ) if loaded else None

    def _no_effect(self, name: str) -> None:
        self._mistake("deprecated", name, f"--{name} has no effect; remove it")

    def _checked(self, given: Mapping[str, str], environ: Mapping[str, str]) -> Loaded | None:
        """The settings of flags and variables; None if the program refuses them."""
        for name in ("health-port", "metrics-address"):
            if name in given and (self.program.ours or self.program.go >= (2, 2)):
                self._mistake("deprecated", name, f"--{name} is deprecated; use --http-endpoint, which also serves metrics")
        loaded = _load(given, environ, windows=self.container.is_windows)
        for mistake in loaded.mistakes:
            conflict = "Only one of" in mistake.message or "Contradicting" in mistake.message
            named = next((flag.name for flag in flags.FLAGS if f"flag --{flag.name}" in f"{mistake.source} "), "")
            hint = "" if mistake.hint else "; remove one of them" if conflict else "; correct it"
            if named == "health-port" and ":" in given.get(named, ""):
                hint = f"; use --http-endpoint={given[named]}"
            self._mistake("conflict" if conflict else "value", named, f"is refused: {mistake.sentence}{hint}")
        for warning in loaded.warnings:
            self._mistake("deprecated", "", f"ignores a setting: {warning}; correct its name")
        return None if loaded.mistakes else loaded

    def _with_file(self, without: Loaded, given: Mapping[str, str], environ: Mapping[str, str]) -> Loaded:
        """The settings with their file, if it comes from a ConfigMap of the input."""
        path = without.raw["config"].text or DEFAULT_FILE
        mount = self.container.mount(path)
        if mount is None:
            self.file = File(path)
            return without
        source = self.container.pod.source(mount.at("name").text)
        name = source.at("configMap", "name").text
        data = self.container.pod.config_map(name) if name else None
        key = path.rpartition("/")[2]
        for item in source.at("configMap", "items").items:
            if item.at("path").text == key:
                key = item.at("key").text
        if data is None or data.at(key).missing:
            self.file = File(path, mount, name)
            return without
        content = FileContent(path, data.at(key).text.encode())
        windows = self.container.is_windows
        loaded = with_file(without, content, lambda layer: _load(given, environ, layer, windows=windows))
        self.file = File(path, mount, name, found=True, fault=loaded.file_error.replace("\n", "; "))
        return loaded


def _load(given: Mapping[str, str], environ: Mapping[str, str], file: Layer = NO_FILE, *, windows: bool) -> Loaded:
    """The settings as the program reads them, with all its mistakes."""
    return load(given, environ, file, platform="win32" if windows else "linux", merger=overlay)


def _name(argument: str) -> str:
    """The name of the flag in an argument; empty if it is no flag."""
    return argument.lstrip("-").partition("=")[0] if argument.startswith("-") else ""


def is_sidecar(container: Container) -> bool:
    """Whether a container is a livenessprobe sidecar, by its command, its arguments and its image."""
    arguments = [argument.text for argument in container.arguments]
    first = next(iter(arguments), "")
    if container.command and not _PROGRAM.fullmatch(container.command[0].text):
        return False
    if first in command_line.COMMANDS:
        return False
    if container.command or first == "livenessprobe" or is_named_livenessprobe(container.image):
        return True
    names = {_name(text) for text in arguments} - {""}
    if "csi-address" not in names and "endpoint" not in names:
        return False
    known = names <= GO_FLAGS.keys() | flags.BY_NAME.keys() | flags.LONGHORN.keys()
    if re.search("liveness-?probe", container.name, re.IGNORECASE):
        return True
    return known and bool(names & {"probe-timeout", "health-port"})
