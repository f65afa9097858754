"""What libraries take in where they find it, and nobody uses here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """
    Modules that cannot be found while others are imported, unless they are loaded already.

    asyncio is without TLS then (OpenSSL: 3.3 MiB), and Dynaconf without Flask and Jinja (12 MiB; Quart brings both along).
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python documents a module not to be found
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
