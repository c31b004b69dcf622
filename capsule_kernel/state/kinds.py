"""What types mean to a capture: values without identity of their own, containers, what modules own, and descriptions.

Everything is asked once per type. Nothing here imports a library: what is not loaded cannot be in the namespace.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib
import pathlib
import re
import site
import sys
import sysconfig
import types
import uuid
from typing import Any

import cloudpickle.cloudpickle as cp

ATOMIC: frozenset[type] = frozenset(
    {
        *(type(None), bool, int, float, complex, range, slice, type(...), type(NotImplemented)),
        *(types.CodeType, types.BuiltinFunctionType, types.WrapperDescriptorType),
        *(types.MethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
        *(dt.date, dt.time, dt.datetime, dt.timedelta, dt.timezone),
        *(decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern),
        *(pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath),
    }
)
"""Types whose values nobody can tell from an equal one, apart from `is`."""


class Kind(enum.IntEnum):
    """How a capture treats the values of a type."""

    ATOM = 0
    """No identity to keep."""
    TEXT = 1
    """`str` and `bytes`: no identity to keep, but they may be long, or a secret."""
    TUPLE = 2
    """No identity to keep, but what is in it has one."""
    CODE = 3
    """Classes, functions and modules: objects where they belong to the namespace, else by the name they have."""
    OBJECT = 4
    """Identity matters: shared by two names, it has to be shared after a restore."""


def kind_of(cls: type) -> Kind:
    """Return how to treat the values of `cls`."""
    if cls in ATOMIC or issubclass(cls, enum.Enum):
        return Kind.ATOM
    if cls is str or cls is bytes:
        return Kind.TEXT
    if cls is tuple or cls is frozenset:
        return Kind.TUPLE
    if cls is types.FunctionType or issubclass(cls, type | types.ModuleType):
        return Kind.CODE
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(cls, numpy.generic | numpy.dtype):
        return Kind.ATOM
    return Kind.OBJECT


def library_of(cls: type) -> str:
    """Return the package that a class says it is of; empty where it does not say, as classes made at run time may."""
    name: object = cls.__module__
    return name.partition(".")[0] if isinstance(name, str) else ""


def is_by_name(value: Any) -> bool:
    """Return whether a module can be imported, a class or function is found in one under its own name."""
    if isinstance(value, types.ModuleType):
        return is_importable(value)
    found = cp._lookup_module_and_qualname(value)  # noqa: SLF001 - the rule that cloudpickle's reducers follow
    if found is not None:
        return is_importable(found[0])
    return _is_in_unloaded_module(value)


def _is_in_unloaded_module(value: Any) -> bool:
    """Return whether a library says of something that it is in a module that was not imported yet: `numpy.rec`."""
    name = getattr(value, "__module__", None)
    if not isinstance(name, str) or name in sys.modules or name.partition(".")[0] not in sys.modules:
        return False
    try:
        found: Any = importlib.import_module(name)
        for part in value.__qualname__.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - a library's code: whatever it raises, it is not found there
        return False
    return found is value


def is_importable(module: types.ModuleType) -> bool:
    """Return whether a fresh process can import `module`: it has an origin, and is registered under its name."""
    name = module.__name__
    return sys.modules.get(name) is module and (
        name == "__main__" or name in sys.builtin_module_names or getattr(module, "__spec__", None) is not None
    )


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), sys.prefix, sys.base_prefix}
    if site.ENABLE_USER_SITE:
        paths.add(site.getusersitepackages())
    return tuple(f"{path}/" for path in paths if path not in {"", "/", "/usr"})


def is_notebook_module(module: Any) -> bool:
    """Return whether a module's code belongs to the notebook: a file beside it, not what is installed."""
    path = getattr(module, "__file__", None)
    return (
        isinstance(module, types.ModuleType)
        and isinstance(path, str)
        and path.endswith(".py")
        and module.__name__.partition(".")[0] not in _OWN
        and not str(pathlib.Path(path).absolute()).startswith(_installed())
    )


_OWN = frozenset({"capsule_kernel", "__main__", "__mp_main__"})


def owned_by_module(cls: type) -> dict[int, tuple[Any, str, str]]:
    """Return the values of `cls` that are attributes of its own module, by id: `dataclasses.MISSING`, `os.environ`.

    They exist once in every process, so they are referred to by name: each comes with its module's and its own. What
    a function makes (a class of its own, with one instance) is looked for in the package, too: `sympy.test`.
    """
    found: dict[int, tuple[Any, str, str]] = {}
    name: object = cls.__module__
    if not isinstance(name, str):
        return found
    names = {name, name.partition(".")[0]} if "<locals>" in cls.__qualname__ else {name}
    for each in sorted(names - {"__main__", "builtins"}):
        module = sys.modules.get(each)
        # A notebook's module is not looked at: its variables are state of the session, and saved.
        if module is None or not is_importable(module) or is_notebook_module(module):
            continue
        found |= {
            id(value): (value, each, attribute)
            for attribute, value in list(vars(module).items())
            if type(value) is cls and not isinstance(value, type)
        }
    return found


def describe(value: Any) -> tuple[str, str]:
    """Return a value's type and extent for people: `("DataFrame", "1000×5")`, `("list", "3 items")`."""
    cls = type(value)
    name = cls.__name__
    if isinstance(value, str | bytes | bytearray):
        unit = "characters" if isinstance(value, str) else "bytes"
        return name, f"{len(value):,} {unit}"
    if cls in {list, tuple, dict, set, frozenset}:
        return name, f"{len(value):,} item{'' if len(value) == 1 else 's'}"
    if library_of(cls) in {"numpy", "pandas", "scipy", "polars", "torch", "xarray"}:
        try:
            shape = tuple(value.shape)
        except Exception:  # noqa: BLE001 - a library's property; it only decorates a table
            shape = ()
        return name, "×".join(map(str, shape))
    return name, ""
