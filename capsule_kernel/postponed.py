"""Modules that others import and seldom use: importing them waits until somebody does.

asyncio imports `ssl`, for connections that the kernel makes to a server at most, and with it OpenSSL: a tenth of the
time until a kernel answers, and some megabytes. `importlib.util.LazyLoader` is no help: the second `import` of a module
is enough to load it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """A module for those who imported it early: imports the real one when they ask for something."""

    def __getattr__(self, name: str) -> Any:
        # Somebody asks while `postponed` still lasts: another thread, or what is imported inside.
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


_made: list[_Postponed] = []


@contextmanager
def postponed(*names: str) -> Iterator[None]:
    """Have modules that are imported inside use others later.

    Whoever imports those others outside gets them at once.

    Args:
        names: the modules to postpone. What is imported inside must not take anything from them while it is imported.
    """
    stand_ins = {name: _Postponed(name) for name in names if name not in sys.modules}
    _made.extend(stand_ins.values())
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def catch_up(package: str) -> None:
    """Import what was postponed, and have a package's modules hold it as if it never had been."""
    for stand_in in _made:
        module = importlib.import_module(stand_in.__name__)
        for name, user in list(sys.modules.items()):
            if name.partition(".")[0] == package:
                found = [key for key, value in vars(user).items() if value is stand_in]
                vars(user).update(dict.fromkeys(found, module))
    _made.clear()
