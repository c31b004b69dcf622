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
    """A module for those who imported it early: takes its place, and fills itself, when they ask for something."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        vars(self).update(vars(module))
        return getattr(module, name)


@contextmanager
def postponed(*names: str) -> Iterator[None]:
    """Have modules that are imported inside use others later.

    Whoever imports those others outside gets them at once.

    Args:
        names: the modules to postpone. What is imported inside must not take anything from them while it is imported.
    """
    stand_ins = {name: _Postponed(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
