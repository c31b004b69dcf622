"""Gives back the room that nothing needs any more: parts that no checkpoint refers to, and packs that hold few others.

Runs beside other processes that use the store: packs that one of them writes to are left alone, and a capture that
builds upon what is removed here is told so when it is committed (`ChunksMissing`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from capsule_kernel.errors import StateError, StoreDamaged
from capsule_kernel.state import packs, retention
from capsule_kernel.state.manifest import chunks_of, decode_record
from capsule_kernel.state.packs import PackWriter
from capsule_kernel.state.store import Store

_LIVE_SHARE_MIN = 0.5
_LIVE_SHARE_MIN_FOR_ROOM = 0.95
"""Packs that hold a smaller share of what is needed are written anew."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep did."""

    deleted_checkpoints: int
    freed_bytes: int
    notes: list[str]
    """What could not be looked at, in words."""


def collect(store: Store, now_ms: int, policy: retention.Policy | None = None) -> Swept:
    """Delete what the policy gives up, and sweep.

    Raises:
        StateError: the store cannot be written.
    """
    gone = retention.expired(store.checkpoints(), now_ms, policy or retention.Policy())
    before = store.size_bytes()
    if gone:
        store.delete(gone)
    notes = sweep(store)
    return Swept(deleted_checkpoints=len(gone), freed_bytes=before - store.size_bytes(), notes=notes)


def make_room(store: Store, wanted_bytes: int) -> bool:
    """Delete checkpoints, the least useful first, until `wanted_bytes` fit under the cap; return whether they do.

    Raises:
        StateError: the store cannot be written.
    """
    sweep(store, _LIVE_SHARE_MIN_FOR_ROOM)
    while store.size_bytes() + wanted_bytes > store.cap_bytes:
        candidates = retention.first_to_go(store.checkpoints())
        if not candidates:
            return False
        store.delete(candidates[: max(1, len(candidates) // 4)])
        sweep(store, _LIVE_SHARE_MIN_FOR_ROOM)
    return True


def sweep(store: Store, live_share_min: float = _LIVE_SHARE_MIN) -> list[str]:
    """Remove parts that no checkpoint needs; return what could not be looked at, in words.

    Raises:
        StateError: the store cannot be written.
    """
    with store.lock:
        if not store.packs.has_uncommitted:
            # What this process wrote is complete, and can be moved like the rest.
            store.packs.close()
        with store.index.transaction() as connection:
            needed, notes = _needed(store)
            sizes: dict[str, tuple[int, list[bytes], list[bytes]]] = {}
            for file, name, size in connection.execute(
                "SELECT pack.file, name, size FROM part JOIN pack ON pack.id = part.pack"
            ).fetchall():
                live, kept, dead = sizes.setdefault(file, (0, [], []))
                if name in needed:
                    kept.append(name)
                    sizes[file] = live + size, kept, dead
                else:
                    dead.append(name)
            removed = _give_back(store, sizes, live_share_min)
            if any(dead for _, _, dead in sizes.values()):
                connection.execute("UPDATE generation SET number = number + 1")
        for path in removed:
            packs.remove(path)
    return notes


def _needed(store: Store) -> tuple[set[bytes], list[str]]:
    needed: set[bytes] = set()
    notes: list[str] = []
    for number, manifest_name in store.index.rows("SELECT id, manifest FROM checkpoint"):
        needed.add(manifest_name)
        try:
            captured = store.manifest(number).captured
        except StateError as exc:
            notes.append(f"checkpoint {number}: {exc}")
            continue
        entries = (*captured.names.values(), *captured.extras.values())
        wanted = [entry.value.record for entry in entries if entry.value is not None]
        while wanted:
            name = wanted.pop()
            if name in needed:
                continue
            needed.add(name)
            try:
                record = decode_record(store.record(name))
            except StoreDamaged as exc:
                notes.append(f"checkpoint {number}: {exc}")
                continue
            needed.update(chunks_of(record))
            wanted += [reference.record for reference in record.references]
    return needed, notes


def _give_back(
    store: Store, sizes: dict[str, tuple[int, list[bytes], list[bytes]]], live_share_min: float
) -> list[Path]:
    connection = store.index.connection
    removed: list[Path] = []
    fresh = PackWriter(store.pack_folder)
    for path in sorted(store.pack_folder.glob("*" + packs.SUFFIX)):
        live, kept, dead = sizes.get(path.name, (0, [], []))
        connection.executemany("DELETE FROM part WHERE name = ?", [(name,) for name in dead])
        if packs.is_in_use(path):
            continue
        if live >= live_share_min * path.stat().st_size:
            continue
        moved = []
        for name in kept:
            kind = connection.execute("SELECT kind FROM part WHERE name = ?", (name,)).fetchone()[0]
            try:
                data = store.record(name)
            except StoreDamaged:
                # Stays where it is, for whoever may yet mend it.
                break
            moved.append((fresh.append(kind, name, data), name))
        else:
            if moved:
                connection.execute("INSERT OR IGNORE INTO pack (file) VALUES (?)", (fresh.name,))
                connection.executemany(
                    "UPDATE part SET start = ?, pack = (SELECT id FROM pack WHERE file = ?) WHERE name = ?",
                    [(start, fresh.name, name) for start, name in moved],
                )
            connection.execute("DELETE FROM pack WHERE file = ?", (path.name,))
            removed.append(path)
    fresh.sync()
    fresh.commit()
    with contextlib.suppress(OSError):
        fresh.close()
    return removed
