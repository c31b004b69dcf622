"""The pickler of records: cloudpickle, with the namespace and other records by reference.

What it does differently: functions keep the namespace itself as their globals (late binding) and share closure
cells; classes have no identity but that of their record; bytes and arrays stand beside the stream; what modules own
is referred to by name; secrets stop it.
"""

from __future__ import annotations

import builtins
import enum
import gc
import io
import math
import pickle
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cloudpickle
import cloudpickle.cloudpickle as cp

from capsule_kernel.state import classes, code, rebuild
from capsule_kernel.state.kinds import is_by_name, is_importable
from capsule_kernel.state.reasons import Unsaveable
from capsule_kernel.state.reducers import reducer_of

if TYPE_CHECKING:
    from capsule_kernel.state.linker import Linker, Node


def everywhere() -> dict[str, Any]:
    """Return the objects that every Python process has one of, by label; functions run in a dict hold the first."""
    found = {"builtins": vars(builtins), "sys.modules": sys.modules, "sys.path": sys.path, "math.nan": math.nan}
    # A number that does not equal itself is found in a list, or as a key, by what object it is.
    nan = getattr(sys.modules.get("numpy"), "nan", None)
    return found if nan is None else {**found, NUMPY_NAN: nan}


NUMPY_NAN = "numpy.nan"
"""The label of an object that is there once numpy is imported."""

