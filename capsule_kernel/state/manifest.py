"""The vocabulary of saved state: chunks, records, entries and the signed manifest of one checkpoint.

A *chunk* is a piece of bytes named by its content. A *record* is one or more objects pickled together: a stream, the
buffers beside it, and the records that it refers to; it is named by its content too, so that a manifest's signature
covers everything below it. A manifest says what every name of a namespace was at one moment.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

import msgspec

from capsule_kernel.errors import ManifestRejected

FORMAT = 1
"""Version of everything in this file; readers refuse any other."""

NAME_BYTES = 20
"""Length of a content name: SHA-256, cut to 160 bits."""

Status = Literal["saved", "saved and verified", "live only", "lost"]


def content_name(data: bytes | memoryview) -> bytes:
    """Return the name that `data` has in a store."""
    return hashlib.sha256(data).digest()[:NAME_BYTES]


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk"):
    """A piece of bytes that the store does not hold yet."""

    name: bytes
    fast: bytes
    """A fast hash, by which one session recognises its own chunks; never trusted beyond it."""
    data: bytes | memoryview


class Buffer(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that belong to a record but stand beside its pickle stream."""

    size_bytes: int
    is_readonly: bool
    chunks: bytes
    """The names of its chunks, one after the other."""


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """One object of a record.

    Two objects that look the same are one record, but stay two: `copy` tells them apart.
    """

    record: bytes
    member: int
    copy: int = 0


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Objects that were pickled together."""

    inline: bytes
    """The pickle stream, where it is short."""
    stream: bytes
    """The names of the stream's chunks, one after the other, where it is not."""
    buffers: list[Buffer]
    """For the pickle's out-of-band buffers (PEP 574), in order."""
    blobs: list[Buffer]
    """Long `bytes` objects, to which the stream refers by number."""
    references: list[Reference]
    """Objects of other records, to which the stream refers by number."""


class RecordMade(msgspec.Struct, frozen=True, kw_only=True, tag="record"):
    """A record, encoded, that the store does not hold yet."""

    name: bytes
    data: bytes


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one name."""

    status: Status
    reason: str = ""
    """Why it is not saved; empty when it is."""
    value: Reference | None = None
    kind: str = ""
    """Its type's name."""
    shape: str = ""
    """Its extent, for people: `1000×5`, `3 items`."""
    size_bytes: int = 0
    """Of its own record: what it shares with other names counts where it is stored."""
    note: str = ""
    """What is different about the restored value, for example that a cache starts empty."""
    doubt: str = ""
    """Where a fresh process got something else from what is saved, or why it could not be compared."""
    content: bytes = b""
    """The name of the record as if nothing below it had a copy; empty where it is the record's own."""


class Captured(msgspec.Struct, frozen=True, kw_only=True, tag="captured"):
    """The end of a capture: what every name is."""

    names: dict[str, Entry]
    extras: dict[str, Entry]
    """State that is not a variable, by what it is: `cwd`, `random`, `outputs/3`."""
    python: str
    libraries: dict[str, str]


class Known(msgspec.Struct, kw_only=True):
    """What a store holds of a session, so that it needs not be sent again. A capture brings it up to date."""

    chunks: dict[bytes, bytes]
    """Names of chunks by their fast hash."""
    records: set[bytes]
    generation: int = 0
    """Of the store: parts may have been removed since an earlier one."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """When and where a checkpoint was taken, as its taker says."""

    session: str
    created_ms: int
    """Since 1970 (UTC)."""
    after_cell: int
    label: str = ""
    """The name that a person gave it; such checkpoints are kept until they are deleted."""
    not_rolled_back: list[str] = []
    """Things outside of the process that a restore leaves as they are, in words."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint."""

    about: About
    captured: Captured
    changes: list[str]
    """Against the session's checkpoint before it: `df: 1000×5 → 900×6`."""
    added_bytes: int
    """What it added to the store."""


type CaptureItem = Chunk | RecordMade | Captured

_encoder = msgspec.msgpack.Encoder()
_manifest_decoder = msgspec.msgpack.Decoder(Manifest)
_record_decoder = msgspec.msgpack.Decoder(Record)
_SIGNATURE_BYTES = 32


def encode_record(record: Record) -> bytes:
    """Return a record as the bytes that name it."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> Record:
    """Return the record in `data`.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _record_decoder.decode(data)


def names_in(joined: bytes) -> list[bytes]:
    """Return the content names in `joined`."""
    return [joined[start : start + NAME_BYTES] for start in range(0, len(joined), NAME_BYTES)]


def chunks_of(record: Record) -> list[bytes]:
    """Return the names of all chunks of a record, in order."""
    names = names_in(record.stream)
    for buffer in (*record.buffers, *record.blobs):
        names += names_in(buffer.chunks)
    return names


def sign(manifest: Manifest, key: bytes) -> bytes:
    """Return a manifest as bytes that `open_signed` accepts with the same key: version, signature, content."""
    version = FORMAT.to_bytes(2, "big")
    body = _encoder.encode(manifest)
    return version + hmac.digest(key, version + body, "sha256") + body


def open_signed(data: bytes, key: bytes, checkpoint: str) -> Manifest:
    """Return the manifest in `data`.

    Raises:
        ManifestRejected: another version, another user's signature, or damaged.
    """
    version = int.from_bytes(data[:2], "big")
    if version != FORMAT:
        raise ManifestRejected(
            checkpoint, f"it has format {version}, this Capsule reads format {FORMAT}: use the version that wrote it"
        )
    signature, body = data[2 : 2 + _SIGNATURE_BYTES], data[2 + _SIGNATURE_BYTES :]
    if not hmac.compare_digest(signature, hmac.digest(key, data[:2] + body, "sha256")):
        raise ManifestRejected(
            checkpoint,
            "its signature is not this user's; restoring runs code, so only checkpoints that you took are accepted",
        )
    try:
        return _manifest_decoder.decode(body)
    except msgspec.MsgspecError as exc:
        raise ManifestRejected(checkpoint, f"its content is not readable: {exc}") from exc


def changes(previous: Captured | None, current: Captured) -> list[str]:
    """Return what is different in `current`, one line a name: `df: 1000×5 → 900×6`, `model: new`, `x: deleted`."""
    before = previous.names if previous is not None else {}
    lines = []
    for name, entry in current.names.items():
        old = before.get(name)
        if old is None:
            lines.append(f"{name}: new")
        elif _looks(old) != _looks(entry):
            lines.append(f"{name}: {_looks(old)} → {_looks(entry)}")
        elif _content(old) != _content(entry):
            lines.append(f"{name}: changed")
    lines += [f"{name}: deleted" for name in before if name not in current.names]
    return lines


def _content(entry: Entry) -> tuple[bytes, int] | None:
    """Return what a value is whichever copy it is, and whichever copies it holds."""
    return None if entry.value is None else (entry.content or entry.value.record, entry.value.member)


def _looks(entry: Entry) -> str:
    return entry.shape or entry.kind
