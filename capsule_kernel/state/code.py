"""How code is taken apart, and what belongs to it: modules, methods, cells, caches of functions, typing's variables."""

from __future__ import annotations

import gc
import re
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import frozen, rebuild, revive
from capsule_kernel.state.kinds import is_importable

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler


def _code(code: types.CodeType, _pickler: RecordPickler) -> Any:
    # cloudpickle's own leaves the file name out, which tracebacks and debuggers need.
    return rebuild.code, (
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_nlocals, code.co_stacksize),
        *(code.co_flags, code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_filename),
        *(code.co_name, code.co_qualname, code.co_firstlineno, code.co_linetable, code.co_exceptiontable),
        *(code.co_freevars, code.co_cellvars),
    )


def used_globals(space: dict[str, Any]) -> dict[str, Any]:
    """Return what functions need of their globals, `space` itself where anything else than functions holds it.

    Libraries that write methods (attrs, namedtuple) run them in a dict of their own, often with a copy of all of the
    namespace: what is in it that no function names is nobody's, and goes on to be so.
    """
    if frozen.has_grown():
        # Functions that hold it may be among what is not seen.
        return space
    names = {"__name__", "__package__", "__builtins__"}
    for found in gc.get_referrers(space):
        if type(found) is types.FrameType:
            continue
        if type(found) is not types.FunctionType or found.__globals__ is not space:
            return space
        names |= _names_in(found.__code__)
        for text in found.__annotations__.values():
            if type(text) is str:
                names.update(_WORD.findall(text))
    return space if names & _ALL_SEEING else {key: value for key, value in space.items() if key in names}


_WORD = re.compile(r"[^\W\d]\w*")
_ALL_SEEING = frozenset({"globals", "eval", "exec", "vars", "locals", "__globals__", "f_globals"})
"""Names by which a function may get at globals that it does not name."""


def _names_in(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            found |= _names_in(constant)
    return found


def _cell(cell: types.CellType, _pickler: RecordPickler) -> Any:
    try:
        content = cell.cell_contents
    except ValueError:
        return rebuild.empty_cell, ()
    return rebuild.empty_cell, (), (content,), None, None, rebuild.fill_cell


def _module(module: types.ModuleType, _pickler: RecordPickler) -> Any:
    name = module.__name__
    if not is_importable(module):
        state = {key: value for key, value in vars(module).items() if key != "__builtins__"}
        registered = sys.modules.get(name) is module
        return rebuild.dynamic_module, (name, registered), state, None, None, rebuild.fill_module
    if not hasattr(module, "__path__"):
        return rebuild.imported_module, (name, ())
    prefix = name + "."
    submodules = sorted(
        full.removeprefix(prefix)
        for full, loaded in list(sys.modules.items())
        if full.startswith(prefix)
        and loaded is not None
        and not any(part.startswith("_") for part in full.removeprefix(prefix).split("."))
    )
    return rebuild.imported_module, (name, tuple(submodules))


def _method(method: types.MethodType, _pickler: RecordPickler) -> Any:
    owner, name = method.__self__, getattr(method.__func__, "__name__", "")
    if name and getattr(type(owner), name, None) is method.__func__ and name not in getattr(owner, "__dict__", ()):
        return getattr, (owner, name)
    return rebuild.method, (method.__func__, owner)


def _mappingproxy(proxy: Any, _pickler: RecordPickler) -> Any:
    target = gc.get_referents(proxy)[0]
    return types.MappingProxyType, (target,)


def _lru_cache(cached: Any, pickler: RecordPickler) -> Any:
    parameters = cached.cache_parameters()
    if cached.cache_info().currsize:
        pickler.note("a cache starts empty")
    state = {key: value for key, value in vars(cached).items() if key not in {"__wrapped__", "cache_parameters"}}
    args = (cached.__wrapped__, parameters["maxsize"], parameters["typed"])
    return revive.lru_cache, args, state, None, None, revive.fill_lru_cache


def _typevar(variable: Any, _pickler: RecordPickler) -> Any:
    module: Any = sys.modules.get(variable.__module__)
    if module is not None and variable.__module__ != "__main__" and vars(module).get(variable.__name__) is variable:
        return rebuild.module_attribute, (variable.__module__, variable.__name__)
    options = {
        "bound": variable.__bound__,
        "covariant": variable.__covariant__,
        "contravariant": variable.__contravariant__,
        "infer_variance": variable.__infer_variance__,
    }
    if getattr(variable, "has_default", bool)():
        options["default"] = variable.__default__
    return revive.type_variable, (variable.__name__, variable.__constraints__, options)


def _new_type(made: Any, _pickler: RecordPickler) -> Any:
    return revive.new_type, (made.__name__, made.__supertype__, made.__module__)


def _type_alias(alias: Any, _pickler: RecordPickler) -> Any:
    return revive.type_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def _named(value: Any, _pickler: RecordPickler) -> Any:
    # By its name, says its own class: but it belongs to the namespace.
    return type(value), (value.__name__,)


REDUCERS: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "builtins.code": _code,
    "builtins.cell": _cell,
    "builtins.module": _module,
    "builtins.method": _method,
    "builtins.mappingproxy": _mappingproxy,
    "functools._lru_cache_wrapper": _lru_cache,
    "typing.TypeVar": _typevar,
    "typing.ParamSpec": _named,
    "typing.TypeVarTuple": _named,
    "typing.NewType": _new_type,
    "typing.TypeAliasType": _type_alias,
}
