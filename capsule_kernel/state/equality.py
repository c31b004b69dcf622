"""Whether two values are the same in all that a user can see: types, content, layout, and what is one object.

`==` is not asked: it is user code, it is elementwise for arrays, and it finds `1 == 1.0 == True`. Used to verify what
was restored, and by tests.
"""

from __future__ import annotations

import enum
import inspect
import math
import pickle
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from capsule_kernel.state.code import used_globals
from capsule_kernel.state.kinds import Kind, is_by_name, kind_of, library_of
from capsule_kernel.state.reasons import reason_of
from capsule_kernel.state.reducers import reducer_of

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler

_MAX = 10
_OBJECT_GETSTATE = vars(object)["__getstate__"]
_PASSING = {
    # What is drawn, and computed, once more when it is needed; the next number of a callback.
    "matplotlib": frozenset({"_stale", "_invalid", "_cid_gen"}),
    # Warnings for the library's own older names; its objects leave them out when they are loaded.
    "sklearn": frozenset({"_deprecated_key_to_warnings"}),
}
"""Attributes of a library's objects that say how far they are, not what they are."""

_UNORDERED = frozenset({"plotly"})
"""Libraries whose objects write themselves down as JSON, with keys in any order."""

_CLASS_OWN = frozenset(
    {"__dict__", "__weakref__", "_abc_impl", "__firstlineno__", "__static_attributes__", "__slotnames__"}
)


def differences(left: Any, right: Any, same: Iterable[tuple[Any, Any]] = ()) -> list[str]:
    """Return where two values differ, the first few places, as paths with what is there; empty where they are the same.

    Args:
        left: one.
        right: the other.
        same: pairs that count as the same: the two namespaces, the two shells.
    """
    comparison = _Comparison(same)
    comparison.compare("value", left, right)
    return comparison.found


