"""The worker's one event loop, which lives between cells, and how synchronous code and it share the main thread.

Between cells the loop runs, so that tasks go on. A cell that awaits is a task on it. For a synchronous cell the loop is
stopped but stays the thread's running loop in name: `asyncio.create_task` works, and so do `asyncio.run` and
`loop.run_until_complete`, for which it steps aside (they ask `asyncio.events`, which is told here what to answer).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import sys
import weakref
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import CoroutineType
from typing import Any

_c_get_running_loop = events._get_running_loop
_c_set_running_loop = events._set_running_loop
_DETECTORS = frozenset({"anyio._core._eventloop"})
"""Modules that refuse to run a loop of their own where `asyncio.get_running_loop` finds one."""
_aside: list[asyncio.AbstractEventLoop] = []
"""The loop that a synchronous cell has stepped aside for it, or nothing."""


def _get_running_loop() -> asyncio.AbstractEventLoop | None:
    loop = _c_get_running_loop()
    if _aside and loop is _aside[0] and not loop.is_running():
        return None
    return loop


def _set_running_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    # A nested run has ended: the cell is where it was.
    if loop is None and _aside and _c_get_running_loop() is not None:
        loop = _aside[0]
    _c_set_running_loop(loop)


def _public_get_running_loop() -> asyncio.AbstractEventLoop:
    loop = events.get_running_loop()
    # Who asks decides the answer.
    if _aside and not loop.is_running() and sys._getframe(1).f_globals.get("__name__") in _DETECTORS:
        raise RuntimeError("no running event loop")
    return loop


def teach_asyncio() -> None:
    """Have asyncio's runners, and anyio's, see no running loop while the worker's has stepped aside."""
    asyncio.get_running_loop = _public_get_running_loop
    events._get_running_loop = _get_running_loop  # asyncio.run and run_forever look here
    events._set_running_loop = _set_running_loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return this thread's running loop, also one that runs in name only."""
    return _c_get_running_loop()


def go_on_running(loop: asyncio.AbstractEventLoop | None) -> None:
    """In a fork's child: say again that `loop` runs, which asyncio forgets there."""
    _c_set_running_loop(loop)


