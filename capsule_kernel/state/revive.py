"""More functions that a checkpoint's pickles call: what stands for something in the process, made anew in this one.

As in `rebuild`, names and arguments are part of the stored format.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import queue
import re
import threading
import typing
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any


class Nothing(enum.Enum):
    """The value of what has none."""

    NOTHING = 0


NOTHING = Nothing.NOTHING


def lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Return a function behind an empty cache."""
    return functools.lru_cache(maxsize, typed)(function)


def fill_lru_cache(cached: Any, state: dict[str, Any]) -> None:
    """Give a cached function its attributes."""
    vars(cached).update(state)


def new_type(name: str, supertype: Any, module: str) -> Any:
    """Return a type of `typing.NewType`."""
    make: Any = typing.NewType
    made = make(name, supertype)
    made.__module__ = module
    return made


def type_variable(name: str, constraints: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return a type variable."""
    make: Any = typing.TypeVar
    return make(name, *constraints, **options)


def type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Return what a `type` statement makes."""
    return typing.TypeAliasType(name, value, type_params=parameters)


def match(pattern: re.Pattern[Any], how: str, string: Any, start: int, end: int) -> Any:
    """Return a match, found again."""
    return getattr(pattern, how)(string, start, end)


class _Mortal:
    pass


def dead_reference() -> weakref.ref[Any]:
    """Return a weak reference to what is gone."""
    return weakref.ref(_Mortal())


def weak_values(items: dict[Any, Any]) -> Any:
    """Return a dict whose entries go with their values."""
    return weakref.WeakValueDictionary(items)


def weak_keys(items: Iterable[tuple[Any, Any]]) -> Any:
    """Return a dict whose entries go with their keys."""
    return weakref.WeakKeyDictionary(items)


def lock(is_held: bool) -> Any:
    """Return a lock, taken if it was."""
    made = threading.Lock()
    if is_held:
        made.acquire()
    return made


def rlock(count: int) -> Any:
    """Return a re-entrant lock that this thread holds `count` times."""
    made = threading.RLock()
    for _ in range(count):
        made.acquire()
    return made


def thread_local(cls: Any, values: dict[str, Any], args: Any = (), keywords: Any = None) -> Any:
    """Return thread-local data, with this thread's values. Others make theirs of what the constructor was given."""
    made = cls.__new__(cls, *args, **(keywords or {}))
    vars(made).update(values)
    return made


def fresh_thread(cls: Any, name: str, daemon: bool) -> Any:
    """Return a thread that was not started."""
    made = cls.__new__(cls)
    threading.Thread.__init__(made, name=name, daemon=daemon)
    return made


def ended_thread(cls: Any, name: str, daemon: bool, ident: int, native_id: int) -> Any:
    """Return a thread that has ended. Nothing that its class says runs: it may need attributes that come later."""
    made = cls.__new__(cls)
    threading.Thread.__init__(made, name=name, daemon=daemon)
    vars(made)["run"] = _do_nothing
    threading.Thread.start(made)
    threading.Thread.join(made)
    del vars(made)["run"]
    made._ident, made._native_id = ident, native_id  # noqa: SLF001 - what `ident` and `native_id` show
    return made


def _do_nothing() -> None:
    pass


def simple_queue(items: list[Any]) -> Any:
    """Return a queue of `items`."""
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        made.put(item)
    return made


def context_variable(name: str, default: Any, current: Any) -> Any:
    """Return a context variable, with its value in this context."""
    variable: contextvars.ContextVar[Any]
    variable = contextvars.ContextVar(name) if default is NOTHING else contextvars.ContextVar(name, default=default)
    if current is not NOTHING and current is not default:
        variable.set(current)
    return variable


def whole_memoryview(owner: Any, format_: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """Return a view of all the bytes of `owner`."""
    view = memoryview(owner)
    if format_ != "B" or shape != view.shape:
        view = view.cast(format_, shape)  # type: ignore[call-overload]
    return view.toreadonly() if readonly else view


def keys_view(mapping: dict[Hashable, Any]) -> Any:
    """Return the keys of `mapping`, as a view."""
    return mapping.keys()


def values_view(mapping: dict[Hashable, Any]) -> Any:
    """Return the values of `mapping`, as a view."""
    return mapping.values()


def items_view(mapping: dict[Hashable, Any]) -> Any:
    """Return the items of `mapping`, as a view."""
    return mapping.items()


def executor(max_workers: int, prefix: str, is_shut_down: bool = False) -> Any:
    """Return an idle pool of threads, or one that takes no work any more."""
    from concurrent.futures import ThreadPoolExecutor

    made = ThreadPoolExecutor(max_workers, thread_name_prefix=prefix)
    if is_shut_down:
        made.shutdown()
    return made


def done_future(cls: Any, result: Any, error: BaseException | None) -> Any:
    """Return a future that has its outcome."""
    made = cls()
    if error is not None:
        made.set_exception(error)
    else:
        made.set_result(result)
    return made


def anonymous_mmap(content: bytes, position: int) -> Any:
    """Return memory that no file stands behind."""
    import mmap

    made = mmap.mmap(-1, len(content))
    made[:] = content
    made.seek(position)
    return made


def memory_database(content: bytes, settings: dict[str, Any]) -> Any:
    """Return a connection to an SQLite database in memory."""
    import sqlite3

    made = sqlite3.connect(":memory:", check_same_thread=settings.pop("check_same_thread", True))
    if content:
        made.deserialize(content)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def file_database(path: str, settings: dict[str, Any]) -> Any:
    """Return a connection to the SQLite database at `path`, as the file is now."""
    import os
    import sqlite3

    if not os.path.exists(path):
        raise FileNotFoundError(f"the database {path} is gone")
    made = sqlite3.connect(path)
    for name, value in settings.items():
        setattr(made, name, value)
    return made
