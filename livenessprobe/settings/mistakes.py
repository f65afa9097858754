"""What is wrong with the settings, as values.  Pure."""

from __future__ import annotations

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

    @property
    def sentence(self) -> str:
        """The mistake as one sentence."""
        return self.message if self.err is None else f"{self.message}: {self.err}"
