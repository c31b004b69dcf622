"""A session: one worker process, its links, its captured descriptors, and its end.

It moves messages and notices death; what messages mean is the front's business. A death is seen by pidfd, since a child
that inherited the link keeps that open.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Protocol

import msgspec

from capsule_kernel.errors import ProtocolError, WorkerStartError
from capsule_kernel.sessions.capture import Capture
from capsule_kernel.sessions.lifecycle import Event, Phase, advance
from capsule_kernel.sessions.link import Link
from capsule_kernel.sessions.process import (
    describe_status,
    signal_foreign_groups,
    signal_group,
    signal_process,
)
from capsule_kernel.sessions.zygote import Zygote
from capsule_kernel.wire.worker_messages import (
    INTERRUPT_SIGNAL,
    Born,
    Comm,
    Debuggable,
    Done,
    Errand,
    Execute,
    FromWorker,
    Interrupt,
    Publish,
    Ready,
    Shutdown,
    Stream,
    ToReader,
    Wake,
    WorkerOptions,
    decode_birth,
    decode_from_worker,
    encode,
)

_STATUS_DEADLINE_S = 0.5
_FAULT_BYTES = 1 << 16
_LINK_BUFFER_BYTES = 1 << 20
_BIRTH_BYTES = 1 << 17
_BIRTH_DESCRIPTORS = 2


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker ended.

    Attributes:
        status: wait status, None when nobody could read it.
        cause: the same in words, or what Capsule did to it and why.
        fault_trace: what faulthandler wrote on a fatal signal, else empty.
        was_ours: whether Capsule ended it.
        left_cell: whether it had a cell before it, and had not read that: nothing of it has run.
    """

    status: int | None
    cause: str
    fault_trace: str
    was_ours: bool = False
    left_cell: bool = False


class SessionOwner(Protocol):
    """Who is told what happens to a session."""

    def on_message(self, session: Session, message: FromWorker) -> None:
        """Take a message of the worker other than `Ready`."""

    def on_descriptor_text(self, session: Session, name: str, text: str) -> None:
        """Take text that user code wrote to descriptor 1 (`stdout`) or 2 (`stderr`)."""

    def on_ready(self, session: Session) -> None:
        """Note that the worker serves."""

    def on_birth(self, session: Session, born: Born, links: tuple[socket.socket, socket.socket]) -> None:
        """Take a snapshot of `session`: its process, and the front's ends of its links."""

    def on_errand(self, session: Session, sock: socket.socket) -> None:
        """Take a socket on which the worker, or a child of it, has a request to the keeper of checkpoints."""

    def on_debuggable(self, session: Session, message: Debuggable, sock: socket.socket | None) -> None:
        """Take the debugger's socket, or the reason why there is none."""

    def on_death(self, session: Session, death: Death) -> None:
        """Note that the worker is gone; nothing follows."""


Interceptor = Callable[[str, object], None]
"""Observes a link: gets `"in"` or `"out"` and the message. It can neither delay nor break the link."""


