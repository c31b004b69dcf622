"""One end of a worker's socket pair, on the front's loop: the only reader, and a writer that never blocks."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from capsule_kernel.errors import ProtocolError
from capsule_kernel.wire.framing import FrameDecoder, encode_frames

_READ_BYTES = 1 << 18


class Link:
    """Frames over a stream socket, both ways.

    `on_payload` gets each message as bytes. What it raises is a broken link: reading stops, and `on_broken` is told.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        loop: asyncio.AbstractEventLoop,
        on_payload: Callable[[bytes], None],
        on_broken: Callable[[ProtocolError], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_payload = on_payload
        self._on_broken = on_broken
        self._decoder = FrameDecoder()
        self._unsent = bytearray()
        self._unhandled: deque[bytes] = deque()
        self._is_reading = False
        self._is_closed = False
        self._is_draining = False
        self._is_unread = False

    @property
    def is_unread(self) -> bool:
        """Whether the worker has ended before it read the whole of what was sent.

        Where a stream socket was closed with data left in it, its other end is reset (`unix_release_sock` in Linux).
        """
        return self._is_unread or bool(self._unsent)

    def start(self) -> None:
        """Begin to read."""
        self.resume()

    def resume(self) -> None:
        """Go on reading after `pause`."""
        if self._is_reading or self._is_closed:
            return
        self._is_reading = True
        self._loop.add_reader(self._sock, self._on_readable)
        self._handle()

    def pause(self) -> None:
        """Stop reading: the worker blocks when the socket's buffer is full."""
        if self._is_reading:
            self._loop.remove_reader(self._sock)
            self._is_reading = False

    def send(self, payload: bytes) -> None:
        """Queue one message; what the socket does not take at once follows when it does."""
        if self._is_closed:
            return
        frames = encode_frames(payload)
        if self._unsent:
            self._unsent += frames
            return
        try:
            sent = self._sock.send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            # The worker has gone; its death is seen and handled through the pidfd.
            self._is_unread = True
            return
        if sent < len(frames):
            self._unsent += frames[sent:]
            self._loop.add_writer(self._sock, self._on_writable)

    def drain(self) -> None:
        """Read everything that is there now, paused or not: the worker has ended."""
        if self._is_closed:
            return
        self._is_draining = True
        self._handle()
        while self._read():
            continue

    def close(self) -> None:
        """Close the socket; twice is no error."""
        if self._is_closed:
            return
        self.pause()
        self._is_closed = True
        self._loop.remove_writer(self._sock)
        self._sock.close()

    def _on_readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            self._is_unread = True
            data = b""
        except OSError:
            data = b""
        if not data:
            self.pause()
            return False
        try:
            self._unhandled += self._decoder.feed(data)
        except ProtocolError as exc:
            self._break(exc)
            return False
        self._handle()
        return not self._is_closed

    def _handle(self) -> None:
        """Hand over what has been read, as long as nobody pauses."""
        unhandled = self._unhandled
        try:
            while unhandled and (self._is_reading or self._is_draining):
                self._on_payload(unhandled.popleft())
        except ProtocolError as exc:
            self._break(exc)

    def _break(self, error: ProtocolError) -> None:
        self.pause()
        self._unhandled.clear()
        self._on_broken(error)

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._is_unread = True
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._sock)