class _Comparison:
    def __init__(self, same: Iterable[tuple[Any, Any]]) -> None:
        self.found: list[str] = []
        self._to_right: dict[int, int] = {}
        self._to_left: dict[int, int] = {}
        self._alive: list[Any] = []
        self._globals: dict[int, tuple[types.FunctionType, dict[str, Any]]] = {}
        self._work: deque[tuple[str, Any, Any]] = deque()
        for left, right in same:
            self._pair(left, right)

    def compare(self, path: str, left: Any, right: Any) -> None:
        self._work.append((path, left, right))
        while self._work and len(self.found) < _MAX:
            place, one, other = self._work.popleft()
            try:
                self._one(place, one, other)
            except BaseException as exc:  # noqa: BLE001 - an object's own code, in a process that nobody interrupts
                self._differ(place, "an object", f"it cannot be compared: {reason_of(exc)}")

    def _one(self, path: str, left: Any, right: Any) -> None:
        known = self._to_right.get(id(left))
        if known is not None or id(right) in self._to_left:
            if known != id(right):
                self._differ(path, "one object" if known else "an object of its own", "not so")
            return
        cls = type(left)
        if kind_of(cls) >= Kind.CODE:
            if left is right:
                return
            self._pair(left, right)
        if cls is not type(right):
            if cls.__qualname__ != type(right).__qualname__:
                self._differ(path, cls.__qualname__, type(right).__qualname__)
                return
            self._add(f"type({path})", cls, type(right))
        self._content(path, cls, left, right)

    def _content(self, path: str, cls: type, left: Any, right: Any) -> None:
        if cls is float or cls is complex:
            if not _same_number(left, right):
                self._differ(path, left, right)
        elif cls in {list, tuple, deque}:
            self._sequences(path, left, right)
        elif cls is dict:
            self._mappings(path, left, right)
        elif cls in {set, frozenset}:
            self._sequences(path, sorted(left, key=_sort_key), sorted(right, key=_sort_key))
        elif isinstance(left, enum.Enum):
            self._add(path, [left._name_, left._value_], [right._name_, right._value_])
        elif cls is types.BuiltinMethodType and not isinstance(left.__self__, types.ModuleType | type(None)):
            one, other = ([each.__name__, each.__self__, _is_own(each)] for each in (left, right))
            self._add(path, one, other)
        elif cls is types.MemberDescriptorType:
            self._add(path, [left.__name__, left.__objclass__], [right.__name__, right.__objclass__])
        elif kind_of(cls) in {Kind.ATOM, Kind.TEXT}:
            if left != right and not (left != left and right != right):  # noqa: PLR0124 - not-a-time is not itself
                self._differ(path, left, right)
        elif isinstance(left, type | types.FunctionType | types.ModuleType) and is_by_name(left):
            self._differ(path, left, right)
        elif isinstance(left, types.FunctionType):
            self._functions(path, left, right)
        elif isinstance(left, type):
            self._classes(path, left, right)
        elif cls is _Attributes:
            self._attributes(path, left, right)
        elif cls is pickle.PickleBuffer:
            if left.raw() != right.raw():
                self._differ(path, "memory", "other content")
        elif cls.__module__ == "numpy" and cls.__qualname__ == "ndarray":
            self._arrays(path, left, right)
        elif library_of(cls) == "pandas" and hasattr(left, "equals"):
            self._frames(path, left, right)
        else:
            self._objects(path, left, right)

    def _sequences(self, path: str, left: Any, right: Any) -> None:
        if len(left) != len(right):
            self._differ(path, f"{len(left)} items", f"{len(right)} items")
            return
        for place, (one, other) in enumerate(zip(left, right, strict=True)):
            self._add(f"{path}[{place}]", one, other)

    def _mappings(self, path: str, left: Mapping[Any, Any], right: Mapping[Any, Any]) -> None:
        self._sequences(f"keys({path})", list(left), list(right))
        if len(left) == len(right):
            for (key, one), other in zip(left.items(), right.values(), strict=True):
                self._add(f"{path}[{_text(key)}]", one, other)

    def _classes(self, path: str, left: type, right: type) -> None:
        # In no order: a class is made in two steps when it is restored.
        one, other = (
            {key: value for key, value in sorted(vars(cls).items()) if key not in _CLASS_OWN} for cls in (left, right)
        )
        one.setdefault("__doc__", None)
        other.setdefault("__doc__", None)
        self._mappings(path, dict(sorted(one.items())), dict(sorted(other.items())))
        self._add(f"{path}.__bases__", left.__bases__, right.__bases__)

    def _functions(self, path: str, left: Any, right: Any) -> None:
        for name in ("__name__", "__defaults__", "__kwdefaults__", "__dict__", "__doc__", "__module__"):
            self._add(f"{path}.{name}", getattr(left, name), getattr(right, name))
        if left.__code__ != right.__code__:
            self._differ(f"{path}.__code__", left.__code__, right.__code__)
        self._sequences(f"{path}.__closure__", left.__closure__ or (), right.__closure__ or ())
        self._add(f"{path}.__globals__", self._globals_of(left), self._globals_of(right))

    def _globals_of(self, made: types.FunctionType) -> dict[str, Any]:
        """Return what is saved of a function's globals, as one dict for all that share them."""
        identity = id(made.__globals__)
        if identity in self._to_right or identity in self._to_left:
            return made.__globals__
        if identity not in self._globals:
            # The function keeps its globals alive, as in the linker.
            self._globals[identity] = (made, used_globals(made.__globals__))
        return self._globals[identity][1]

    def _arrays(self, path: str, left: Any, right: Any) -> None:
        numpy = sys.modules["numpy"]
        for name in ("dtype", "shape"):
            if getattr(left, name) != getattr(right, name):
                self._differ(f"{path}.{name}", getattr(left, name), getattr(right, name))
                return
        # An array with gaps, in memory that it alone looks at, comes back without them, as from numpy's own pickling.
        has_gaps = not (left.flags["C_CONTIGUOUS"] or left.flags["F_CONTIGUOUS"]) and type(left.base) is type(left)
        for name in ("WRITEABLE",) if has_gaps else ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE"):
            if left.flags[name] != right.flags[name]:
                self._differ(f"{path}.flags.{name}", left.flags[name], right.flags[name])
        if left.dtype.hasobject:
            self._sequences(path, left.ravel().tolist(), right.ravel().tolist())
        elif numpy.ascontiguousarray(left).tobytes() != numpy.ascontiguousarray(right).tobytes():
            self._differ(path, "an array", "other content")

    def _frames(self, path: str, left: Any, right: Any) -> None:
        if not left.equals(right):
            self._differ(path, "a table", "other content")
        for name in ("dtypes", "dtype", "name", "names", "attrs"):
            one, other = getattr(left, name, None), getattr(right, name, None)
            if str(one) != str(other):
                self._differ(f"{path}.{name}", one, other)

    def _objects(self, path: str, left: Any, right: Any) -> None:
        one, other = _parts(left), _parts(right)
        if isinstance(one, str) or isinstance(other, str):
            if one != other:
                self._differ(path, one, other)
            return
        # Made for the comparison: they have no identity.
        for place, (first, second) in enumerate(zip(one, other, strict=False)):
            self._add(path if isinstance(first, _Attributes) else f"{path}.{place}", first, second)
        if len(one) != len(other):
            self._differ(path, f"{len(one)} parts", f"{len(other)} parts")

    def _attributes(self, path: str, left: _Attributes, right: _Attributes) -> None:
        if left.keys() != right.keys():
            self._differ(f"attributes({path})", sorted(left), sorted(right))
            return
        for name, one in left.items():
            self._add(f"{path}.{name}", one, right[name])

    def _pair(self, left: Any, right: Any) -> None:
        self._to_right[id(left)] = id(right)
        self._to_left[id(right)] = id(left)
        self._alive += (left, right)

    def _add(self, path: str, left: Any, right: Any) -> None:
        self._work.append((path, left, right))

    def _differ(self, path: str, left: Any, right: Any) -> None:
        self.found.append(f"{path}: {_text(left)}, {_text(right)}")


