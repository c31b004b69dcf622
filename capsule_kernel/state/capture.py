"""From a namespace to records, chunk by chunk: what a checkpoint stores.

Meant for a child that was forked for it, at low priority, and ends afterwards: pickling runs the objects' own code
and touches every object. No value's failure is another's: each name has a status and a reason.
"""

from __future__ import annotations

import gc
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from capsule_kernel.state.chunks import cut_buffer, cut_stream, fast_hash, without_frames
from capsule_kernel.state.kinds import describe
from capsule_kernel.state.linker import Linker, Node
from capsule_kernel.state.manifest import (
    Buffer,
    Captured,
    CaptureItem,
    Chunk,
    Entry,
    Known,
    Record,
    RecordMade,
    Reference,
    content_name,
    encode_record,
)
from capsule_kernel.state.pickler import Environment

_INLINE_BYTES_MAX = 1 << 10
_NAME_MAX = 80


def capture(
    namespace: Mapping[str, Any],
    *,
    environment: Environment,
    internals: frozenset[str] = frozenset(),
    known: Known | None = None,
    around: Mapping[str, Any] | None = None,
) -> Iterator[CaptureItem]:
    """Yield what the store lacks, records after what they refer to, and at the end what every name is.

    Args:
        namespace: the session's variables.
        environment: what is around them; its `engine` has to contain the namespace.
        internals: names of the engine, which are left out.
        known: what needs not be sent again; it is brought up to date.
        around: what `ambient.read` returned, and more values by a name that the caller understands (`outputs/3`).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    around = around or {}
    names = {name: namespace[name] for name in list(namespace) if isinstance(name, str) and name not in internals}
    try:
        with warnings.catch_warnings():
            # Libraries warn when some of their objects are pickled: nobody asked for it here.
            warnings.simplefilter("ignore")
            linker = Linker(environment)
            for value in (*names.values(), *around.values()):
                linker.add(value)
            nodes = linker.link()
            writer = _Writer(known if known is not None else Known(chunks={}, records=set()), names, linker)
            for node in nodes:
                yield from writer.write(node)
            yield Captured(
                names={name: writer.entry(value) for name, value in names.items()} | _nameless(namespace),
                extras={name: writer.entry(value) for name, value in around.items()},
                python=platform.python_version(),
                libraries=_versions(),
            )
    finally:
        if was_enabled:
            gc.enable()


class _Written(NamedTuple):
    """Where a node is: its record, which of the objects that look like it, and how long."""

    record: bytes
    copy: int
    size_bytes: int
    content: bytes
    """The record's name if no reference below it told copies apart: it stays when an equal object comes or goes."""


class _Writer:
    """Turns nodes into records."""

    def __init__(self, known: Known, names: Mapping[str, Any], linker: Linker) -> None:
        self._known = known
        self._linker = linker
        self._name_of: dict[int, str] = {}
        for name, value in names.items():
            self._name_of.setdefault(id(value), name)
        self._written: dict[Node, _Written] = {}
        self._copies: Counter[bytes] = Counter()

    def write(self, node: Node) -> Iterator[CaptureItem]:
        self._inherit_failure(node)
        if node.failure or node.stream is None:
            return
        added: list[Chunk] = []
        size = len(node.stream)
        stream = without_frames(node.stream)
        node.stream = None
        inline = stream if len(stream) <= _INLINE_BYTES_MAX else b""
        names = b"" if inline else self._chunks(cut_stream(stream), added)
        yield from added
        buffers = []
        blobs = []
        for view, row_bytes in node.buffers:
            added.clear()
            chunks = self._chunks(cut_buffer(view, row_bytes), added)
            buffers.append(Buffer(view.nbytes, view.readonly, chunks))
            size += view.nbytes
            yield from added
        for blob in node.blobs:
            added.clear()
            chunks = self._chunks(cut_buffer(memoryview(blob), 1), added)
            blobs.append(Buffer(len(blob), True, chunks))
            size += len(blob)
            yield from added
        references = [self._reference(identity) for identity in node.references]
        record = Record(inline, names, buffers, blobs, references)
        data = encode_record(record)
        name = content_name(data)
        plain = [Reference(self._content(i), made.member) for i, made in zip(node.references, references, strict=True)]
        content = name
        if plain != references:
            content = content_name(encode_record(msgspec.structs.replace(record, references=plain)))
        self._written[node] = _Written(name, self._copies[name], size, content)
        if node.has_identity:
            self._copies[name] += 1
        if name not in self._known.records:
            self._known.records.add(name)
            yield RecordMade(name=name, data=data)

    def entry(self, value: Any) -> Entry:
        kind, shape = _description(value)
        node, member = self._linker.node_of(id(value))
        if node.failure:
            return Entry(status="live only", reason=node.failure, kind=kind, shape=shape)
        written = self._written[node]
        return Entry(
            status="saved",
            value=Reference(written.record, member, written.copy),
            kind=kind,
            shape=shape,
            size_bytes=written.size_bytes,
            note="; ".join(sorted(node.notes)),
            content=b"" if written.content == written.record else written.content,
        )

    def _inherit_failure(self, node: Node) -> None:
        for identity in node.references:
            other, _ = self._linker.node_of(identity)
            if other.failure and not node.failure:
                name = self._name_of.get(identity)
                node.failure = f"it holds {name!r}: {other.failure}" if name else other.failure
        node.notes.update(note for identity in node.references for note in self._linker.node_of(identity)[0].notes)

    def _reference(self, identity: int) -> Reference:
        node, member = self._linker.node_of(identity)
        written = self._written[node]
        return Reference(written.record, member, written.copy)

    def _content(self, identity: int) -> bytes:
        return self._written[self._linker.node_of(identity)[0]].content

    def _chunks(self, pieces: Iterator[memoryview], added: list[Chunk]) -> bytes:
        names = []
        for piece in pieces:
            fast = fast_hash(piece)
            name = self._known.chunks.get(fast)
            if name is None:
                name = self._known.chunks[fast] = content_name(piece)
                added.append(Chunk(name=name, fast=fast, data=piece))
            names.append(name)
        return b"".join(names)


def _nameless(namespace: Mapping[Any, Any]) -> dict[str, Entry]:
    """Return what is bound to something else than a text, as with `globals()[5] = "five"`: it is not saved."""
    found = {}
    for key, value in list(namespace.items()):
        if not isinstance(key, str):
            kind, shape = _description(value)
            entry = Entry(status="live only", reason="its name is not a text", kind=kind, shape=shape)
            found[f"globals()[{_shown(key)}]"] = entry
    return found


def _shown(key: Any) -> str:
    try:
        return repr(key)[:_NAME_MAX]
    except BaseException:  # noqa: BLE001 - an object's own code
        return f"<{type(key).__name__}>"


def _description(value: Any) -> tuple[str, str]:
    try:
        return describe(value)
    except BaseException:  # noqa: BLE001 - an object's own code; a description only decorates a table
        return type(value).__name__, ""


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    read: Callable[[Any], Any] = lambda module: vars(module).get("__version__")  # noqa: E731 - the type is the point
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "__main__" and module is not None:
            version = read(module) if hasattr(module, "__dict__") else None
            if isinstance(version, str):
                found[name] = version
    return found
