"""The variables of modules that belong to the notebook: files beside it, not what is installed.

Their code is imported again; what they hold by then is state. A file that was changed since keeps its own.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

from capsule_kernel.state.kinds import is_by_name, is_notebook_module

PREFIX = "modules/"
"""Of the names of these pieces: `modules/helpers/counter`."""


def read() -> dict[str, Any]:
    """Return the variables of the notebook's modules, and by `modules/helpers` which file they are of."""
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        stamp = _stamp(module.__file__ or "") if is_notebook_module(module) else None
        if stamp is None or sys.modules.get(module.__name__) is not module:
            continue
        found[PREFIX + name] = stamp
        for key, value in vars(module).items():
            if not key.startswith("__") and not _is_code(value):
                found[f"{PREFIX}{name}/{key}"] = value
    return found


def write(name: str, value: Any, stamps: dict[str, Any]) -> None:
    """Put one of these pieces back.

    Raises:
        ValueError: the module's file is another one by now.
        ImportError: it is gone.
    """
    module_name, _, key = name.removeprefix(PREFIX).partition("/")
    module = importlib.import_module(module_name)
    if not key:
        stamps[module_name] = value
        return
    if _stamp(module.__file__ or "") != stamps.get(module_name):
        raise ValueError(f"{module.__file__} was changed since: its variables are those of the new file")
    setattr(module, key, value)


def _is_code(value: Any) -> bool:
    return isinstance(value, types.ModuleType | types.BuiltinFunctionType) or (
        isinstance(value, type | types.FunctionType) and is_by_name(value)
    )


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