class _Attributes(dict[str, Any]):
    """Values by name in no order: an object's own, whose order nothing but a listing of them shows."""


class _Recorder:
    """What a reducer asks of a pickler."""

    def __init__(self) -> None:
        from capsule_kernel.state.pickler import Environment

        self.environment = Environment(engine={})

    def note(self, _text: str) -> None:
        """Notes are for checkpoints."""

    def is_view(self, _base: Any, _viewer: Any) -> bool:
        """Layout is compared, not who owns the memory."""
        return False


def _parts(value: Any) -> Any:
    """Return what an object is made of, as its reducer says."""
    recorder: Any = _Recorder()
    pickler: RecordPickler = recorder
    reducer = reducer_of(type(value))
    reduced = NotImplemented if reducer is None else reducer(value, pickler)
    if reduced is NotImplemented:
        known = cloudpickle.Pickler.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if known is None else known(value)
    if isinstance(reduced, str):
        return reduced
    library = library_of(type(value))
    parts = [_unordered(part) for part in reduced[1]] if library in _UNORDERED else list(reduced[1])
    passing = _PASSING.get(library, frozenset())
    is_own = library in _PASSING or inspect.getattr_static(type(value), "__getstate__", None) is _OBJECT_GETSTATE
    for extra in reduced[2:5]:
        if isinstance(extra, dict) and is_own and all(isinstance(name, str) for name in extra):
            # An object's own dict: it is that of the object, whatever process it is in.
            own = _Attributes((name, part) for name, part in extra.items() if name not in passing)
            parts += [own] if own else []
        elif isinstance(extra, dict):
            parts += [list(extra), list(extra.values())]
        elif extra is not None and not isinstance(extra, tuple | list):
            parts.append(list(extra) if hasattr(extra, "__next__") else extra)
        elif extra is not None:
            parts.append(extra)
    if library == "matplotlib" and isinstance(getattr(value, "callbacks", None), dict):
        parts.append(_connected(value.callbacks))
    return parts


def _connected(callbacks: dict[str, dict[int, Any]]) -> list[str]:
    """Return for which events matplotlib would call handlers of others: they are not pickled, and missed."""
    found = []
    for signal, references in callbacks.items():
        for reference in references.values():
            module = getattr(reference(), "__module__", None) or ""
            if module.partition(".")[0] not in {"matplotlib", "mpl_toolkits", "matplotlib_inline"}:
                found.append(signal)
    return sorted(found)


def _is_own(method: types.BuiltinMethodType) -> bool:
    """Return whether a bound method is the one that its object has, and not the one of a class above."""
    return bool(method == getattr(method.__self__, method.__name__, None))


def _unordered(value: Any) -> Any:
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return _Attributes((name, _unordered(part)) for name, part in value.items())
    return [_unordered(part) for part in value] if type(value) in {list, tuple} else value


def _same_number(left: complex, right: complex) -> bool:
    if isinstance(left, complex) and isinstance(right, complex):
        return _same_number(left.real, right.real) and _same_number(left.imag, right.imag)
    left_, right_ = float(left.real), float(right.real)
    return (math.isnan(left_) and math.isnan(right_)) or (
        left_ == right_ and math.copysign(1, left_) == math.copysign(1, right_)
    )


def _sort_key(value: Any) -> tuple[str, str]:
    return type(value).__qualname__, _text(value)


def _text(value: Any) -> str:
    try:
        return repr(value)[:80]
    except BaseException as exc:  # noqa: BLE001 - an object's own code
        return f"<{type(value).__qualname__}, repr: {type(exc).__name__}>"
