"""Interrupts: from a signal to one `KeyboardInterrupt` at the right place in user code.

The right place depends on what the main thread does. A cell that runs Python, or waits in a system call, gets the
exception where it stands. A cell that awaits is cancelled, and the executor turns the cancellation into
`KeyboardInterrupt` at the await. Between cells, and while a frame is being written, nothing is raised.

Front ends may send SIGINT to every process besides asking the front, so a SIGINT close to an interrupt that was
delivered already is the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

from capsule_kernel.wire.worker_messages import INTERRUPT_SIGNAL

_SAME_INTERRUPT_S = 0.5
_COMES_ROUND_S = 0.05
_ELSEWHERE_S = 0.005
# What calls all that the loop runs, and what calls that: the loop's own frames.
_HANDLE_RUN: CodeType = asyncio.events.Handle._run.__code__  # noqa: SLF001 - no public function stands there
_RUN_ONCE: CodeType = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # noqa: SLF001 - as above


class ExecutionCancelled(BaseException):
    """Raised by `check_cancelled` in code that an interrupt has cancelled.

    A `BaseException`, since it has to pass through user code's `except Exception`.
    """


class Stopped(enum.Enum):
    """What the debugger does with the frame in which an interrupt was noticed."""

    NO = "no"
    WAITS = "waits"
    """It waited for the user at a breakpoint, which was told to go on."""
    WORKS = "works"
    """Its own code runs, which must not be torn apart."""


class ExecutionCancellation:
    """What is running, and how to interrupt it."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._serial = 0
        self._task: asyncio.Task[object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deferrals = 0
        self._is_pending = False
        self._from_front = False
        self._last_from_front = self._last_raw = float("-inf")
        self._seen = 0
        self._asked: tuple[int, int] = (0, 0)
        self._cancelled_threads: set[int] = set()
        self._on_seen: Callable[[int], None] | None = None
        self._unraisable_hook = sys.unraisablehook
        self.interrupts_task = False
        self.is_cell = False
        self.stopped: Callable[[FrameType | None], Stopped] | None = None
        self._is_forced = False
        # The signal under way was sent by this process for a reason of its own.
        self._is_ours = False

    @property
    def serial(self) -> int:
        """Serial of the execution under way, 0 between executions."""
        return self._serial

    def install(self, on_seen: Callable[[int], None]) -> None:
        """Take over SIGINT and the front's signal; `on_seen` is told the serial whenever Python notices one."""
        self._on_seen = on_seen
        signal.signal(signal.SIGINT, self._on_sigint)
        signal.signal(INTERRUPT_SIGNAL, self._on_front_signal)
        self._unraisable_hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable

    @contextlib.contextmanager
    def cancellable_execution(self, serial: int, *, is_cell: bool = True) -> Iterator[None]:
        """Let interrupts reach what runs inside, as `KeyboardInterrupt`."""
        self._seen = 0
        self._is_pending = self._is_ours = False
        self.interrupts_task = False
        if self._on_seen is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # What a cell or a library has put back as Python's own: ours does the same, once an interrupt.
            signal.signal(signal.SIGINT, self._on_sigint)
        self._serial = serial
        self.is_cell = is_cell
        try:
            if self._asked[0] == serial:
                # The interrupt overtook the cell.
                self._seen = self._asked[1]
                self._tell()
                raise KeyboardInterrupt
            yield
        finally:
            self._serial = 0
            self.is_cell = False
            self._task = None

    def watch_task(self, task: asyncio.Task[object] | None, loop: asyncio.AbstractEventLoop) -> None:
        """Say that the execution under way is this task: an interrupt at its awaits cancels it."""
        self._task = task
        self._loop = loop

    def ask(self, serial: int, number: int) -> None:
        """Note, in the reader thread, that the front wants interrupt `number` of `serial`.

        The signal that goes with it is lost on a worker that has not begun the cell; it is then sent again from here.
        """
        self._asked = (serial, number)
        if self._serial == serial and self._seen < number:
            signal.pthread_kill(_main_ident(), INTERRUPT_SIGNAL)

    def cancel_execution(self) -> None:
        """Cancel the execution under way as an interrupt does; from any thread."""
        if self._serial:
            self._repeat(self._serial)

    def check_cancelled(self) -> None:
        """Raise `ExecutionCancelled` when the calling thread's work was cancelled; for loops that run in threads."""
        ident = threading.get_ident()
        if ident in self._cancelled_threads:
            self._cancelled_threads.discard(ident)
            raise ExecutionCancelled

    def cancel_thread(self, ident: int) -> None:
        """Have `check_cancelled` raise in the thread `ident`."""
        self._cancelled_threads.add(ident)

    def hold(self) -> bool:
        """Hold interrupts back until `release`; return whether there is anything to release."""
        if threading.get_ident() != _main_ident():
            # Only the main thread is ever interrupted.
            return False
        self._deferrals += 1
        return True

    def release(self) -> None:
        """Let interrupts through again, one that came meanwhile at once."""
        self._deferrals -= 1
        if self._is_pending and not self._deferrals:
            self._is_pending = False
            self._deliver(sys._getframe(1))  # noqa: SLF001 - where the interrupt strikes

    def _on_front_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._serial:
            return
        if not self._is_ours:
            if self._asked[0] == self._serial and self._seen >= self._asked[1]:
                # The reader thread sent the signal again while the front's own was under way: one interrupt, two
                # signals. Where it is the next interrupt's and has overtaken its message, that sends it again.
                return
            self._seen += 1
        # Through SIGINT, whose handler user code or a C library may have replaced.
        self._from_front = True
        signal.raise_signal(signal.SIGINT)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        from_front, self._from_front = self._from_front, False
        now = self._monotonic()
        if not self._serial:
            return
        if from_front and self._is_ours:
            self._is_ours = is_same = False
        elif from_front:
            # The front also signals the process group, and Python calls handlers in the order of signal numbers.
            is_same = self._last_raw > self._last_from_front and now - self._last_raw < _SAME_INTERRUPT_S
            self._last_from_front = now
        else:
            is_same = now - max(self._last_raw, self._last_from_front) < _SAME_INTERRUPT_S
            if not is_same:
                self._last_raw = now
        if is_same:
            return
        if self._deferrals:
            self._is_pending = True
            return
        self._deliver(frame)

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not self._serial or not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._unraisable_hook(unraisable)
            return
        # It struck a `__del__` or a weak reference's callback, out of which Python lets nothing; nor out of here.
        is_sent = False
        while not is_sent:
            with contextlib.suppress(KeyboardInterrupt):
                self._later(_ELSEWHERE_S, self._repeat)
                is_sent = True

    def _deliver(self, frame: FrameType | None) -> None:
        if not self._serial:
            return
        self._tell()
        if self.stopped is not None and (stopped := self.stopped(frame)) is not Stopped.NO:
            if stopped is Stopped.WAITS:
                # At a breakpoint: for the user's code it strikes there.
                raise KeyboardInterrupt
            self._later(_ELSEWHERE_S, self._repeat)
            return
        if self._task is not None and self._loop is not None and self._loop.is_running():
            current = asyncio.current_task(self._loop)
            if _is_in_loop(frame) or _is_driver(frame) or (current is not self._task and not self._is_forced):
                # The loop's own code must not be torn apart, nor a task that happens to run: they come round.
                self.cancel_task()
                return
        elif _is_in_loop(frame) and not _is_waiting(frame):
            # A loop of the cell's own, by `asyncio.run`: to be torn apart no more than ours, but soon elsewhere.
            self._later(_ELSEWHERE_S, self._repeat)
            return
        self._is_forced = False
        raise KeyboardInterrupt

    def cancel_task(self) -> None:
        """Cancel the running cell's task, as an interrupt, and make sure that the loop notices."""
        assert self._task is not None
        assert self._loop is not None
        self.interrupts_task = True
        self._task.cancel()
        # `cancel` from a signal handler does not wake the selector.
        self._loop.call_soon_threadsafe(_nothing)
        self._later(_COMES_ROUND_S, self._force)

    def _later(self, wait_s: float, function: Callable[[int], None]) -> None:
        timer = threading.Timer(wait_s, function, (self._serial,))
        timer.daemon = True
        # The debugger must not stop it.
        timer.__dict__["is_pydev_daemon_thread"] = True
        timer.start()

    def _repeat(self, serial: int) -> None:
        """Interrupt once more: it did not strike well."""
        if self._serial == serial:
            self._is_ours = True
            signal.pthread_kill(_main_ident(), INTERRUPT_SIGNAL)

    def _force(self, serial: int) -> None:
        """Raise in whatever task keeps the loop from coming round."""
        if self._serial == serial and self.interrupts_task:
            self._is_forced = True
            self._repeat(serial)

    def _tell(self) -> None:
        if self._on_seen is not None:
            self._on_seen(self._serial)


def _main_ident() -> int:
    return threading.main_thread().ident or 0


def _is_in_loop(frame: FrameType | None) -> bool:
    """Return whether the loop's own code runs, rather than what a callback or a task's step has called.

    A step also calls the loop, to have the next one put into the queue: torn apart there, its task would never run
    again.
    """
    called: CodeType | None = None
    while frame is not None:
        code = frame.f_code
        if code is _HANDLE_RUN:
            return called is None or called.co_filename == _RUN_ONCE.co_filename
        if code is _RUN_ONCE:
            return True
        if code.co_filename != _nothing.__code__.co_filename:
            # Not the signal handlers' own frames.
            called = code
        frame = frame.f_back
    return False


_drivers: set[CodeType] = set()


def spare(code: CodeType) -> None:
    """Have no interrupt strike in `code`, which drives a cell's coroutine: the coroutine would be left behind."""
    _drivers.add(code)


def _is_driver(frame: FrameType | None) -> bool:
    """Return whether code that drives a cell's coroutine runs, rather than the coroutine."""
    while frame is not None and frame.f_code.co_filename == _nothing.__code__.co_filename:
        frame = frame.f_back
    return frame is not None and frame.f_code in _drivers


def _is_waiting(frame: FrameType | None) -> bool:
    """Return whether the innermost loop waits for events, where an exception does no harm."""
    called: CodeType | None = None
    while frame is not None and frame.f_code is not _HANDLE_RUN:
        if frame.f_code is _RUN_ONCE:
            return called is not None and called.co_name == "select"
        if frame.f_code.co_filename != _nothing.__code__.co_filename:
            called = frame.f_code
        frame = frame.f_back
    return False


def _nothing() -> None:
    """Wake the loop."""
