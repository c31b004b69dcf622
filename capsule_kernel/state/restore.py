"""From records back to a namespace, in a fresh process: each name with its outcome.

Records are loaded from the leaves up; what fails takes with it what refers to it, and nothing else. The namespace is
touched at the end only, and stays the one dict that it was.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capsule_kernel.errors import ManifestRejected
from capsule_kernel.state import ambient
from capsule_kernel.state.loader import Loader, Source
from capsule_kernel.state.manifest import Captured, Entry

Mode = Literal["exact", "merge"]


@dataclass(kw_only=True)
class Restored:
    """What came back."""

    names: dict[str, Entry] = field(default_factory=dict)
    """Every name of the checkpoint, `saved` where it is back, `lost` with the reason where it is not."""
    around: dict[str, Entry] = field(default_factory=dict)
    """The same for state that is not a variable."""
    extras: dict[str, Any] = field(default_factory=dict)
    """The values of extras that only the caller can put in place."""
    removed: list[str] = field(default_factory=list)
    """Names that were in the namespace and not in the checkpoint."""
    stamps: dict[str, Any] = field(default_factory=dict)
    """Which files the notebook's modules were."""
    warnings: list[str] = field(default_factory=list)
    """What may make a difference, for example another version of a library."""


def check_python(captured: Captured, checkpoint: str) -> None:
    """Refuse a checkpoint of another Python: functions are stored as bytecode, which one minor version understands.

    Raises:
        ManifestRejected: it is one.
    """
    theirs, ours = captured.python.split(".")[:2], platform.python_version().split(".")[:2]
    if theirs != ours:
        raise ManifestRejected(
            checkpoint,
            f"it was taken by Python {captured.python}, this is Python {platform.python_version()}: "
            f"start a kernel with Python {'.'.join(theirs)} to restore it",
        )


def restore(
    captured: Captured,
    source: Source,
    namespace: MutableMapping[str, Any],
    *,
    engine: Mapping[str, Any],
    mode: Mode = "exact",
    internals: frozenset[str] = frozenset(),
    checkpoint: str = "",
) -> Restored:
    """Bring the names of a checkpoint into `namespace`.

    Args:
        captured: what the checkpoint holds; its signature has been checked.
        source: where records and chunks come from.
        namespace: the session's variables.
        engine: the objects that the capture knew by the same labels.
        mode: `exact` removes names that the checkpoint has not; `merge` keeps them.
        internals: names of the engine, which are neither set nor removed.
        checkpoint: how to call it in an error.

    Raises:
        ManifestRejected: it was taken by another Python.
        StateError: the source has ended (its attribute `broken`): no name was touched.
    """
    check_python(captured, checkpoint)
    result = Restored(warnings=_other_versions(captured))
    loader = Loader(source, {**engine}, captured.names)
    if mode == "exact":
        _close_figures()
    early = [name for name in captured.extras if ambient.is_early(name)]
    late = [name for name in captured.extras if not ambient.is_early(name)]
    with warnings.catch_warnings(), _without_collections():
        warnings.simplefilter("ignore")
        _put_back(early, captured, loader, result)
        values: dict[str, Any] = {}
        for name, entry in captured.names.items():
            if name not in internals:
                result.names[name] = _take(name, entry, loader, values)
    broken = getattr(source, "broken", None)
    if broken is not None:
        raise broken
    if mode == "exact":
        gone = [name for name in namespace if name not in values and name not in internals]
        result.removed = [name for name in gone if name not in captured.names]
        for name in gone:
            del namespace[name]
    namespace.update(values)
    _put_back(late, captured, loader, result)
    return result


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Bracket what makes many objects that stay: looking for rubbish among them would take longer than making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _take(name: str, entry: Entry, loader: Loader, values: dict[str, Any]) -> Entry:
    if entry.value is None:
        return _lost(entry, entry.reason)
    reason = loader.load(entry.value)
    if reason:
        return _lost(entry, reason)
    values[name] = loader.value(entry.value)
    return entry


def _put_back(names: list[str], captured: Captured, loader: Loader, result: Restored) -> None:
    for name in [known for known in (*ambient.PIECES, *names) if known in names]:
        if name in result.around:
            continue
        values: dict[str, Any] = {}
        result.around[name] = _take(name, captured.extras[name], loader, values)
        if name not in values:
            continue
        try:
            if not ambient.write(name, values[name], result.stamps):
                result.extras[name] = values[name]
        except Exception as exc:  # noqa: BLE001 - a library's setter, or a folder that is gone: the rest goes on
            result.around[name] = _lost(captured.extras[name], f"{type(exc).__name__}: {exc}")


def _lost(entry: Entry, reason: str) -> Entry:
    return Entry(status="lost", reason=reason, kind=entry.kind, shape=entry.shape, size_bytes=entry.size_bytes)


def _other_versions(captured: Captured) -> list[str]:
    found = []
    for name, version in captured.libraries.items():
        ours = getattr(sys.modules.get(name), "__version__", version)
        if ours != version:
            found.append(f"{name} was {version}, here it is {ours}")
    return found


def _close_figures() -> None:
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        helpers.Gcf.destroy_all()
