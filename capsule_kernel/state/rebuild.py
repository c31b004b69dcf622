"""Functions that a checkpoint's pickles call when they are loaded: what a reducer takes apart, one of these puts back.

Names and arguments are part of the stored format: they may be added to, but not changed.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any


def module_attribute(module: str, name: str) -> Any:
    """Return what the module holds under `name`."""
    return getattr(importlib.import_module(module), name)


def module_globals(module: str) -> dict[str, Any]:
    """Return the globals of an importable module."""
    return vars(importlib.import_module(module))


def imported_module(name: str, submodules: tuple[str, ...]) -> types.ModuleType:
    """Return a module, with those of its submodules loaded that were."""
    module = importlib.import_module(name)
    for submodule in submodules:
        full = f"{name}.{submodule}"
        if full not in sys.modules:
            importlib.import_module(full)
    return module


def globals_of(module: types.ModuleType) -> dict[str, Any]:
    """Return the globals of a dynamic module."""
    return vars(module)


def dynamic_module(name: str, registered: bool) -> types.ModuleType:
    """Return an empty module that no file stands behind; `registered` ones can be imported."""
    module = types.ModuleType(name)
    if registered:
        sys.modules[name] = module
    return module


def fill_module(module: types.ModuleType, values: dict[str, Any]) -> None:
    """Give a dynamic module its content."""
    vars(module).update(values)


def empty_cell() -> types.CellType:
    """Return a closure's cell without content."""
    return types.CellType()


def fill_cell(cell: types.CellType, content: tuple[Any]) -> None:
    """Give a cell its content."""
    cell.cell_contents = content[0]


def code(*args: Any) -> types.CodeType:
    """Return a code object of this version of Python."""
    return types.CodeType(*args)


