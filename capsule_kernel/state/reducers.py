"""How objects are taken apart that pickle and cloudpickle refuse, or take apart wrongly: Python's own types.

A reducer gets the object and the pickler and returns what `__reduce__` would, or raises `Unsaveable`. They are found
by the type's qualified name, so that nothing is imported for it. They run in a process that ends after the capture.
"""

from __future__ import annotations

import contextvars
import copyreg
import gc
import re
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import code, ended, rebuild, revive
from capsule_kernel.state.reasons import Unsaveable

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler

type Reducer = Callable[[Any, RecordPickler], Any]


def reducer_of(cls: type) -> Reducer | None:
    """Return what takes the values of `cls` apart, None where pickle knows."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    found = _EXACT.get(name)
    if found is not None:
        return found
    if issubclass(cls, types.ModuleType):
        return code.REDUCERS["builtins.module"]
    if cls.__module__ == "__main__":
        found = _reducer_of_own(cls)
        if found is not None:
            return found
    if issubclass(cls, BaseException):
        return _exception if _is_plain_exception(cls) else None
    for ancestor in cls.__mro__:
        base = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if base in ended.DERIVED:
            return ended.DERIVED[base]
        if base in _LIVE_ONLY:
            return _refusal(_LIVE_ONLY[base])
    if cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__:
        if issubclass(cls, threading.Thread):
            return _thread
        if issubclass(cls, threading.local):
            return _local
    from capsule_kernel.state import arrays, resources, tables

    for reducers in (arrays.REDUCERS, tables.REDUCERS, resources.REDUCERS):
        if name in reducers:
            return reducers[name]
    return arrays.reducer_of_subclass(cls) or (_plain if _asks_itself(cls) else None)


def _reducer_of_own(cls: Any) -> Reducer | None:
    """Return what takes the values of a class of the notebook apart, where it says how or is derived from a builtin."""
    from capsule_kernel.state import arrays

    # Numpy's own way forgets the attributes, and who looks at whose memory.
    found = _set_reducer(cls) or arrays.reducer_of_subclass(cls)
    if found is not None:
        return found
    is_plain = cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__
    if not is_plain and not _is_plain_exception(cls):
        return _own_reduce
    builtin = _base_of(cls)
    return None if builtin is None else _derived(builtin)


def _refusal(reason: str) -> Reducer:
    def refuse(_obj: Any, _pickler: RecordPickler) -> Any:
        raise Unsaveable(reason)

    return refuse


def _derived(base: Any) -> Reducer:
    def reduce_(value: Any, _pickler: RecordPickler) -> Any:
        # Converting it would ask the class, which may answer with something else than what it holds.
        content = base(*base.__getnewargs__(value))
        return rebuild.value_of_builtin, (base, type(value), content), *_state_of(value)

    return reduce_


def _set_reducer(cls: Any) -> Reducer | None:
    """Return what takes a class of sets apart without its constructor, None where the class says itself how."""
    if cls.__reduce_ex__ is not object.__reduce_ex__:
        return None
    if issubclass(cls, frozenset):
        return _frozen_set if cls.__reduce__ is frozenset.__reduce__ else None
    return _set if issubclass(cls, set) and cls.__reduce__ is set.__reduce__ else None


def _frozen_set(value: frozenset[Any], _pickler: RecordPickler) -> Any:
    content = frozenset(frozenset.__iter__(value))
    return rebuild.value_of_builtin, (frozenset, type(value), content), *_state_of(value)


def _set(value: set[Any], _pickler: RecordPickler) -> Any:
    # What is in it may hold the set itself: it is filled when it is there.
    state = (set(set.__iter__(value)), _state_of(value)[0])
    return rebuild.value_of_builtin, (set, type(value), ()), state, None, None, rebuild.fill_set


def _state_of(value: Any) -> tuple[Any, ...]:
    """Return a value's attributes and slots, as its class gives them, and how they are put back."""
    state = value.__getstate__()
    # Pickle would ask an object that is still empty for `__setstate__`, and so its `__getattr__`.
    setter = None if hasattr(type(value), "__setstate__") else rebuild.fill_plain
    return (state, None, None, setter) if state is not None and setter is not None else (state,)


def _asks_itself(cls: Any) -> bool:
    """Return whether pickle's question for `__setstate__` would reach the class's own `__getattr__`.

    Of an object that is still empty, that often ends in a recursion: it asks for the attribute that it hands on to.
    """
    return (
        isinstance(getattr(cls, "__getattr__", None), types.FunctionType)
        and cls not in copyreg.dispatch_table
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and not hasattr(cls, "__setstate__")
    )


def _plain(value: Any, _pickler: RecordPickler) -> Any:
    reduced = (*object.__reduce_ex__(value, 5), None, None, None)[:5]
    return reduced if reduced[2] is None else (*reduced, rebuild.fill_plain)


_BASES = (tuple, str, bytes, int, float, complex)


