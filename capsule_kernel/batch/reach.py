"""Which names of a namespace the functions read that can be reached from some of its values. Runs in the worker.

What is saved may need what could not be: a function that uses an open connection comes back without it. Only code of
the notebook is looked into; a library's functions do not know the notebook's names.
"""

from __future__ import annotations

import dis
import gc
import types
from collections.abc import Iterable, Mapping
from typing import Any

from capsule_kernel.batch.reads import REACHES_ALL

_OBJECTS_MAX = 300_000
_GLOBAL_STEPS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL"})
_ATOMS = (int, float, complex, str, bytes, bool, type(None), range, types.ModuleType, types.CodeType)


def names_reached(namespace: Mapping[str, Any], names: Iterable[str]) -> frozenset[str] | None:
    """Return the names that code reachable from the values of `names` may read; None: perhaps any.

    Args:
        namespace: the notebook's variables.
        names: those that are used; what is not in the namespace is passed over.
    """
    found: set[str] = set()
    waiting = [namespace[name] for name in names if name in namespace]
    seen = {id(namespace)}
    while waiting:
        value = waiting.pop()
        if isinstance(value, _ATOMS) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > _OBJECTS_MAX:
            return None
        if isinstance(value, types.FunctionType) and value.__globals__ is namespace:
            fresh = _names_of(value.__code__) - found
            if fresh & REACHES_ALL:
                return None
            found |= fresh
            waiting.extend(namespace[name] for name in fresh if name in namespace)
        waiting.extend(_parts(value))
    return frozenset(found)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, types.FunctionType):
        # Not its globals: a library's are not the notebook's.
        return [*(value.__closure__ or ()), *(value.__defaults__ or ()), value.__kwdefaults__, vars(value)]
    if isinstance(value, type) and value.__module__ != "__main__":
        return ()
    return gc.get_referents(value)


def _names_of(code: types.CodeType) -> set[str]:
    """Return the global names that a function's code uses, that of functions within it included."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_STEPS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names_of(constant)
    return found