class EventLoopCoordinator:
    """Owns the loop and decides when it runs."""

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_new_loop: list[Callable[[asyncio.AbstractEventLoop], None]] = []
        self._queued: deque[Coroutine[Any, Any, Any]] = deque()
        self._queued_tasks: set[asyncio.Task[Any]] = set()
        self._is_waiting = False

    def on_new_loop(self, callback: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        """Have `callback` called with each loop that is made."""
        self._on_new_loop.append(callback)

    def ensure_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, a new one if user code has closed the last one; it is the thread's current loop."""
        loop = self._loop
        if loop is None or loop.is_closed():
            loop = self._loop = asyncio.SelectorEventLoop()
            for callback in self._on_new_loop:
                callback(loop)
        asyncio.set_event_loop(loop)
        return loop

    @property
    def is_running(self) -> bool:
        """Whether the loop runs: between cells, and in one that awaits."""
        return self._loop is not None and self._loop.is_running()

    def queue_for_async(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Have `coroutine` run as a task when the loop runs next."""
        self._queued.append(coroutine)

    def flush_queue(self) -> int:
        """Make tasks of what is queued; return how many."""
        loop = self.ensure_event_loop()
        count = len(self._queued)
        while self._queued:
            task = loop.create_task(self._queued.popleft())
            self._queued_tasks.add(task)
            task.add_done_callback(self._queued_tasks.discard)
        return count

    def wait(self, inbox: deque[Any], patience_s: float | None = None) -> Any:
        """Run the loop until something is in `inbox`, and take it; None when nothing came for `patience_s`.

        `wake` ends the wait.
        """
        is_over: list[bool] = []
        while not inbox:
            if is_over:
                return None
            loop = self.ensure_event_loop()
            self.flush_queue()
            timer = loop.call_later(patience_s, self._end_patience, is_over) if patience_s is not None else None
            self._is_waiting = True
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                # User code that runs as a task raised it itself; there is no cell that it could belong to.
                continue
            except SystemExit:
                continue
            finally:
                self._is_waiting = False
                if timer is not None:
                    timer.cancel()
        return inbox.popleft()

    def _end_patience(self, is_over: list[bool]) -> None:
        is_over.append(True)
        self.wake()

    def wake(self) -> None:
        """End `wait`; called on the loop."""
        if self._is_waiting and self._loop is not None:
            self._loop.stop()

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the loop as soon as that runs; from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(callback)

    @contextlib.contextmanager
    def stepping_aside(self) -> Iterator[None]:
        """Run synchronous code inside the block, with the loop as running loop in name."""
        loop = self.ensure_event_loop()
        if self._queued:
            self.flush_queue()
        _aside.append(loop)
        _c_set_running_loop(loop)
        try:
            yield
        finally:
            _aside.clear()
            _c_set_running_loop(None)

    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        on_task: Callable[[asyncio.Task[Any] | None, asyncio.AbstractEventLoop], None],
        cancel: Callable[[], None],
    ) -> Any:
        """Run `coroutine` as a task in the session's context until it is done; return its result.

        `on_task` is told the task while it runs, for interrupts; `cancel` cancels it as an interrupt does.
        """
        loop = self.ensure_event_loop()
        task = loop.create_task(coroutine, context=self.context)
        task.add_done_callback(_stop_loop)
        try:
            while not task.done():
                try:
                    on_task(task, loop)
                    loop.run_forever()
                except KeyboardInterrupt:
                    # It struck between, or in another task's code: the cell is what was to be interrupted.
                    if not task.done():
                        on_task(task, loop)
                        cancel()
            return task.result()
        finally:
            on_task(None, loop)
            task.remove_done_callback(_stop_loop)

    def run_until_complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine from synchronous code, for IPython's `loop_runner`."""
        return self.ensure_event_loop().run_until_complete(coroutine)


def _stop_loop(task: asyncio.Task[Any]) -> None:
    task.get_loop().stop()


class LoopRunner:
    """What IPython runs coroutines with; `%autoawait` shows its name."""

    def __init__(self, coordinator: EventLoopCoordinator) -> None:
        self._coordinator = coordinator

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run `coroutine` to its end."""
        return self._coordinator.run_until_complete(coroutine)

    def __str__(self) -> str:
        return "asyncio"


class CoroutineManager:
    """Knows, by weak reference, the coroutines and tasks that cells made, and names the forgotten ones."""

    def __init__(self) -> None:
        self._coroutines: weakref.WeakSet[CoroutineType[Any, Any, Any]] = weakref.WeakSet()
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._tracked = 0

    def track_coroutine(self, coroutine: CoroutineType[Any, Any, Any]) -> None:
        """Remember a coroutine that a cell made and did not await at once."""
        self._tracked += 1
        self._coroutines.add(coroutine)

    def track_task(self, task: asyncio.Task[Any]) -> None:
        """Remember a task."""
        self._tasks.add(task)

    def never_awaited(self) -> list[str]:
        """Return the names of tracked coroutines that nobody has begun to await."""
        return sorted(
            coroutine.__qualname__
            for coroutine in self._coroutines
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        )

    def cleanup(self) -> dict[str, int]:
        """Forget what is finished; return how many coroutines there were, wait, were never begun, and tasks left."""
        never = 0
        for coroutine in list(self._coroutines):
            state = inspect.getcoroutinestate(coroutine)
            if state == inspect.CORO_CLOSED:
                self._coroutines.discard(coroutine)
            never += state == inspect.CORO_CREATED
        for task in list(self._tasks):
            if task.done():
                self._tasks.discard(task)
        return {
            "tracked": self._tracked,
            "pending": len(self._coroutines) - never,
            "never_awaited": never,
            "tasks": len(self._tasks),
        }
