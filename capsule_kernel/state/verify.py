"""Proof that a checkpoint can be restored: a fresh process loads it and takes it apart again.

What comes out the same, bit for bit, is verified. What differs in a detail of pickling (the order of a set, which of
two equal texts is one object) is loaded once more beside the original and compared by `equality`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from capsule_kernel.state.capture import capture
from capsule_kernel.state.equality import differences
from capsule_kernel.state.loader import Loader, Source
from capsule_kernel.state.manifest import Captured, Entry, Reference
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.restore import restore


def recapture(captured: Captured, source: Source, namespace: dict[str, Any], engine: Mapping[str, Any]) -> Again:
    """Restore a checkpoint in this fresh process, and take it apart again.

    Changes the process: its folder, environment and random generators become the checkpoint's.
    """
    internals = frozenset(namespace)
    restored = restore(captured, source, namespace, engine=engine, internals=internals)
    again = Again(values={}, lost={})
    for name, entry in restored.names.items():
        if entry.status == "lost" and captured.names[name].value is not None:
            again.lost[name] = entry.reason
    for item in capture(namespace, environment=Environment(engine=engine), internals=internals):
        if isinstance(item, Captured):
            again.values = {name: entry.value for name, entry in item.names.items() if entry.value is not None}
    return again


class Again(msgspec.Struct, kw_only=True):
    """What a fresh process made of a checkpoint."""

    values: dict[str, Reference]
    lost: dict[str, str]
    """Names that were saved and cannot be loaded, with the reason."""


def verdicts(
    captured: Captured,
    again: Again,
    source: Source,
    namespace: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> Captured:
    """Return the checkpoint with what is proven: names `saved and verified`, or not so with what went wrong.

    Runs in the process that took the checkpoint, where the originals are.
    """
    loader = Loader(source, dict(engine), captured.names)
    pairs = [(value, value) for value in engine.values()]
    names: dict[str, Entry] = {}
    for name, entry in captured.names.items():
        if entry.value is None:
            names[name] = entry
        elif name in again.lost:
            names[name] = Entry(
                status="live only",
                reason=f"a fresh process cannot load it: {again.lost[name]}",
                kind=entry.kind,
                shape=entry.shape,
            )
        elif again.values.get(name) == entry.value:
            names[name] = msgspec.structs.replace(entry, status="saved and verified")
        else:
            doubt = _doubt(namespace[name], entry, loader, pairs)
            names[name] = msgspec.structs.replace(entry, status="saved" if doubt else "saved and verified", doubt=doubt)
    return msgspec.structs.replace(captured, names=names)


def _doubt(original: Any, entry: Entry, loader: Loader, pairs: list[tuple[Any, Any]]) -> str:
    """Return where what is saved differs from the original, empty where it does not."""
    assert entry.value is not None
    reason = loader.load(entry.value)
    if reason:
        return f"it cannot be loaded beside the original: {reason}"
    found = differences(original, loader.value(entry.value), pairs)
    return found[0] if found else ""
