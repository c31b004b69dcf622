"""Which request a serial stands for: the parent of everything that it causes, and where its reply goes."""

from __future__ import annotations

import msgspec

from capsule_kernel.front.sockets import Channel
from capsule_kernel.wire.jupyter import Message

_KEPT = 8192


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a front end under its serial."""

    serial: int
    message: Message
    channel: Channel

    @property
    def parent(self) -> bytes:
        """The header as JSON, which is the parent header of all that follows from the request."""
        return self.message.raw_header


class Requests:
    """The requests of a kernel's life, the newest few thousand of them: tasks and threads outlive their cell.

    Cells and all others are counted apart: a cell that runs for hours keeps its place under thousands of comm messages.
    """

    def __init__(self) -> None:
        self._count = 0
        self._cells: dict[int, Request] = {}
        self._others: dict[int, Request] = {}

    def add(self, message: Message, channel: Channel) -> Request:
        """Give `message` a serial."""
        self._count += 1
        request = Request(serial=self._count, message=message, channel=channel)
        kept = self._cells if message.header.msg_type == "execute_request" else self._others
        kept[self._count] = request
        if len(kept) > _KEPT:
            del kept[next(iter(kept))]
        return request

    def get(self, serial: int) -> Request | None:
        """Return the request, None if there is none or it is too old."""
        return self._cells.get(serial) or self._others.get(serial)

    def parent_of(self, serial: int) -> bytes:
        """Return the parent header for output of `serial`, as JSON."""
        request = self.get(serial)
        return request.message.raw_header if request is not None else b"{}"
