"""Modules of ipykernel that are in `sys.modules` and not loaded: libraries look there to learn where they run.

The first use of anything in one of them loads it. The usual looks at all modules (for `__file__`, as `inspect` does)
load none.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_NAMES = ("ipykernel", "ipykernel.zmqshell")
_LOADED_FOR = ("__version__", "__all__")
_lock = threading.RLock()


def announce() -> None:
    """Put the modules into `sys.modules`, those that are not there already."""
    path: list[str] | None = None
    for name in _NAMES:
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return
        if name not in sys.modules:
            module = sys.modules[name] = _Pending(spec)
            package, _, rest = name.rpartition(".")
            if package:
                # `import ipykernel.zmqshell` would do it, if it did not find the module loaded.
                setattr(sys.modules[package], rest, module)
        path = path or list(spec.submodule_search_locations or ())


class _Pending(ModuleType):
    """A module that is loaded by the first attribute which is asked of it."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__loader__ = spec.loader
        self.__file__ = spec.origin
        self.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _LOADED_FOR:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if type(self) is _Pending:
                self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
                loader: Any = self.__loader__
                loader.exec_module(self)
        return getattr(self, name)