_BLOB_BYTES_MIN = 64 << 10
_BUFFER_BYTES_MIN = 4 << 10
_SECRET_LENGTH_MIN = 8
"""Characters of a secret that is looked for within others: a shorter one may be a word that stands anywhere."""
_ENCODINGS = ("utf-8", "utf-16-le", "utf-32-le")
"""Of pickle and Arrow, of Windows, of numpy."""
_NOT_WRITTEN = "it holds what getpass returned, which is never written down"
_ATOMIC_PASS = frozenset({int, bool, type(None), tuple})


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a capture finds around the values, and refers to rather than saves."""

    engine: Mapping[str, Any]
    """Objects that every process has its own of, by a label that `restore` is given too: the namespace, the shell."""
    secret_ids: frozenset[int] = frozenset()
    """Ids of texts that must not be written down."""
    secret_hashes: frozenset[int] = frozenset()
    """`hash()` of the same texts, in this process: a copy is a secret too."""
    secret_texts: frozenset[str] = frozenset()
    """The texts themselves: what is made of a long one holds it, whatever it is."""
    alive_threads: frozenset[int] = frozenset()
    """Ids of the `Thread` objects that were alive when the fork was made: after it, they look as if they had ended."""
    has_foreign_threads: bool = False
    """Whether threads of user code ran when the fork was made: a lock that is held may be held by one of them."""
    labels: dict[int, str] = field(init=False)
    secret_parts: re.Pattern[bytes] | None = field(init=False)
    """What no record may hold."""

    def __post_init__(self) -> None:
        long = sorted(text for text in self.secret_texts if len(text) >= _SECRET_LENGTH_MIN)
        forms = [re.escape(text.encode(encoding, "replace")) for text in long for encoding in _ENCODINGS]
        object.__setattr__(self, "secret_parts", re.compile(b"|".join(forms)) if forms else None)
        labels = {id(value): label for label, value in {**everywhere(), **self.engine}.items()}
        object.__setattr__(self, "labels", labels)

    def is_secret(self, text: str | bytes) -> bool:
        """Return whether `text` must not be written down."""
        return bool(text) and (id(text) in self.secret_ids or hash(text) in self.secret_hashes)


class RecordPickler(cloudpickle.Pickler):
    """Pickles one node of a linker."""

    def __init__(self, file: io.BytesIO, linker: Linker, node: Node) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._take_buffer)
        self._file = file
        self._linker = linker
        self._node = node
        self._reducers: dict[type, Callable[[Any, RecordPickler], Any] | None] = {}
        self.environment = linker.environment
        self._has_secrets = bool(self.environment.secret_ids or self.environment.secret_hashes)
        self._labels = self.environment.labels
        self._blob_of: dict[int, int] = {}

    def dump(self, obj: Any) -> None:
        """Pickle the node.

        Raises:
            Unsaveable: what came out holds a secret: part of a text, an item of an array.
        """
        super().dump(obj)
        secret = self.environment.secret_parts
        if secret is None:
            return
        with self._file.getbuffer() as stream:
            parts: list[memoryview | bytes] = [stream, *(buffer for buffer, _ in self._node.buffers), *self._node.blobs]
            if any(secret.search(part) for part in parts):
                raise Unsaveable(_NOT_WRITTEN)

    def persistent_id(self, obj: Any) -> Any:
        """Return what the stream has in place of an object; None where the object itself is pickled."""
        cls = type(obj)
        if cls is float:
            return None if obj == obj else self._labels.get(id(obj))  # noqa: PLR0124 - only not-a-number does not
        if cls is str or cls is bytes:
            return self._text(obj)
        if cls in _ATOMIC_PASS and id(obj) not in self._linker.tuples:
            return None
        label = self._labels.get(id(obj))
        if label is not None:
            return label
        return self._linker.visit(self._node, obj)

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is taken apart; `NotImplemented` where pickle, or its class, knows."""
        cls = type(obj)
        if issubclass(cls, type):
            return self._reduce_class(obj)
        if cls is types.FunctionType:
            return NotImplemented if is_by_name(obj) else self._reduce_function(obj)
        place = self._linker.owned_attribute(obj)
        if place is not None:
            return rebuild.module_attribute, place
        try:
            reducer = self._reducers[cls]
        except KeyError:
            reducer = self._reducers[cls] = reducer_of(cls)
        return NotImplemented if reducer is None else reducer(obj, self)

    def note(self, text: str) -> None:
        """Say that something about the restored value will be different."""
        self._node.notes.add(text)

    def is_view(self, base: Any, viewer: Any) -> bool:
        """Return whether an array has to be stored as a view of `base`."""
        return self._linker.visit_view(self._node, base, viewer)

    def _text(self, text: str | bytes) -> Any:
        if self._has_secrets and self.environment.is_secret(text):
            raise Unsaveable(_NOT_WRITTEN)
        if len(text) < _BUFFER_BYTES_MIN:
            return None
        number = self._linker.visit(self._node, text)
        if number is not None:
            return number
        if type(text) is bytes and len(text) >= _BLOB_BYTES_MIN:
            blob = self._blob_of.get(id(text))
            if blob is None:
                blob = self._blob_of[id(text)] = len(self._node.blobs)
                self._node.blobs.append(text)
            return ("blob", blob)
        return None

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        view = memoryview(buffer)
        if view.nbytes < _BUFFER_BYTES_MIN:
            return True
        row_bytes = view.nbytes // view.shape[0] if view.shape and view.shape[0] else view.nbytes
        self._node.buffers.append((buffer.raw(), row_bytes))
        return False

    def _reduce_class(self, cls: type) -> Any:
        reduced = cp._class_reduce(cls)  # noqa: SLF001 - there is no public way to extend it
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        if is_by_name(cls):
            return NotImplemented
        return classes.reduce_enum(cls, reduced) if issubclass(cls, enum.Enum) else classes.reduce_class(cls, reduced)

    def _reduce_function(self, made: types.FunctionType) -> Any:
        globals_ = self._globals_of(made)
        state = {
            "__name__": made.__name__,
            "__qualname__": made.__qualname__,
            "__defaults__": made.__defaults__,
            "__kwdefaults__": made.__kwdefaults__,
            "__annotations__": made.__annotations__,
            "__module__": made.__module__,
            "__doc__": made.__doc__,
            "__type_params__": made.__type_params__,
            "__dict__": vars(made),
        }
        args = (made.__code__, globals_, made.__name__, made.__closure__)
        return rebuild.function, args, state, None, None, rebuild.fill_function

    def _globals_of(self, made: types.FunctionType) -> Any:
        """Return what stands for a function's globals: a dict of its own has its own place in the checkpoint."""
        space = made.__globals__
        if id(space) in self._labels:
            return space
        module = sys.modules.get(space.get("__name__", ""))
        if module is not None and vars(module) is space:
            return _ModuleGlobals(module)
        return self._linker.own_globals(made, _globals_without_name)


def _globals_without_name(space: dict[str, Any]) -> Any:
    # A generator expression would itself be among those that hold the dict.
    for found in gc.get_referrers(space):
        if _is_module_of(found, space):
            return _ModuleGlobals(found)
    return code.used_globals(space)


def _is_module_of(found: Any, space: dict[str, Any]) -> bool:
    # One whose name was deleted cannot be made again: its globals are a dict like another.
    return isinstance(found, types.ModuleType) and vars(found) is space and "__name__" in space


class _ModuleGlobals:
    """Stands for the globals of a module in a function's arguments."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __reduce__(self) -> Any:
        if is_importable(self._module):
            return rebuild.module_globals, (self._module.__name__,)
        return rebuild.globals_of, (self._module,)
