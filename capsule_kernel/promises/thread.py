"""The thread that owns an embedded store: waiting for the disk, or for another process, holds up nobody else.

Requests that come while it works are carried out together, in one transaction. A request that somebody waits for, with
nothing before it and no other process writing, is carried out on the loop itself, by a second connection that waits for
no process and hardly ever for the disk (`Store.quick`): it takes less than the way to the thread and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from capsule_kernel.errors import PromisesUnavailable
from capsule_kernel.promises.model import Promise
from capsule_kernel.promises.outcome import Outcome
from capsule_kernel.promises.requests import Request
from capsule_kernel.promises.store import Store

_TOGETHER_MAX = 64
_TIDY_EVERY = 200
"""After so many transactions of the second connection, the thread moves them from the log that SQLite writes ahead into
the file. That waits for the disk."""


class _Job:
    """One piece of work, and who waits for it."""

    __slots__ = ("error", "function", "future", "is_awaited", "is_durable", "is_urgent", "loop", "requests", "result")

    def __init__(
        self,
        function: Callable[[Store], Any] | None,
        requests: Sequence[Request] = (),
        *,
        is_durable: bool = False,
        is_urgent: bool = False,
        is_awaited: bool = True,
    ) -> None:
        self.function = function
        self.requests = requests
        self.is_durable = is_durable
        self.is_urgent = is_urgent
        self.is_awaited = is_awaited
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def finish(self) -> None:
        if self.future.done() or not self.is_awaited:
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class StoreThread:
    """Runs work on a store that it opens with the first.

    Args:
        open_store: opens the store.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        # For the loop; opened and closed by the thread.
        self._quick: Store | None = None
        self._quick_count = 0
        # Jobs that have not been carried out, also where whoever asked has given up: nothing may overtake them.
        self._ahead = 0
        self._is_stopped = False

    async def apply(
        self, requests: Sequence[Request], *, is_durable: bool = False, is_urgent: bool = True
    ) -> list[Outcome]:
        """Carry out requests in one transaction.

        Args:
            requests: what is asked.
            is_durable: whether to wait until the disk has it (see `Store.apply`).
            is_urgent: whether somebody waits for what it leads to.
        """
        is_urgent = is_urgent and not is_durable
        if is_urgent and self._quick is not None and not self._ahead and not self._is_stopped:
            with contextlib.suppress(PromisesUnavailable):  # the thread has the patience, or says what is wrong
                done = self._quick.apply(requests)
                self._tidy()
                return done
        outcomes: list[Outcome] = await self._put(_Job(None, requests, is_durable=is_durable, is_urgent=is_urgent))
        return outcomes

    async def find(self, promise_id: str) -> Promise | None:
        """Return a promise as it is stored (see `Store.find`)."""
        if self._quick is not None and not self._ahead and not self._is_stopped:
            with contextlib.suppress(PromisesUnavailable):
                return self._quick.find(promise_id)
        return await self.call(lambda store: store.find(promise_id))

    async def quick(self) -> Store:
        """Return the connection that waits for nobody, for the loop to read with. It is closed by `stop`."""
        if self._quick is None:
            await self.call(self._open_quick)
        assert self._quick is not None
        return self._quick

    async def call[T](self, function: Callable[[Store], T]) -> T:
        """Run a function on the thread."""
        result: T = await self._put(_Job(function))
        return result

    async def stop(self, timeout_s: float) -> None:
        """Finish what was asked for, close the store, end the thread."""
        self._is_stopped = True
        if self._thread is None:
            return
        thread = self._thread
        self._jobs.put(None)
        await asyncio.to_thread(thread.join, timeout_s)
        self._thread = None

    def _tidy(self) -> None:
        self._quick_count += 1
        if self._quick_count % _TIDY_EVERY == 0:
            # One that fails is tried again after as many; a disk that is full shows in what is asked, too.
            self._jobs.put(_Job(Store.checkpoint, is_awaited=False))

    def _put(self, job: _Job) -> asyncio.Future[Any]:
        if self._is_stopped:
            raise PromisesUnavailable("the embedded store", "it was closed")
        if self._thread is None:
            # Not waited for at exit: a disk that hangs must not keep the process.
            self._thread = threading.Thread(target=self._run, name="promises", daemon=True)
            self._thread.start()
        self._ahead += 1
        self._jobs.put(job)
        return job.future

    def _finish(self, jobs: list[_Job]) -> None:
        """On the loop: hand over what the thread has done."""
        for job in jobs:
            self._ahead -= job.is_awaited
            job.finish()

    def _run(self) -> None:
        try:
            while True:
                job = self._jobs.get()
                if job is None:
                    return
                jobs, is_last = self._more(job)
                self._work(jobs)
                loops = {job.loop for job in jobs}
                for loop in loops:
                    done = [job for job in jobs if job.loop is loop]
                    try:
                        loop.call_soon_threadsafe(self._finish, done)
                    except RuntimeError:  # the loop was closed: nobody waits any more
                        continue
                if self._store is not None and any(job.is_urgent for job in jobs):
                    with contextlib.suppress(Exception):  # it is not needed, and tried again with the next
                        self._open_quick(self._store)
                if is_last:
                    return
        finally:
            for store in (self._quick, self._store):
                if store is not None:
                    store.close()
            self._quick = self._store = None

    def _open_quick(self, store: Store) -> None:
        if self._quick is None:
            self._quick = store.quick()

    def _more(self, job: _Job) -> tuple[list[_Job], bool]:
        """Return what can be done together with a job, and whether that is all there will be."""
        jobs = [job]
        while not self._jobs.empty() and len(jobs) < _TOGETHER_MAX:
            other = self._jobs.get()
            if other is None:
                return jobs, True
            jobs.append(other)
        return jobs, False

    def _work(self, jobs: list[_Job]) -> None:
        start = 0
        while start < len(jobs):
            end = start + 1
            if jobs[start].function is None:
                while end < len(jobs) and jobs[end].function is None:
                    end += 1
            self._do(jobs[start:end])
            start = end

    def _do(self, jobs: list[_Job]) -> None:
        try:
            if self._store is None:
                self._store = self._open_store()
            function = jobs[0].function
            if function is not None:
                jobs[0].result = function(self._store)
                return
            together = [request for job in jobs for request in job.requests]
            outcomes = self._store.apply(together, is_durable=any(job.is_durable for job in jobs))
            at = 0
            for job in jobs:
                job.result = outcomes[at : at + len(job.requests)]
                at += len(job.requests)
        except Exception as exc:  # noqa: BLE001 - the top of a thread: whoever asked gets the error
            for job in jobs:
                job.error = exc
