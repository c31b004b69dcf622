"""How numpy's and pandas' objects are taken apart: arrays with their memory, views as views, copy-on-write kept.

The libraries are not imported here: their types were, or there are no such values.
"""

from __future__ import annotations

import array
import mmap
import os
import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import rebuild
from capsule_kernel.state.kinds import library_of
from capsule_kernel.state.reasons import Unsaveable

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler

_IN_STREAM_BYTES_MAX = 4 << 10


def _base_of(made: Any) -> Any:
    """Return the object that owns an array's memory, the array itself where nothing else with identity does."""
    numpy = sys.modules["numpy"]
    base = made
    while True:
        owner = base.base if isinstance(base, numpy.ndarray) else None
        if isinstance(owner, memoryview):
            owner = owner.obj
        if owner is None or not isinstance(owner, numpy.ndarray | bytearray | array.array | mmap.mmap):
            return base
        if isinstance(owner, mmap.mmap) and isinstance(base, numpy.memmap):
            return base
        base = owner


def _ndarray(made: Any, pickler: RecordPickler) -> Any:
    base = _base_of(made)
    if isinstance(base, mmap.mmap):
        raise Unsaveable("it lies in memory that is mapped from a file or shared with other processes")
    if _is_view(made, base, pickler):
        return _view(made, base)
    return NotImplemented if made.dtype.hasobject else (rebuild.array, _content(made))


def _is_view(made: Any, base: Any, pickler: RecordPickler) -> bool:
    # Before the size is asked for: all views of a base are counted.
    is_view = pickler.is_view(base, made)
    is_larger = base is not made and made.nbytes > memoryview(base).nbytes if _has_buffer(base) else False
    return is_view or is_larger or (isinstance(base, sys.modules["numpy"].memmap) and base is not made)


def _content(made: Any) -> tuple[Any, ...]:
    """Return what an array with memory of its own is made of."""
    numpy = sys.modules["numpy"]
    if made.flags.c_contiguous:
        order = "C"
    elif made.flags.f_contiguous:
        order = "F"
    else:
        made_flat = numpy.array(made, order="K")
        order = "C" if made_flat.flags.c_contiguous else "F"
        if not (made_flat.flags.c_contiguous or made_flat.flags.f_contiguous):
            made_flat, order = numpy.ascontiguousarray(made), "C"
        return _bytes_of(made_flat, order), made.dtype, made.shape, order, made.flags.writeable
    return _bytes_of(made, order), made.dtype, made.shape, order, made.flags.writeable


def _subclass(made: Any, pickler: RecordPickler) -> Any:
    base = _base_of(made)
    if isinstance(base, mmap.mmap):
        return NotImplemented
    own: Any = object.__getstate__(made)
    if _is_view(made, base, pickler):
        return rebuild.view_as, (type(made), _view(made, base)[1]), own, None, None, rebuild.fill_plain
    ndarray = sys.modules["numpy"].ndarray
    if made.dtype.hasobject:
        make, args, content = ndarray.__reduce__(made)
        return make, args, (content, own), None, None, rebuild.fill_array
    # Seen as numpy's own: the class may have other methods under the same names.
    args = (type(made), _content(ndarray.view(made, ndarray)))
    make = rebuild.owned_array_as if made.flags.owndata else rebuild.array_as
    return make, args, own, None, None, rebuild.fill_plain


def _masked(made: Any, pickler: RecordPickler) -> Any:
    base = _base_of(made)
    if isinstance(base, mmap.mmap) or made.dtype.hasobject:
        return NotImplemented
    own = vars(made)
    if pickler.is_view(base, made):
        return rebuild.view_as, (type(made), _view(made, base)[1]), own, None, None, rebuild.fill_dict
    data = sys.modules["numpy"].ascontiguousarray(made.data)
    args = (_bytes_of(data, "C"), data.dtype, made.shape, "C", made.flags.writeable)
    return rebuild.array_as, (type(made), args), own, None, None, rebuild.fill_dict


