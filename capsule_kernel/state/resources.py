"""How things that the operating system, or a pool, stands behind are taken apart: files, databases, mappings, pools.

They come back as what they were: a file at its position, a database with its content. What stands outside of the
process is as it is then, and the entry says so.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import reopen, revive
from capsule_kernel.state.reasons import Unsaveable

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler


def _file(file: Any, pickler: RecordPickler) -> Any:
    """Take an open file apart.

    What it has buffered must not reach the file from here: the session it was forked from will write it too. So the
    descriptor is pointed at memory first, and what a flush writes there is what was buffered.
    """
    if file.closed:
        return reopen.closed, (type(file), str(getattr(file, "name", "")), getattr(file, "mode", "r"))
    name = getattr(file, "name", None)
    descriptor = file.fileno()
    if not isinstance(name, str | bytes) or descriptor <= 2:
        raise Unsaveable("an open file without a path")
    path = os.path.abspath(os.fsdecode(name))
    if not os.path.isfile(path):
        raise Unsaveable(f"an open file that is not at {path} any more")
    pickler.note(f"the content of {path} is not part of the checkpoint")
    mode = file.mode
    settings: dict[str, Any] = {}
    if isinstance(file, io.TextIOBase):
        text: Any = file
        settings = {
            "encoding": text.encoding,
            "errors": text.errors,
            "line_buffering": text.line_buffering,
            "write_through": text.write_through,
        }
    pending, position = b"", 0
    if file.writable():
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        pending = _pending(file, descriptor)
        if not settings:
            position = file.tell() - len(pending)
        elif file.readable() and not pending:
            position = file.tell()
    else:
        try:
            position = file.tell()
        except OSError as exc:
            raise Unsaveable("a file in the middle of an iteration") from exc
    return reopen.opened, (path, type(file), mode, position, pending, settings)


def _pending(file: Any, descriptor: int) -> bytes:
    own = os.dup(descriptor)
    memory = os.memfd_create("pending")
    try:
        os.dup2(memory, descriptor)
        file.flush()
        size = os.fstat(memory).st_size
        return os.pread(memory, size, 0)
    finally:
        os.dup2(own, descriptor)
        os.close(own)
        os.close(memory)


def _database(connection: Any, pickler: RecordPickler) -> Any:
    try:
        connection.total_changes  # noqa: B018 - there is no other question
    except sys.modules["sqlite3"].ProgrammingError:
        return reopen.closed_database, ()
    if connection.in_transaction:
        raise Unsaveable("a database connection in the middle of a transaction")
    settings = {
        "isolation_level": connection.isolation_level,
        "row_factory": connection.row_factory,
        "text_factory": connection.text_factory,
    }
    rows = connection.execute("PRAGMA database_list").fetchall()
    if len(rows) != 1:
        raise Unsaveable("a database connection with other databases attached")
    path = tuple(rows[0])[2]
    if path:
        pickler.note(f"the content of {path} is not part of the checkpoint")
        return revive.file_database, (path, settings)
    # SQLite has no bytes for a database to which nothing was ever written.
    cursor = connection.cursor()
    cursor.row_factory = None
    is_empty = cursor.execute("PRAGMA page_count").fetchone()[0] == 0
    return revive.memory_database, (b"" if is_empty else connection.serialize(), settings)


def _mmap(mapping: Any, _pickler: RecordPickler) -> Any:
    raise Unsaveable("memory that is mapped from a file or shared with other processes")


def _executor(executor: Any, pickler: RecordPickler) -> Any:
    is_shut_down = executor._shutdown  # noqa: SLF001 - there is no public question
    if executor._work_queue.qsize() and not is_shut_down:  # noqa: SLF001 - as above
        raise Unsaveable("a pool of threads that has work")
    if is_shut_down and not pickler.environment.alive_threads.isdisjoint(map(id, executor._threads)):  # noqa: SLF001 - as above
        raise Unsaveable("a pool of threads that was shut down, and still works")
    args = (executor._max_workers, executor._thread_name_prefix)  # noqa: SLF001 - as above
    return revive.executor, (*args, True) if is_shut_down else args


def _future(future: Any, _pickler: RecordPickler) -> Any:
    if not future.done() or future.cancelled():
        raise Unsaveable("a future without an outcome")
    error = future.exception()
    return revive.done_future, (type(future), None if error is not None else future.result(), error)


REDUCERS: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "_io.TextIOWrapper": _file,
    "_io.BufferedReader": _file,
    "_io.BufferedWriter": _file,
    "_io.BufferedRandom": _file,
    "_io.FileIO": _file,
    "sqlite3.Connection": _database,
    "mmap.mmap": _mmap,
    "concurrent.futures.thread.ThreadPoolExecutor": _executor,
    "concurrent.futures._base.Future": _future,
}
