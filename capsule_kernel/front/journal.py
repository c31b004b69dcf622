"""What each execution has put out, for a client that comes back: the running ones, and those that ended last.

It keeps references to what goes out anyway, up to a number of bytes; what is over goes, oldest first, and is counted.
It knows nothing of sockets: `IOPub` tells it what it sends, `Replies` the end.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from capsule_kernel.front.requests import Request

State = Literal["queued", "running", "finished"]

_FINISHED_KEPT = 256
_OVERHEAD_BYTES = 200
"""What a message costs beside its bytes, roughly."""


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it went out on iopub; `content` and `metadata` are JSON, `date` is ISO 8601."""

    msg_type: str
    content: bytes
    metadata: bytes
    buffers: list[bytes]
    date: str

    @property
    def size_bytes(self) -> int:
        """What it costs to keep."""
        size = _OVERHEAD_BYTES + len(self.content) + len(self.metadata)
        return size + sum(map(len, self.buffers)) if self.buffers else size


class Entry(msgspec.Struct, kw_only=True):
    """One `execute_request` and what came of it so far.

    Attributes:
        dropped: how many of its oldest messages are no longer kept.
        reply: content of its `execute_reply` as JSON, empty before that.
    """

    request: Request
    state: State = "queued"
    outputs: deque[Output] = msgspec.field(default_factory=deque)
    size_bytes: int = 0
    dropped: int = 0
    reply: bytes = b""
    reply_metadata: bytes = b"{}"


class Journal:
    """The outputs of a kernel's newest executions."""

    def __init__(self, *, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._size_bytes = 0
        # By the header of the request, which is the parent of all that it causes.
        self._entries: dict[bytes, Entry] = {}
        self._finished: deque[Entry] = deque()

    def open(self, request: Request) -> None:
        """Keep what `request`, which has come in, will cause."""
        if self._cap_bytes > 0 and request.parent not in self._entries:
            self._entries[request.parent] = Entry(request=request)

    def note(
        self, msg_type: str, content: bytes, *, parent: bytes, metadata: bytes, buffers: list[bytes] | None, date: str
    ) -> None:
        """Keep a message that goes out, if it belongs to an execution."""
        entry = self._entries.get(parent)
        if entry is None:
            return
        if msg_type == "status":
            if entry.state == "queued":
                entry.state = "running"
            return
        output = Output(msg_type=msg_type, content=content, metadata=metadata, buffers=buffers or [], date=date)
        size_bytes = output.size_bytes
        entry.outputs.append(output)
        entry.size_bytes += size_bytes
        self._size_bytes += size_bytes
        if self._size_bytes > self._cap_bytes:
            self._trim()

    def close(self, request: Request, reply: bytes, metadata: bytes) -> None:
        """Note the `execute_reply` of `request`. Output of threads and tasks that comes later is kept as well."""
        entry = self._entries.get(request.parent)
        if entry is None:
            return
        entry.state, entry.reply, entry.reply_metadata = "finished", reply, metadata
        entry.size_bytes += len(reply)
        self._size_bytes += len(reply)
        self._finished.append(entry)
        if len(self._finished) > _FINISHED_KEPT:
            self._forget_oldest()
        if self._size_bytes > self._cap_bytes:
            self._trim()

    def entries(self, msg_id: str | None = None) -> list[Entry]:
        """Return what is kept, oldest first; of one request if `msg_id` names it."""
        entries = list(self._entries.values())
        if msg_id is None:
            return entries
        return [entry for entry in entries if entry.request.message.header.msg_id == msg_id]

    def _trim(self) -> None:
        while self._size_bytes > self._cap_bytes and len(self._finished) > 1:
            self._forget_oldest()
        for entry in list(self._entries.values()):
            while self._size_bytes > self._cap_bytes and entry.outputs:
                size_bytes = entry.outputs.popleft().size_bytes
                entry.dropped += 1
                entry.size_bytes -= size_bytes
                self._size_bytes -= size_bytes

    def _forget_oldest(self) -> None:
        entry = self._finished.popleft()
        del self._entries[entry.request.parent]
        self._size_bytes -= entry.size_bytes
