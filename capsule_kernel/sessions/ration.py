"""Keeps what sleeping snapshots hold within their budget: measures beside the loop, and ends the oldest.

A measurement follows each birth after a moment, and while there are snapshots whenever memory has become less; it rests
for many times what the last one took, since it walks page tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from capsule_kernel.sessions import memory
from capsule_kernel.sessions.budget import CRITICAL, Held, Room, count_to_drop
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.ring import Ring
from capsule_kernel.sessions.session import Session

_log = logging.getLogger(__name__)
_BIRTH_S = 0.25
_BUSY_S = 0.5
_IDLE_S = 2.0
_REST = 50
_REST_S = 2.0
_NOTABLE_BYTES = 16 << 20


class Ration:
    """The watch over the memory of one kernel's snapshots."""

    def __init__(
        self,
        ring: Ring,
        *,
        cap_bytes: int,
        current: Callable[[], Session | None],
        end_dropped: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._ring = ring
        self._cap_bytes = cap_bytes
        self._current = current
        self._end_dropped = end_dropped
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_birth_new = False
        self._rest_until_s = 0.0
        self._left_bytes = 0
        self._total_bytes = 0

    def note_birth(self) -> None:
        """A snapshot was added."""
        self._is_birth_new = True
        # Not at once: a cell may come just now, and wait for a processor.
        if self._timer is None or self._timer.when() > self._loop.time() + _BIRTH_S:
            self._set_timer(_BIRTH_S)

    def close(self) -> None:
        """Stop; twice is no error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def _set_timer(self, delay_s: float) -> None:
        if self._task is not None:
            # It sets the next one.
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._look())
        self._task.add_done_callback(self._go_on)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or not self._ring.sleepers:
            return
        task.result()
        current = self._current()
        is_busy = current is not None and current.phase is Phase.BUSY
        self._set_timer(_BUSY_S if is_busy or self._is_birth_new else _IDLE_S)

    async def _look(self) -> None:
        current, sleepers = self._current(), list(self._ring.sleepers)
        if current is None or not sleepers:
            return
        room = await asyncio.to_thread(memory.room)
        is_critical = room.left_bytes < room.usable_bytes * CRITICAL
        has_changed = self._is_birth_new or room.left_bytes < self._left_bytes - _NOTABLE_BYTES
        begun = self._loop.time()
        if not is_critical and (not has_changed or begun < self._rest_until_s):
            return
        if is_critical:
            # Those that nobody keeps any more go first.
            self._end_dropped()
        self._is_birth_new = False
        self._left_bytes = room.left_bytes
        # Where nothing is left, measuring would only take time.
        held = (
            Held(private_bytes=[0] * len(sleepers), total_bytes=0)
            if is_critical
            else await asyncio.to_thread(memory.held, current.pid, [sleeper.pid for sleeper in sleepers])
        )
        now = self._loop.time()
        self._rest_until_s = now + min(_REST * (now - begun), _REST_S)
        self._drop(sleepers, self._steady(held), room)

    def _steady(self, held: Held) -> Held:
        """Return `held` with the less of this total and the last one.

        Processes that come and go while they are read one after the other make shared pages count twice: what private
        pages do not show must be there at two looks.
        """
        last, self._total_bytes = self._total_bytes, held.total_bytes
        if held.total_bytes > last:
            # Soon again.
            self._is_birth_new = True
        return Held(
            private_bytes=held.private_bytes, total_bytes=max(sum(held.private_bytes), min(last, held.total_bytes))
        )

    def _drop(self, sleepers: list[Session], held: Held, room: Room) -> None:
        for sleeper in sleepers[: count_to_drop(held, room, self._cap_bytes)]:
            if sleeper not in self._ring.sleepers:
                continue
            _log.info(
                "%r ends for its memory: snapshots hold %d MB, %d of %d MB are left",
                sleeper,
                held.total_bytes >> 20,
                room.left_bytes >> 20,
                room.usable_bytes >> 20,
            )
            self._ring.discard(sleeper)
            sleeper.kill("its memory was needed")
            # What came back shows only at the next look.
            self._is_birth_new = True
            self._rest_until_s = 0.0
            self._total_bytes = 0
