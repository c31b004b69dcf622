"""Length-prefixed frames on a byte stream, and the fragments that long messages are cut into.

A frame is a four-byte big-endian word and that many bytes less the word's top bit, which says that more fragments of
the same message follow. Fragments of two messages never interleave: a writer holds the link for a whole message.
"""

from __future__ import annotations

from collections.abc import Iterator

from capsule_kernel.errors import ProtocolError

FRAGMENT_BYTES = 1 << 20
"""Longest payload of one frame, in bytes."""

MESSAGE_BYTES_LIMIT = 1 << 31
"""Longest message that a reader accepts, in bytes: what is larger is a broken or hostile peer."""

_MORE = 1 << 31
_PREFIX_BYTES = 4


def encode_frames(payload: bytes) -> bytes:
    """Return `payload` as the bytes of its frames."""
    if len(payload) <= FRAGMENT_BYTES:
        return len(payload).to_bytes(_PREFIX_BYTES, "big") + payload
    return b"".join(_fragments(payload))


def _fragments(payload: bytes) -> Iterator[bytes | memoryview]:
    view = memoryview(payload)
    for start in range(0, len(view), FRAGMENT_BYTES):
        piece = view[start : start + FRAGMENT_BYTES]
        more = _MORE if start + FRAGMENT_BYTES < len(view) else 0
        yield (len(piece) | more).to_bytes(_PREFIX_BYTES, "big")
        yield piece


class FrameDecoder:
    """Turns what a stream delivers, in pieces of any size, into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fragments: list[bytes] = []
        self._fragments_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take `data` and return the messages that it completes, in order.

        Raises:
            ProtocolError: a frame is longer than `FRAGMENT_BYTES`, or a message than `MESSAGE_BYTES_LIMIT`.
        """
        buffer = self._buffer
        if not buffer and not self._fragments and len(data) >= _PREFIX_BYTES:
            # The usual case: exactly one short frame in one read.
            size = int.from_bytes(data[:_PREFIX_BYTES], "big")
            if size + _PREFIX_BYTES == len(data) and size <= FRAGMENT_BYTES:
                return [data[_PREFIX_BYTES:]]
        buffer += data
        messages: list[bytes] = []
        start = 0
        end = len(buffer)
        while end - start >= _PREFIX_BYTES:
            word = int.from_bytes(buffer[start : start + _PREFIX_BYTES], "big")
            size = word & ~_MORE
            if size > FRAGMENT_BYTES:
                raise ProtocolError(f"a frame of {size} bytes; the limit is {FRAGMENT_BYTES}")
            stop = start + _PREFIX_BYTES + size
            if stop > end:
                break
            self._add(bytes(buffer[start + _PREFIX_BYTES : stop]), more=bool(word & _MORE), messages=messages)
            start = stop
        if start:
            del buffer[:start]
        return messages

    def _add(self, piece: bytes, *, more: bool, messages: list[bytes]) -> None:
        if not more and not self._fragments:
            messages.append(piece)
            return
        self._fragments.append(piece)
        self._fragments_bytes += len(piece)
        if self._fragments_bytes > MESSAGE_BYTES_LIMIT:
            raise ProtocolError(f"a message of more than {MESSAGE_BYTES_LIMIT} bytes")
        if not more:
            messages.append(b"".join(self._fragments))
            self._fragments = []
            self._fragments_bytes = 0