def function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Return a function whose globals are `namespace` itself, so that it sees what is bound there later."""
    return types.FunctionType(code, namespace, name, None, closure)


def fill_function(made: types.FunctionType, state: dict[str, Any]) -> None:
    """Give a function its attributes."""
    vars(made).update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(made, name, value)


def fill_plain(made: Any, state: Any) -> None:
    """Give an object its attributes, as pickle does, without asking the object for anything."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        own = object.__getattribute__(made, "__dict__")
        own.update((sys.intern(name) if type(name) is str else name, value) for name, value in attributes.items())
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def new_class(meta: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """Return a class without content, made without the namespace's own metaclasses and `__init_subclass__`."""
    # That of TypedDict makes only what is written as a class statement; what it adds is part of the content.
    foreign = (cls for cls in meta.__mro__ if (cls.__module__, cls.__name__) not in _STATEMENT_ONLY)
    maker = next(cls for cls in foreign if cls.__module__ != "__main__")
    silenced = []
    ancestors: dict[Any, None] = {cls: None for given in bases for cls in given.__mro__}
    for base in ancestors:
        hook = vars(base).get("__init_subclass__")
        if hook is not None and base.__module__ == "__main__":
            silenced.append((base, hook))
            base.__init_subclass__ = classmethod(_do_nothing)
    try:
        made: type = maker.__new__(meta, sys.intern(name), bases, namespace)
    finally:
        for base, hook in silenced:
            base.__init_subclass__ = hook
    return made


_STATEMENT_ONLY = frozenset({("typing", "_TypedDictMeta"), ("typing_extensions", "_TypedDictMeta")})


def _do_nothing(_cls: type) -> None:
    pass


def fill_enum(made: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give an enum its methods, and its members what they carry."""
    attributes, carried = state
    for name, value in attributes.items():
        setattr(made, name, value)
    for name, values in carried.items():
        vars(made.__members__[name]).update(values)


def exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Return an exception without calling its class's own constructor, whose arguments nobody knows any more."""
    made = cls.__new__(cls, *args)
    made.args = args
    return made


def bare_exception(base: type, cls: type[BaseException], given: tuple[Any, ...]) -> BaseException:
    """Return an exception as `base` makes it: neither the constructor nor the `__new__` of its class is called."""
    made: BaseException = base.__new__(cls, *given)
    return made


def fill_exception(made: BaseException, state: dict[str, Any]) -> None:
    """Give an exception its attributes and the exceptions that led to it."""
    fill_plain(made, (state["dict"], state.get("slots")))
    if "args" in state:
        BaseException.args.__set__(made, state["args"])  # type: ignore[attr-defined]
    descriptors = exception_fields(type(made))
    for name, value in state.get("fields", {}).items():
        descriptors[name].__set__(made, value)
    made.__cause__ = state["cause"]
    made.__context__ = state["context"]
    made.__suppress_context__ = state["suppress"]


def exception_fields(cls: type) -> dict[str, Any]:
    """Return what reads and writes the fields that the builtin bases of a class of exceptions add, by name."""
    if issubclass(cls, BaseExceptionGroup):
        return {}
    return {
        name: descriptor
        for base in reversed(cls.__mro__)
        if base.__module__ == "builtins" and base not in {BaseException, object}
        for name, descriptor in vars(base).items()
        if isinstance(descriptor, types.MemberDescriptorType | types.GetSetDescriptorType)
    }


def value_of_builtin(base: type, cls: type, value: Any) -> Any:
    """Return a value of a class derived from a builtin one, without the class's own constructor."""
    return base.__new__(cls, value)


def fill_set(made: set[Any], state: tuple[set[Any], Any]) -> None:
    """Give a set of a derived class its items and attributes, without the class's own methods for the items."""
    items, attributes = state
    set.update(made, items)
    if hasattr(type(made), "__setstate__") and attributes is not None:
        made.__setstate__(attributes)  # type: ignore[attr-defined]
    else:
        fill_plain(made, attributes)


def method(function: Callable[..., Any], owner: Any) -> types.MethodType:
    """Return a bound method."""
    return types.MethodType(function, owner)


def array(data: Any, dtype: Any, shape: tuple[int, ...], order: str, writeable: bool) -> Any:
    """Return an array that owns its memory, with the bytes in `data`."""
    import numpy as np

    made = np.empty(shape, dtype, order="F" if order == "F" else "C")
    _fill_memory(made, data)
    made.flags.writeable = writeable
    return made


def _fill_memory(made: Any, data: Any) -> None:
    import numpy as np

    if made.nbytes:
        flat = made.ravel(order="K").view(np.uint8)
        if hasattr(data, "copy_into"):
            data.copy_into(memoryview(flat))
        else:
            flat[:] = np.frombuffer(data, np.uint8)


def view(
    base: Any, dtype: Any, offset_bytes: int, shape: tuple[int, ...], strides: tuple[int, ...], writeable: bool
) -> Any:
    """Return an array on the memory of `base`."""
    import numpy as np

    made: Any = np.ndarray(shape, dtype, buffer=base, offset=offset_bytes, strides=strides)
    if made.flags.writeable != writeable:
        made.flags.writeable = writeable
    return made


def view_as(cls: type, args: tuple[Any, ...]) -> Any:
    """Return an array of a subclass on the memory of another."""
    return view(*args).view(cls)


def array_as(cls: type, args: tuple[Any, ...]) -> Any:
    """Return an array of a subclass on memory that it alone looks at."""
    return array(*args).view(cls)


def owned_array_as(cls: Any, args: tuple[Any, ...]) -> Any:
    """Return an array of a subclass that owns its memory, and can be resized."""
    import numpy as np

    data, dtype, shape, order, writeable = args
    made: Any = np.ndarray.__new__(cls, shape, dtype, order="F" if order == "F" else "C")
    _fill_memory(np.ndarray.view(made, np.ndarray), data)
    made.flags.writeable = writeable
    return made


def fill_array(made: Any, state: tuple[Any, Any]) -> None:
    """Give an array of a subclass its content, as numpy writes it down, and its attributes."""
    import numpy as np

    np.ndarray.__setstate__(made, state[0])
    fill_plain(made, state[1])


def fill_dict(made: Any, state: dict[str, Any]) -> None:
    """Give an object its attributes."""
    vars(made).update(state)


def memmap(filename: str, dtype: Any, mode: str, offset: int, shape: tuple[int, ...], order: str) -> Any:
    """Return an array on a file as it is now."""
    import numpy as np

    return np.memmap(filename, dtype, "r+" if mode == "w+" else mode, offset, shape, order)  # type: ignore[call-overload]


def polars_series(chunks: list[bytes]) -> Any:
    """Return a polars series of several chunks."""
    first, *rest = (pickle.loads(chunk) for chunk in chunks)  # noqa: S301 - parts of a record that was signed
    for chunk in rest:
        first.append(chunk)
    return first


def polars_frame(columns: list[list[bytes]]) -> Any:
    """Return a polars table of columns of several chunks."""
    return importlib.import_module("polars").DataFrame([polars_series(chunks) for chunks in columns])


def pandas_references() -> Any:
    """Return what blocks of data that share memory hold in common (copy-on-write in pandas)."""
    from pandas._libs.internals import BlockValuesRefs

    return BlockValuesRefs()


def pandas_block(values: Any, placement: Any, ndim: int, references: Any) -> Any:
    """Return a block of data that copies itself before it is written to while others share its memory."""
    from pandas._libs.internals import BlockPlacement
    from pandas.core.internals.blocks import new_block

    return new_block(values, placement=BlockPlacement(placement), ndim=ndim, refs=references)


def pandas_series_manager(block: Any, axis: Any) -> Any:
    """Return the manager of a series' only block."""
    from pandas.core.internals.managers import SingleBlockManager

    return SingleBlockManager(block, axis)


def fill_index(index: Any, references: Any) -> None:
    """Have an index share memory as before."""
    index._references = references  # noqa: SLF001 - pandas has no public way
    references.add_index_reference(index)
