"""Lets go of promises that were settled long ago, a few at a time, so that nobody waits for it.

Pending promises stay, and so does what belongs to a durable function or run that is still pending, or has not been
settled for long enough: it needs its steps, and the answers it was given, when it is continued.
"""

from __future__ import annotations

import sqlite3

import msgspec

DAY_MS = 86_400_000
_BATCH = 1000
_ROWS = """
SELECT rowid, id, settled_at,
    CASE
        WHEN branch IS NOT NULL THEN json_extract(tags, '$."resonate:origin"')
        WHEN json_extract(tags, '$."capsule:session"') LIKE 'run:%'
            THEN substr(json_extract(tags, '$."capsule:session"'), 5)
        ELSE json_extract(tags, '$."capsule:run"')
    END
FROM promise WHERE rowid > ? ORDER BY rowid LIMIT ?
"""


class Collected(msgspec.Struct, frozen=True):
    """What a collection did.

    Attributes:
        promises: how many promises were let go of.
        entries: how many lines of the log.
    """

    promises: int
    entries: int


def is_due(connection: sqlite3.Connection, now_ms: int) -> bool:
    """Whether the last collection, by whatever process, was a day ago."""
    row = connection.execute("SELECT at_ms FROM log WHERE op = 'collect' ORDER BY seq DESC LIMIT 1").fetchone()
    return row is None or now_ms - int(row[0]) >= DAY_MS


def collect(connection: sqlite3.Connection, now_ms: int, before_ms: int) -> Collected:
    """Let go of what was settled before `before_ms` (Unix time), and of the log's entries from before.

    The log keeps its newest entry: entries are numbered on from there.
    """
    promises, after = 0, -1
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = connection.execute(_ROWS, (after, _BATCH)).fetchall()
            ids = [(row[1],) for row in rows if _is_over(connection, row, before_ms)]
            connection.executemany("DELETE FROM promise WHERE id = ?", ids)
            connection.executemany("DELETE FROM task WHERE id = ?", ids)
            if not rows:
                entries = connection.execute(
                    "DELETE FROM log WHERE at_ms < ? AND seq < (SELECT max(seq) FROM log)", (before_ms,)
                ).rowcount
                connection.execute("INSERT INTO log (at_ms, op, id) VALUES (?, 'collect', '')", (now_ms,))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        if not rows:
            return Collected(promises, entries)
        promises += len(ids)
        after = rows[-1][0]


def _is_over(connection: sqlite3.Connection, row: tuple[int, str, int | None, str | None], before_ms: int) -> bool:
    _, promise_id, settled_at, origin = row
    if settled_at is None or settled_at >= before_ms:
        return False
    if origin is None or origin == promise_id:
        return True
    root = connection.execute("SELECT settled_at FROM promise WHERE id = ?", (origin,)).fetchone()
    return root is None or (root[0] is not None and root[0] < before_ms)
