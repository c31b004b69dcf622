"""The store of one user: checkpoints of all sessions, in a private folder; several processes may use it at once.

A checkpoint is there when `writer.CheckpointWriter.commit` returned: its packs are on the disk, and one transaction
names it. Whatever ends this process before that leaves the store as it was. Every part is checked against its name when
it is read, and every manifest against the user's key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from capsule_kernel.errors import ManifestRejected, StoreDamaged, StoreUnavailable
from capsule_kernel.state import packs
from capsule_kernel.state.filesystem import network_file_system
from capsule_kernel.state.index import Index
from capsule_kernel.state.manifest import (
    Captured,
    Known,
    Manifest,
    chunks_of,
    content_name,
    decode_record,
    open_signed,
    sign,
)
from capsule_kernel.state.packs import PackWriter
from capsule_kernel.state.repair import rebuild_index

CAP_BYTES = 10 << 30
_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A checkpoint in the index."""

    id: int
    session: str
    created_ms: int
    after_cell: int
    label: str
    added_bytes: int


class Store:
    """The store in `folder`.

    Raises:
        StoreUnavailable: it cannot be opened.
    """

    def __init__(self, folder: Path, *, cap_bytes: int = CAP_BYTES, is_writable: bool = True) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.repairs: list[str] = []
        """What had to be repaired when the store was opened, in words."""
        self.lock = threading.RLock()
        self.pack_folder = folder / "packs"
        for path in (folder, folder / "key"):
            _refuse_of_others(path)
        if is_writable:
            self._prepare()
        self.key = self._read_key()
        self.index = self._open_index(is_writable=is_writable)
        self.packs = PackWriter(self.pack_folder)
        self._is_writable = is_writable
        self._known: dict[str, Known] = {}

    def __repr__(self) -> str:
        return f"<Store {self.folder} {len(self.checkpoints())} checkpoints, {self.size_bytes()} bytes>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        with self.lock:
            self.packs.close()
            self.index.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def checkpoints(self, session: str | None = None) -> list[Listed]:
        """Return the checkpoints of a session, or of all, oldest first."""
        query = "SELECT id, session, created_ms, after_cell, label, added_bytes FROM checkpoint"
        with self.lock:
            rows = (
                self.index.rows(f"{query} ORDER BY id")
                if session is None
                else self.index.rows(f"{query} WHERE session = ? ORDER BY id", session)
            )
        names = ("id", "session", "created_ms", "after_cell", "label", "added_bytes")
        return [Listed(**dict(zip(names, row, strict=True))) for row in rows]

    def manifest(self, checkpoint: int) -> Manifest:
        """Return a checkpoint's manifest.

        Raises:
            StateError: there is no such checkpoint, it is damaged, or it is not this user's.
        """
        with self.lock:
            rows = self.index.rows("SELECT manifest FROM checkpoint WHERE id = ?", checkpoint)
        if not rows:
            raise StoreUnavailable(str(self.folder), f"there is no checkpoint {checkpoint}")
        data = self._part(rows[0][0])
        return open_signed(data[8:], self.key, str(checkpoint))

    def record(self, name: bytes) -> bytes:
        """Return an encoded record.

        Raises:
            StateError: it cannot be had.
        """
        return self._part(name)

    def chunk(self, name: bytes) -> bytes:
        """Return a chunk.

        Raises:
            StateError: it cannot be had.
        """
        return self._part(name)

    def size_bytes(self) -> int:
        """Return what all packs take on the disk."""
        total = 0
        for path in self.pack_folder.glob("*" + packs.SUFFIX):
            # Another process may have given it back by now.
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def generation(self) -> int:
        """Return the number of times that parts were removed."""
        return int(self.index.rows("SELECT number FROM generation")[0][0])

    # --- writing ------------------------------------------------------------------------------------------------------

    def known(self, session: str) -> Known:
        """Return what needs not be sent again for the session's next checkpoint."""
        with self.lock:
            known = self._known.get(session)
            generation = self.generation()
            if known is None or known.generation != generation:
                known = self._read_known(session, generation)
                self._known[session] = known
            return Known(chunks=dict(known.chunks), records=set(known.records), generation=known.generation)

    def note_known(self, session: str, known: Known) -> None:
        """Remember what a session's newest checkpoint holds."""
        self._known[session] = known

    def amend(self, checkpoint: int, captured: Captured) -> None:
        """Say more of a checkpoint's names than was known when it was taken: that they are verified, or cannot be had.

        Raises:
            StateError: there is no such checkpoint, or the store cannot be written.
        """
        with self.lock:
            manifest = msgspec.structs.replace(self.manifest(checkpoint), captured=captured)
            data = checkpoint.to_bytes(8, "big") + sign(manifest, self.key)
            name = content_name(data)
            if self.has_part(name):
                return
            start = self.packs.append(packs.MANIFEST, name, data)
            self.packs.sync()
            with self.index.transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO pack (file) VALUES (?)", (self.packs.name,))
                connection.execute(
                    "INSERT OR IGNORE INTO part (name, kind, pack, start, size, fast)"
                    " VALUES (?, ?, (SELECT id FROM pack WHERE file = ?), ?, ?, NULL)",
                    (name, packs.MANIFEST, self.packs.name, start, len(data)),
                )
                connection.execute("UPDATE checkpoint SET manifest = ? WHERE id = ?", (name, checkpoint))
            self.packs.commit()

    def delete(self, checkpoints: list[int]) -> None:
        """Delete checkpoints; their bytes go with the next `sweep.sweep`.

        Raises:
            StateError: the store cannot be written.
        """
        with self.lock:
            for checkpoint in checkpoints:
                # In the packs as well, or an index that is made anew would have it again.
                data = checkpoint.to_bytes(8, "big")
                self.packs.append(packs.DELETED, content_name(data), data)
            self.packs.sync()
            with self.index.transaction() as connection:
                connection.executemany("DELETE FROM checkpoint WHERE id = ?", [(item,) for item in checkpoints])
            self.packs.commit()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        kind = network_file_system(self.folder)
        if kind:
            raise StoreUnavailable(
                str(self.folder),
                f"it is on a network file system ({kind}), where no database is safe: set a local folder",
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            self.pack_folder.mkdir(mode=0o700, exist_ok=True)
            key = self.folder / "key"
            if not key.exists():
                fresh = self.folder / f"key.{secrets.token_hex(8)}"
                with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                # Whoever is first wins, and a half-written key is never seen.
                with contextlib.suppress(FileExistsError):
                    key.hardlink_to(fresh)
                fresh.unlink()
        except OSError as exc:
            raise StoreUnavailable(str(self.folder), f"{exc.strerror}: set another folder, or its permissions") from exc

    def _read_key(self) -> bytes:
        path = self.folder / "key"
        try:
            key = path.read_bytes()
        except OSError as exc:
            raise StoreUnavailable(str(path), f"the key cannot be read: {exc.strerror}") from exc
        if len(key) != _KEY_BYTES:
            raise StoreUnavailable(str(path), f"the key has {len(key)} bytes instead of {_KEY_BYTES}: restore the file")
        return key

    def _open_index(self, *, is_writable: bool) -> Index:
        try:
            return Index(self.folder, is_writable=is_writable)
        except StoreDamaged as exc:
            if not is_writable:
                raise
            self.repairs += rebuild_index(self.folder, self.key, str(exc))
            return Index(self.folder, is_writable=True)

    def _part(self, name: bytes) -> bytes:
        for _ in range(2):
            with self.lock:
                rows = self.index.rows(_PART, name)
            if not rows:
                raise StoreDamaged(str(self.folder), f"part {name.hex()}", "it is missing")
            file, start, size = rows[0]
            path = self.pack_folder / file
            try:
                data = _read_at(path, start, size)
            except FileNotFoundError:
                # Another process may just have moved it.
                continue
            except OSError as exc:
                raise StoreDamaged(str(path), f"part {name.hex()}", f"{exc.strerror}") from exc
            if content_name(data) == name:
                return data
            self._forget(name)
            raise StoreDamaged(str(path), f"part {name.hex()}", "its bytes are not what was written")
        self._forget(name)
        raise StoreDamaged(str(path), f"part {name.hex()}", "the pack is gone")

    def has_part(self, name: bytes) -> bool:
        """Return whether a part is there, so far as can be told without reading it."""
        rows = self.index.rows(_PART, name)
        if not rows:
            return False
        file, start, size = rows[0]
        try:
            is_whole = bool((self.pack_folder / file).stat().st_size >= start + size)
        except OSError:
            is_whole = False
        if not is_whole:
            self._forget(name)
        return is_whole

    def _forget(self, name: bytes) -> None:
        """Have a damaged part written again by the next checkpoint that needs it."""
        self._known.clear()
        connection = self.index.connection
        if self._is_writable and connection.in_transaction:
            connection.execute("DELETE FROM part WHERE name = ?", (name,))
        elif self._is_writable:
            with self.lock, self.index.transaction() as connection:
                connection.execute("DELETE FROM part WHERE name = ?", (name,))
                connection.execute("UPDATE generation SET number = number + 1")

    def _read_known(self, session: str, generation: int) -> Known:
        known = Known(chunks={}, records=set(), generation=generation)
        listed = self.checkpoints(session)
        if not listed:
            return known
        try:
            captured = self.manifest(listed[-1].id).captured
            wanted = [
                entry.value.record for entry in (*captured.names.values(), *captured.extras.values()) if entry.value
            ]
            chunks: set[bytes] = set()
            while wanted:
                name = wanted.pop()
                if name not in known.records:
                    known.records.add(name)
                    record = decode_record(self.record(name))
                    chunks.update(chunks_of(record))
                    wanted += [reference.record for reference in record.references]
        except (StoreDamaged, StoreUnavailable, ManifestRejected):
            # Nothing of a damaged checkpoint is built upon.
            return Known(chunks={}, records=set(), generation=self.generation())
        for name in chunks:
            rows = self.index.rows("SELECT fast FROM part WHERE name = ?", name)
            if rows and rows[0][0] is not None and self.has_part(name):
                known.chunks[rows[0][0]] = name
        known.generation = self.generation()
        return known


_PART = "SELECT pack.file, start, size FROM part JOIN pack ON pack.id = part.pack WHERE name = ?"


def _refuse_of_others(path: Path) -> None:
    """Refuse a store that somebody else may have written: whoever has its key can have any code run when it is loaded.

    Raises:
        StoreUnavailable: `path` belongs to another user than this one or root, or everybody may write to it.
    """
    try:
        status = path.stat()
    except OSError:
        # What cannot be looked at cannot be read either, and is refused where that is tried.
        return
    if status.st_uid not in {os.geteuid(), 0}:
        reason = f"it belongs to user {status.st_uid}: set another folder, or change its owner if it is yours"
    elif status.st_mode & stat.S_IWOTH:
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        reason = f"everybody may write to it (mode {mode}): set another folder, or `chmod o-w` if nobody has"
    else:
        return
    raise StoreUnavailable(str(path), f"{reason}; to load a checkpoint is to run code")


def _read_at(path: Path, start: int, size: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, size, start)
    finally:
        os.close(file)