def _base_of(cls: type) -> type | None:
    """Return the builtin that a class derives from, where the class's own constructor takes something else."""
    base = next((base for base in _BASES if issubclass(cls, base)), None)
    own_new: Any = cls.__new__
    if base is None or own_new is base.__new__:
        return None
    own = getattr(cls, "__getnewargs__", None)
    return base if own is getattr(base, "__getnewargs__", None) and not hasattr(cls, "__getnewargs_ex__") else None


def _own_reduce(value: Any, _pickler: RecordPickler) -> Any:
    """Take apart a value whose class says how; one that is to be found by a name of the namespace cannot be."""
    reduced = value.__reduce_ex__(5)
    if isinstance(reduced, str):
        return copyreg.__newobj__, (type(value),), value.__getstate__()  # type: ignore[attr-defined]
    return reduced


def _is_plain_exception(cls: Any) -> bool:
    """Return whether a class of exceptions leaves to Python how they are taken apart."""
    return (
        issubclass(cls, BaseException)
        and cls.__reduce__ in _PLAIN_EXCEPTION_REDUCES
        and cls.__reduce_ex__ is object.__reduce_ex__
    )


def _exception(error: BaseException, pickler: RecordPickler) -> Any:
    if error.__traceback__ is not None:
        pickler.note("an exception comes back without its traceback")
    cls = type(error)
    base = _native_base(cls)
    given: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        # What is in a group is read-only: it is told when it is made.
        given = tuple(vars(BaseExceptionGroup)[name].__get__(error) for name in ("message", "exceptions"))
    elif base.__module__ != "builtins":
        given = error.args
    attributes: Any = object.__getstate__(error)
    own, slots = attributes if isinstance(attributes, tuple) else (attributes, None)
    state = {
        "dict": own or {},
        "slots": slots or {},
        "args": BaseException.args.__get__(error),  # type: ignore[attr-defined]
        "fields": _fields(error),
        "cause": error.__cause__,
        "context": error.__context__,
        "suppress": error.__suppress_context__,
    }
    return rebuild.bare_exception, (base, cls, given), state, None, None, rebuild.fill_exception


def _native_base(cls: type) -> type:
    """Return the nearest base whose `__new__` is not written in Python: nobody's constructor is asked for more."""
    base: Any = cls
    while not isinstance(vars(base).get("__new__"), types.BuiltinFunctionType):
        base = base.__base__
    return base  # type: ignore[no-any-return]


def _fields(error: BaseException) -> dict[str, Any]:
    """Return what builtin exceptions keep beside their arguments: the name that was not found, the file's name."""
    found = {}
    for name, descriptor in rebuild.exception_fields(type(error)).items():
        try:
            value = descriptor.__get__(error)
        except AttributeError:
            # It was never given, as the characters that were written before a block.
            continue
        if value is not None:
            found[name] = value
    return found


_PLAIN_EXCEPTION_REDUCES = (
    BaseException.__reduce__,
    OSError.__reduce__,
    ImportError.__reduce__,
    AttributeError.__reduce__,
)


def _match(match: re.Match[str], _pickler: RecordPickler) -> Any:
    for how in ("search", "match", "fullmatch"):
        again = getattr(match.re, how)(match.string, match.pos, match.endpos)
        if again is not None and again.regs == match.regs:
            return revive.match, (match.re, how, match.string, match.pos, match.endpos)
    # One of several, as `finditer` yields them: the same place again, with what follows in sight.
    again = match.re.match(match.string, match.start(), match.endpos)
    if again is not None and again.regs == match.regs:
        return revive.match, (match.re, "match", match.string, match.start(), match.endpos)
    raise Unsaveable("a match that cannot be found again")


# --- weak references --------------------------------------------------------------------------------------------------


def _weakref(reference: weakref.ref[Any], _pickler: RecordPickler) -> Any:
    if reference.__callback__ is not None:
        raise Unsaveable("a weak reference with a callback")
    target = reference()
    return (revive.dead_reference, ()) if target is None else (weakref.ref, (target,))


def _weak_method(reference: Any, _pickler: RecordPickler) -> Any:
    method = reference()
    return (revive.dead_reference, ()) if method is None else (weakref.WeakMethod, (method,))


def _proxy(proxy: Any, _pickler: RecordPickler) -> Any:
    # A proxy hands everything on, bound methods included.
    return weakref.proxy, (proxy.__repr__.__self__,)


def _weak_values(mapping: Any, _pickler: RecordPickler) -> Any:
    return revive.weak_values, (dict(mapping),)


def _weak_keys(mapping: Any, _pickler: RecordPickler) -> Any:
    return revive.weak_keys, (list(mapping.items()),)


# --- threads ----------------------------------------------------------------------------------------------------------


def _lock(lock: Any, pickler: RecordPickler) -> Any:
    is_held = lock.locked()
    if is_held and pickler.environment.has_foreign_threads:
        raise Unsaveable("a lock that is held, maybe by another thread")
    return revive.lock, (is_held,)


