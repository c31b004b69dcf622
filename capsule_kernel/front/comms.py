"""Comm messages: which comms are open, what is under way in the worker, and the bracket that each message has.

Source: Jupyter messaging, "Custom Messages". A message goes to the worker at once where its comm is open: the worker
handles it at the running cell's awaits or after that cell, before the cells that still wait. Any other message keeps
its place behind the cells that were there before it, one of which may register the target or open the comm.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.requests import Request
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.wire.jupyter import encode_json
from capsule_kernel.wire.worker_messages import Comm, CommHandled, HandleWhileBlocked, InterruptSeen, Publish

_log = logging.getLogger(__name__)
_SERVING = (Phase.IDLE, Phase.BUSY)


class CommContent(msgspec.Struct, frozen=True, kw_only=True):
    """What the front needs to know of the content of a comm message."""

    comm_id: str
    target_name: str = ""


class _Open(msgspec.Struct, kw_only=True):
    """A comm that is open."""

    target_name: str
    is_handled_while_blocked: bool = False


class _UnderWay(msgspec.Struct, kw_only=True):
    """A message that the worker has, and has not reported as handled."""

    request: Request
    interrupted_at: float | None = None
    is_interrupt_seen: bool = False


class Comms:
    """The comms of a kernel."""

    def __init__(
        self,
        *,
        iopub: IOPub,
        clock: Clock,
        interrupt_grace_ms: int,
        first_queued: Callable[[], int | None],
        on_exit: Callable[[], None],
        on_replace: Callable[[str], None],
    ) -> None:
        self._iopub = iopub
        self._clock = clock
        self._interrupt_grace_s = interrupt_grace_ms / 1000
        self._first_queued = first_queued
        self._on_exit = on_exit
        self._on_replace = on_replace
        self._open: dict[str, _Open] = {}
        self._waiting: deque[tuple[Request, CommContent]] = deque()
        self._under_way: dict[int, _UnderWay] = {}
        self._session: Session | None = None
        # The request that the news of a death belong to, while a snapshot takes over.
        self._taken_over_for: bytes | None = None

    @property
    def current(self) -> int | None:
        """Serial of the message that the worker handles, unless a cell keeps it waiting; None when there is none."""
        return next(iter(self._under_way), None)

    def take(self, request: Request) -> None:
        """Take a `comm_open`, `comm_msg` or `comm_close` of a client; one that cannot be understood is dropped."""
        self._iopub.status("busy", parent=request.parent)
        try:
            content = msgspec.json.decode(request.message.raw_content, type=CommContent)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            _log.warning("a %s was dropped: its content is not valid: %s", request.message.header.msg_type, exc)
            self._iopub.status("idle", parent=request.parent)
            return
        self._waiting.append((request, content))
        self.send()

    def send(self) -> None:
        """Send what may be sent now; called whenever a cell has left the queue."""
        session = self._session
        if not self._waiting or session is None or session.phase not in _SERVING:
            return
        first_queued = self._first_queued()
        waiting, self._waiting = self._waiting, deque()
        for request, content in waiting:
            # A subshell's message has no place among the main shell's cells (JEP 91).
            is_beside = request.message.header.subshell_id is not None
            is_in_turn = is_beside or first_queued is None or first_queued > request.serial
            if is_in_turn or content.comm_id in self._open:
                self._hand_over(session, request, content)
            else:
                self._waiting.append((request, content))

    def info(self, target_name: str | None) -> dict[str, dict[str, str]]:
        """Return the open comms, those of one target if that is named, as in a `comm_info_reply`."""
        return {
            comm_id: {"target_name": each.target_name}
            for comm_id, each in self._open.items()
            if not target_name or each.target_name == target_name
        }

    def interrupt(self) -> None:
        """Interrupt the handler that runs while no cell does. As with cells, one that stays deaf ends the worker."""
        session, under_way = self._session, next(iter(self._under_way.values()), None)
        if session is None or under_way is None:
            return
        now = self._clock.monotonic()
        if under_way.interrupted_at is None or under_way.is_interrupt_seen:
            under_way.interrupted_at = now
            under_way.is_interrupt_seen = False
        elif now - under_way.interrupted_at >= self._interrupt_grace_s:
            self._on_replace(
                f"a comm message's handler did not answer an interrupt within {self._interrupt_grace_s:g} s and was "
                "interrupted again, so it was ended"
            )
            return
        session.interrupt(under_way.request.serial)

    # --- what the worker in use says ---------------------------------------------------------------------------------

    def on_ready(self, session: Session) -> None:
        """A worker serves."""
        self._session = session
        if self._taken_over_for is not None:
            parent, self._taken_over_for = self._taken_over_for, None
            self._close(set(self._open) - set(session.comms), parent)
            for comm_id, target_name in session.comms.items():
                self._open.setdefault(comm_id, _Open(target_name=target_name))
        self.send()

    def on_publish(self, message: Publish) -> None:
        """Note a comm that the worker opens or closes."""
        if message.msg_type == "comm_msg":
            return
        try:
            content = msgspec.json.decode(message.content, type=CommContent)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            _log.warning("user code published a %s that is not valid: %s", message.msg_type, exc)
            return
        self._note(message.msg_type, content)

    def on_handle_while_blocked(self, message: HandleWhileBlocked) -> None:
        """Note which way a comm's messages go to the worker."""
        known = self._open.get(message.comm_id)
        if known is not None:
            known.is_handled_while_blocked = message.wanted

    def on_interrupt_seen(self, message: InterruptSeen) -> None:
        """Note that the handler is not stuck in C."""
        under_way = self._under_way.get(message.serial)
        if under_way is not None:
            under_way.is_interrupt_seen = True

    def on_handled(self, session: Session, message: CommHandled) -> None:
        """End a message's bracket, after what its handler's children wrote."""
        under_way = self._under_way.get(message.serial)
        if under_way is None:
            _log.warning("%r reported comm message %d as handled, which is not under way", session, message.serial)
            return
        session.drain_descriptors()
        del self._under_way[message.serial]
        self._iopub.status("idle", parent=under_way.request.parent)
        if message.exiting:
            self._on_exit()

    def on_death(
        self, session: Session, death: Death, running: Request | None, heir: Session | None, live: str
    ) -> bool:
        """The worker in use is gone, and with it the other end of each comm that the snapshot `heir` has not.

        `running`: the request whose cell ran, to which the news belongs; else it belongs to the message under way.
        `live`: what state the next cell finds. Return whether that was said here.
        """
        if self._session is not session:
            return False
        self._session = None
        under_way, self._under_way = self._under_way, {}
        requests = [*([running] if running is not None else []), *(each.request for each in under_way.values())]
        parent = requests[0].parent if requests else b"{}"
        if running is None and requests:
            text = f"the worker that handled this comm message has died: {death.cause}. {live}\n"
            self._iopub.stream("stderr", text, parent=parent)
        if heir is None:
            self._close(set(self._open), parent)
        else:
            self._taken_over_for = parent
        for each in under_way.values():
            self._iopub.status("idle", parent=each.request.parent)
        return running is None and bool(requests)

    def abandon(self) -> None:
        """End the brackets of the messages that no worker has got: none is coming."""
        waiting, self._waiting = self._waiting, deque()
        for request, _ in waiting:
            self._iopub.status("idle", parent=request.parent)

    # --- what is decided ---------------------------------------------------------------------------------------------

    def _hand_over(self, session: Session, request: Request, content: CommContent) -> None:
        message = request.message
        known = self._open.get(content.comm_id)
        self._note(message.header.msg_type, content)
        self._under_way[request.serial] = _UnderWay(request=request)
        comm = Comm(
            serial=request.serial,
            msg_type=message.header.msg_type,
            parent=b'{"header":%b,"metadata":%b}' % (message.raw_header, message.raw_metadata),
            content=message.raw_content,
            buffers=message.buffers,
        )
        if known is not None and known.is_handled_while_blocked:
            session.say(comm)
        else:
            session.hand_over(comm)

    def _close(self, comm_ids: set[str], parent: bytes) -> None:
        for comm_id in [each for each in self._open if each in comm_ids]:
            self._iopub.publish("comm_close", encode_json({"comm_id": comm_id, "data": {}}), parent=parent)
            del self._open[comm_id]

    def _note(self, msg_type: str, content: CommContent) -> None:
        if msg_type == "comm_open":
            self._open[content.comm_id] = _Open(target_name=content.target_name)
        elif msg_type == "comm_close":
            self._open.pop(content.comm_id, None)
