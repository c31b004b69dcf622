"""The pool: one session in use, warm spares beside it, and the zygote that all come from.

It owns every session. What to do is decided by `plan`; this file carries it out and tells the front about the session
in use only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from capsule_kernel.errors import WorkerStartError
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.plan import Census, Plan, plan
from capsule_kernel.sessions.process import SpawnedZygote, signal_group, spawn_zygote
from capsule_kernel.sessions.ration import Ration
from capsule_kernel.sessions.ring import Ring
from capsule_kernel.sessions.session import Death, Interceptor, Session
from capsule_kernel.sessions.zygote import Zygote
from capsule_kernel.wire.worker_messages import (
    Born,
    Completeness,
    Debuggable,
    Done,
    FromWorker,
    Stream,
    WorkerOptions,
    ZygoteOptions,
)

_log = logging.getLogger(__name__)
_DROPPED_S = 0.25


class PoolOwner(Protocol):
    """Who uses the session in use."""

    def on_worker_ready(self, session: Session) -> None:
        """Note that `session` is in use and waits for a cell."""

    def on_worker_message(self, session: Session, message: FromWorker) -> None:
        """Take what the worker in use says."""

    def on_worker_text(self, session: Session, name: str, text: str) -> None:
        """Take what user code wrote to descriptor 1 or 2."""

    def on_worker_death(self, session: Session, death: Death, heir: Session | None) -> None:
        """Note that the worker in use has ended: `heir` is the snapshot that takes over, None: a fresh one does."""

    def on_errand(self, session: Session, sock: socket.socket) -> None:
        """Take a socket on which the worker in use has a request to the keeper of checkpoints."""

    def on_debuggable(self, session: Session, message: Debuggable, sock: socket.socket | None) -> None:
        """Take the socket of the debugger in the worker in use, or the reason why there is none."""

    def on_no_worker(self, reason: str) -> None:
        """Note that no worker can be started."""


class Pool:
    """Sessions of one kernel."""

    def __init__(
        self,
        *,
        owner: PoolOwner,
        zygote_options: ZygoteOptions,
        worker_options: Callable[[], WorkerOptions],
        spares: int,
        start_timeout_ms: int,
        loop: asyncio.AbstractEventLoop,
        interceptors: list[Interceptor] | None = None,
        snapshots: int = 0,
        snapshots_cap_bytes: int = 0,
    ) -> None:
        self._owner = owner
        self._zygote_options = zygote_options
        self._worker_options = worker_options
        self._spares_setting = spares
        self._start_timeout_s = start_timeout_ms / 1000
        self._loop = loop
        self._interceptors = interceptors if interceptors is not None else []
        self._zygote: Zygote | None = None
        self._current: Session | None = None
        self._spares: list[Session] = []
        self._ring = Ring(snapshots)
        self._ration = Ration(
            self._ring,
            cap_bytes=snapshots_cap_bytes,
            current=lambda: self._current,
            end_dropped=self._end_all_dropped,
            loop=loop,
        )
        self._wanted_heir: Session | None = None
        self._is_heir_unwanted = False
        self._count = 0
        self._failed_starts = 0
        self._last_failure = ""
        self._wants_spares = False
        self._is_closing = False
        self._complaints: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Snapshots that are not kept any more, for the moment until they are ended.
        # Snapshots that are to end soon, and why.
        self._dropped: dict[Session, str] = {}

    def __repr__(self) -> str:
        ready = sum(spare.phase is Phase.IDLE for spare in self._spares)
        phase = self._current.phase.value if self._current else "none"
        return f"<Pool current {phase}, {ready} idle, {len(self._spares) - ready} starting>"

    @property
    def serving(self) -> Session | None:
        """The session in use, None while it cannot be asked anything."""
        session = self._current
        return session if session is not None and session.phase in (Phase.IDLE, Phase.BUSY) else None

    def start(self, spawned: SpawnedZygote) -> None:
        """Begin with a zygote that has been started already, and have the first worker forked."""
        self._adopt(spawned)
        self._carry_out()

    def want_spares(self) -> None:
        """From now on keep the spares that the settings ask for: something has run."""
        if not self._wants_spares:
            self._wants_spares = True
            self._carry_out()

    def sleepers(self) -> Sequence[Session]:
        """The snapshots that `undo` can go back to, oldest first."""
        return self._ring.of_cells

    def undo(self, serials: Sequence[int]) -> Session | None:
        """Go back to the newest snapshot from before the requests `serials`; return it, None if there is none.

        `on_worker_death` follows.
        """
        return self._go_back_to(self._ring.before(serials))

    def pin(self, serial: int | None) -> None:
        """Keep the snapshot after request `serial` until another is to be kept; None: none is any more."""
        self._ring.pin(serial)

    def discard(self, serial: int) -> Session | None:
        """Go back to the snapshot after request `serial`; as `undo`."""
        self._ring.pin(None)
        return self._go_back_to(self._ring.after(serial))

    def _go_back_to(self, target: Session | None) -> Session | None:
        if target is None or self._current is None:
            return None
        self._wanted_heir = target
        self._current.give_up("it was undone")
        return target

    def replace(self, cause: str) -> None:
        """End the session in use, whatever it does; `on_worker_death` follows, and another takes its place."""
        if self._current is not None:
            self._current.kill(cause)

    def retire(self, cause: str, *, grace_ms: int) -> None:
        """As `replace`, but the session in use first runs its exit handlers, for `grace_ms` at the most.

        The next one waits for its end: it may still hold files and ports that the next one needs. It is a fresh one:
        snapshots of this one end with it.
        """
        session = self._current
        if session is not None:
            self._is_heir_unwanted = True
            self._end_all_dropped()
            session.stop(cause)
            self._loop.call_later(grace_ms / 1000, session.kill, cause)

    def try_again(self) -> None:
        """Forget earlier failures to start a worker."""
        if self._failed_starts and self._current is None:
            self._failed_starts = 0
            self._carry_out()

    async def is_complete(self, code: str) -> Completeness | None:
        """Ask the zygote whether `code` is a whole input; None when it cannot say."""
        if self._zygote is None:
            return None
        try:
            return await self._zygote.is_complete(code)
        except asyncio.CancelledError:
            if self._zygote.gone.done():
                return None
            raise

    async def close(self, *, grace_ms: int) -> None:
        """End everything: the worker in use runs its exit handlers within `grace_ms`, then all are killed."""
        self._is_closing = True
        self._ration.close()
        session = self._current
        if session is not None and session.phase is not Phase.DEAD:
            if session.was_started:
                session.stop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(session.ended), grace_ms / 1000)
            session.kill("the kernel shut down")
        for spare in (*self._spares, *self._ring.sleepers, *self._dropped):
            spare.kill("the kernel shut down")
        groups = [s.pid for s in (session, *self._spares) if s is not None and s.pid]
        for pid in groups:
            signal_group(pid, signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        if self._zygote is not None:
            self._zygote.close()
            signal_group(self._zygote.pid, signal.SIGKILL)
            self._zygote.reap()

    # --- what sessions say -------------------------------------------------------------------------------------------

    def on_message(self, session: Session, message: FromWorker) -> None:
        """See `SessionOwner`."""
        if not session.was_started and isinstance(message, Stream):
            self._log_start(session, message.name, message.text)
        if session is self._current:
            if isinstance(message, Done):
                self._end_cell()
            self._owner.on_worker_message(session, message)

    def on_descriptor_text(self, session: Session, name: str, text: str) -> None:
        """See `SessionOwner`. What a spare's start-up files print has no reader yet."""
        if not session.was_started:
            self._log_start(session, name, text)
        if session is self._current:
            self._owner.on_worker_text(session, name, text)

    def on_ready(self, session: Session) -> None:
        """See `SessionOwner`."""
        self._failed_starts = 0
        if session is self._current:
            self._owner.on_worker_ready(session)
        self._carry_out()

    def on_death(self, session: Session, death: Death) -> None:
        """See `SessionOwner`."""
        if not session.was_started:
            self._failed_starts += 1
            self._last_failure = f"worker {session.number}: {death.cause}" + (
                f"\n{death.fault_trace}" if death.fault_trace else ""
            )
        if session is self._current:
            self._current = None
            is_chosen = self._wanted_heir is not None
            heir = None if self._is_closing else self._take_heir(death)
            if heir is not None:
                # First: it wakes while the rest is done.
                heir.wake(session, is_chosen=is_chosen)
            self._owner.on_worker_death(session, death, heir)
            if heir is not None:
                self._current = heir
        elif session in self._spares:
            self._spares.remove(session)
        self._ring.discard(session)
        self._carry_out()

    def _log_start(self, session: Session, name: str, text: str) -> None:
        """Log what a worker complains of while it starts, such as a start-up file that fails, once for all workers."""
        if name == "stderr" and text not in self._complaints:
            self._complaints.add(text)
            _log.warning("%r, while it started: %s", session, text.rstrip("\n"))

    def on_birth(self, session: Session, born: Born, links: tuple[socket.socket, socket.socket]) -> None:
        """See `SessionOwner`."""
        self._count += 1
        sleeper = Session(self._count, owner=self, interceptors=self._interceptors, loop=self._loop)
        is_late = bool(born.running) and born.running != session.executing
        if is_late or self._is_closing or session is not self._current or self._zygote is None:
            for link in links:
                link.close()
            return
        _log.debug("%r sleeps after cell [%d]; the fork took %d µs", sleeper, born.count, born.cost_us)
        if sleeper.adopt(self._zygote, born, links):
            for dropped in self._ring.add(sleeper):
                self._drop(dropped, "a newer snapshot took its place")
            self._ration.note_birth()

    def on_errand(self, session: Session, sock: socket.socket) -> None:
        """See `SessionOwner`."""
        if self._is_closing or session is not self._current:
            sock.close()
            return
        self._owner.on_errand(session, sock)

    def on_debuggable(self, session: Session, message: Debuggable, sock: socket.socket | None) -> None:
        """See `SessionOwner`."""
        if self._is_closing or session is not self._current:
            if sock is not None:
                sock.close()
            return
        self._owner.on_debuggable(session, message, sock)

    def _drop(self, sleeper: Session, cause: str) -> None:
        """End one soon: the system takes a process apart for a while, and a cell may wait for a processor now."""
        self._dropped[sleeper] = cause
        self._loop.call_later(_DROPPED_S, self._end_dropped, sleeper)

    def _end_dropped(self, sleeper: Session) -> None:
        cause = self._dropped.pop(sleeper, None)
        if cause is not None:
            sleeper.kill(cause)

    def _end_all_dropped(self) -> None:
        for sleeper in list(self._dropped):
            self._end_dropped(sleeper)

    def _end_cell(self) -> None:
        for sleeper in self._ring.end_cell():
            sleeper.kill("its cell has ended")

    def _take_heir(self, death: Death) -> Session | None:
        """Return the snapshot that takes over, and drop those that it leaves behind."""
        if not death.was_ours:
            middle = self._ring.take_middle()
            if middle is not None and middle.phase is Phase.SLEEPING:
                return middle
        self._end_cell()
        heir = self._wanted_heir or self._ring.newest()
        self._wanted_heir = None
        if heir in self._dropped:
            # It was chosen, and then a newer one took its place.
            del self._dropped[heir]
            self._ring.put_back(heir)
        if not death.was_ours:
            # There may be no memory left.
            self._end_all_dropped()
        if self._is_heir_unwanted:
            self._is_heir_unwanted = False
            for sleeper in list(self._ring.sleepers):
                self._ring.discard(sleeper)
                sleeper.kill("a fresh worker was asked for")
            return None
        if heir is None or heir.phase is not Phase.SLEEPING:
            return None
        for newer in self._ring.take(heir):
            self._drop(newer, "an older snapshot was gone back to")
        return heir

    # --- what is decided ---------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        if self._is_closing:
            return
        decided = self._plan()
        if decided.give_up:
            self._owner.on_no_worker(self._last_failure)
            return
        if decided.promote:
            self._promote()
        if decided.fork_current:
            self._current = self._fork()
        for _ in range(decided.fork_spares):
            self._spares.append(self._fork())

    def _plan(self) -> Plan:
        ready = sum(spare.phase is Phase.IDLE for spare in self._spares)
        return plan(
            Census(
                has_current=self._current is not None,
                spares_ready=ready,
                spares_starting=len(self._spares) - ready,
                spares_wanted=self._spares_setting if self._wants_spares else 0,
                failed_starts=self._failed_starts,
            )
        )

    def _promote(self) -> None:
        spare = next(spare for spare in self._spares if spare.phase is Phase.IDLE)
        self._spares.remove(spare)
        self._current = spare
        self._owner.on_worker_ready(spare)

    def _fork(self) -> Session:
        self._count += 1
        session = Session(self._count, owner=self, interceptors=self._interceptors, loop=self._loop)
        self._run(self._start(session))
        return session

    async def _start(self, session: Session) -> None:
        if self._zygote is None or self._zygote.gone.done():
            self._adopt(spawn_zygote(self._zygote_options))
        assert self._zygote is not None
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await session.start(self._zygote, self._worker_options())
        except (WorkerStartError, TimeoutError) as exc:
            self._failed_starts += 1
            late = f"no answer within {self._start_timeout_s:g} s"
            self._last_failure = late if isinstance(exc, TimeoutError) else exc.reason
            if session is self._current:
                self._current = None
            elif session in self._spares:
                self._spares.remove(session)
            self._carry_out()
            return
        self._loop.call_later(self._start_timeout_s, self._end_if_starting, session)

    def _end_if_starting(self, session: Session) -> None:
        if session.phase is Phase.STARTING:
            session.kill(f"it did not start within {self._start_timeout_s:g} s")

    def _adopt(self, spawned: SpawnedZygote) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote.reap()
        self._zygote = Zygote(spawned, loop=self._loop)
        self._zygote.start()

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
