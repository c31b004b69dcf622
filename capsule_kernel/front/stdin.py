"""Questions of user code to whoever runs the cell.

Source: Jupyter messaging, "Messages on the stdin (ROUTER/DEALER) channel". One question waits at a time for each
client; a reply that comes when nobody asks is dropped, or told to be late.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.errors import MessageRejected
from capsule_kernel.front.requests import Request
from capsule_kernel.front.sockets import Channel
from capsule_kernel.wire.jupyter import DELIMITER, Wire, encode_json

_log = logging.getLogger(__name__)
_WITHDRAWN_KEPT = 100


class _InputContent(msgspec.Struct, frozen=True):
    value: str = ""


class _Parent(msgspec.Struct, frozen=True):
    msg_id: str = ""


class _Open(msgspec.Struct, frozen=True):
    key: object
    idents: list[bytes]
    msg_id: str
    on_reply: Callable[[str], None]
    on_late: Callable[[], None]


class Stdin:
    """Owns the stdin channel and what is asked over it."""

    def __init__(self, channel: Channel, wire: Wire, *, clock: Clock) -> None:
        self._channel = channel
        self._wire = wire
        self._clock = clock
        self._open: list[_Open] = []
        self._withdrawn: deque[_Open] = deque(maxlen=_WITHDRAWN_KEPT)

    def start(self) -> None:
        """Listen for answers."""
        self._channel.start(self._on_frames)

    def put(
        self,
        key: object,
        request: Request,
        *,
        prompt: str,
        password: bool,
        on_reply: Callable[[str], None],
        on_late: Callable[[], None],
    ) -> None:
        """Put a question to the client that sent `request`.

        Args:
            key: what `withdraw` calls it by.
            request: whose client is asked.
            prompt: what it shows.
            password: whether it hides what is typed.
            on_reply: gets the client's answer.
            on_late: is called instead when the answer comes after `withdraw`.
        """
        if not self._open:
            # Answers to questions that were withdrawn must not be taken for the answer to this one.
            self._channel.receive_all()
        idents = request.message.idents
        frames = self._wire.encode(
            "input_request",
            encode_json({"prompt": prompt, "password": password}),
            parent=request.parent,
            date=self._clock.iso_now(),
            idents=idents,
        )
        header = frames[frames.index(DELIMITER) + 2]
        msg_id = msgspec.json.decode(header, type=_Parent).msg_id
        self._open.append(_Open(key, idents, msg_id, on_reply, on_late))
        self._channel.send(frames)

    def withdraw(self, key: object) -> None:
        """Forget a question: nobody waits for this client's answer any more. Its prompt may stay on the screen."""
        for question in [each for each in self._open if each.key is key]:
            self._open.remove(question)
            self._withdrawn.append(question)

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            message = self._wire.decode(frames)
            content = msgspec.json.decode(message.raw_content, type=_InputContent)
            parent = msgspec.json.decode(message.raw_parent or b"{}", type=_Parent).msg_id
        except (MessageRejected, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            _log.warning("stdin: %s", exc)
            return
        if message.header.msg_type != "input_reply":
            _log.warning("stdin: a message of type %r; only input_reply is expected", message.header.msg_type)
            return
        for late in self._withdrawn:
            # By the request that it quotes: jupyter_client's `input` quotes none.
            if parent and late.msg_id == parent:
                self._withdrawn.remove(late)
                late.on_late()
                return
        quoted = [each for each in self._open if parent and each.msg_id == parent]
        for question in quoted or self._open:
            if question.idents == message.idents or len(self._open) == 1:
                self._open.remove(question)
                question.on_reply(content.value)
                return
