"""Routes requests of shell and control to handlers, inside the one bracket that every request has: busy, reply, idle.

A handler returns the content of its reply and never sends status. Execution and comm messages are the exceptions with
brackets of their own, since a worker ends them. Both channels take all requests (JEP 80).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from capsule_kernel.errors import MessageRejected
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request, Requests
from capsule_kernel.front.sockets import Channel
from capsule_kernel.wire.jupyter import Wire, encode_json

_log = logging.getLogger(__name__)
_COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})

Content = Mapping[str, Any] | bytes | None
"""Content of a reply, JSON as bytes where it exists already; None: this request has no reply."""
Handler = Callable[[Request], Content]
SlowHandler = Callable[[Request], Awaitable[Content]]

_INVALID = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
"""What a handler raises for a content that is not as the protocol says."""


class Dispatch:
    """Takes messages of shell and control."""

    def __init__(
        self,
        *,
        wire: Wire,
        requests: Requests,
        replies: Replies,
        iopub: IOPub,
        execute: Callable[[Request], None],
        comm: Callable[[Request], None],
        handlers: Mapping[str, Handler],
        slow_handlers: Mapping[str, SlowHandler],
        knows_subshell: Callable[[str], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._wire = wire
        self._requests = requests
        self._replies = replies
        self._iopub = iopub
        self._execute = execute
        self._comm = comm
        self._handlers = handlers
        self._slow_handlers = slow_handlers
        self._knows_subshell = knows_subshell
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, *channels: Channel) -> None:
        """Listen on `channels`."""
        for channel in channels:
            channel.start(lambda frames, channel=channel: self._on_frames(frames, channel))  # type: ignore[misc]

    def _on_frames(self, frames: list[bytes], channel: Channel) -> None:
        try:
            message = self._wire.decode(frames)
        except MessageRejected as exc:
            _log.warning("%s", exc)
            return
        msg_type = message.header.msg_type
        request = self._requests.add(message, channel)
        subshell_id = message.header.subshell_id
        if subshell_id is not None and not self._knows_subshell(subshell_id):
            self._refuse(request, subshell_id)
            return
        if msg_type == "execute_request":
            self._execute(request)
        elif msg_type in _COMM_MESSAGES:
            self._comm(request)
        elif (handler := self._handlers.get(msg_type)) is not None:
            with self._iopub.handling(request.parent):
                try:
                    self._reply(request, handler(request))
                except _INVALID as exc:
                    self._reply_invalid(request, exc)
        elif (slow_handler := self._slow_handlers.get(msg_type)) is not None:
            self._iopub.status("busy", parent=request.parent)
            # Called at once: it may have something to settle before the next message is looked at.
            task = self._loop.create_task(self._handle_slowly(request, slow_handler(request)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            _log.warning("a message of unknown type %r was dropped", msg_type)

    def _refuse(self, request: Request, subshell_id: str) -> None:
        """Answer what is addressed to a subshell that is not there, in the bracket that its client waits for."""
        with self._iopub.handling(request.parent):
            if request.message.header.msg_type not in _COMM_MESSAGES:
                text = f"there is no subshell {subshell_id!r}"
                self._replies.error(request, _reply_type(request), "UnknownSubshellError", text)

    async def _handle_slowly(self, request: Request, content: Awaitable[Content]) -> None:
        try:
            self._reply(request, await content)
        except _INVALID as exc:
            self._reply_invalid(request, exc)
        finally:
            self._iopub.status("idle", parent=request.parent)

    def _reply(self, request: Request, content: Content) -> None:
        if content is None:
            return
        if not isinstance(content, bytes):
            content = encode_json(content)
        self._replies.send(request, _reply_type(request), content)

    def _reply_invalid(self, request: Request, exc: Exception) -> None:
        text = f"content of {request.message.header.msg_type}: {exc}"
        self._replies.error(request, _reply_type(request), "InvalidRequest", text)


def _reply_type(request: Request) -> str:
    return request.message.header.msg_type.removesuffix("_request") + "_reply"
