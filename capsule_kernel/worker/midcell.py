"""Snapshots in the middle of a cell, with its whole stack: what `checkpoint()` asks for.

One that is woken goes on with the cell where it was, as the same execution: what it writes, its reply and its idle
belong to the same request.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

from capsule_kernel.state.snapshots import Role
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.lineage import Lineage, Moment
from capsule_kernel.worker.loop import go_on_running, running_loop
from capsule_kernel.worker.output import flush_streams


class MidCell:
    """Takes them.

    Args:
        lineage: what forks.
        cancellation: what knows the execution under way.
        newest: the cell that has run last, by its number and its request.
        is_ours: whether this process is the worker, and no child of user code.
        parked: brackets a fork: the worker's other threads hold no lock inside of it; yields them.
        wake_up: makes a woken snapshot the worker, which is to have a snapshot of this moment itself.
    """

    def __init__(
        self,
        *,
        lineage: Lineage,
        cancellation: ExecutionCancellation,
        newest: Callable[[], tuple[int, int]],
        is_ours: Callable[[], bool],
        parked: Callable[[], AbstractContextManager[list[threading.Thread]]],
        wake_up: Callable[[Moment], None],
    ) -> None:
        self._lineage = lineage
        self._cancellation = cancellation
        self._newest = newest
        self._is_ours = is_ours
        self._parked = parked
        self._wake_up = wake_up
        self._ordinal = 0

    def take(self, line: int) -> bool:
        """Keep this moment of the running cell; return whether it was come back to."""
        running = self._cancellation.serial
        if not running or not self._cancellation.is_cell or not self._is_ours():
            return False
        if threading.current_thread() is not threading.main_thread():
            _warn("it was called in a thread")
            return False
        self._ordinal += 1
        count, serial = self._newest()
        moment = Moment(count=count, serial=serial, running=running, ordinal=self._ordinal, line=line)
        # What was written until now is not written again.
        flush_streams()
        loop = running_loop()
        is_held = self._cancellation.hold()
        try:
            with self._parked() as threads:
                role = self._lineage.take(moment, own_threads=threads, is_awaited=True)
            if role is Role.SNAPSHOT:
                self._wake_up(moment)
                go_on_running(loop)
                return True
            self._lineage.reap_helper()
        finally:
            if is_held:
                self._cancellation.release()
        if self._lineage.refusal:
            _warn(self._lineage.refusal)
        return False


def _warn(reason: str) -> None:
    warnings.warn(f"checkpoint() could not be taken: {reason}", RuntimeWarning, stacklevel=4)
