"""Subshells: further queues of cells beside the main one (JEP 91).

Each has its own order, its own count and its own abort scope. A subshell is known here alone: a worker gets its cells
one by one, each for a thread of its own, so that a new worker has all subshells. Comm messages that are addressed to a
subshell are the main loop's all the same, where they race nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.front.bridge import ResonateProtocolBridge
from capsule_kernel.front.execution import ExecuteContent, error_name, read_execute
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request
from capsule_kernel.ids import new_subshell
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.wire.jupyter import encode_json
from capsule_kernel.wire.worker_messages import DoneBeside, ExecuteBeside

_log = logging.getLogger(__name__)


class _Content(msgspec.Struct, frozen=True):
    subshell_id: str


class _Cell(msgspec.Struct, frozen=True, kw_only=True):
    request: Request
    content: ExecuteContent
    started: str = ""


class _Subshell(msgspec.Struct, kw_only=True):
    """One subshell: what waits and what runs."""

    name: str
    queue: deque[_Cell]
    running: _Cell | None = None
    session: Session | None = None
    count: int = 1


class Subshells:
    """The subshells of a kernel."""

    def __init__(
        self,
        *,
        iopub: IOPub,
        replies: Replies,
        bridge: ResonateProtocolBridge,
        clock: Clock,
        session: Callable[[], Session | None],
        on_exit: Callable[[], None],
        engine: str,
    ) -> None:
        self._iopub = iopub
        self._replies = replies
        self._bridge = bridge
        self._clock = clock
        self._session = session
        self._on_exit = on_exit
        self._engine = engine
        self._known: dict[str, _Subshell] = {}
        # Those that were deleted while a cell of theirs ran.
        self._leaving: list[_Subshell] = []

    def __repr__(self) -> str:
        busy = sum(each.running is not None for each in self._known.values())
        return f"<Subshells {len(self._known)}, {busy} busy>"

    def knows(self, name: str) -> bool:
        """Return whether there is such a subshell."""
        return name in self._known

    @property
    def current(self) -> int | None:
        """Serial of a cell that runs, None when none does."""
        return next((each.running.request.serial for each in self._all() if each.running is not None), None)

    # --- requests ----------------------------------------------------------------------------------------------------

    def create(self, _: Request) -> dict[str, Any]:
        """Return the content of a `create_subshell_reply`."""
        name = new_subshell()
        self._known[name] = _Subshell(name=name, queue=deque())
        return {"status": "ok", "subshell_id": name}

    def delete(self, request: Request) -> dict[str, Any]:
        """Return the content of a `delete_subshell_reply`: what waits is aborted, what runs comes to its end."""
        content = msgspec.json.decode(request.message.raw_content, type=_Content)
        subshell = self._known.pop(content.subshell_id, None)
        if subshell is None:
            evalue = f"there is no subshell {content.subshell_id!r}"
            return {"status": "error", "ename": "UnknownSubshellError", "evalue": evalue, "traceback": []}
        self._abort(subshell)
        if subshell.running is not None:
            self._leaving.append(subshell)
        return {"status": "ok"}

    def ids(self, _: Request) -> dict[str, Any]:
        """Return the content of a `list_subshell_reply`."""
        return {"status": "ok", "subshell_id": [*self._known]}

    def submit(self, request: Request) -> None:
        """Queue an `execute_request` whose subshell is known."""
        try:
            content = read_execute(request)
        except ValueError as exc:
            with self._iopub.handling(request.parent):
                self._replies.error(request, "execute_reply", "InvalidRequest", str(exc))
            return
        subshell = self._known[request.message.header.subshell_id or ""]
        subshell.queue.append(_Cell(request=request, content=content))
        self._next(subshell)

    def abort_queued(self) -> None:
        """Answer what waits with `aborted`: the kernel ends."""
        for subshell in self._all():
            self._abort(subshell)

    # --- what the worker in use says ---------------------------------------------------------------------------------

    def on_ready(self) -> None:
        """A worker serves."""
        for subshell in self._known.values():
            self._next(subshell)

    def on_done(self, session: Session, message: DoneBeside) -> None:
        """End a cell: what it wrote, its reply, its idle; then its subshell's next."""
        for subshell in self._all():
            cell = subshell.running
            if cell is not None and cell.request.serial == message.serial:
                break
        else:
            _log.warning("%r reported the end of request %d, which does not run", session, message.serial)
            return
        session.drain_descriptors()
        self._end(subshell, cell, message.content, message.status)
        if message.status == "error" and cell.content.stop_on_error:
            self._abort(subshell)
        if message.exiting:
            self._on_exit()
            return
        self._next(subshell)

    def on_death(self, session: Session, death: Death, live: str) -> None:
        """The worker in use is gone, and the cells that it ran; `live` says what the next cell finds."""
        for subshell in self._all():
            cell = subshell.running
            if cell is None or subshell.session is not session:
                continue
            evalue = f"the worker that ran this cell has died: {death.cause}. {live}"
            error = {"ename": "WorkerDied", "evalue": evalue, "traceback": [f"WorkerDied: {evalue}"]}
            self._iopub.publish("error", encode_json(error), parent=cell.request.parent)
            reply = {"status": "error", **error, "execution_count": subshell.count - 1, "user_expressions": {}}
            self._end(subshell, cell, encode_json({**reply, "payload": []}), "error")
            self._abort(subshell)

    # --- what is decided ---------------------------------------------------------------------------------------------

    def _next(self, subshell: _Subshell) -> None:
        session = self._session()
        if subshell.running is not None or not subshell.queue or session is None:
            return
        waiting = subshell.queue.popleft()
        cell = _Cell(request=waiting.request, content=waiting.content, started=self._clock.iso_now())
        request, content = cell.request, cell.content
        subshell.running, subshell.session = cell, session
        stores = content.store_history is not False and not content.silent
        count = subshell.count
        subshell.count += stores
        self._bridge.begin(request.serial, content.code, count, is_recorded=stores)
        session.say(
            ExecuteBeside(
                serial=request.serial,
                code=content.code,
                silent=content.silent,
                store_history=stores,
                allow_stdin=content.allow_stdin,
                execution_count=count,
                user_expressions=content.user_expressions or {},
                parent=b'{"header":%b,"metadata":%b}' % (request.message.raw_header, request.message.raw_metadata),
                subshell=subshell.name,
            )
        )
        self._iopub.status("busy", parent=request.parent)
        if not content.silent:
            shown = encode_json({"code": content.code, "execution_count": count})
            self._iopub.publish("execute_input", shown, parent=request.parent)

    def _end(self, subshell: _Subshell, cell: _Cell, content: bytes, status: str) -> None:
        subshell.running = subshell.session = None
        if subshell in self._leaving:
            self._leaving.remove(subshell)
        self._iopub.release()
        self._reply(cell, content, status)
        self._iopub.status("idle", parent=cell.request.parent)
        self._bridge.end(cell.request.serial, status, error_name(status, content))

    def _abort(self, subshell: _Subshell) -> None:
        queued = [*subshell.queue]
        subshell.queue.clear()
        for cell in queued:
            with self._iopub.handling(cell.request.parent):
                self._reply(cell, encode_json({"status": "aborted"}), "aborted")

    def _reply(self, cell: _Cell, content: bytes, status: str) -> None:
        metadata = {
            "started": cell.started or self._clock.iso_now(),
            "dependencies_met": True,
            "engine": self._engine,
            "status": status,
        }
        self._replies.send(cell.request, "execute_reply", content, metadata=encode_json(metadata))

    def _all(self) -> list[_Subshell]:
        return [*self._known.values(), *self._leaving]
