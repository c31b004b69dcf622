"""What is written behind: noted at once, written a moment later in one transaction, in its order.

A note costs its caller an append. What cannot be written is tried again, up to a bound; beyond it the oldest are
dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from capsule_kernel.errors import PromiseError
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.client import Statistics
from capsule_kernel.promises.model import FAR_FUTURE_MS, KIND_TAG, Settlement, encode_value
from capsule_kernel.promises.outcome import INVALID, Outcome
from capsule_kernel.promises.rules import settlement

type Creation = tuple[str, Any, str, dict[str, str] | None, int | None]
type Settling = tuple[str, Settlement, Any]

_DELAY_S = 0.05
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 5.0
"""A server that is away is spared by its breaker, whose pause is the longer one."""
_ROOM = 10_000


class Notes:
    """The queue.

    Args:
        write: carries out requests, all or none of them.
    """

    def __init__(self, write: Callable[[list[rq.Request]], Awaitable[list[Outcome]]]) -> None:
        self._write = write
        self._queue: deque[Creation | Settling] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry_s = 0.0
        self.statistics = Statistics()

    def add(self, note: Creation | Settling) -> None:
        """Note a creation or a settlement."""
        self._queue.append(note)
        self.statistics.noted += 1
        if len(self._queue) > _ROOM:
            self._queue.popleft()
            self.statistics.dropped += 1
        self.statistics.waiting = len(self._queue)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(_DELAY_S, self._retry_s), self.hurry)

    def hurry(self) -> None:
        """Have what was noted written before whatever is asked next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._queue:
            return
        batch = list(self._queue)
        self._queue.clear()
        # Eager: the batch is with the store before this returns, and so ahead of what is asked next.
        loop = asyncio.get_running_loop()
        task = asyncio.Task(self._carry_out(batch), loop=loop, name="promises: notes", eager_start=True)
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def flush(self, timeout_s: float) -> bool:
        """Write what was noted; return whether all of it is kept now."""
        self.hurry()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return not self._queue and not self._tasks

    def stop(self) -> None:
        """Write nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _carry_out(self, batch: list[Creation | Settling]) -> None:
        try:
            outcomes = await self._write([_request(note) for note in batch])
        except PromiseError as exc:
            self._put_back(batch, exc)
            return
        self._retry_s = 0.0
        refused = [outcome for outcome in outcomes if outcome.status >= INVALID]
        self.statistics.refused += len(refused)
        self.statistics.written += len(outcomes) - len(refused)
        self.statistics.waiting = len(self._queue)
        self.statistics.last_error = f"status {refused[0].status}: {refused[0].data}" if refused else ""

    def _put_back(self, batch: list[Creation | Settling], error: PromiseError) -> None:
        self._queue.extendleft(reversed(batch))
        while len(self._queue) > _ROOM:
            self._queue.popleft()
            self.statistics.dropped += 1
        self.statistics.waiting = len(self._queue)
        self.statistics.last_error = str(error)
        self._retry_s = min(max(self._retry_s * 2, _RETRY_FIRST_S), _RETRY_MAX_S)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._retry_s, self.hurry)


def creation(
    promise_id: str, param: Any, kind: str, tags: dict[str, str] | None, timeout_at_ms: int | None
) -> rq.PromiseCreate:
    """Return the request that creates a promise."""
    labels = {KIND_TAG: kind, **(tags or {})} if kind else tags or {}
    return rq.PromiseCreate(
        id=promise_id,
        timeout_at=FAR_FUTURE_MS if timeout_at_ms is None else timeout_at_ms,
        param=rq.raw(encode_value(param)),
        tags=labels,
    )


def settling(promise_id: str, state: Settlement, value: Any) -> rq.PromiseSettle:
    """Return the request that settles a promise."""
    return settlement(state, promise_id, encode_value(value))


def _request(note: Creation | Settling) -> rq.Request:
    return creation(*note) if len(note) == 5 else settling(*note)
