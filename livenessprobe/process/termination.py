"""The last words of a process that ends itself, for the kubelet to show (terminationMessagePath)."""

from __future__ import annotations

import contextlib
import os

DEFAULT_PATH = "/dev/termination-log"
"""The default of --termination-log, and of a container's terminationMessagePath."""
MESSAGE_MAX = 4096
"""Bytes the kubelet reads."""


def leave(path: str, message: str) -> str:
    """
    Write `message` to `path`; what was in the way, if that is worth telling.

    The default file is made by the kubelet: where it is missing nobody reads it, and it is not made here.
    """
    if not path:
        return ""
    data = message.encode(errors="backslashreplace")[: MESSAGE_MAX - 1]
    data = data.decode(errors="ignore").encode() + b"\n"  # no half character at the cut
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if path == DEFAULT_PATH else os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        return "" if path == DEFAULT_PATH else f"{path}: {error.strerror or error}"
    with contextlib.suppress(OSError):
        os.write(descriptor, data)
    os.close(descriptor)
    return ""
