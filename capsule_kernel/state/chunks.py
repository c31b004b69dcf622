"""Cutting bytes into chunks so that what did not change keeps its chunks, and the fast hash that recognises them.

Buffers are cut along the rows of the array that they hold, pickle streams at places that their content decides: an
insertion moves the cuts near it and no others.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import xxhash

CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_MAX = 1 << 20
_STREAM_BYTES_MIN = 32 << 10
_STREAM_BYTES_MAX = 96 << 10
# Few bytes of a pickle stream are among these; of those in the window the one with the least checksum is the cut.
_CANDIDATE = re.compile(rb"[\x05\x3a\x61\xb7]")
_CHECKED_BYTES = 24

_FRAME = 0x95
# Opcodes of large objects, which the pickler writes between frames, and the width of the length that follows.
_LARGE = {ord("B"): 4, ord("X"): 4, 0x8E: 8, 0x8D: 8, 0x96: 8}


def fast_hash(data: bytes | memoryview) -> bytes:
    """Return a hash that is no protection against intent: it compares a session's bytes with its own earlier ones."""
    return xxhash.xxh3_128_digest(data)


def cut_buffer(view: memoryview, row_bytes: int) -> Iterator[memoryview]:
    """Yield the chunks of a flat buffer of rows of `row_bytes` bytes.

    A row of 64 KiB to 1 MiB is a chunk; longer ones are cut from their start, shorter ones go together.
    """
    total = len(view)
    row_bytes = max(1, row_bytes)
    if row_bytes < CHUNK_BYTES_MIN:
        step = CHUNK_BYTES_MAX // row_bytes * row_bytes
        yield from (view[start : start + step] for start in range(0, total, step))
        return
    for row in range(0, total, row_bytes):
        end = min(row + row_bytes, total)
        for start in range(row, end, CHUNK_BYTES_MAX):
            yield view[start : min(start + CHUNK_BYTES_MAX, end)]


def cut_stream(data: bytes) -> Iterator[memoryview]:
    """Yield the chunks of a pickle stream."""
    view = memoryview(data)
    start = 0
    while len(data) - start > _STREAM_BYTES_MAX:
        cut = min(
            (
                (zlib.crc32(view[found.start() : found.start() + _CHECKED_BYTES]), found.start())
                for found in _CANDIDATE.finditer(data, start + _STREAM_BYTES_MIN, start + _STREAM_BYTES_MAX)
            ),
            default=(0, start + _STREAM_BYTES_MAX),
        )[1]
        yield view[start:cut]
        start = cut
    yield view[start:]


def without_frames(data: bytes) -> bytes:
    """Return a pickle without its frames, which only help to read ahead (PEP 3154).

    Their places change with every insertion, and no later chunk would be the same.
    """
    pickled = memoryview(data)
    parts = [pickled[:2]]
    position = 2
    total = len(pickled)
    while position < total:
        opcode = pickled[position]
        if opcode == _FRAME:
            size = int.from_bytes(pickled[position + 1 : position + 9], "little")
            parts.append(pickled[position + 9 : position + 9 + size])
            position += 9 + size
        elif opcode in _LARGE:
            width = _LARGE[opcode]
            end = position + 1 + width + int.from_bytes(pickled[position + 1 : position + 1 + width], "little")
            parts.append(pickled[position:end])
            position = end
        else:
            # No frame was opened: a stream shorter than the shortest frame.
            parts.append(pickled[position:])
            break
    return b"".join(parts)
