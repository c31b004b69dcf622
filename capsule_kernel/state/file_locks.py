"""POSIX locks on files: a fork's child has none of its parent's (fcntl(2)), and sqlite3 does not know that.

Who holds one for writing is in the middle of a transaction: both sides of a fork would write. One for reading, which a
database in WAL mode always has, is taken again when a snapshot becomes the worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec


class FileLock(msgspec.Struct, frozen=True):
    """One lock of this process, as /proc/locks (proc(5)) has it."""

    is_for_writing: bool
    inode: int
    start: int
    length: int
    """0: to the end of the file."""


def held_locks(path: str = "/proc/locks", pid: int = 0) -> list[FileLock]:
    """Return the POSIX locks of process `pid`, 0: of this one; nothing where that cannot be read."""
    pid = pid or os.getpid()
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split()
        if len(words) != 8 or words[1] != "POSIX" or words[4] != str(pid):
            continue
        start, inode = int(words[6]), int(words[5].rpartition(":")[2])
        length = 0 if words[7] == "EOF" else int(words[7]) - start + 1
        found.append(FileLock(is_for_writing=words[3] == "WRITE", inode=inode, start=start, length=length))
    return found


def reason_against(locks: Sequence[FileLock]) -> str:
    """Return why a fork would not be safe while these are held, empty if it is."""
    writing = next((lock for lock in locks if lock.is_for_writing), None)
    if writing is None:
        return ""
    name = next((str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in _descriptors_of(writing)), "a file")
    return f"{name} is locked for writing (a database in a transaction?), which a fork would lose"


def take_again(locks: Sequence[FileLock]) -> None:
    """In the child of the fork, once its parent has ended: hold what the parent held for reading."""
    for lock in locks:
        for descriptor in _descriptors_of(lock):
            # Somebody else writes already: then the database finds out by itself, as after any change.
            with contextlib.suppress(OSError):
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, lock.length, lock.start)


def _descriptors_of(lock: FileLock) -> Iterator[int]:
    # By the inode alone: of an overlay's files /proc/locks names another device than fstat.
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            status = os.fstat(int(entry.name))
        except OSError:
            # The listing's own, which is closed by now.
            continue
        if status.st_ino == lock.inode and stat.S_ISREG(status.st_mode):
            yield int(entry.name)
