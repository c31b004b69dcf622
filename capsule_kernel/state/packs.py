"""Pack files: append-only, each part with a header that says what it is, so that an index can be made from them anew.

A pack belongs to one process at a time, which holds a lock on it. What follows the last committed part is rubbish.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

from capsule_kernel.errors import StoreUnavailable
from capsule_kernel.state.manifest import NAME_BYTES, content_name

CHUNK, RECORD, MANIFEST, DELETED = b"c", b"r", b"m", b"d"
"""Kinds of parts. A `DELETED` part's content is the number of a checkpoint."""

_HEADER = struct.Struct(f">cI{NAME_BYTES}s")
_PACK_BYTES_MAX = 256 << 20
SUFFIX = ".pack"


class PackWriter:
    """Appends parts to a pack of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1
        self._path = folder
        self._committed_bytes = 0
        self._size_bytes = 0

    @property
    def name(self) -> str:
        """The name of the file that is written to; empty before the first part."""
        return self._path.name if self._file >= 0 else ""

    @property
    def has_uncommitted(self) -> bool:
        """Whether there are parts that do not count yet."""
        return self._size_bytes > self._committed_bytes

    @property
    def size_bytes(self) -> int:
        """Its size, with what is not committed."""
        return self._size_bytes

    def append(self, kind: bytes, name: bytes, data: bytes | memoryview) -> int:
        """Write a part; return the offset of its content.

        Raises:
            StoreUnavailable: the system refuses, for example since the disk is full.
        """
        try:
            if self._file < 0:
                self._create()
            header = _HEADER.pack(kind, len(data), name)
            offset = self._size_bytes + len(header)
            self._write(header)
            self._write(data)
        except OSError as exc:
            raise _refused(self._path, exc) from exc
        return offset

    def sync(self) -> None:
        """Have everything on the disk.

        Raises:
            StoreUnavailable: the system refuses.
        """
        if self._file < 0:
            return
        try:
            os.fsync(self._file)
        except OSError as exc:
            raise _refused(self._path, exc) from exc

    def commit(self) -> None:
        """Count what was written as valid."""
        self._committed_bytes = self._size_bytes
        if self._size_bytes > _PACK_BYTES_MAX:
            self.close()

    def roll_back(self) -> None:
        """Forget what was written since the last commit."""
        if self._file >= 0:
            os.ftruncate(self._file, self._committed_bytes)
            os.lseek(self._file, self._committed_bytes, os.SEEK_SET)
            self._size_bytes = self._committed_bytes

    def close(self) -> None:
        """Let go of the file; a file without valid parts is removed."""
        if self._file >= 0:
            self.roll_back()
            if not self._committed_bytes:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
        self._committed_bytes = self._size_bytes = 0

    def _create(self) -> None:
        while self._file < 0:
            self._path = self._folder / (secrets.token_hex(8) + SUFFIX)
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                self._file = file
            else:
                # Another process swept between the two lines above, and took it for one that nobody writes to.
                os.close(file)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
        while view:
            written = os.write(self._file, view)
            self._size_bytes += written
            view = view[written:]


def is_in_use(path: Path) -> bool:
    """Return whether a process, this one included, may still write to a pack."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def remove(path: Path) -> None:
    """Remove a pack, unless somebody writes to it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(file)


def scan(path: Path) -> Iterator[tuple[bytes, bytes, int, bytes]]:
    """Yield kind, name, offset and content of every part of a pack that is as it was written, up to its end.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            kind, size, name = _HEADER.unpack(header)
            offset = file.tell()
            data = file.read(size)
            if len(data) < size:
                return
            if content_name(data) == name:
                yield kind, name, offset, data


def _refused(path: Path, exc: OSError) -> StoreUnavailable:
    return StoreUnavailable(str(path), f"writing failed: {exc.strerror}; free some space, or set another folder")