class Session:
    """One worker, from the request to fork it to the report of its end."""

    def __init__(
        self,
        number: int,
        *,
        owner: SessionOwner,
        interceptors: list[Interceptor],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.number = number
        self.phase = Phase.FORKING
        self.pid = 0
        self.was_started = False
        # As a snapshot: the newest cell whose effects it holds, by its number and by its request.
        self.count = 0
        self.serial = 0
        # The request in the middle of whose cell it is (0: none), the call of `checkpoint()`, and when that was.
        self.running = self.ordinal = self.line = 0
        self.born_s = 0.0
        # The request whose cell runs, 0: none.
        self.executing = 0
        self.comms: dict[str, str] = {}
        """The comms that a snapshot has open when it wakes, and their targets."""
        self.notes: list[str] = []
        """What a snapshot did not carry over, one sentence each."""
        self._owner = owner
        self._interceptors = interceptors
        self._loop = loop
        self._pidfd = -1
        self._main: Link | None = None
        self._side: Link | None = None
        self._pipes: dict[str, Capture] = {}
        self._fault_fd = -1
        self._births: socket.socket | None = None
        self._status: asyncio.Future[int] = loop.create_future()
        self._stop_cause = ""
        # Whether the last message on the main link was a cell.
        self._is_cell_last = False
        self._interrupts = 0
        self._interrupts_serial = 0
        self._end: asyncio.Task[None] | None = None
        self._is_given_up = False
        self.ended: asyncio.Future[None] = loop.create_future()

    def __repr__(self) -> str:
        return f"<Session {self.number} {self.phase.value} pid={self.pid}>"

    async def start(self, zygote: Zygote, options: WorkerOptions) -> None:
        """Have the worker forked and listen to it; `on_ready` follows when it serves.

        Raises:
            WorkerStartError: the fork failed, or the process was gone at once.
        """
        main, worker_main = socket.socketpair()
        side, worker_side = socket.socketpair()
        worker_main.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINK_BUFFER_BYTES)
        out, worker_out = os.pipe()
        err, worker_err = os.pipe()
        births, worker_births = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._births = births
        self._fault_fd = os.memfd_create("capsule-fault")
        self._main = self._link(main)
        self._side = self._link(side)
        self._pipes = {
            "stdout": Capture("stdout", out, deliver=self.deliver_text, loop=self._loop),
            "stderr": Capture("stderr", err, deliver=self.deliver_text, loop=self._loop),
        }
        try:
            forked = zygote.fork(
                self.number,
                msgspec.msgpack.encode(options),
                [
                    worker_main.fileno(),
                    worker_side.fileno(),
                    worker_out,
                    worker_err,
                    self._fault_fd,
                    worker_births.fileno(),
                ],
            )
        finally:
            worker_main.close()
            worker_side.close()
            worker_births.close()
            os.close(worker_out)
            os.close(worker_err)
        try:
            self.pid = await forked
            self._pidfd = os.pidfd_open(self.pid)
        except asyncio.CancelledError:
            # Given up: a worker that comes all the same finds its links closed, and leaves.
            self._close()
            raise
        except (WorkerStartError, OSError) as exc:
            self._close()
            self.phase = advance(self.phase, Event.EXIT)
            if isinstance(exc, WorkerStartError):
                raise
            raise WorkerStartError(str(exc)) from exc
        zygote.watch_exit(self.pid, self._on_exit_status)
        was_stopped = self.phase is Phase.STOPPING
        self.phase = advance(self.phase, Event.FORKED)
        self._main.start()
        self._side.start()
        for pipe in self._pipes.values():
            pipe.start()
        self._listen_for_births()
        self._loop.add_reader(self._pidfd, self._on_pidfd)
        if was_stopped:
            signal_process(self._pidfd, signal.SIGKILL)

    def adopt(self, zygote: Zygote, born: Born, links: tuple[socket.socket, socket.socket]) -> bool:
        """Be the snapshot that was born; return whether it still lives."""
        main, side = links
        self._main = self._link(main)
        self._side = self._link(side)
        self.pid, self.count, self.serial = born.pid, born.count, born.serial
        self.running, self.ordinal, self.line = born.running, born.ordinal, born.line
        self.born_s = self._loop.time()
        try:
            self._pidfd = os.pidfd_open(born.pid)
        except OSError:
            self._close()
            self.phase = advance(self.phase, Event.EXIT)
            return False
        self.phase = advance(self.phase, Event.BORN)
        self.was_started = True
        zygote.watch_exit(self.pid, self._on_exit_status)
        self._main.start()
        self._side.start()
        self._loop.add_reader(self._pidfd, self._on_pidfd)
        return True

    def wake(self, predecessor: Session, *, is_chosen: bool) -> None:
        """Have the snapshot take the place of the worker that it comes from; `on_ready` follows when it serves.

        `is_chosen`: it was gone back to on purpose, and no other death is near.
        """
        self.phase = advance(self.phase, Event.WAKE)
        self.executing = self.running
        self._pipes, predecessor._pipes = predecessor._pipes, {}
        self._fault_fd, predecessor._fault_fd = predecessor._fault_fd, -1
        self._births, predecessor._births = predecessor._births, None
        for pipe in self._pipes.values():
            pipe.serve(self.deliver_text)
        if self._births is not None:
            self._loop.remove_reader(self._births)
        self._listen_for_births()
        if self._fault_fd >= 0:
            # The file and its offset are shared with the dead worker, whose trace has been read.
            os.ftruncate(self._fault_fd, 0)
            os.lseek(self._fault_fd, 0, os.SEEK_SET)
        assert self._main is not None
        self._main.send(encode(Wake(is_chosen=is_chosen)))

    def execute(self, message: Execute) -> None:
        """Have a cell run; the worker must be idle."""
        self.phase = advance(self.phase, Event.EXECUTE)
        self.executing = message.serial
        self._is_cell_last = True
        assert self._main is not None
        self._observe("out", message)
        self._main.send(encode(message))

    def hand_over(self, message: Comm) -> None:
        """Send a comm message, which the worker's main thread takes in order with the cells."""
        if self._main is not None:
            self._is_cell_last = False
            self._observe("out", message)
            self._main.send(encode(message))

    def say(self, message: ToReader) -> None:
        """Tell the worker's reader thread something, whatever the main thread does."""
        if self._side is not None:
            self._observe("out", message)
            self._side.send(encode(message))

    def interrupt(self, serial: int) -> None:
        """Interrupt execution `serial`: the worker, and the children in its process group."""
        if self._pidfd < 0:
            return
        if serial != self._interrupts_serial:
            self._interrupts, self._interrupts_serial = 0, serial
        self._interrupts += 1
        self.say(Interrupt(serial=serial, number=self._interrupts))
        signal_process(self._pidfd, INTERRUPT_SIGNAL)
        self.pass_on_sigint()

    def pass_on_sigint(self) -> None:
        """Send SIGINT to the worker, its process group, and the groups that its children made for themselves.

        The worker takes it for the same interrupt as one that reached it otherwise shortly before.
        """
        if self.pid:
            signal_group(self.pid, signal.SIGINT)
            signal_foreign_groups(self.pid, signal.SIGINT)

    def stop(self, cause: str = "") -> None:
        """Ask the worker to run its exit handlers and leave; `cause` as of `kill`."""
        if self.phase in (Phase.STOPPING, Phase.DEAD):
            return
        self._stop_cause = cause
        self.phase = advance(self.phase, Event.STOP)
        if self._main is not None:
            self._is_cell_last = False
            message = Shutdown()
            self._observe("out", message)
            self._main.send(encode(message))

    def kill(self, cause: str) -> None:
        """End the worker at once; `cause` is what its death will be put down to."""
        if self.phase is Phase.DEAD:
            return
        self.phase = advance(self.phase, Event.STOP)
        self._stop_cause = self._stop_cause or cause
        if self._pidfd >= 0:
            # While they can still be found through their parent.
            signal_foreign_groups(self.pid, signal.SIGKILL)
            signal_process(self._pidfd, signal.SIGKILL)

    def give_up(self, cause: str) -> None:
        """As `kill`, and have its end reported at once: the system takes a large process apart for a while."""
        self.kill(cause)
        if self._pidfd >= 0 and self._end is None:
            self._is_given_up = True
            self._on_pidfd()

    def kill_group(self) -> None:
        """End what user code has left running in the worker's process group."""
        if self.pid and signal_group(self.pid, signal.SIGTERM):
            pid = self.pid
            self._loop.call_later(0.1, signal_group, pid, signal.SIGKILL)

    def drain_descriptors(self) -> None:
        """Take what descriptors 1 and 2 hold now: it was written before the message that is being handled."""
        for pipe in self._pipes.values():
            pipe.drain()

    def pause(self) -> None:
        """Stop reading outputs, until `resume`."""
        if self._main is not None:
            self._main.pause()
        for pipe in self._pipes.values():
            pipe.pause()

    def resume(self) -> None:
        """Read outputs again."""
        if self._main is not None and self.phase is not Phase.DEAD:
            self._main.resume()
            for pipe in self._pipes.values():
                pipe.start()

    def deliver_text(self, name: str, text: str) -> None:
        """Hand captured text to the owner."""
        self._owner.on_descriptor_text(self, name, text)

    def _link(self, sock: socket.socket) -> Link:
        return Link(sock, loop=self._loop, on_payload=self._on_payload, on_broken=self._on_broken)

    def _on_payload(self, payload: bytes) -> None:
        try:
            message = decode_from_worker(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ProtocolError(f"what is no message came from the worker: {exc}") from exc
        if self._interceptors:
            self._observe("in", message)
        match message:
            case Ready(comms=comms, notes=notes, running=running):
                self.comms, self.notes = comms, notes
                self.phase = advance(self.phase, Event.RESUMED if running else Event.READY)
                self.was_started = True
                if self.phase in (Phase.IDLE, Phase.BUSY):
                    self._owner.on_ready(self)
                return
            case Done():
                self.phase = advance(self.phase, Event.DONE)
                self.executing = 0
            case Stream() | Publish():
                # What a child wrote before this comes before it.
                self.drain_descriptors()
            case _:
                pass
        self._owner.on_message(self, message)

    def _observe(self, direction: str, message: object) -> None:
        for interceptor in self._interceptors:
            self._loop.call_soon(interceptor, direction, message)

    def _on_broken(self, error: ProtocolError) -> None:
        self.kill(f"user code or a child process broke its link ({error}), so it was ended")

    def _on_pidfd(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._end = self._loop.create_task(self._finish())

    def _on_exit_status(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)

    async def _finish(self) -> None:
        status = None if self._is_given_up else await self._wait_status()
        for link in (self._main, self._side):
            if link is not None:
                link.resume()
                link.drain()
        for pipe in self._pipes.values():
            pipe.drain()
            pipe.flush()
        self._take_births()
        fault = os.pread(self._fault_fd, _FAULT_BYTES, 0).decode(errors="replace") if self._fault_fd >= 0 else ""
        self.phase = advance(self.phase, Event.EXIT)
        cause = self._stop_cause or describe_status(status)
        was_ours = bool(self._stop_cause)
        left_cell = self._is_cell_last and not was_ours and self._main is not None and self._main.is_unread
        self._owner.on_death(
            self, Death(status=status, cause=cause, fault_trace=fault, was_ours=was_ours, left_cell=left_cell)
        )
        # What a snapshot has not taken over.
        self._close()
        self.kill_group()
        self.ended.set_result(None)

    async def _wait_status(self) -> int | None:
        try:
            return await asyncio.wait_for(asyncio.shield(self._status), _STATUS_DEADLINE_S)
        except TimeoutError:
            return None

    def _listen_for_births(self) -> None:
        if self._births is not None:
            self._births.setblocking(False)
            self._loop.add_reader(self._births, self._take_births)

    def _take_births(self) -> None:
        while self._births is not None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._births, _BIRTH_BYTES, _BIRTH_DESCRIPTORS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._loop.remove_reader(self._births)
                self._births.close()
                self._births = None
                return
            for descriptor in descriptors:
                # A zygote that is started later must not inherit them.
                os.set_inheritable(descriptor, False)
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            match decode_birth(data), sockets:
                case Born() as born, [main, side]:
                    self._owner.on_birth(self, born, (main, side))
                case Errand(), [sock]:
                    self._owner.on_errand(self, sock)
                case Debuggable() as debuggable, ([] | [_]):
                    self._owner.on_debuggable(self, debuggable, sockets[0] if sockets else None)
                case _:
                    for sock in sockets:
                        sock.close()

    def _close(self) -> None:
        for link in (self._main, self._side):
            if link is not None:
                link.close()
        for pipe in self._pipes.values():
            pipe.close()
        if self._births is not None:
            self._loop.remove_reader(self._births)
            self._births.close()
            self._births = None
        for descriptor in (self._pidfd, self._fault_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._fault_fd = -1
