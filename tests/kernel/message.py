"""Jupyter messages as the test client sees them: bytes to checked messages and back.

Independent of the kernel's own `wire/`, so that a mistake there cannot hide itself. Source: the Jupyter messaging
document, sections "The wire protocol" and "General message format".
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

DELIMITER = b"<IDS|MSG>"
HEADER_FIELDS = ("msg_id", "session", "username", "date", "msg_type", "version")


class ProtocolViolationError(AssertionError):
    """The kernel sent something that the messaging document forbids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """One message that arrived, checked: signature, header fields and JSON."""

    channel: str
    idents: list[bytes]
    header: dict[str, Any]
    parent_header: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]
    buffers: list[bytes] = field(default_factory=list)

    @property
    def msg_type(self) -> str:
        """The type named in the header."""
        return str(self.header["msg_type"])

    @property
    def parent_id(self) -> str:
        """The msg_id of the request that caused this message; empty for none."""
        return str(self.parent_header.get("msg_id", ""))

    @property
    def date(self) -> datetime:
        """When the kernel made the message."""
        return datetime.fromisoformat(self.header["date"])

    def __repr__(self) -> str:
        """Short enough for a failure's text."""
        content = json.dumps(self.content)
        shown = content if len(content) <= 300 else f"{content[:300]}... ({len(content)} characters)"
        return f"<{self.channel} {self.msg_type} of {self.parent_id or 'nobody'}: {shown}>"


def sign(key: bytes, parts: list[bytes]) -> bytes:
    """HMAC-SHA256 over the four JSON frames, in hex; empty for an empty key."""
    if not key:
        return b""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        digest.update(part)
    return digest.hexdigest().encode()


def pack(key: bytes, parts: list[bytes], buffers: list[bytes] | None = None) -> list[bytes]:
    """The frames of one message without routing identities, from its four JSON frames."""
    return [DELIMITER, sign(key, parts), *parts, *(buffers or [])]


def unpack(channel: str, key: bytes, frames: list[bytes]) -> Message:
    """Check and decode the frames of one message; raises ProtocolViolationError."""
    if DELIMITER not in frames:
        msg = f"{channel}: no {DELIMITER!r} in {frames!r}"
        raise ProtocolViolationError(msg)
    at = frames.index(DELIMITER)
    parts = frames[at + 2 : at + 6]
    if len(parts) != 4:  # Header, parent header, metadata, content.
        msg = f"{channel}: {len(parts)} JSON frames instead of 4 in {frames!r}"
        raise ProtocolViolationError(msg)
    if not hmac.compare_digest(frames[at + 1], sign(key, parts)):
        msg = f"{channel}: wrong signature {frames[at + 1]!r} on {parts[0]!r}"
        raise ProtocolViolationError(msg)
    header, parent_header, metadata, content = (_decode(channel, part) for part in parts)
    message = Message(
        channel=channel,
        idents=frames[:at],
        header=header,
        parent_header=parent_header,
        metadata=metadata,
        content=content,
        buffers=frames[at + 6 :],
    )
    _check_header(message)
    return message


def _decode(channel: str, part: bytes) -> dict[str, Any]:
    try:
        value = json.loads(part.decode("utf-8"), parse_constant=_refuse_constant)
    except ValueError as exc:
        msg = f"{channel}: not JSON ({exc}): {part[:200]!r}"
        raise ProtocolViolationError(msg) from exc
    if not isinstance(value, dict):
        msg = f"{channel}: a JSON object expected: {part[:200]!r}"
        raise ProtocolViolationError(msg)
    return value


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON: a browser's JSON.parse refuses it"
    raise ValueError(msg)


def _check_header(message: Message) -> None:
    """Every field is there and is a string (JupyterLab's validate.ts refuses others); the date has a time zone."""
    for name in HEADER_FIELDS:
        if not isinstance(message.header.get(name), str):
            msg = f"header field {name!r} is {message.header.get(name)!r} in {message!r}"
            raise ProtocolViolationError(msg)
    if message.date.tzinfo is None:
        msg = f"date without a time zone: {message.header['date']!r}"
        raise ProtocolViolationError(msg)
