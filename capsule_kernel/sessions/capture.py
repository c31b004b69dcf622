"""What user code writes to descriptors 1 and 2, as the front reads it."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable

_PIPE_READ_BYTES = 1 << 16
_PIPE_READS_AT_ONCE = 64
_HELD_BYTES = 1 << 20

Deliver = Callable[[str, str], None]
"""Takes the name of a stream (`stdout` or `stderr`) and text for it."""


class Capture:
    """The front's end of descriptor 1 or 2 of a worker: decoded across reads, published at intervals."""

    INTERVAL_S = 0.05

    def __init__(self, name: str, descriptor: int, *, deliver: Deliver, loop: asyncio.AbstractEventLoop) -> None:
        os.set_blocking(descriptor, False)
        self._name = name
        self._descriptor = descriptor
        self._deliver = deliver
        self._loop = loop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[str] = []
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    def start(self) -> None:
        """Begin to read, or go on after `pause`; twice is no error."""
        if self._descriptor >= 0:
            self._loop.add_reader(self._descriptor, self._on_readable)

    def pause(self) -> None:
        """Stop reading, until `start`: whoever writes waits when the pipe is full."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)

    def serve(self, deliver: Deliver) -> None:
        """Deliver there from now on: another session has the descriptor's other end."""
        self._deliver = deliver
        self.start()

    def drain(self) -> None:
        """Read until the pipe is empty (bounded: a child may write for ever), and publish."""
        for _ in range(_PIPE_READS_AT_ONCE):
            if not self._read():
                break
        self._publish()

    def flush(self) -> None:
        """Publish the rest, an unfinished character as U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        if text:
            self._held.append(text)
        self._publish()

    def close(self) -> None:
        """Close the descriptor; twice is no error."""
        if self._descriptor < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            data = os.read(self._descriptor, _PIPE_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            # Everybody who could write has closed it.
            self._loop.remove_reader(self._descriptor)
            return False
        text = self._decoder.decode(data)
        if text:
            self._held.append(text)
            self._held_bytes += len(data)
        return True

    def _on_readable(self) -> None:
        self._read()
        if self._held_bytes >= _HELD_BYTES:
            self._publish()
        elif self._timer is None and self._held:
            wait_s = self._last + self.INTERVAL_S - self._loop.time()
            if wait_s <= 0:
                self._publish()
            else:
                self._timer = self._loop.call_later(wait_s, self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._held:
            return
        text = "".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._last = self._loop.time()
        self._deliver(self._name, text)