def _has_buffer(base: Any) -> bool:
    return not hasattr(base, "dtype") or base.dtype.kind in "biufc"


def _bytes_of(made: Any, order: str) -> Any:
    numpy = sys.modules["numpy"]
    if not made.nbytes:
        return b""
    flat = made.ravel(order="K").view(numpy.uint8)
    if made.nbytes < _IN_STREAM_BYTES_MAX:
        return flat.tobytes()
    rows = made.shape[0 if order == "C" else -1] if made.ndim else 1
    return pickle.PickleBuffer(flat.reshape(rows, -1))


def _view(made: Any, base: Any) -> Any:
    numpy = sys.modules["numpy"]
    start = base if isinstance(base, numpy.ndarray) else numpy.frombuffer(base, numpy.uint8)
    offset = made.__array_interface__["data"][0] - start.__array_interface__["data"][0]
    return rebuild.view, (base, made.dtype, offset, made.shape, made.strides, made.flags.writeable)


def _memmap(made: Any, pickler: RecordPickler) -> Any:
    base = _base_of(made)
    if base is not made:
        raise Unsaveable("it is a part of an array that lies in a file")
    if made.filename is None or not os.path.exists(made.filename):
        raise Unsaveable("it lies in a file that has no name")
    if made.mode == "c":
        raise Unsaveable("it holds changes to a file that are private to this process")
    pickler.note(f"the content of {made.filename} is not part of the checkpoint")
    order = "C" if made.flags.c_contiguous else "F"
    return rebuild.memmap, (str(made.filename), made.dtype, made.mode, made.offset, made.shape, order)


def _block(block: Any, _pickler: RecordPickler) -> Any:
    make, args = block.__reduce__()[:2]
    references = getattr(block, "refs", None)
    if references is None or not references.has_reference():
        return make, args
    values, placement, ndim = args
    return rebuild.pandas_block, (values, placement, ndim, references)


def _series_manager(manager: Any, _pickler: RecordPickler) -> Any:
    block = manager.blocks[0]
    if not getattr(block, "refs", None) or not block.refs.has_reference():
        return NotImplemented
    return rebuild.pandas_series_manager, (block, manager.axes[0])


def _references(_references: Any, _pickler: RecordPickler) -> Any:
    return rebuild.pandas_references, ()


def _index(index: Any, _pickler: RecordPickler) -> Any:
    reduced = index.__reduce__()
    references = getattr(index, "_references", None)
    if len(reduced) == 3 and reduced[2] is None and references is not None and references.has_reference():
        return (*reduced[:2], references, None, None, rebuild.fill_index)
    return reduced


def reducer_of_subclass(cls: type) -> Callable[[Any, RecordPickler], Any] | None:
    """Return the reducer that a class of numpy or pandas inherits."""
    numpy = sys.modules.get("numpy")
    if cls.__qualname__ == "MaskedArray" and library_of(cls) == "numpy":
        return _masked
    if numpy is not None and issubclass(cls, numpy.ndarray) and not issubclass(cls, numpy.memmap):
        return _subclass if _is_left_to_numpy(cls) else None
    if library_of(cls) != "pandas":
        return None
    internals = sys.modules.get("pandas._libs.internals")
    if internals is not None and issubclass(cls, internals.Block):
        return _block
    base = sys.modules.get("pandas.core.indexes.base")
    if base is not None and issubclass(cls, base.Index) and cls.__name__ != "RangeIndex":
        return _index
    return None


def _is_left_to_numpy(cls: Any) -> bool:
    """Return whether a class of arrays does not say itself how it is taken apart."""
    ndarray: Any = sys.modules["numpy"].ndarray
    return all(getattr(cls, name) is getattr(ndarray, name) for name in ("__reduce__", "__reduce_ex__", "__getstate__"))


REDUCERS: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.memmap": _memmap,
    "pandas._libs.internals.BlockValuesRefs": _references,
    "pandas.core.internals.managers.SingleBlockManager": _series_manager,
}
