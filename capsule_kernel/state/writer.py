"""Writes one checkpoint into a store: parts as they come, then one transaction that makes them count."""

from __future__ import annotations

import contextlib

from capsule_kernel.errors import CheckpointTooLarge, ChunksMissing, StateError, StoreUnavailable
from capsule_kernel.state import packs
from capsule_kernel.state.manifest import (
    About,
    Captured,
    CaptureItem,
    Chunk,
    Known,
    Manifest,
    changes,
    content_name,
    sign,
)
from capsule_kernel.state.store import Store


class CheckpointWriter:
    """Takes what a capture yields; nothing of it counts before `commit`. A store has one at a time.

    Args:
        store: the store.
        session: whose checkpoint it is.
        known: what the capture takes as known; it is brought up to date.
    """

    def __init__(self, store: Store, session: str, known: Known) -> None:
        self._store = store
        self._session = session
        self._known = known
        self._captured: Captured | None = None
        self._parts: dict[bytes, tuple[bytes, str, int, int, bytes | None]] = {}
        self._room_bytes = store.cap_bytes - store.size_bytes()
        self._added_bytes = 0

    def add(self, item: CaptureItem) -> None:
        """Take one item.

        Raises:
            CheckpointTooLarge: the cap on disk use is reached; `sweep.make_room` may help.
            StoreUnavailable: it cannot be written.
        """
        if isinstance(item, Captured):
            self._captured = item
            return
        fast = item.fast if isinstance(item, Chunk) else None
        if fast is None:
            self._known.records.add(item.name)
        else:
            self._known.chunks[fast] = item.name
        self._write(packs.RECORD if fast is None else packs.CHUNK, item.name, item.data, fast)

    def commit(self, about: About) -> int:
        """Make the checkpoint; return its number. When this returns, it is durable.

        Raises:
            ChunksMissing: parts that it builds upon were removed meanwhile: capture again against a new `known`.
            StateError: the store cannot be written.
        """
        store = self._store
        captured = self._captured
        if captured is None:
            raise ValueError("the capture did not end: its last item is missing")
        with store.lock:
            try:
                manifest = Manifest(
                    about=about, captured=captured, changes=self._changes(captured), added_bytes=self._added_bytes
                )
                store.packs.sync()
                with store.index.transaction() as connection:
                    self._check_generation()
                    cursor = connection.execute(
                        "INSERT INTO checkpoint (session, created_ms, after_cell, label, added_bytes, manifest)"
                        " VALUES (?, ?, ?, ?, ?, x'')",
                        (self._session, about.created_ms, about.after_cell, about.label, self._added_bytes),
                    )
                    number = int(cursor.lastrowid or 0)
                    data = number.to_bytes(8, "big") + sign(manifest, store.key)
                    name = content_name(data)
                    self._write(packs.MANIFEST, name, data, None)
                    store.packs.sync()
                    self._insert_parts()
                    connection.execute("UPDATE checkpoint SET manifest = ? WHERE id = ?", (name, number))
            except BaseException:
                self.discard()
                raise
            store.packs.commit()
            store.note_known(self._session, self._known)
        return number

    def discard(self) -> None:
        """Forget everything that was taken."""
        self._parts.clear()
        with contextlib.suppress(OSError):
            self._store.packs.roll_back()

    def _write(self, kind: bytes, name: bytes, data: bytes | memoryview, fast: bytes | None) -> None:
        if name in self._parts:
            return
        store = self._store
        with store.lock:
            if store.has_part(name):
                return
            if len(data) > self._room_bytes - self._added_bytes:
                self.discard()
                raise CheckpointTooLarge(self._added_bytes + len(data), store.cap_bytes)
            try:
                start = store.packs.append(kind, name, data)
            except StoreUnavailable:
                self.discard()
                raise
            self._parts[name] = (kind, store.packs.name, start, len(data), fast)
            self._added_bytes += len(data)

    def _check_generation(self) -> None:
        if self._store.generation() != self._known.generation:
            raise ChunksMissing(len(self._known.chunks) + len(self._known.records))

    def _insert_parts(self) -> None:
        connection = self._store.index.connection
        files = {file for _, file, *_ in self._parts.values()}
        connection.executemany("INSERT OR IGNORE INTO pack (file) VALUES (?)", [(file,) for file in files])
        connection.executemany(
            "INSERT OR IGNORE INTO part (name, kind, pack, start, size, fast)"
            " VALUES (?, ?, (SELECT id FROM pack WHERE file = ?), ?, ?, ?)",
            [(name, *values) for name, values in self._parts.items()],
        )

    def _changes(self, captured: Captured) -> list[str]:
        listed = self._store.checkpoints(self._session)
        previous = None
        if listed:
            with contextlib.suppress(StateError):
                previous = self._store.manifest(listed[-1].id).captured
        return changes(previous, captured)
