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

_INFO_BYTES = 1 << 16


class FileLock(msgspec.Struct, frozen=True):
    """One lock of this process."""

    is_for_writing: bool
    inode: int
    start: int
    length: int
    """0: to the end of the file."""


def held_locks() -> list[FileLock]:
    """Return the POSIX locks of this process on the regular files that it has open.

    From the descriptors, proc(5): reading /proc/locks stops all file locking of the machine for some milliseconds.
    """
    found: dict[FileLock, None] = {}
    for descriptor in _regular_files():
        try:
            text = read_proc(f"/proc/self/fdinfo/{descriptor}")
        except OSError:
            # Closed meanwhile.
            continue
        if b"lock:" not in text:
            continue
        for line in text.decode("ascii", "replace").splitlines():
            words = line.split()
            if words[:1] == ["lock:"] and words[2] == "POSIX":
                start, inode = int(words[7]), int(words[6].rpartition(":")[2])
                length = 0 if words[8] == "EOF" else int(words[8]) - start + 1
                found[FileLock(is_for_writing=words[4] == "WRITE", inode=inode, start=start, length=length)] = None
    return list(found)


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


def read_proc(path: str) -> bytes:
    """Return the content of a short file of proc(5)."""
    # On the way of every snapshot: a file object takes longer than the kernel here.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = found = os.read(descriptor, _INFO_BYTES)
        while found:  # it comes in pieces of a page
            found = os.read(descriptor, _INFO_BYTES)
            content += found
        return content
    finally:
        os.close(descriptor)


def _descriptors_of(lock: FileLock) -> Iterator[int]:
    # By the inode alone: of an overlay's files the lock names another device than fstat.
    return (descriptor for descriptor in _regular_files() if os.fstat(descriptor).st_ino == lock.inode)


def _regular_files() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        try:
            is_regular = stat.S_ISREG(os.fstat(int(name)).st_mode)
        except OSError:
            # The listing's own, which is closed by now.
            continue
        if is_regular:
            yield int(name)
