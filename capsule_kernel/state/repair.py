"""Making a store's index anew from its packs."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from capsule_kernel.errors import ManifestRejected, StoreDamaged
from capsule_kernel.state import packs
from capsule_kernel.state.index import FILE_NAME, Index
from capsule_kernel.state.manifest import open_signed


def rebuild_index(folder: Path, key: bytes, reason: str) -> list[str]:
    """Put the index aside and make one that holds what the packs do; return what was done, in words.

    Only checkpoints that this user signed come back. One that was deleted may too, where its bytes are still there.
    """
    with (folder / "repair.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            Index(folder, is_writable=True).close()
        except StoreDamaged:
            return _rebuild(folder, key, reason)
    return ["another process repaired the index meanwhile"]


def _rebuild(folder: Path, key: bytes, reason: str) -> list[str]:
    aside = folder / f"damaged-{os.getpid()}"
    aside.mkdir(mode=0o700, exist_ok=True)
    for path in folder.glob(FILE_NAME + "*"):
        path.rename(aside / path.name)
    found: list[tuple[int, str, bytes, str]] = []
    deleted: set[int] = set()
    hidden = folder / "packs.repairing"
    pack_folder = folder / "packs"
    # An empty index beside packs is itself taken for damage.
    pack_folder.rename(hidden)
    try:
        index = Index(folder, is_writable=True)
    finally:
        hidden.rename(pack_folder)
    count = rejected = 0
    with index.transaction() as connection:
        # No capture may build upon what it knew of the damaged index.
        connection.execute("UPDATE generation SET number = ?", (secrets.randbits(40),))
        for path in sorted(pack_folder.glob("*" + packs.SUFFIX)):
            cursor = connection.execute("INSERT INTO pack (file) VALUES (?)", (path.name,))
            for kind, name, start, data in packs.scan(path):
                if kind == packs.DELETED:
                    deleted.add(int.from_bytes(data, "big"))
                    continue
                connection.execute(
                    "INSERT OR IGNORE INTO part (name, kind, pack, start, size) VALUES (?, ?, ?, ?, ?)",
                    (name, kind, cursor.lastrowid, start, len(data)),
                )
                if kind == packs.MANIFEST:
                    found.append((int.from_bytes(data[:8], "big"), path.name, data, name.hex()))
        for number, _, data, name_hex in found:
            if number in deleted:
                continue
            try:
                manifest = open_signed(data[8:], key, str(number))
            except ManifestRejected:
                rejected += 1
                continue
            about = manifest.about
            connection.execute(
                "INSERT OR REPLACE INTO checkpoint (id, session, created_ms, after_cell, label, added_bytes, manifest)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(number, about.session, about.created_ms, about.after_cell, about.label),
                    *(manifest.added_bytes, bytes.fromhex(name_hex)),
                ),
            )
            count += 1
    index.close()
    done = [f"{reason}; it was put aside in {aside} and made anew with {count} checkpoints"]
    if rejected:
        done.append(f"{rejected} checkpoints were left out: their signatures are not this user's")
    return done
