"""Hides optional dependencies while a library is imported, so that they cost no memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """
    While this is entered, the modules `names` cannot be imported, unless they are loaded already.

    asyncio then works without TLS (OpenSSL takes 3.3 MiB), and Dynaconf without Flask and Jinja (12 MiB), which are installed
    because Quart needs them.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # Python documents None for "not to be found"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