def _rlock(lock: Any, _pickler: RecordPickler) -> Any:
    found = re.search(r"owner=(\d+) count=(\d+)", repr(lock))
    count = int(found[2]) if found is not None else 0
    if count and not lock._is_owned():  # noqa: SLF001 - threading.Condition asks it the same way
        raise Unsaveable("a lock that another thread holds")
    return revive.rlock, (count,)


def _local(local: Any, _pickler: RecordPickler) -> Any:
    # What its constructor was given, from which other threads make values of their own: nothing but the collector asks.
    referents = gc.get_referents(local)
    args = next((found for found in referents if type(found) is tuple), ())
    keywords = next((found for found in referents if type(found) is dict and set(map(type, found)) == {str}), {})
    given = (args, keywords) if args or keywords else ()
    return revive.thread_local, (type(local), dict(vars(local)), *given)


def _simple_queue(queue: Any, _pickler: RecordPickler) -> Any:
    items = [queue.get_nowait() for _ in range(queue.qsize())]
    for item in items:
        queue.put(item)
    return revive.simple_queue, (items,)


def _thread(thread: Any, pickler: RecordPickler) -> Any:
    if thread.is_alive() or id(thread) in pickler.environment.alive_threads:
        raise Unsaveable("a thread that runs")
    state: Any = object.__getstate__(thread)
    attributes, slots = state if isinstance(state, tuple) else (state, {})
    own = _THREAD_OWN if thread.ident is not None else _THREAD_OWN - _THREAD_WORK
    kept = {name: value for name, value in attributes.items() if name not in own}
    filled = (kept, slots) if slots else kept or None
    if thread.ident is None:
        args: Any = (type(thread), thread.name, thread.daemon)
        return revive.fresh_thread, args, filled, None, None, rebuild.fill_plain
    args = (type(thread), thread.name, thread.daemon, thread.ident, thread.native_id)
    return revive.ended_thread, args, filled, None, None, rebuild.fill_plain


_THREAD_OWN = frozenset(vars(threading.Thread(name="like all")))
_THREAD_WORK = frozenset({"_target", "_args", "_kwargs"})


def _context_variable(variable: contextvars.ContextVar[Any], _pickler: RecordPickler) -> Any:
    nothing: Any = revive.NOTHING
    try:
        # In a context where nothing is set; what `get` is given would be preferred to the default.
        default = contextvars.Context().run(variable.get)
    except LookupError:
        default = nothing
    current = variable.get(nothing)
    return revive.context_variable, (variable.name, default, current)


# --- containers that pickle takes apart wrongly -----------------------------------------------------------------------


def _memoryview(view: memoryview, _pickler: RecordPickler) -> Any:
    owner = view.obj
    if isinstance(owner, bytes | bytearray) and view.nbytes == len(owner) and view.contiguous:
        return revive.whole_memoryview, (owner, view.format, tuple(view.shape or ()), view.readonly)
    if view.readonly and isinstance(owner, bytes):
        return revive.whole_memoryview, (view.tobytes(), view.format, tuple(view.shape or ()), True)
    raise Unsaveable("a memoryview of a part of another object")


def _view_of(make: Callable[[Any], Any]) -> Reducer:
    def reduce_(view: Any, _pickler: RecordPickler) -> Any:
        return make, (gc.get_referents(view)[0],)

    return reduce_


_EXACT: dict[str, Reducer] = {
    **code.REDUCERS,
    **ended.EXACT,
    "builtins.memoryview": _memoryview,
    "builtins.dict_keys": _view_of(revive.keys_view),
    "builtins.dict_values": _view_of(revive.values_view),
    "builtins.dict_items": _view_of(revive.items_view),
    "builtins.odict_keys": _view_of(revive.keys_view),
    "builtins.odict_values": _view_of(revive.values_view),
    "builtins.odict_items": _view_of(revive.items_view),
    "re.Match": _match,
    "weakref.ReferenceType": _weakref,
    "weakref.WeakMethod": _weak_method,
    "weakref.ProxyType": _proxy,
    "weakref.CallableProxyType": _proxy,
    "weakref.WeakValueDictionary": _weak_values,
    "weakref.WeakKeyDictionary": _weak_keys,
    "_thread.lock": _lock,
    "_thread.RLock": _rlock,
    "_thread._local": _local,
    "_queue.SimpleQueue": _simple_queue,
    "threading.Thread": _thread,
    "_contextvars.ContextVar": _context_variable,
}

_LIVE_ONLY = {
    "asyncio.events.Handle": "a callback that an event loop has to run",
    "tornado.ioloop.IOLoop": "an event loop",
    "multiprocessing.shared_memory.SharedMemory": "memory that other processes share",
    "tempfile._TemporaryFileWrapper": "a temporary file, which is deleted with this process",
    "tempfile.TemporaryDirectory": "a temporary folder, which is deleted with this process",
    "tempfile.SpooledTemporaryFile": "a temporary file, which is deleted with this process",
    "weakref.finalize": "a finalizer registered with this process",
}
