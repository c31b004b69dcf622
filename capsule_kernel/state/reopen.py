"""Files opened again at their position: what `resources` took apart.

Names and arguments are part of the stored format.
"""

from __future__ import annotations

import io
import os
from typing import Any


def opened(path: str, cls: type, mode: str, position: int, pending: bytes, settings: dict[str, Any]) -> Any:
    """Return the file at `path`, opened as it was; what was still to be written is.

    Raises:
        OSError: it cannot be opened any more.
    """
    descriptor = os.open(path, _flags(mode) | os.O_CLOEXEC)
    if pending:
        if "a" in mode:
            os.write(descriptor, pending)
        else:
            os.pwrite(descriptor, pending, position)
    position += len(pending)
    is_text = issubclass(cls, io.TextIOBase)
    os.lseek(descriptor, 0 if is_text else position, os.SEEK_SET)
    raw = io.FileIO(descriptor, _raw_mode(mode))
    raw.name = path
    if cls is io.FileIO:
        return raw
    buffered: Any
    if "+" in mode:
        buffered = io.BufferedRandom(raw)
    elif "r" in mode:
        buffered = io.BufferedReader(raw)
    else:
        buffered = io.BufferedWriter(raw)
    if not is_text:
        return buffered
    text: Any = io.TextIOWrapper(buffered, **settings)
    text.mode = mode
    if "a" not in mode:
        text.seek(position)
    return text


def _flags(mode: str) -> int:
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    return access | (os.O_APPEND if "a" in mode else 0)


def _raw_mode(mode: str) -> str:
    letter = "a" if "a" in mode else "r" if "r" in mode else "w"
    # "r+" does not truncate, which matters only when a path is opened: here it is a descriptor.
    return ("r+" if "+" in mode and letter != "a" else letter + ("+" if "+" in mode else "")).replace("b", "")


def closed(cls: type, path: str, mode: str) -> Any:
    """Return a closed file."""
    descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    raw = io.FileIO(descriptor, "r+")
    made: Any = raw
    if issubclass(cls, io.TextIOBase):
        made = io.TextIOWrapper(io.BufferedRandom(raw), encoding="utf-8")
        made.mode = mode
    elif cls is not io.FileIO:
        made = io.BufferedRandom(raw) if cls is io.BufferedRandom else io.BufferedReader(raw)
    made.close()
    raw.name = path
    return made


def closed_database() -> Any:
    """Return a closed connection to an SQLite database."""
    import sqlite3

    made = sqlite3.connect(":memory:")
    made.close()
    return made
