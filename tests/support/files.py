"""Settings files as the kubelet mounts them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Content = str | bytes | Callable[[Path], object]
"""What a file holds: text, bytes, or a function that creates something else at the path."""


Mount = Callable[..., "ConfigMap"]
"""Mounts a ConfigMap with the given content: the fixture `mounted`."""


def nothing(_path: Path) -> None:
    """As content: the file does not exist."""


class ConfigMap:
    """
    A folder laid out as the kubelet mounts a ConfigMap that has the one key `settings.toml`, or no key.

    The kubelet replaces the content by renaming the symbolic link `..data`, so a reader sees the old or the new
    content, each complete.
    """

    def __init__(self, folder: Path, content: Content = nothing) -> None:
        self.path = folder / "settings.toml"
        self._folder = folder
        self._swaps = 0
        folder.mkdir()
        self.swap(content)

    def swap(self, content: Content) -> None:
        """Mount `content`; the old content has been deleted when this returns."""
        self._swaps += 1
        old = self._folder / os.readlink(self._data) if self._data.is_symlink() else None
        new = self._folder / f"..2026_01_01_00_00_00.{self._swaps:09}"
        new.mkdir()
        if isinstance(content, str | bytes):
            (new / self.path.name).write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            content(new / self.path.name)
        os.symlink(new.name, self._folder / "..data_tmp")
        os.rename(self._folder / "..data_tmp", self._data)
        if content is not nothing and not self.path.is_symlink():
            os.symlink(f"..data/{self.path.name}", self.path)
        if old is not None:
            shutil.rmtree(old)

    def remove(self) -> None:
        """Remove the file, as the kubelet does when an optional ConfigMap is deleted."""
        self.swap(nothing)
        self.path.unlink()

    @property
    def _data(self) -> Path:
        return self._folder / "..data"
