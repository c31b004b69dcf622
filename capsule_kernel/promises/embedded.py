"""The embedded store for one event loop: what waits for others, or for the disk, runs on a thread of its own.

Whoever waits for a promise is woken by the process that settles it, through a socket; where that fails, by a look at
the log four times a second. Nothing is opened before the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from capsule_kernel.clock import Clock
from capsule_kernel.errors import PromiseNotFound, PromiseRejected, PromisesUnavailable
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.client import Created, Settled, Statistics
from capsule_kernel.promises.model import Promise, Settlement, State
from capsule_kernel.promises.notes import Notes, creation, settling
from capsule_kernel.promises.outcome import MISSING, OK, Outcome
from capsule_kernel.promises.retention import Collected
from capsule_kernel.promises.store import LogEntry, Store
from capsule_kernel.promises.tasks import SDK, free_task
from capsule_kernel.promises.thread import StoreThread

if TYPE_CHECKING:
    from capsule_kernel.promises.durable import DurableFunctions

SCHEME = "capsule"
_LOOK_S = 0.25
_COLLECT_AFTER_S, _COLLECT_EVERY_S = 60.0, 3600.0
_TIMER_MAX_S = 3600.0


class EmbeddedPromises:
    """`Promises` in a file.

    Args:
        path: the file (`place.promises_file`).
        clock: the time of day.
        retention_days: how long settled promises are kept; 0 for ever. What is older is let go of once a day.
    """

    def __init__(self, path: str, clock: Clock | None = None, *, retention_days: int = 0) -> None:
        self.path = path
        self._clock = clock or Clock()
        self._thread = StoreThread(lambda: Store(path, self._clock))
        self._notes = Notes(self._write_notes)
        self._waiters: dict[str, list[asyncio.Future[Promise]]] = {}
        self._hears: list[Callable[[LogEntry], None]] = []
        # The last entry of the log that was read, in the file that was opened so often; None before any was.
        self._read_to: tuple[int, int] | None = None
        self._retention_days = retention_days
        self._collector: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._rung = asyncio.Event()
        self._is_watching = asyncio.Event()

    def __repr__(self) -> str:
        return f"<EmbeddedPromises {self.path} {len(self._waiters)} awaited, {self.statistics.waiting} to write>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def statistics(self) -> Statistics:
        """What became of what was noted."""
        return self._notes.statistics

    async def start(self) -> None:
        """Begin. The file is opened with the first request, or when it is time to let go of old promises."""
        if self._retention_days and self._collector is None:
            self._collector = asyncio.get_running_loop().call_later(_COLLECT_AFTER_S, self._collect)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Write what was noted, wake whoever waits with `PromisesUnavailable`, close the file."""
        if self._collector is not None:
            self._collector.cancel()
        await self.flush(timeout_s)
        self._notes.stop()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        self._fail_waiters(PromisesUnavailable(self.path, "they were closed"))
        await self._thread.stop(timeout_s)

    async def create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
        is_durable: bool = False,
    ) -> Created:
        """Create a promise, or find the one of this id (see `Promises.create`)."""
        request = creation(promise_id, param, kind, tags, timeout_at_ms)
        outcome = (await self.apply([request], is_durable=is_durable))[0]
        return Created(await self._promise_of(request, outcome), outcome.is_effective)

    async def settle(
        self, promise_id: str, state: Settlement, value: Any = None, *, is_durable: bool = False
    ) -> Settled:
        """Settle a promise, unless that is done (see `Promises.settle`)."""
        request = settling(promise_id, state, value)
        outcome = (await self.apply([request], is_durable=is_durable))[0]
        return Settled(await self._promise_of(request, outcome), outcome.is_effective)

    async def get(self, promise_id: str) -> Promise | None:
        """Return a promise; one that is overdue is settled by that."""
        self._notes.hurry()
        promise = await self._thread.find(promise_id)
        if promise is not None and promise.is_pending and promise.timeout_at_ms <= self._clock.unix_ms():
            outcome = (await self._thread.apply([rq.PromiseGet(id=promise_id)]))[0]
            return outcome.promises.get(promise_id, promise)
        return promise

    async def search(
        self,
        *,
        prefix: str = "",
        state: State | None = None,
        kind: str | None = None,
        tags: dict[str, str] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Promise]:
        """Return promises in the order of their ids (see `Promises.search`)."""
        self._notes.hurry()
        return await self._thread.call(
            lambda store: store.search(prefix=prefix, state=state, kind=kind, tags=tags, after=after, limit=limit)
        )

    async def wait(self, promise_id: str, timeout_s: float | None = None) -> Promise:
        """Wait until a promise is settled (see `Promises.wait`)."""
        self._keep_watch()
        future: asyncio.Future[Promise] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(promise_id, []).append(future)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    # Looked at after the waiter is known: what is settled in between wakes it.
                    promise = await self.get(promise_id)
                    if promise is None:
                        raise PromiseNotFound(promise_id)
                    if not promise.is_pending:
                        return promise
                    left_s = (promise.timeout_at_ms - self._clock.unix_ms()) / 1000
                    done, _ = await asyncio.wait({future}, timeout=min(max(left_s, 0.001), _TIMER_MAX_S))
                    if done:
                        return future.result()
        finally:
            self._forget(promise_id, future)

    def note_create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
    ) -> None:
        """Create a promise a moment later."""
        self._notes.add((promise_id, param, kind, tags, timeout_at_ms))

    def note_settle(self, promise_id: str, state: Settlement, value: Any = None) -> None:
        """Settle a promise a moment later."""
        self._notes.add((promise_id, state, value))

    async def flush(self, timeout_s: float = 2.0) -> bool:
        """Write what was noted; return whether all of it is kept now."""
        return await self._notes.flush(timeout_s)

    # For the network below Resonate's SDK.

    async def apply(self, requests: Sequence[rq.Request], *, is_durable: bool = False) -> list[Outcome]:
        """Carry out requests of the protocol, together with others that wait (see `Store.apply`)."""
        self._notes.hurry()
        outcomes = await self._thread.apply(requests, is_durable=is_durable)
        self._tell_waiters(outcomes)
        if any(outcome.messages for outcome in outcomes):
            self._rung.set()
        return outcomes

    async def tick(self) -> int | None:
        """Carry out what is due (see `Store.tick`)."""
        due_ms = await self._thread.call(Store.tick)
        self._rung.set()
        return due_ms

    def hear(self, callback: Callable[[LogEntry], None]) -> Callable[[], None]:
        """Have every new entry of the log, creations excepted; call what is returned to end that."""
        self._hears.append(callback)
        self._keep_watch()
        return lambda: self._hears.remove(callback)

    async def wait_watching(self) -> None:
        """Wait until the log is followed: nothing that happens from now on is missed."""
        await self._is_watching.wait()

    def address_of(self, group: str) -> str:
        """Return where work for a group of processes is sent (see `Promises.address_of`)."""
        return f"{SCHEME}://any@{group}"

    async def functions(self, *, group: str, pid: str, ttl: timedelta, is_durable: bool) -> DurableFunctions:
        """Return durable functions on these promises (see `Promises.functions`)."""
        durable = await asyncio.to_thread(importlib.import_module, SDK)
        functions: DurableFunctions = durable.on_embedded(self, group=group, pid=pid, ttl=ttl, is_durable=is_durable)
        return functions

    async def free_task(self, task_id: str, is_over: Callable[[str], bool]) -> str:
        """Have a task held by nobody, if a process holds it that has ended (see `Promises.free_task`)."""
        # Leases that have ended: nobody else may have looked since.
        await self.tick()

        async def ask(request: rq.Request) -> tuple[int, Any]:
            outcome = (await self.apply([request]))[0]
            return outcome.status, outcome.data

        return await free_task(ask, task_id, is_over)

    async def call[T](self, function: Callable[[Store], T]) -> T:
        """Run a function on the store's thread."""
        return await self._thread.call(function)

    def _collect(self) -> None:
        self._collector = asyncio.get_running_loop().call_later(_COLLECT_EVERY_S, self._collect)
        if os.path.exists(self.path):
            job = asyncio.ensure_future(
                self._thread.call(lambda store: store.collect(self._retention_days, only_if_due=True))
            )
            self._collection = job
            job.add_done_callback(self._collected)

    def _collected(self, job: asyncio.Future[Collected | None]) -> None:
        if not job.cancelled() and (error := job.exception()) is not None:
            self.statistics.last_error = str(error)

    async def _write_notes(self, requests: list[rq.Request]) -> list[Outcome]:
        outcomes = await self._thread.apply(requests, is_urgent=False)
        self._tell_waiters(outcomes)
        return outcomes

    async def _promise_of(self, request: rq.PromiseCreate | rq.PromiseSettle, outcome: Outcome) -> Promise:
        if outcome.status == MISSING:
            raise PromiseNotFound(request.id)
        if outcome.status != OK:
            raise PromiseRejected(rq.kind_of(request), outcome.status, str(outcome.data))
        promise = outcome.promises.get(request.id) or await self.get(request.id)
        if promise is None:
            raise PromiseNotFound(request.id)
        return promise

    def _tell_waiters(self, outcomes: Sequence[Outcome]) -> None:
        if not self._waiters:
            return
        for outcome in outcomes:
            for promise in outcome.promises.values():
                self._tell(promise)

    def _tell(self, promise: Promise) -> None:
        if promise.is_pending:
            return
        for future in self._waiters.get(promise.id, ()):
            if not future.done():
                future.set_result(promise)

    def _fail_waiters(self, error: Exception) -> None:
        for futures in self._waiters.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _forget(self, promise_id: str, future: asyncio.Future[Promise]) -> None:
        future.cancel()
        futures = self._waiters[promise_id]
        futures.remove(future)
        if not futures:
            del self._waiters[promise_id]

    def _keep_watch(self) -> None:
        self._rung.set()  # it may sleep until somebody rings
        if self._watch is None:
            self._watch = asyncio.create_task(self._look(), name="promises: watch")

    async def _look(self) -> None:
        """Read the log whenever somebody rang, and from time to time, while anybody waits."""
        loop = asyncio.get_running_loop()
        bell_fd = -1
        try:
            while True:
                self._rung.clear()
                try:
                    log = await self._thread.quick()
                    if self._read_to is None:
                        bell_fd = await self._thread.call(lambda store: store.bell.open().fileno())
                        loop.add_reader(bell_fd, self._rung.set)
                        self._read_to = log.last_seq(), log.openings
                        self._catch_up(log)
                        self._is_watching.set()
                    self._read_log(log)
                except (PromisesUnavailable, OSError) as exc:
                    # What waits for answers must not end because the disk is full for a while.
                    self.statistics.last_error = str(exc)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S if self._waiters or self._hears else None):
                        await self._rung.wait()
        finally:
            if bell_fd >= 0:
                loop.remove_reader(bell_fd)

    def _catch_up(self, log: Store) -> None:
        """Tell those whose promise was settled after they looked at it, and before the log was followed."""
        for promise_id in list(self._waiters):
            promise = log.find(promise_id)
            if promise is not None:
                self._tell(promise)

    def _read_log(self, log: Store) -> None:
        """Read on the loop's thread: a reader of SQLite's WAL waits for nobody, and whoever waits is awake sooner."""
        log.bell.hush()
        assert self._read_to is not None
        seq, openings = self._read_to
        entries = log.log_after(seq)
        if log.openings != openings:
            seq, entries = 0, log.log_after(0)  # another file lies there now, with a log of its own
        self._read_to = entries[-1].seq if entries else seq, log.openings
        for entry in entries:
            if entry.op == "settle" and entry.id in self._waiters:
                promise = log.find(entry.id)
                if promise is not None:
                    self._tell(promise)
            for hear in list(self._hears):
                hear(entry)
