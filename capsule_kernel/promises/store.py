"""The embedded store: promises in one SQLite file per user, shared by any number of processes.

Tables are the truth; the log, appended in the same transaction, tells other processes what happened and is the audit
trail. It calls the rules and knows no loop: `EmbeddedPromises` is its asynchronous face, commands use it directly.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.promises import retention, rules
from capsule_kernel.promises.bell import Bell
from capsule_kernel.promises.model import Promise, State, Task
from capsule_kernel.promises.outcome import Outcome
from capsule_kernel.promises.requests import Request
from capsule_kernel.promises.retention import Collected
from capsule_kernel.promises.rows import SqliteRows
from capsule_kernel.promises.schema import BUSY_MS, connect, translated

_TASKS_MAX = 10_000
_CHECKPOINT_BUSY_MS = 50


class LogEntry(msgspec.Struct, frozen=True):
    """A line of the log.

    Attributes:
        seq: its number; they grow, with gaps.
        op: `settle`, `execute` or `unblock`.
        id: the promise or task.
        note: `execute`: version and address; `unblock`: the address.
    """

    seq: int
    op: str
    id: str
    note: str


class Store:
    """A connection to the file. Not for two threads at once.

    Args:
        path: the file; made when missing, readable for its owner only.
        clock: the time of day.
        bell: wakes others, and is how they wake this process.
        is_quick: see `quick`.

    Attributes:
        openings: how often the file was opened: again when it was deleted or replaced.
    """

    def __init__(self, path: str, clock: Clock, bell: Bell | None = None, *, is_quick: bool = False) -> None:
        self.path = os.path.abspath(path)
        self.bell = bell or Bell(self.path, clock)
        self.openings = 0
        self._busy_ms = BUSY_MS
        self._is_quick = is_quick
        self._clock = clock
        self._open()

    def quick(self) -> Store:
        """Return another connection, with the same bell, that waits for no other process and hardly ever for the disk.

        What it writes stays in the log that SQLite writes ahead until somebody calls `checkpoint`.
        """
        quick = Store(self.path, self._clock, self.bell, is_quick=True)
        quick.wait_at_most(0)
        return quick

    def checkpoint(self) -> None:
        """Move what is in the log that SQLite writes ahead into the file, and have the log begin anew.

        Most of it is moved beside whoever writes. They are held up for the rest, and for a moment at most.
        """
        with translated(self.path):
            self._follow_file()
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._connection.execute(f"PRAGMA busy_timeout={_CHECKPOINT_BUSY_MS}")
            try:
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
                # Whoever writes first to a log that begins anew waits for the disk: better here than on a loop.
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                self._connection.execute(f"PRAGMA user_version={version}")
            finally:
                self._connection.execute(f"PRAGMA busy_timeout={self._busy_ms}")

    def wait_at_most(self, busy_ms: int) -> None:
        """Set how long to wait for another process before `PromisesUnavailable`."""
        self._busy_ms = busy_ms
        self._connection.execute(f"PRAGMA busy_timeout={busy_ms}")

    def close(self) -> None:
        """Close the file; nobody can wake this process any more."""
        self.bell.close()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def apply(self, requests: Sequence[Request], *, is_durable: bool = False) -> list[Outcome]:
        """Carry out requests, in their order, as one transaction.

        Args:
            requests: what is asked.
            is_durable: whether to wait until the disk has it. Without, it survives the death of every process, but
                the last moments may be lost with the machine's power.

        Returns:
            What each of them did.

        Raises:
            PromisesUnavailable: the file cannot be used; nothing was carried out.
        """
        with translated(self.path):
            self._follow_file()
            now_ms = self._clock.unix_ms()
            if is_durable:
                self._connection.execute("PRAGMA synchronous=FULL")
            try:
                outcomes = self._transaction(requests, now_ms)
            finally:
                if is_durable:
                    self._connection.execute("PRAGMA synchronous=NORMAL")
        for outcome in outcomes:
            if _is_news(outcome):
                self.bell.ring()
                break
        return outcomes

    def tick(self) -> int | None:
        """Carry out what is due.

        Returns:
            When something is due next (Unix time, ms).

        Raises:
            PromisesUnavailable: the file cannot be used.
        """
        with translated(self.path):
            self._follow_file()
            now_ms = self._clock.unix_ms()
            due_ms = self._rows.next_due_ms()
            if due_ms is None or due_ms > now_ms:
                return due_ms
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                outcome = rules.decide_tick(now_ms, self._rows)
                self._rows.save(outcome, now_ms)
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            due_ms = self._rows.next_due_ms()
        if _is_news(outcome):
            self.bell.ring()
        return due_ms

    def find(self, promise_id: str) -> Promise | None:
        """Return a promise as it is stored: what is overdue may still be pending.

        Raises:
            PromisesUnavailable: the file cannot be used.
        """
        with translated(self.path):
            self._follow_file()
            return self._rows.promise(promise_id)

    def search(
        self,
        *,
        prefix: str = "",
        state: State | None = None,
        kind: str | None = None,
        tags: dict[str, str] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Promise]:
        """Return promises in the order of their ids, as they are stored: what is overdue may still be pending.

        Args:
            prefix: how their ids begin.
            state: their state.
            kind: their tag `capsule:kind`.
            tags: tags that they have, among others.
            after: an id; only those behind it.
            limit: how many at most.

        Raises:
            PromisesUnavailable: the file cannot be used.
        """
        with translated(self.path):
            self._follow_file()
            return self._rows.find_promises(
                state=state, tags=tags or {}, after=after, limit=limit, prefix=prefix, kind=kind
            )

    def collect(self, retention_days: int, *, only_if_due: bool = False) -> Collected | None:
        """Let go of promises that were settled longer ago than that (see `retention`).

        Args:
            retention_days: how many days settled promises are kept.
            only_if_due: do nothing when some process did it within the last day.

        Returns:
            What was let go of; None when nothing was due.

        Raises:
            PromisesUnavailable: the file cannot be used.
        """
        with translated(self.path):
            self._follow_file()
            now_ms = self._clock.unix_ms()
            if only_if_due and not retention.is_due(self._connection, now_ms):
                return None
            return retention.collect(self._connection, now_ms, now_ms - retention_days * retention.DAY_MS)

    def pending_tasks(self) -> list[Task]:
        """Return tasks that nobody has taken, in the order of their ids."""
        with translated(self.path):
            self._follow_file()
            return self._rows.find_tasks(state="pending", after="", limit=_TASKS_MAX)

    def last_seq(self) -> int:
        """Return the number of the log's last entry."""
        with translated(self.path):
            seq: int = self._connection.execute("SELECT coalesce(max(seq), 0) FROM log").fetchone()[0]
            return seq

    def log_after(self, seq: int) -> list[LogEntry]:
        """Return what happened after entry `seq`, creations and collections excepted."""
        query = (
            "SELECT seq, op, id, coalesce(note, '') FROM log "
            "WHERE seq > ? AND op NOT IN ('create', 'collect') ORDER BY seq"
        )
        with translated(self.path):
            self._follow_file()
            return [LogEntry(*row) for row in self._connection.execute(query, (seq,))]

    def _open(self) -> None:
        self._identity: tuple[int, int] | None = None
        self._connection = connect(self.path, self._clock, self._busy_ms)
        if self._is_quick:
            self._connection.execute("PRAGMA wal_autocheckpoint=0")
        self.openings += 1
        self._rows = SqliteRows(self._connection)
        self._run = self._connection.cursor().execute
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)

    def _follow_file(self) -> None:
        """Open the file anew when it was deleted or replaced: SQLite would go on writing to what nobody can see."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            self._connection.close()
            self._open()

    def _transaction(self, requests: Sequence[Request], now_ms: int) -> list[Outcome]:
        self._run("BEGIN IMMEDIATE")
        try:
            outcomes = []
            for request in requests:
                outcome = rules.decide(now_ms, self._rows, request)
                if outcome.is_write:
                    self._rows.save(outcome, now_ms)
                outcomes.append(outcome)
            self._run("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return outcomes

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")


def _is_news(outcome: Outcome) -> bool:
    """Whether somebody may be waiting for what happened."""
    if outcome.messages:
        return True
    for promise in outcome.promises.values():  # noqa: SIM110 - `any` takes four times as long
        if promise.state != "pending":
            return True
    return False
