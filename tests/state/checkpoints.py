"""Checkpoints of small namespaces, taken and restored in the test's own process: for tests of what holds them."""

from __future__ import annotations

from typing import Any

from capsule_kernel.errors import StateError
from capsule_kernel.state.capture import capture
from capsule_kernel.state.manifest import About
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.restore import Restored, restore
from capsule_kernel.state.store import Store
from capsule_kernel.state.writer import CheckpointWriter


def take(
    store: Store,
    values: dict[str, Any],
    *,
    session: str = "s",
    created_ms: int = 0,
    label: str = "",
    after_cell: int = 1,
) -> int:
    """Store `values` as a session's next checkpoint; return its number."""
    known = store.known(session)
    writer = CheckpointWriter(store, session, known)
    for item in capture(values, environment=Environment(engine={"namespace": values}), known=known):
        writer.add(item)
    return writer.commit(About(session=session, created_ms=created_ms, after_cell=after_cell, label=label))


def load(store: Store, number: int) -> dict[str, Any]:
    """Return the values of a checkpoint; what is lost is missing."""
    return load_with_report(store, number)[0]


def load_with_report(store: Store, number: int) -> tuple[dict[str, Any], Restored]:
    """Return the values of a checkpoint and what the restore says."""
    values: dict[str, Any] = {}
    report = restore(store.manifest(number).captured, store, values, engine={"namespace": values})
    return values, report


def readable(store: Store) -> list[int]:
    """Return the numbers of the checkpoints of which everything can be loaded."""
    found = []
    for listed in store.checkpoints():
        try:
            _, report = load_with_report(store, listed.id)
        except StateError:
            continue
        if all(entry.status == "saved" for entry in report.names.values()):
            found.append(listed.id)
    return found
