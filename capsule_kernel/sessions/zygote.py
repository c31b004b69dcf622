"""The front's hold on the zygote: asks for workers, hears of their ends, asks whether code is complete.

The zygote is single-threaded and never runs user code, so it answers while every worker is stuck. If it dies, its
workers die with it (they ask for a parent-death signal); the owner of this client then starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import assert_never

import msgspec

from capsule_kernel.errors import ProtocolError, WorkerStartError
from capsule_kernel.sessions.process import SpawnedZygote
from capsule_kernel.wire.framing import FrameDecoder, encode_frames
from capsule_kernel.wire.worker_messages import (
    Completeness,
    Exited,
    Fork,
    Forked,
    IsComplete,
    ZygoteReady,
    decode_from_zygote,
    encode,
)

_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 16
_ENDED = "the process that workers are forked from has ended; the kernel's log says why"
_UNCLAIMED_KEPT = 256


class Zygote:
    """A running zygote.

    Attributes:
        gone: done when the zygote has ended.
    """

    def __init__(self, spawned: SpawnedZygote, *, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = spawned.pid
        self._sock = spawned.control
        self._loop = loop
        self._decoder = FrameDecoder()
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, Callable[[int], None]] = {}
        self._unclaimed_exits: dict[int, int] = {}
        self._completeness: dict[int, asyncio.Future[Completeness]] = {}
        self._serial = 0
        self.gone: asyncio.Future[None] = loop.create_future()

    def start(self) -> None:
        """Begin to listen."""
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._on_readable)

    def fork(self, worker: int, options: bytes, descriptors: list[int]) -> asyncio.Future[int]:
        """Ask for a worker that takes `descriptors`; the future gives its pid.

        The future raises `WorkerStartError` when the fork fails or the zygote is gone.
        """
        future: asyncio.Future[int] = self._loop.create_future()
        if self.gone.done():
            future.set_exception(WorkerStartError(_ENDED))
            return future
        self._forks[worker] = future
        try:
            self._send(encode(Fork(worker=worker, options=options)), descriptors)
        except OSError as exc:
            del self._forks[worker]
            future.set_exception(WorkerStartError(f"the zygote does not answer: {exc}"))
        return future

    def watch_exit(self, pid: int, on_exit: Callable[[int], None]) -> None:
        """Have `on_exit` called once with the wait status of `pid`, also when it has ended already."""
        if pid in self._unclaimed_exits:
            on_exit(self._unclaimed_exits.pop(pid))
        else:
            self._exits[pid] = on_exit

    def is_complete(self, code: str) -> asyncio.Future[Completeness]:
        """Ask whether `code` is a whole input; the future is cancelled when the zygote ends."""
        future: asyncio.Future[Completeness] = self._loop.create_future()
        self._serial += 1
        self._completeness[self._serial] = future
        try:
            self._send(encode(IsComplete(serial=self._serial, code=code)), [])
        except OSError:
            future.cancel()
        return future

    def close(self) -> None:
        """Let the zygote end: it kills its workers when this socket closes."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._fail_all()

    def reap(self) -> None:
        """Take the zygote's exit status if it has ended."""
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return

    def _send(self, payload: bytes, descriptors: list[int]) -> None:
        # The zygote reads all the time, and a request is short but for the code of an is_complete_request: a blocking
        # send with a deadline keeps frames whole and costs nothing.
        self._sock.settimeout(1.0)
        try:
            frames = memoryview(encode_frames(payload))
            sent = socket.send_fds(self._sock, [frames], descriptors)
            if sent < len(frames):
                self._sock.sendall(frames[sent:])
        finally:
            self._sock.setblocking(False)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            self._fail_all()
            return
        for payload in self._decoder.feed(data):
            self._receive(payload)

    def _receive(self, payload: bytes) -> None:
        try:
            message = decode_from_zygote(payload)
        except msgspec.MsgspecError as exc:
            raise ProtocolError(f"the zygote sent what is no message: {exc}") from exc
        match message:
            case ZygoteReady(failures=failures):
                for failure in failures:
                    _log.warning("%s", failure)
            case Forked(worker=worker, pid=pid, error=error):
                future = self._forks.pop(worker, None)
                if future is None or future.done():
                    return
                if error:
                    future.set_exception(WorkerStartError(error))
                else:
                    future.set_result(pid)
            case Exited(pid=pid, status=status):
                on_exit = self._exits.pop(pid, None)
                if on_exit is None:
                    # A process that a worker left behind, or a worker whose pid is not known here yet.
                    self._unclaimed_exits[pid] = status
                    if len(self._unclaimed_exits) > _UNCLAIMED_KEPT:
                        del self._unclaimed_exits[next(iter(self._unclaimed_exits))]
                else:
                    on_exit(status)
            case Completeness(serial=serial):
                answer = self._completeness.pop(serial, None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case _:
                assert_never(message)

    def _fail_all(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        for fork in self._forks.values():
            if not fork.done():
                fork.set_exception(WorkerStartError(_ENDED))
        self._forks.clear()
        for answer in self._completeness.values():
            answer.cancel()
        self._completeness.clear()
