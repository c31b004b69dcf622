"""The debug adapter protocol's framing: bytes to messages and back, without I/O.

Source: Debug Adapter Protocol, "Base Protocol". What the messages mean is not known here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from capsule_kernel.errors import ProtocolError

_HEADER_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_MAX_HEADER_BYTES = 4096
_MAX_BODY_BYTES = 1 << 28

DapMessage = dict[str, Any]
"""A request, response or event."""


class DapDecoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[DapMessage]:
        """Take what has been read; return the messages that are complete.

        Raises:
            ProtocolError: this is not the protocol.
        """
        self._data += data
        messages: list[DapMessage] = []
        while (end := self._data.find(_HEADER_END)) >= 0:
            start = end + len(_HEADER_END)
            length = _length_in(bytes(self._data[:end]))
            if len(self._data) < start + length:
                return messages
            body = bytes(self._data[start : start + length])
            del self._data[: start + length]
            try:
                messages.append(msgspec.json.decode(body, type=DapMessage))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                raise ProtocolError(f"what is no message came from the debugger: {exc}") from exc
        if len(self._data) > _MAX_HEADER_BYTES:
            raise ProtocolError("what is no header came from the debugger")
        return messages


def _length_in(header: bytes) -> int:
    for line in header.split(b"\r\n"):
        if line.lower().startswith(_LENGTH):
            digits = line[len(_LENGTH) :].strip()
            if digits.isdigit() and int(digits) <= _MAX_BODY_BYTES:
                return int(digits)
    raise ProtocolError("a message without a valid length came from the debugger")


def encode_dap(message: DapMessage) -> bytes:
    """Return `message` with its header."""
    body = msgspec.json.encode(message)
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
