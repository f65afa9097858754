"""Hides or replaces dependencies that nobody needs here while a library is imported, so that they cost no memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


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


class _Anything:
    """Takes every call and has every attribute: each result is another one."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> _Anything:
        return self

    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _StandIn(ModuleType):
    """A module that has every name: each is a class, since the importing module may derive from it or decorate with it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # makes it a package

    def __getattr__(self, name: str) -> type[_Anything]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {})


@contextlib.contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """
    While this is entered, an import of the modules `names` gives stand-ins without function, unless they are loaded already.

    For libraries that import a module without need, and cannot do without it as with `hide_modules`.
    """
    replaced = {name: _StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(replaced)
    try:
        yield
    finally:
        for name, module in replaced.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
