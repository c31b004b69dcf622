"""The store's index: an SQLite database that says which part lies where, and which checkpoints there are.

It holds nothing that the packs do not: a damaged one is put aside and made anew from them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capsule_kernel.errors import StoreDamaged, StoreUnavailable
from capsule_kernel.folders import make_private_file

FILE_NAME = "index.sqlite3"
_VERSION = 1
_BUSY_MS = 30_000
_CHECKED_BYTES_MAX = 64 << 20
_SCHEMA = """
CREATE TABLE pack (id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE);
CREATE TABLE part (
    name BLOB PRIMARY KEY, kind BLOB NOT NULL, pack INTEGER NOT NULL REFERENCES pack (id),
    start INTEGER NOT NULL, size INTEGER NOT NULL, fast BLOB
) WITHOUT ROWID;
CREATE INDEX part_pack ON part (pack);
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, created_ms INTEGER NOT NULL,
    after_cell INTEGER NOT NULL, label TEXT NOT NULL, added_bytes INTEGER NOT NULL, manifest BLOB NOT NULL
);
CREATE INDEX checkpoint_session ON checkpoint (session, id);
CREATE TABLE generation (number INTEGER NOT NULL);
INSERT INTO generation VALUES (0);
"""


class Index:
    """A connection to the index."""

    def __init__(self, folder: Path, *, is_writable: bool) -> None:
        self.path = folder / FILE_NAME
        self._is_writable = is_writable
        with self._translated():
            self.connection = self._connect()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Bracket what happens as a whole or not at all; other writers wait.

        Raises:
            StoreUnavailable: it cannot be written.
            StoreDamaged: it is no database any more.
        """
        with self._translated():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a query finds.

        Raises:
            StoreUnavailable: it cannot be read.
            StoreDamaged: it is no database any more.
        """
        with self._translated():
            return self.connection.execute(query, values).fetchall()

    def _connect(self) -> sqlite3.Connection:
        if not self._is_writable:
            return self._connect_reading()
        # Created before SQLite does it with the process's mask.
        make_private_file(str(self.path))
        connection = sqlite3.connect(self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise StoreUnavailable(str(self.path), "the file system has no shared memory: set a local folder")
            connection.execute("PRAGMA synchronous=FULL")
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reading(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise StoreUnavailable(str(self.path), "there is no store: no checkpoint was taken yet")
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("SELECT number FROM generation").fetchone()
        except sqlite3.OperationalError:
            # On a read-only file system: nobody writes there, so nobody has to be watched for.
            connection.close()
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("SELECT number FROM generation").fetchone()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.OperationalError):
            # Two that open a new store: the second waits, and then finds it made.
            connection.execute("BEGIN IMMEDIATE")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                if any((self.path.parent / "packs").glob("*.pack")):
                    raise StoreDamaged(str(self.path), "the index", "it is empty, and there are packs")
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={_VERSION}")
            elif version != _VERSION:
                raise StoreUnavailable(
                    str(self.path), f"it has format {version}, this Capsule uses {_VERSION}: set another folder"
                )
            elif self.path.stat().st_size < _CHECKED_BYTES_MAX:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise StoreDamaged(str(self.path), "the index", found)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:
            raise StoreUnavailable(str(self.path), f"{exc}") from exc
        except sqlite3.ProgrammingError as exc:
            # Somebody looks while the kernel ends.
            raise StoreUnavailable(str(self.path), f"it is closed already ({exc})") from exc
        except sqlite3.DatabaseError as exc:
            raise StoreDamaged(str(self.path), "the index", f"{exc}") from exc
        except OSError as exc:
            raise StoreUnavailable(str(self.path), f"{exc.strerror}: set another folder") from exc
