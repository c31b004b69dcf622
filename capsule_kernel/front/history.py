"""The input history: IPython's SQLite file, in a thread of its own, so that no cell waits for a disk.

The tables are those of IPython's `HistoryManager`, so terminals, ipykernel and this kernel share one history. A file
that cannot be used (a lock on a network file system, a full disk) costs the history, never a cell.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from concurrent.futures import ThreadPoolExecutor

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (session integer primary key autoincrement, start timestamp, end timestamp,
    num_cmds integer, remark text);
CREATE TABLE IF NOT EXISTS history (session integer, line integer, source text, source_raw text,
    PRIMARY KEY (session, line));
CREATE TABLE IF NOT EXISTS output_history (session integer, line integer, output text, PRIMARY KEY (session, line));
"""
_WRITE_AFTER_S = 1.0
_BUSY_TIMEOUT_S = 2.0
_LINES_LIMIT = 1 << 17
"""More lines than a session has, to order by session and line at once."""

Row = tuple[int, int, Any]
Input = tuple[int, str, str]


def default_file(environ: dict[str, str], profile: str) -> str:
    """Return the history file of an IPython profile."""
    folder = environ.get("IPYTHONDIR") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".ipython")
    return os.path.join(folder, f"profile_{profile}", "history.sqlite")


class History:
    """Owns the file. Everything that touches it runs in one thread, in order."""

    def __init__(self, path: str, *, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._executor: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._session = 0
        self._unwritten: list[Input] = []
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._outputs: dict[int, str] = {}

    def note_output(self, line: int, text: str, *, is_logged: bool) -> None:
        """Remember the result of a line of this session; `is_logged` puts it into the file as well."""
        self._outputs[line] = text
        if is_logged:
            self._submit(lambda: self._write_output(line, text))

    def store(self, line: int, source: str, source_raw: str) -> None:
        """Keep an input; it is on disk within a second or so."""
        raw = source_raw.rstrip("\n")
        if raw.strip() in ("exit", "quit", "exit()", "quit()", "%exit", "%quit"):
            return
        self._unwritten.append((line, source.rstrip("\n"), raw))
        if self._timer is None:
            self._timer = self._loop.call_later(_WRITE_AFTER_S, self._write_soon)

    async def query(self, arguments: dict[str, Any]) -> list[Row]:
        """Return rows for the content of a `history_request` (Jupyter messaging, "History")."""
        self._write_soon()
        return await self._submit(lambda: self._query(arguments))

    async def close(self) -> None:
        """Write what is left and close the file; twice is no error."""
        if self._executor is None and not self._unwritten:
            return
        self._write_soon()
        await self._submit(self._close)
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unwritten:
            rows, self._unwritten = self._unwritten, []
            self._submit(lambda: self._write(rows))

    def _submit[T](self, function: Callable[[], T]) -> asyncio.Future[T]:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(1, thread_name_prefix="capsule-history")
        return self._loop.run_in_executor(self._executor, function)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        import sqlite3

        try:
            database = self._connect(self._path)
        except (sqlite3.Error, OSError) as exc:
            _log.warning(
                "history file %s cannot be used (%s): this session's history is kept in memory only", self._path, exc
            )
            database = self._connect(":memory:")
        self._database = database
        return database

    def _connect(self, path: str) -> sqlite3.Connection:
        import sqlite3

        if path != ":memory:":
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
        try:
            with database:
                database.executescript(_SCHEMA)
                cursor = database.execute(
                    "INSERT INTO sessions VALUES (NULL, ?, NULL, NULL, '')",
                    (_now(),),
                )
                self._session = cursor.lastrowid or 0
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _write(self, rows: list[Input]) -> None:
        import sqlite3

        database = self._open()
        try:
            with database:
                for line, source, raw in rows:
                    # Lines count anew after %reset; both are kept, under the next free number.
                    self._count = number = max(line, self._count + 1)
                    database.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (self._session, number, source, raw))
        except sqlite3.Error as exc:
            _log.warning("%d inputs were not written to the history file %s: %s", len(rows), self._path, exc)

    def _write_output(self, line: int, text: str) -> None:
        import sqlite3

        try:
            with self._open() as database:
                database.execute("INSERT OR REPLACE INTO output_history VALUES (?, ?, ?)", (self._session, line, text))
        except sqlite3.Error as exc:
            _log.warning("a result was not written to the history file %s: %s", self._path, exc)

    def _query(self, arguments: dict[str, Any]) -> list[Row]:
        import sqlite3

        try:
            return self._select(self._open(), arguments)
        except sqlite3.Error as exc:
            _log.warning("history file %s cannot be read: %s", self._path, exc)
            return []

    def _select(self, database: sqlite3.Connection, arguments: dict[str, Any]) -> list[Row]:
        column = "source_raw" if arguments.get("raw", True) else "source"
        with_output = bool(arguments.get("output"))
        what = f"h.session, h.line, h.{column}" + (", o.output" if with_output else "")
        source = "history h" + (" LEFT JOIN output_history o USING (session, line)" if with_output else "")
        match arguments.get("hist_access_type"):
            case "tail":
                limit = arguments.get("n")
                rows = database.execute(
                    f"SELECT {what} FROM {source} ORDER BY h.session DESC, h.line DESC LIMIT ?",
                    (10 if limit is None else int(limit),),
                ).fetchall()[::-1]
            case "range":
                rows = self._select_range(database, what, source, arguments)
            case "search":
                # What was typed is what is searched, whichever form is asked for. Of equal inputs the newest is chosen:
                # with max(), SQLite takes the other columns from the row that has it.
                latest, unique = ("", "")
                if arguments.get("unique"):
                    latest, unique = f", max(h.session * {_LINES_LIMIT} + h.line)", " GROUP BY h.source_raw"
                limit = arguments.get("n")
                found = database.execute(
                    f"SELECT {what}{latest} FROM {source} WHERE h.source_raw GLOB ?{unique} "
                    "ORDER BY h.session DESC, h.line DESC LIMIT ?",
                    (arguments.get("pattern") or "*", -1 if limit is None else int(limit)),
                ).fetchall()[::-1]
                rows = [row[:-1] for row in found] if unique else found
            case _:
                rows = []
        if with_output:
            ours = self._session
            return [
                (session, line, (text, self._outputs.get(line) if session == ours else output))
                for session, line, text, output in rows
            ]
        return [(session, line, text) for session, line, text in rows]

    def _select_range(
        self, database: sqlite3.Connection, what: str, source: str, arguments: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        session = int(arguments.get("session") or 0)
        if session <= 0:
            session += self._session
        conditions, values = "h.session = ? AND h.line >= ?", [session, int(arguments.get("start") or 0)]
        stop = arguments.get("stop")
        if stop:
            conditions += " AND h.line < ?"
            values.append(int(stop))
        return database.execute(f"SELECT {what} FROM {source} WHERE {conditions} ORDER BY h.line", values).fetchall()

    def _close(self) -> None:
        import sqlite3

        if self._database is None:
            return
        try:
            with self._database:
                self._database.execute(
                    "UPDATE sessions SET end = ?, num_cmds = (SELECT count(*) FROM history WHERE session = ?) "
                    "WHERE session = ?",
                    (_now(), self._session, self._session),
                )
        except sqlite3.Error as exc:
            _log.warning("the end of the session was not written to the history file %s: %s", self._path, exc)
        self._database.close()
        self._database = None


def _now() -> str:
    """Return the time as IPython writes it into its history: local, without a zone."""
    return datetime.now().isoformat(" ")  # noqa: DTZ005 - see above
