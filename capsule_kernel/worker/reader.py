"""The worker's second thread: reads the side link, so that completion, answers and ticks do not wait for user code.

It also publishes held output at intervals while a cell runs long, and between cells.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_never

from capsule_kernel.errors import ProtocolError
from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import (
    Answer,
    Comm,
    Complete,
    Debug,
    DebugQuestion,
    ExecuteBeside,
    HistoryAnswer,
    InputReply,
    Inspect,
    Interrupt,
    Taken,
    Tick,
    ToReader,
    decode_to_reader,
)
from capsule_kernel.worker import inspection, output, parents, tracebacks
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.comms import CommDelivery
from capsule_kernel.worker.debugging import Debugging, hide_thread
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.kernel import Questions
from capsule_kernel.worker.mimejson import encode_content
from capsule_kernel.worker.subshells import SubshellExecutor

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell

_READ_BYTES = 1 << 16


class Reader:
    """Owns the side link's reading end and the thread that reads it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        channel: Channel,
        shell: ZMQInteractiveShell,
        questions: Questions,
        cancellation: ExecutionCancellation,
        comms: CommDelivery,
        debugging: Debugging,
        subshells: SubshellExecutor,
        interval_ms: int,
    ) -> None:
        self._sock = sock
        self._channel = channel
        self._shell = shell
        self._questions = questions
        self._cancellation = cancellation
        self._comms = comms
        self._debugging = debugging
        self._subshells = subshells
        self._interval_ms = interval_ms
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_publishing = False
        # The newest execution that the front has sent a tick for.
        self._ticked = 0
        self._thread: threading.Thread | None = None
        self._is_cold = tracebacks.is_cold()
        # Held by the thread while it does anything but wait, and by whoever forks.
        self._at_work = threading.Lock()

    @property
    def threads(self) -> list[threading.Thread]:
        """The thread, as a list."""
        return [self._thread] if self._thread is not None else []

    def parked(self) -> threading.Lock:
        """Return the lock under which the thread only waits, and holds no other lock."""
        return self._at_work

    def renew(self) -> None:
        """Forget the thread and the event counter of the process that this one is a snapshot of."""
        self._at_work = threading.Lock()
        os.close(self._wake_fd)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_publishing = False
        self._thread = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="capsule-reader", daemon=True)
        hide_thread(self._thread)
        self._thread.start()

    def wake_for_output(self) -> None:
        """Have held text published soon; called when text begins to be held.

        While a cell is young nothing needs to be done: its end publishes, or the front's tick comes. The tick has been
        here already where the main thread was late to begin the cell.
        """
        is_young = self._cancellation.is_cell and self._ticked != self._cancellation.serial
        if not is_young and not self._is_publishing:
            self._is_publishing = True
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        decoder = FrameDecoder()
        # Made once: reading must work when user code has left no memory.
        buffer = memoryview(bytearray(_READ_BYTES))
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while True:
            ready = poll.poll(self._patience_ms())
            if not ready:
                with self._at_work:
                    if self._is_cold:
                        self._is_cold = False
                        # Where user code has left no memory, pygments has several words for that. The first traceback
                        # will try again.
                        with contextlib.suppress(Exception):
                            tracebacks.warm_grammar()
                    if self._comms.has_offers:
                        self._comms.help_out()
                    if self._is_publishing:
                        self._publish()
                continue
            for descriptor, _ in ready:
                if descriptor == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    continue
                try:
                    count = self._sock.recv_into(buffer)
                    if not count:
                        # The front is gone, and this process follows by its parent-death signal.
                        return
                    with self._at_work:
                        for payload in decoder.feed(bytes(buffer[:count])):
                            self._handle(decode_to_reader(payload))
                except (OSError, ProtocolError):
                    return
                except MemoryError:
                    # That request gets no answer, for which the front has a deadline.
                    continue

    def _patience_ms(self) -> int | None:
        if self._is_publishing or self._comms.has_offers:
            return self._interval_ms
        return tracebacks.WARM_AFTER_MS if self._is_cold else None

    def _publish(self) -> None:
        if not self._cancellation.serial:
            # First: what is written from here on asks for this again.
            self._is_publishing = False
        # The front publishes first what began to wait first.
        for stream in sorted((output.STDOUT, output.STDERR), key=lambda stream: stream.held_since):
            stream.hand_over()

    def _handle(self, message: ToReader) -> None:
        match message:
            case Complete() | Inspect():
                self._channel.send(Taken(serial=message.serial))
                self._channel.send(Answer(serial=message.serial, content=encode_content(self._answer(message))))
            case InputReply(ask=ask):
                self._questions.answer(ask, message)
            case HistoryAnswer(ask=ask, rows=rows):
                self._questions.answer(ask, rows)
            case Interrupt(serial=serial, number=number):
                self._cancellation.ask(serial, number)
            case Comm():
                self._comms.offer(message)
            case Debug(wanted=wanted):
                if wanted:
                    self._debugging.start()
                else:
                    self._debugging.stop()
            case ExecuteBeside():
                self._subshells.start(message)
            case DebugQuestion(serial=serial):
                self._channel.send(Answer(serial=serial, content=encode_content(self._answer(message))))
            case Tick(serial=serial):
                self._ticked = serial
                if self._cancellation.serial == serial:
                    self._is_publishing = True
                    self._publish()
            case _:
                assert_never(message)

    def _answer(self, message: Complete | Inspect | DebugQuestion) -> dict[str, object]:
        try:
            with self._output_for(message.serial):
                if isinstance(message, DebugQuestion):
                    return self._debugging.answer(message.command, message.arguments)
                if isinstance(message, Complete):
                    return inspection.complete(self._shell, message.code, message.cursor_pos)
                return inspection.inspect(
                    self._shell, message.code, message.cursor_pos, message.detail_level, message.omit_sections
                )
        except Exception as exc:  # noqa: BLE001 - completion runs Jedi and user code's __dir__: an error is the answer
            return {"status": "error", "ename": type(exc).__name__, "evalue": str(exc), "traceback": []}

    @contextlib.contextmanager
    def _output_for(self, serial: int) -> Iterator[None]:
        """Have what a `__dir__` or `__repr__` prints belong to the request, and come before its answer."""
        places = (output.STDOUT, output.STDERR, self._shell.outlet)
        token = parents.set_thread_parent(serial)
        for place in places:
            place.detour = output.Detour(serial, self._channel)
        try:
            yield
        finally:
            for place in places:
                place.detour = None
            parents.reset_thread_parent(token)
