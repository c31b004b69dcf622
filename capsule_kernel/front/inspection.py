"""Completion and inspection: asked of the worker's reader thread, with deadlines.

When no answer comes in time, the reply is an honest one without a result. Source: Jupyter messaging, "Completion" and
"Introspection".
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from capsule_kernel.front.requests import Request
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.session import Session
from capsule_kernel.settings import Settings
from capsule_kernel.wire.jupyter import encode_json
from capsule_kernel.wire.worker_messages import Answer, Complete, Inspect, Taken

_SERVING = (Phase.IDLE, Phase.BUSY)


class CompleteContent(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a `complete_request`."""

    code: str
    cursor_pos: int | None = None


class InspectContent(msgspec.Struct, frozen=True, kw_only=True):
    """Content of an `inspect_request`."""

    code: str
    cursor_pos: int | None = None
    detail_level: int = 0
    omit_sections: list[str] | None = None


class Inspections:
    """Requests that wait for the reader thread."""

    def __init__(self, settings: Settings, *, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        self._session: Session | None = None
        self._ready = asyncio.Event()
        self._taken: dict[int, asyncio.Future[None]] = {}
        self._answers: dict[int, asyncio.Future[bytes]] = {}

    def on_ready(self, session: Session) -> None:
        """A worker can be asked."""
        self._session = session
        self._ready.set()

    def on_death(self) -> None:
        """The worker is gone: what waits gets no answer from it."""
        self._session = None
        self._ready.clear()
        for taken in self._taken.values():
            taken.cancel()
        for answer in self._answers.values():
            answer.cancel()

    def on_taken(self, message: Taken) -> None:
        """The reader thread has begun."""
        future = self._taken.get(message.serial)
        if future is not None and not future.done():
            future.set_result(None)

    def on_answer(self, message: Answer) -> None:
        """The reader thread is done."""
        future = self._answers.get(message.serial)
        if future is not None and not future.done():
            future.set_result(message.content)

    async def complete(self, request: Request) -> bytes:
        """Return the content of a `complete_reply`."""
        content = msgspec.json.decode(request.message.raw_content, type=CompleteContent)
        cursor = len(content.code) if content.cursor_pos is None else content.cursor_pos
        answer = await self._ask(Complete(serial=request.serial, code=content.code, cursor_pos=cursor))
        if isinstance(answer, bytes):
            return answer
        return encode_json(
            {
                "status": "ok",
                "matches": [],
                "cursor_start": cursor,
                "cursor_end": cursor,
                "metadata": {"capsule": {"unavailable": answer}},
            }
        )

    async def inspect(self, request: Request) -> bytes:
        """Return the content of an `inspect_reply`."""
        content = msgspec.json.decode(request.message.raw_content, type=InspectContent)
        cursor = len(content.code) if content.cursor_pos is None else content.cursor_pos
        answer = await self._ask(
            Inspect(
                serial=request.serial,
                code=content.code,
                cursor_pos=cursor,
                detail_level=content.detail_level,
                omit_sections=content.omit_sections or [],
            )
        )
        if isinstance(answer, bytes):
            return answer
        return encode_json(
            {"status": "ok", "found": False, "data": {}, "metadata": {"capsule": {"unavailable": answer}}}
        )

    async def _ask(self, message: Complete | Inspect) -> bytes | str:
        """Return the worker's answer, or the reason why there is none."""
        timeout_s = self._settings.inspect_timeout_ms / 1000
        if self._session is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), timeout_s)
        session = self._session
        if session is None or session.phase not in _SERVING:
            return "the worker is not ready"
        taken = self._taken[message.serial] = self._loop.create_future()
        answer = self._answers[message.serial] = self._loop.create_future()
        try:
            session.say(message)
            # An idle worker may be anywhere in a long completion before this one; a busy one that does not even take
            # the question holds the GIL in C.
            is_busy = session.phase is Phase.BUSY
            await asyncio.wait_for(taken, self._settings.inspect_ack_timeout_ms / 1000 if is_busy else timeout_s)
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            return "a cell holds the interpreter" if not taken.done() or taken.cancelled() else "it takes too long"
        except asyncio.CancelledError:
            if self._session is session:
                raise
            return "the worker has died"
        finally:
            del self._taken[message.serial], self._answers[message.serial]
