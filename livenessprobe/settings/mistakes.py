"""What is wrong with the settings, as values.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

INVALID = "Invalid setting"


class Mistake(NamedTuple):
    """
    One thing that is wrong with the settings.

    `message`, `err` and `pairs` are its log record, in upstream's words where upstream has such a record.
    """

    source: str
    """The flag, variable or line of the file, such as `flag --v`; if values contradict each other, all of them."""
    message: str
    err: str | None = None
    code: int = 1
    """The exit code of a process that is refused for it."""
    pairs: tuple[tuple[str, str], ...] = ()
    hint: str = ""
    """The way out, if upstream's words do not say it."""

    @property
    def sentence(self) -> str:
        """The mistake as one sentence."""
        sentence = self.message if self.err is None else f"{self.message}: {self.err}"
        return f"{sentence}; {self.hint}" if self.hint else sentence

    def record(self, **more: str) -> dict[str, str | None]:
        """The pairs behind `message` in the log record, with `more` at the end."""
        return {"err": self.err, **dict(self.pairs), **({"detail": self.hint} if self.hint else {}), **more}


def nearest(name: str, known: Mapping[str, str]) -> str:
    """A hint at the key of `known` that resembles `name`, showing its value; empty if none does."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {known[near[0]]}?" if near else ""
