"""The front's end of a debugger's socket: requests with their responses, and events."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from capsule_kernel.errors import DebuggerGone, ProtocolError
from capsule_kernel.wire.dap import DapDecoder, DapMessage, encode_dap

_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 16


class DebugLink:
    """Speaks the Debug Adapter Protocol with the debugger in a worker."""

    def __init__(self, sock: socket.socket, *, on_event: Callable[[DapMessage], None]) -> None:
        self._sock = sock
        self._on_event = on_event
        self._decoder = DapDecoder()
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[DapMessage]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.is_closed = False

    async def start(self) -> None:
        """Begin to listen."""
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    async def request(self, command: str, arguments: dict[str, Any]) -> DapMessage:
        """Send a request and return its response.

        Raises:
            DebuggerGone: the debugger has ended, before this or meanwhile.
        """
        if self.is_closed or self._writer is None:
            raise DebuggerGone(command)
        self._seq += 1
        seq = self._seq
        future = self._waiting[seq] = asyncio.get_running_loop().create_future()
        self._writer.write(encode_dap({"type": "request", "seq": seq, "command": command, "arguments": arguments}))
        try:
            response: DapMessage = await future
        finally:
            del self._waiting[seq]
        if not response:
            raise DebuggerGone(command)
        return response

    def close(self) -> None:
        """Close the socket; requests that wait get no response any more."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_result({})

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_READ_BYTES):
                for message in self._decoder.feed(data):
                    self._take(message)
        except (OSError, ProtocolError) as exc:
            _log.warning("the debugger's link broke: %s", exc)
        self.close()

    def _take(self, message: DapMessage) -> None:
        if not isinstance(message.get("body", {}), dict | None):
            raise ProtocolError("a message whose body is none came from the debugger")
        message.pop("pydevd_cmd_id", None)
        if message.get("type") == "response":
            future = self._waiting.get(message.get("request_seq", 0))
            if future is not None and not future.done():
                future.set_result(message)
        elif message.get("type") == "event":
            self._on_event(message)
