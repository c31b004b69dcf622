"""Promises and tasks as rows of the embedded store: reads them for the rules, and writes what the rules decided."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from capsule_kernel.promises.model import BRANCH_TAG, FAR_FUTURE_MS, Promise, State, Task, TaskState
from capsule_kernel.promises.outcome import Execute, Outcome, Unblock

_PROMISE = "id, state, param, value, tags, timeout_at, created_at, settled_at"
_ONE = (
    f"SELECT {_PROMISE}, EXISTS (SELECT 1 FROM wait WHERE awaited = promise.id UNION ALL "
    "SELECT 1 FROM listener WHERE promise = promise.id) FROM promise WHERE id = ?"
)
_TASK = "id, state, version, pid, ttl, resumes, due_at"
_TAGS = msgspec.json.Decoder(dict[str, str])
_RESUMES = msgspec.json.Decoder(tuple[str, ...])
_TOP = "\U0010ffff"
"""Sorts behind every character of an id."""
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


class SqliteRows:
    """`rules.Rows` over a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # One cursor for what gives at most one row: to make one for each statement takes longer than some of them.
        self._run = connection.cursor().execute
        # Whether anybody waits for the promise that was read last: settling one that nobody waits for asks no more.
        self._is_watched = ("", True)

    def promise(self, promise_id: str) -> Promise | None:
        """Return a promise."""
        row = self._run(_ONE, (promise_id,)).fetchone()
        if row is None:
            return None
        self._is_watched = (promise_id, bool(row[-1]))
        return _promise(row)

    def task(self, task_id: str) -> Task | None:
        """Return a task."""
        row = self._connection.execute(f"SELECT {_TASK} FROM task WHERE id = ?", (task_id,)).fetchone()
        return _task(row) if row is not None else None

    def watchers(self, promise_id: str) -> tuple[list[str], list[str]]:
        """Return the tasks to resume and the addresses to tell when a promise is settled, each in their order."""
        if self._is_watched == (promise_id, False):
            return [], []
        query = (
            "SELECT awaiter, NULL FROM wait WHERE awaited = ? UNION ALL "
            "SELECT NULL, address FROM listener WHERE promise = ?"
        )
        found = self._connection.execute(query, (promise_id, promise_id)).fetchall()
        return sorted(row[0] for row in found if row[0] is not None), sorted(row[1] for row in found if row[0] is None)

    def branch(self, branch: str) -> list[Promise]:
        """Return the promises of a branch, in the order of their ids."""
        query = f"SELECT {_PROMISE} FROM promise WHERE branch = ? ORDER BY id"
        return [_promise(row) for row in self._connection.execute(query, (branch,))]

    def overdue(self, now_ms: int) -> tuple[list[Promise], list[Task]]:
        """Return pending promises and tasks whose time has come."""
        promises = self._connection.execute(
            f"SELECT {_PROMISE} FROM promise WHERE state = 'pending' AND timeout_at < {FAR_FUTURE_MS} "
            "AND timeout_at <= ? ORDER BY timeout_at, id",
            (now_ms,),
        )
        tasks = self._connection.execute(
            f"SELECT {_TASK} FROM task WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at, id", (now_ms,)
        )
        return [_promise(row) for row in promises], [_task(row) for row in tasks]

    def next_due_ms(self) -> int | None:
        """Return when something is due next (Unix time)."""
        query = (
            f"SELECT min(timeout_at) FROM promise WHERE state = 'pending' AND timeout_at < {FAR_FUTURE_MS} "
            "UNION ALL SELECT min(due_at) FROM task WHERE due_at IS NOT NULL"
        )
        times = [row[0] for row in self._connection.execute(query) if row[0] is not None]
        return min(times, default=None)

    def find_promises(
        self,
        *,
        state: State | None,
        tags: dict[str, str],
        after: str,
        limit: int,
        prefix: str = "",
        kind: str | None = None,
    ) -> list[Promise]:
        """Return up to `limit` promises behind the id `after`, in the order of their ids."""
        conditions, values = ["id > ?"], [after]
        if prefix:
            conditions.append("id >= ? AND id < ?")
            values += [prefix, prefix + _TOP]
        if state == "pending":
            conditions.append("state = 'pending'")  # as a constant: the partial index needs it
        elif state is not None:
            conditions.append("state = ?")
            values.append(state)
        if kind is not None:
            conditions.append("kind = ?")
            values.append(kind)
        query = f"SELECT {_PROMISE} FROM promise WHERE {' AND '.join(conditions)} ORDER BY id"
        found: list[Promise] = []
        for row in self._connection.execute(query, values):
            promise = _promise(row)
            if tags.items() <= promise.tags.items():
                found.append(promise)
                if len(found) == limit:
                    break
        return found

    def find_tasks(self, *, state: TaskState | None, after: str, limit: int) -> list[Task]:
        """Return up to `limit` tasks behind the id `after`, in the order of their ids."""
        query = f"SELECT {_TASK} FROM task WHERE id > ? AND (? IS NULL OR state = ?) ORDER BY id LIMIT ?"
        return [_task(row) for row in self._connection.execute(query, (after, state, state, limit))]

    def save(self, outcome: Outcome, now_ms: int) -> None:
        """Write what the rules decided, and the log beside it."""
        self._is_watched = ("", True)
        run = self._run
        for promise in outcome.promises.values():
            # What is pending was created by this; what is settled may have been created by it too.
            if promise.is_pending or not self._update(promise):
                self._insert(promise)
            run(
                "INSERT INTO log (at_ms, op, id) VALUES (?, ?, ?)",
                (now_ms, "create" if promise.is_pending else "settle", promise.id),
            )
        for task in outcome.tasks.values():
            run(
                f"INSERT OR REPLACE INTO task ({_TASK}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    task.id,
                    task.state,
                    task.version,
                    task.pid,
                    task.ttl_ms,
                    msgspec.json.encode(task.resumes).decode(),
                    _clamped(task.due_at_ms),
                ),
            )
        for promise_id in outcome.heard:
            run("DELETE FROM wait WHERE awaited = ?", (promise_id,))
            run("DELETE FROM listener WHERE promise = ?", (promise_id,))
        for task_id in outcome.idle:
            run("DELETE FROM wait WHERE awaiter = ?", (task_id,))
        for wait in outcome.waits:
            run("INSERT OR IGNORE INTO wait (awaited, awaiter) VALUES (?, ?)", wait)
        for listener in outcome.listeners:
            run("INSERT OR IGNORE INTO listener (promise, address) VALUES (?, ?)", listener)
        for message in outcome.messages:
            match message:
                case Execute(address, task_id, version):
                    row = (now_ms, "execute", task_id, f"{version} {address}")
                case Unblock(address, promise):
                    row = (now_ms, "unblock", promise.id, address)
            run("INSERT INTO log (at_ms, op, id, note) VALUES (?, ?, ?, ?)", row)

    def _update(self, promise: Promise) -> bool:
        """Store how a promise was settled; return whether it is there."""
        done = self._run(
            "UPDATE promise SET state = ?, value = ?, settled_at = ? WHERE id = ?",
            (promise.state, promise.value, _clamped(promise.settled_at_ms), promise.id),
        )
        return done.rowcount == 1

    def _insert(self, promise: Promise) -> None:
        self._run(
            "INSERT INTO promise (id, state, kind, branch, param, value, tags, timeout_at, created_at, settled_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                promise.id,
                promise.state,
                promise.kind,
                promise.tags.get(BRANCH_TAG),
                promise.param,
                promise.value,
                msgspec.json.encode(promise.tags).decode(),
                _clamped(promise.timeout_at_ms),
                _clamped(promise.created_at_ms),
                _clamped(promise.settled_at_ms),
            ),
        )


def _promise(row: tuple[Any, ...]) -> Promise:
    return Promise(
        id=row[0],
        state=row[1],
        param=row[2],
        value=row[3],
        tags=_TAGS.decode(row[4]),
        timeout_at_ms=row[5],
        created_at_ms=row[6],
        settled_at_ms=row[7],
    )


def _task(row: tuple[Any, ...]) -> Task:
    return Task(
        id=row[0],
        state=row[1],
        version=row[2],
        pid=row[3],
        ttl_ms=row[4],
        resumes=_RESUMES.decode(row[5]),
        due_at_ms=row[6],
    )


def _clamped(number: int | None) -> int | None:
    """Return a number that SQLite can hold."""
    if number is None or _LEAST <= number <= _MOST:
        return number
    return _LEAST if number < 0 else _MOST
