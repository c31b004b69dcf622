"""Loads records: their bytes from a source, their references first, each once."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from capsule_kernel.errors import StateError
from capsule_kernel.state.manifest import Buffer, Entry, Record, Reference, decode_record, names_in
from capsule_kernel.state.pickler import NUMPY_NAN, everywhere
from capsule_kernel.state.reasons import is_interrupt, reason_of


class Source(Protocol):
    """Where records and chunks come from. Both methods return the bytes that were stored under a name.

    Raises:
        StateError: they cannot be had.
    """

    def record(self, name: bytes) -> bytes:
        """Return an encoded record."""
        ...

    def chunk(self, name: bytes) -> bytes | memoryview:
        """Return a chunk."""
        ...


class Loader:
    """Turns records into objects."""

    def __init__(self, source: Source, engine: Mapping[str, Any], names: Mapping[str, Entry]) -> None:
        self._source = source
        self._engine = {**everywhere(), **engine}
        self._names = names
        self._records: dict[bytes, Record] = {}
        # By record and copy.
        self._objects: dict[tuple[bytes, int], Any] = {}
        self._failures: dict[bytes, str] = {}

    def load(self, wanted: Reference) -> str:
        """Have the object ready, and all that it refers to; return the reason if it cannot be had."""
        stack = [(wanted.record, wanted.copy)]
        while stack:
            key = stack[-1]
            name = key[0]
            if key in self._objects or name in self._failures:
                stack.pop()
                continue
            record = self._record(name)
            if record is None:
                continue
            missing = [
                (other.record, other.copy)
                for other in record.references
                if (other.record, other.copy) not in self._objects and other.record not in self._failures
            ]
            if missing:
                stack += missing
            else:
                stack.pop()
                self._make(key, record)
        if (wanted.record, wanted.copy) in self._objects:
            # Of several that look the same one may have failed.
            return ""
        return self._failures.get(wanted.record, "")

    def value(self, reference: Reference) -> Any:
        """Return an object that is ready."""
        members = self._objects[reference.record, reference.copy]
        return members[reference.member]

    def named(self, name: str) -> Any:
        """Return the value that a name has in the checkpoint: some objects are pickled as the name they are found by.

        Raises:
            AttributeError: it has none.
        """
        entry = self._names.get(name)
        if entry is None or entry.value is None or self.load(entry.value):
            raise AttributeError(f"{name!r} is not in the checkpoint")
        return self.value(entry.value)

    def engine(self, label: str) -> Any:
        """Return this process's object for a label of the engine.

        Raises:
            KeyError: it has none.
        """
        if label == NUMPY_NAN and label not in self._engine:
            # Numpy may be what a value that was loaded before this one has imported, or this one is the first to.
            self._engine[label] = importlib.import_module("numpy").nan
        return self._engine[label]

    def _record(self, name: bytes) -> Record | None:
        record = self._records.get(name)
        if record is None:
            try:
                record = self._records[name] = decode_record(self._source.record(name))
            except (StateError, msgspec.MsgspecError) as exc:
                self._failures[name] = f"its bytes cannot be read: {exc}"
        return record

    def _make(self, key: tuple[bytes, int], record: Record) -> None:
        name = key[0]
        for reference in record.references:
            failure = self._failures.get(reference.record)
            if failure is not None and (reference.record, reference.copy) not in self._objects:
                self._failures[name] = failure
                return
        try:
            stream = record.inline or b"".join(self._source.chunk(chunk) for chunk in names_in(record.stream))
            buffers = [
                self._bytes(buffer) if buffer.is_readonly else Pieces(self._source, buffer) for buffer in record.buffers
            ]
            blobs = [self._bytes(blob) for blob in record.blobs]
        except StateError as exc:
            self._failures[name] = f"its bytes cannot be read: {exc}"
            return
        try:
            made = _RecordUnpickler(stream, buffers, blobs, record.references, self).load()
        except BaseException as exc:  # loading runs any object's code: its names are reported, the rest goes on
            if is_interrupt(exc):
                raise
            self._failures[name] = reason_of(exc)
            return
        self._objects[key] = made

    def _bytes(self, buffer: Buffer) -> bytes:
        return b"".join(self._source.chunk(name) for name in names_in(buffer.chunks))


class Pieces:
    """A record's buffer that is read when it is needed: into the memory of an array, without a copy of it between."""

    def __init__(self, source: Source, buffer: Buffer) -> None:
        self._source = source
        self._buffer = buffer

    def copy_into(self, target: memoryview) -> None:
        """Write the bytes to `target`, which has as many.

        Raises:
            StateError: they cannot be had.
        """
        start = 0
        for name in names_in(self._buffer.chunks):
            chunk = self._source.chunk(name)
            target[start : start + len(chunk)] = chunk
            start += len(chunk)

    def __buffer__(self, _flags: int) -> memoryview:
        content = bytearray(self._buffer.size_bytes)
        self.copy_into(memoryview(content))
        return memoryview(content)


class _RecordUnpickler(pickle.Unpickler):
    """Loads one record's stream."""

    def __init__(
        self,
        stream: bytes,
        buffers: list[bytes | Pieces],
        blobs: list[bytes],
        references: list[Reference],
        loader: Loader,
    ) -> None:
        super().__init__(io.BytesIO(stream), buffers=buffers)
        self._blobs = blobs
        self._references = references
        self._loader = loader

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, int):
            return self._loader.value(self._references[pid])
        if isinstance(pid, str):
            return self._loader.engine(pid)
        return self._blobs[pid[1]]

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "__main__":
            return self._loader.named(global_name)
        return super().find_class(module_name, global_name)
