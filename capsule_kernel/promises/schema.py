"""The embedded store's file: one SQLite database per user, made and opened here, with errors of ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from types import TracebackType

from capsule_kernel.clock import Clock
from capsule_kernel.errors import PromisesUnavailable
from capsule_kernel.folders import make_private_file
from capsule_kernel.promises.model import FAR_FUTURE_MS

BUSY_MS = 10_000
"""How long to wait for another process that writes."""

_PAUSE_MS = 20
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE promise (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, kind TEXT NOT NULL, branch TEXT, param TEXT NOT NULL,
    value TEXT NOT NULL, tags TEXT NOT NULL, timeout_at INTEGER NOT NULL, created_at INTEGER NOT NULL,
    settled_at INTEGER
);
CREATE INDEX promise_pending ON promise (kind, id) WHERE state = 'pending';
CREATE INDEX promise_due ON promise (timeout_at) WHERE state = 'pending' AND timeout_at < {FAR_FUTURE_MS};
CREATE INDEX promise_branch ON promise (branch, id) WHERE branch IS NOT NULL;
CREATE TABLE task (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, version INTEGER NOT NULL, pid TEXT, ttl INTEGER,
    resumes TEXT NOT NULL, due_at INTEGER
);
CREATE INDEX task_due ON task (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE wait (awaited TEXT NOT NULL, awaiter TEXT NOT NULL, PRIMARY KEY (awaited, awaiter)) WITHOUT ROWID;
CREATE INDEX wait_awaiter ON wait (awaiter);
CREATE TABLE listener (promise TEXT NOT NULL, address TEXT NOT NULL, PRIMARY KEY (promise, address)) WITHOUT ROWID;
CREATE TABLE log (seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, op TEXT NOT NULL, id TEXT NOT NULL, note TEXT);
"""


def connect(path: str, clock: Clock, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open the database, and make it where there is none.

    Args:
        path: the file.
        clock: to wait with.
        busy_ms: how long to wait for other processes, now and later.

    Raises:
        PromisesUnavailable: it cannot be used.
    """
    with translated(path):
        # Changing a new file's journal mode does not wait for another process that does the same: SQLite refuses at
        # once, because two that wait for each other would wait for ever.
        attempts = max(busy_ms // _PAUSE_MS, 1)
        while True:
            try:
                return _connected(path, busy_ms)
            except sqlite3.OperationalError as exc:
                attempts -= 1
                if "locked" not in str(exc) or attempts == 0:
                    raise
                clock.sleep(_PAUSE_MS / 1000)


def _connected(path: str, busy_ms: int) -> sqlite3.Connection:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    # Created before SQLite does it with the process's mask; its -wal and -shm take the mode over.
    make_private_file(path)
    connection = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False)
    try:
        # Of a new file: what is kept is small, and whole pages are written.
        connection.execute("PRAGMA page_size=2048")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise PromisesUnavailable(path, "the file system has no shared memory: set a file on a local disk")
        # NORMAL survives the death of any process; FULL, set per transaction, that of the machine too.
        connection.execute("PRAGMA synchronous=NORMAL")
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise

    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")  # the second of two that make it waits, and finds it made
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        elif version != _VERSION:
            raise PromisesUnavailable(path, f"it has format {version}, this Capsule uses {_VERSION}: set another file")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


class translated:  # noqa: N801 - reads as the function that `contextlib.suppress` reads as, too
    """Turn errors of SQLite and of the system into ours.

    A class, as `contextlib.suppress` is: a generator takes longer than what is inside of it at times.

    Raises:
        PromisesUnavailable: instead of them.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None) -> None:
        if exc is not None:
            reason = _reason(exc)
            if reason:
                raise PromisesUnavailable(self._path, reason) from exc


def _reason(exc: BaseException) -> str:
    """Return what an error means for whoever wants to use the file; empty when it is no error of the file."""
    match exc:
        case sqlite3.OperationalError():
            return "another process has been writing to it for too long" if "locked" in str(exc) else f"{exc}"
        case sqlite3.DatabaseError():
            return f"{exc}: the file is damaged; move it away, or set another one"
        case OSError():
            return f"{exc.strerror or exc}: set another file"
    return ""
