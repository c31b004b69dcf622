"""Jupyter's wire protocol: multipart frames to messages and back, signed.

Source: Jupyter messaging, "The Wire Protocol". A message that cannot be accepted raises one error that says why; what
to do about it is the caller's business (Jupyter's rule: log, drop, go on).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from typing import Any

import msgspec

from capsule_kernel.errors import ConfigurationError, MessageRejected

DELIMITER = b"<IDS|MSG>"
PROTOCOL = "5.5"
"""Version of Jupyter messaging that the kernel speaks, in `header.version`, kernel_info and the kernelspec alike."""

_DIGESTS_KEPT = 65_536
_SIGNED_FRAMES = 4


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """`header` of a message (Jupyter messaging, "General Message Format")."""

    msg_id: str
    msg_type: str
    session: str = ""
    username: str = ""
    date: str = ""
    version: str = PROTOCOL
    subshell_id: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came in: decoded as far as routing needs it, the rest as the raw JSON that was signed."""

    idents: list[bytes]
    header: Header
    raw_header: bytes
    raw_metadata: bytes
    raw_content: bytes
    buffers: list[bytes]
    raw_parent: bytes = b"{}"


_decode_header = msgspec.json.Decoder(Header).decode


class Wire:
    """Signs, verifies and names the messages of one kernel, for its whole life.

    One session id and one source of message ids: JupyterLab drops messages whose session differs from that of the last
    one that it received.
    """

    def __init__(self, *, key: bytes, signature_scheme: str, session: str, username: str) -> None:
        digest = digest_of(signature_scheme)
        self.session = session
        self._hmac = hmac.new(key, digestmod=digest) if key else None
        self._seen: set[bytes] = set()
        self._seen_order: deque[bytes] = deque()
        self._count = 0
        self._prefix = f'{{"msg_id":"{session}_'.encode()
        name = msgspec.json.encode(username).decode()
        self._middle = f'","session":"{session}","username":{name},"version":"{PROTOCOL}","date":"'.encode()

    def decode(self, frames: list[bytes]) -> Message:
        """Return the message in `frames`.

        Raises:
            MessageRejected: no delimiter, a wrong or replayed signature, or a header that is not one.
        """
        try:
            at = frames.index(DELIMITER)
        except ValueError:
            raise MessageRejected(f"no {DELIMITER.decode()} frame among {len(frames)} frames") from None
        parts = frames[at + 1 :]
        if len(parts) < 1 + _SIGNED_FRAMES:
            raise MessageRejected(f"{len(parts)} frames after the delimiter; at least {1 + _SIGNED_FRAMES} are needed")
        signature, raw_header, raw_parent, raw_metadata, raw_content = parts[: 1 + _SIGNED_FRAMES]
        if self._hmac is not None:
            self._verify(signature, (raw_header, raw_parent, raw_metadata, raw_content))
        try:
            header = _decode_header(raw_header)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise MessageRejected(f"header is not valid: {exc}") from exc
        return Message(
            idents=frames[:at],
            header=header,
            raw_header=raw_header,
            raw_parent=raw_parent,
            raw_metadata=raw_metadata,
            raw_content=raw_content,
            buffers=parts[1 + _SIGNED_FRAMES :],
        )

    def encode(
        self,
        msg_type: str,
        content: bytes,
        *,
        parent: bytes,
        date: str,
        metadata: bytes = b"{}",
        buffers: list[bytes] | None = None,
        idents: list[bytes] | None = None,
    ) -> list[bytes]:
        """Return the frames of a new message; `content`, `parent` and `metadata` are JSON, `date` ISO 8601."""
        self._count = count = self._count + 1
        header = b'%b%d%b%b","msg_type":"%b"}' % (self._prefix, count, self._middle, date.encode(), msg_type.encode())
        signature = b""
        if self._hmac is not None:
            mac = self._hmac.copy()
            mac.update(b"%b%b%b%b" % (header, parent, metadata, content))
            signature = mac.hexdigest().encode()
        frames = [*idents] if idents else []
        frames += (DELIMITER, signature, header, parent, metadata, content)
        if buffers:
            frames += buffers
        return frames

    def _verify(self, signature: bytes, frames: tuple[bytes, ...]) -> None:
        assert self._hmac is not None
        if not signature:
            raise MessageRejected("message is not signed, and this kernel has a key")
        if signature in self._seen:
            raise MessageRejected("signature was used before: a replayed message")
        mac = self._hmac.copy()
        mac.update(b"".join(frames))
        if not hmac.compare_digest(mac.hexdigest().encode(), signature):
            raise MessageRejected("signature does not match the message: wrong key or altered frames")
        self._seen.add(signature)
        self._seen_order.append(signature)
        if len(self._seen_order) > _DIGESTS_KEPT:
            self._seen.discard(self._seen_order.popleft())


def digest_of(signature_scheme: str) -> str:
    """Return the name of the hash in a connection file's `signature_scheme`.

    Raises:
        ConfigurationError: it is no scheme, or the hash is not known here or none that HMAC can use.
    """
    digest = signature_scheme.removeprefix("hmac-")
    try:
        if digest != signature_scheme and digest in hashlib.algorithms_available:
            hmac.new(b"", digestmod=digest)
            return digest
    except ValueError:
        # For example shake_128, whose digests have no length of their own.
        pass
    raise ConfigurationError(
        source="signature_scheme",
        value=repr(signature_scheme),
        expected="'hmac-' and the name of a hash, such as hmac-sha256",
    )


def encode_json(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8."""
    return msgspec.json.encode(value)
