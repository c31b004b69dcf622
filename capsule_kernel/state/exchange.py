"""What a worker, or the child that it forks for a capture, and the keeper of the store say to each other.

One dialogue a purpose, on a socket of its own: the worker's side opens it with a request, the keeper's side ends it
with an answer. Bytes travel once; nothing that is sent here is unpickled by the keeper.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import Self

import msgspec

from capsule_kernel.errors import CheckpointDeclined, ProtocolError, StoreUnavailable
from capsule_kernel.state.manifest import Captured, CaptureItem, Chunk, Known, Manifest, RecordMade
from capsule_kernel.wire.framing import FrameDecoder, encode_frames

CAPTURE_DEADLINE_S = 240
"""How long a capture may take, in seconds; its process is ended then."""

_READ_BYTES = 1 << 20


class Save(msgspec.Struct, frozen=True, kw_only=True, tag="save"):
    """A capture follows: `Base`, parts and `Captured`, `Verdict`."""

    session: str
    """Whose checkpoint it is; empty: of the session that the keeper was started for."""
    label: str
    after_cell: int
    is_attended: bool = False
    """Whether somebody asked for it, and is told what becomes of it."""
    ticket: int = 0
    """When the worker was forked for it: a later one is larger."""
    not_rolled_back: list[str] = []


class Find(msgspec.Struct, frozen=True, kw_only=True, tag="find"):
    """Which checkpoint is it: `Found`, and then a `Part` for every `Want`."""

    session: str
    wanted: str
    """A label or a number; empty: the newest."""


class Want(msgspec.Struct, frozen=True, kw_only=True, tag="want"):
    """Send a record or a chunk."""

    name: bytes


class List(msgspec.Struct, frozen=True, kw_only=True, tag="list"):
    """Which checkpoints are there: `Listing`."""

    session: str


class Delete(msgspec.Struct, frozen=True, kw_only=True, tag="delete"):
    """Delete a checkpoint by its label or number: `Listing` of what is left."""

    session: str
    wanted: str


class Proven(msgspec.Struct, frozen=True, kw_only=True, tag="proven"):
    """What a fresh process has shown of a checkpoint: `Found`, with the manifest as it is then."""

    checkpoint: int
    captured: Captured


class Unproven(msgspec.Struct, frozen=True, kw_only=True, tag="unproven"):
    """The proof of a checkpoint came to no end, for this reason; there is no answer."""

    checkpoint: int
    reason: str


class Named(msgspec.Struct, frozen=True, kw_only=True, tag="named"):
    """The notebook has told which session this is; there is no answer."""

    session: str


class Sent(msgspec.Struct, frozen=True, kw_only=True, tag="sent"):
    """A part that the store lacks; `fast` None: it is a record."""

    name: bytes
    fast: bytes | None
    data: bytes


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """The capture is complete."""

    captured: Captured


ToKeeper = Save | Find | Want | List | Delete | Proven | Unproven | Named | Sent | End


class Base(msgspec.Struct, frozen=True, kw_only=True, tag="base"):
    """Take this as known and capture; a second one: parts of the first are gone, capture again."""

    known: Known


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="verdict"):
    """The checkpoint is on the disk."""

    checkpoint: int
    manifest: Manifest


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a capture: from the child that captured to the worker."""

    verdict: Verdict | None = None
    error: str = ""
    took_s: float = 0.0
    """Of a processor."""


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """The checkpoint that `Find` meant."""

    checkpoint: int
    manifest: Manifest


