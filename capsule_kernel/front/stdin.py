"""Questions of user code to whoever runs the cell.

Source: Jupyter messaging, "Messages on the stdin (ROUTER/DEALER) channel". One question waits at a time for each
client; a reply that comes when nobody asks is dropped.
"""

from __future__ import annotations

import logging

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.errors import MessageRejected
from capsule_kernel.front.requests import Requests
from capsule_kernel.front.sockets import Channel
from capsule_kernel.sessions.session import Session
from capsule_kernel.wire.jupyter import Wire, encode_json
from capsule_kernel.wire.worker_messages import Ask, InputReply

_log = logging.getLogger(__name__)


class _InputContent(msgspec.Struct, frozen=True):
    value: str = ""


class Stdin:
    """Owns the stdin channel and the open questions."""

    def __init__(self, channel: Channel, wire: Wire, requests: Requests, *, clock: Clock) -> None:
        self._channel = channel
        self._wire = wire
        self._requests = requests
        self._clock = clock
        self._open: list[tuple[Session, int, list[bytes]]] = []

    def start(self) -> None:
        """Listen for answers."""
        self._channel.start(self._on_frames)

    def ask(self, session: Session, ask: Ask) -> None:
        """Put a question of `session` to the client that sent the request."""
        request = self._requests.get(ask.parent)
        if request is None:
            session.say(InputReply(ask=ask.ask, value=None))
            return
        if not self._open:
            # Answers to questions that were withdrawn must not be taken for the answer to this one.
            self._channel.receive_all()
        self._open.append((session, ask.ask, request.message.idents))
        self._channel.send(
            self._wire.encode(
                "input_request",
                encode_json({"prompt": ask.prompt, "password": ask.password}),
                parent=request.parent,
                date=self._clock.iso_now(),
                idents=request.message.idents,
            )
        )

    def withdraw(self, session: Session, ask: int | None = None) -> None:
        """Forget a question of `session`, or all of them: nobody waits any more."""
        self._open = [
            question
            for question in self._open
            if question[0] is not session or (ask is not None and question[1] != ask)
        ]

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            message = self._wire.decode(frames)
            content = msgspec.json.decode(message.raw_content, type=_InputContent)
        except (MessageRejected, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            _log.warning("stdin: %s", exc)
            return
        if message.header.msg_type != "input_reply":
            _log.warning("stdin: a message of type %r; only input_reply is expected", message.header.msg_type)
            return
        for question in self._open:
            session, ask, idents = question
            if idents == message.idents or len(self._open) == 1:
                self._open.remove(question)
                session.say(InputReply(ask=ask, value=content.value))
                return