class Part(msgspec.Struct, frozen=True, kw_only=True, tag="part"):
    """What `Want` asked for."""

    data: bytes


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint in a listing."""

    checkpoint: int
    created_ms: int
    after_cell: int
    label: str
    added_bytes: int
    changes: list[str]
    live_only: dict[str, str]
    """Names that are not in it, with the reason."""
    saved: int = 0
    """How many names are in it."""
    verified: int = 0
    """How many of them a fresh process has loaded and found the same."""
    doubts: dict[str, str] = {}
    """Names that a fresh process has loaded and found different, with where."""
    problem: str = ""
    """Why it cannot be read, if it cannot."""


class Listing(msgspec.Struct, frozen=True, kw_only=True, tag="listing"):
    """The checkpoints of a session, oldest first."""

    session: str
    now_ms: int
    folder: str
    size_bytes: int
    cap_bytes: int
    lines: list[Line]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """It cannot be done, for this reason; nothing was changed."""

    reason: str


FromKeeper = Base | Verdict | Found | Part | Listing | Refused

_encode = msgspec.msgpack.Encoder().encode
_decode_to_keeper = msgspec.msgpack.Decoder(ToKeeper).decode
_decode_from_keeper = msgspec.msgpack.Decoder(FromKeeper).decode


class Dialogue:
    """One end of a dialogue: whole messages over a socket, each within a time.

    Args:
        sock: the socket, which is the dialogue's from now on.
        patience_s: how long one message may take, in seconds.
    """

    def __init__(self, sock: socket.socket, *, patience_s: float) -> None:
        self._sock = sock
        self._sock.settimeout(patience_s)
        self._decoder = FrameDecoder()
        self._ready: deque[bytes] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the dialogue."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for it."""
        return self._sock.fileno()

    def say(self, message: ToKeeper | FromKeeper) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone, or does not read.
        """
        self._sock.sendall(encode_frames(_encode(message)))

    def hear_request(self) -> ToKeeper:
        """Return the next message of the worker's side.

        Raises:
            ProtocolError: what came is no message.
            OSError: the other side is gone, or silent.
        """
        try:
            request: ToKeeper = _decode_to_keeper(self._hear())
        except msgspec.MsgspecError as exc:
            raise ProtocolError(f"what is no message came in a dialogue about checkpoints: {exc}") from exc
        return request

    def hear_answer(self) -> FromKeeper:
        """Return the next message of the keeper's side.

        Raises:
            CheckpointDeclined: the keeper refused.
            StoreUnavailable: the keeper is gone.
        """
        try:
            answer: FromKeeper = _decode_from_keeper(self._hear())
        except (OSError, msgspec.MsgspecError, ProtocolError) as exc:
            raise StoreUnavailable("of this kernel", f"its keeper did not answer ({exc or 'too late'})") from exc
        if isinstance(answer, Refused):
            raise CheckpointDeclined(answer.reason)
        return answer

    def _hear(self) -> bytes:
        while not self._ready:
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the other side has ended")
            self._ready += self._decoder.feed(data)
        return self._ready.popleft()


class RemoteSource:
    """Records and chunks by way of a dialogue in which a checkpoint was found: a `loader.Source`."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self.broken: StoreUnavailable | None = None
        """Why nothing more can be had, once that is so: it is no fault of a record."""

    def record(self, name: bytes) -> bytes:
        """See `loader.Source`."""
        return self._part(name)

    def chunk(self, name: bytes) -> bytes:
        """See `loader.Source`."""
        return self._part(name)

    def _part(self, name: bytes) -> bytes:
        try:
            self._dialogue.say(Want(name=name))
            answer = self._dialogue.hear_answer()
        except OSError as exc:
            self.broken = StoreUnavailable("of this kernel", f"its keeper is gone ({exc})")
            raise self.broken from exc
        except StoreUnavailable as exc:
            self.broken = exc
            raise
        if not isinstance(answer, Part):
            raise StoreUnavailable("of this kernel", f"its keeper answered with {type(answer).__name__}")
        return answer.data


def early_end(took_s: float) -> str:
    """Return why a process that captures has ended without a word, as far as the time that it had says."""
    if took_s >= CAPTURE_DEADLINE_S:
        return f"writing them down took longer than {CAPTURE_DEADLINE_S} s, and was given up"
    return "the process that writes them down has ended early: out of memory, perhaps"


def as_message(item: CaptureItem) -> Sent | End:
    """Return an item of a capture as it travels."""
    match item:
        case Chunk(name=name, fast=fast, data=data):
            return Sent(name=name, fast=fast, data=bytes(data))
        case RecordMade(name=name, data=data):
            return Sent(name=name, fast=None, data=data)
        case Captured():
            return End(captured=item)


def items(dialogue: Dialogue) -> Iterator[CaptureItem]:
    """Yield a capture as it arrives, up to its end.

    Raises:
        ProtocolError: something else came.
        OSError: the other side is gone before the end.
    """
    while True:
        message = dialogue.hear_request()
        match message:
            case Sent(name=name, fast=None, data=data):
                yield RecordMade(name=name, data=data)
            case Sent(name=name, fast=bytes(fast), data=data):
                yield Chunk(name=name, fast=fast, data=data)
            case End(captured=captured):
                yield captured
                return
            case _:
                raise ProtocolError(f"{type(message).__name__} came in the middle of a capture")
