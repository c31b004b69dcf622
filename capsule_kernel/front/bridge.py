"""`ResonateProtocolBridge`: what the kernel does, as durable promises: executions and how they ended, questions.

No cell waits for it: executions are noted and written a moment later. The promises are opened when the first cell has
had its time, or with the first question; until then nothing of them is imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.errors import CapsuleError
from capsule_kernel.incarnation import incarnation, is_over
from capsule_kernel.settings import Settings

if TYPE_CHECKING:
    from capsule_kernel.promises.client import Promises
    from capsule_kernel.promises.model import Promise

_log = logging.getLogger(__name__)
_OPEN_AFTER_S = 1.0
_WRITE_AFTER_S = 0.05
_BURST = 20
_POSTPONED_MAX = 20
"""While more notes than that come in an interval, one cell after another waits for this process: they are written when
that ends, or after so many intervals."""
_EARLY_MAX = 4000
_OVER_KEPT = 100
_PAGE = 1000
_STOP_S = 1.0
_DAY_MS = 86_400_000

INTERRUPTED = "interrupted"
"""Status of an execution whose end nobody saw."""


class _Begun(msgspec.Struct, frozen=True):
    execution_id: str
    code: str
    count: int
    started_ms: int


class _Ended(msgspec.Struct, frozen=True):
    execution_id: str
    status: str
    count: int
    ename: str


class _Execution(msgspec.Struct):
    """An execution and its questions so far."""

    id: str
    count: int
    is_recorded: bool
    is_over: bool = False
    questions: int = 0


class ResonateProtocolBridge:
    """Correlates executions with promises.

    Args:
        settings: says where promises are kept.
        environ: environment variables.
        kernel_id: this kernel's, for the ids of executions.
        session: which notebook this is, to find its promises by.
        clock: the time of day.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        environ: Mapping[str, str],
        kernel_id: str,
        session: Callable[[], str],
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._kernel_id = kernel_id
        self._session = session
        self._clock = clock
        self._loop = loop
        self._is_off = settings.durability == "off"
        self._promises: Promises | None = None
        self._opening: asyncio.Task[Promises | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[_Begun | _Ended] = []
        self._looked_at = 0
        self._postponed = 0
        self._lost = 0
        self._count = 0
        self._newest = _Execution(f"{kernel_id}-0", 0, is_recorded=False)
        self._executions: dict[int, _Execution] = {}
        self._over: deque[int] = deque()
        self._is_away_told = False
        self._dropped_told = 0
        self._is_stopped = False
        self._sweeping: asyncio.Task[None] | None = None

    # --- executions --------------------------------------------------------------------------------------------------

    def begin(self, serial: int, code: str, count: int, *, is_recorded: bool, execution_id: str = "") -> None:
        """Note that the cell of request `serial` runs.

        Args:
            serial: the request's.
            code: the cell.
            count: its prompt's number.
            is_recorded: whether the execution is a promise, or has an id only.
            execution_id: the id that whoever runs the cell gave it, and keeps the promise of.
        """
        if self._is_off:
            return
        self._count += 1
        is_recorded = is_recorded and not execution_id
        execution = _Execution(execution_id or f"{self._kernel_id}-{self._count}", count, is_recorded)
        self._newest = self._executions[serial] = execution
        if is_recorded:
            self._note(_Begun(execution.id, code, count, self._clock.unix_ms()))

    def end(self, serial: int, status: str, ename: str = "") -> None:
        """Note how it ended: `ok`, `error` with the error's name, `interrupted`."""
        execution = self._executions.get(serial)
        if execution is None or execution.is_over:
            return
        execution.is_over = True
        if execution.is_recorded:
            self._note(_Ended(execution.id, status, execution.count, ename))
        self._over.append(serial)
        if len(self._over) > _OVER_KEPT:
            del self._executions[self._over.popleft()]

    def leave(self) -> None:
        """Note that what runs is interrupted: this front ends."""
        for serial in [serial for serial, execution in self._executions.items() if not execution.is_over]:
            self.end(serial, INTERRUPTED)

    def is_own(self, execution_id: str) -> bool:
        """Return whether this kernel gave the execution its id, and not a run."""
        return execution_id.startswith(f"{self._kernel_id}-")

    def count_question(self, serial: int) -> tuple[str, int]:
        """Count a question of request `serial`; return the execution that it belongs to, and its number there.

        Tasks may ask long after their cell; where that is forgotten, they belong to the newest.
        """
        execution = self._executions.get(serial, self._newest)
        execution.questions += 1
        return execution.id, execution.questions

    @property
    def statistics(self) -> dict[str, Any] | None:
        """What became of what was noted, for `usage_reply`; None when promises are off."""
        if self._is_off:
            return None
        counts = msgspec.to_builtins(self._promises.statistics) if self._promises is not None else {}
        return {"durability": self._settings.durability, **counts, "never_noted": self._lost}

    def news(self) -> str:
        """Return what a person has to know about the server and was not told yet; empty: nothing."""
        if self._promises is None or self._settings.durability != "remote":
            return ""
        counts, text = self._promises.statistics, ""
        is_away = bool(counts.last_error) and counts.waiting > 0
        if is_away and not self._is_away_told:
            text = f"the Resonate server records nothing now, cells go on: {counts.last_error}\n"
        self._is_away_told = is_away
        if counts.dropped > self._dropped_told:
            text += f"{counts.dropped - self._dropped_told} records of executions are lost\n"
            self._dropped_told = counts.dropped
        return text

    # --- the promises ------------------------------------------------------------------------------------------------

    async def promises(self) -> Promises | None:
        """Return the promises, opened; None when they are off or cannot be used."""
        if self._promises is not None or self._is_off or self._is_stopped:
            if self._promises is not None:
                # What was noted is there before what is asked now.
                self._write_early(self._promises)
            return self._promises
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def stop(self) -> None:
        """Write what was noted, and let go."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._promises is None and self._early and not self._is_off:
            # A short life is recorded as well.
            self._is_stopped = False
            await self.promises()
            self._is_stopped = True
        if self._promises is not None:
            self._write_early(self._promises)
            if self._sweeping is not None:
                # What it notes is to be written as well.
                await asyncio.wait({self._sweeping}, timeout=_STOP_S)
            await self._promises.stop(_STOP_S)
            if self._promises.statistics.waiting:
                _log.warning("%d notes about executions were not written", self._promises.statistics.waiting)

    def _note(self, note: _Begun | _Ended) -> None:
        if len(self._early) >= _EARLY_MAX:
            if self._promises is None:
                self._lost += 1
                return
            self._write_early(self._promises)
        self._early.append(note)
        if self._timer is None:
            wait_s = _OPEN_AFTER_S if self._promises is None else _WRITE_AFTER_S
            self._timer = self._loop.call_later(wait_s, self._carry_out)

    def _carry_out(self) -> None:
        """Hand over what was noted; nobody waits for it by now."""
        self._timer = None
        if self._promises is not None:
            came, self._looked_at = len(self._early) - self._looked_at, len(self._early)
            if came > _BURST and self._postponed < _POSTPONED_MAX:
                self._postponed += 1
                self._timer = self._loop.call_later(_WRITE_AFTER_S, self._carry_out)
                return
            self._write_early(self._promises)
        elif self._opening is None and not self._is_stopped:
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> Promises | None:
        try:
            # The import alone takes milliseconds, which a cell may be waiting for.
            opening = await asyncio.to_thread(_import_opening)
            promises: Promises = opening.open_promises(self._settings, self._environ)
            await promises.start()
        except (CapsuleError, ImportError, OSError) as exc:
            _log.warning("executions are not recorded: %s", exc)
            self._is_off = True
            self._lost += len(self._early)
            self._early.clear()
            return None
        self._promises = promises
        self._write_early(promises)
        self._sweeping = self._loop.create_task(self._settle_left_over(promises))
        return promises

    def _write_early(self, promises: Promises) -> None:
        early, self._early = self._early, []
        self._looked_at = self._postponed = 0
        for note in early:
            self._write(promises, note)

    def _write(self, promises: Promises, note: _Begun | _Ended) -> None:
        from capsule_kernel.promises import names

        promise_id = names.execution(note.execution_id)
        if isinstance(note, _Begun):
            param = {
                "v": 1,
                "code_sha256": _sha256(note.code),
                "incarnation": incarnation(),
                "execution_count": note.count,
                "started_at": note.started_ms,
            }
            tags = {"capsule:kernel": self._kernel_id, "capsule:session": self._session()}
            promises.note_create(promise_id, param, kind=names.EXECUTION, tags=tags)
            return
        value: dict[str, Any] = {"v": 1, "status": note.status, "execution_count": note.count}
        if note.ename:
            value["ename"] = note.ename
        promises.note_settle(promise_id, "resolved" if note.status == "ok" else "rejected", value)

    async def _settle_left_over(self, promises: Promises) -> None:
        """Settle as interrupted what fronts that are gone have left: nothing of it runs, or will.

        Their questions stay to be answered for as long as answers are kept.
        """
        kept_ms = self._settings.promises_retention_days * _DAY_MS
        before_ms = self._clock.unix_ms() - kept_ms if kept_ms else 0
        try:
            async for promise in _pending(promises, "exec"):
                if _is_left(promise):
                    promises.note_settle(promise.id, "rejected", {"v": 1, "status": INTERRUPTED})
            async for promise in _pending(promises, "input"):
                if promise.created_at_ms < before_ms and _is_left(promise):
                    promises.note_settle(promise.id, "rejected_canceled", {"v": 1, "by": "kernel"})
        except CapsuleError as exc:
            _log.warning("executions of earlier kernels stay pending: %s", exc)


async def _pending(promises: Promises, kind: str) -> AsyncIterator[Promise]:
    after = ""
    while found := await promises.search(state="pending", kind=kind, after=after, limit=_PAGE):
        for promise in found:
            yield promise
        after = found[-1].id


def _is_left(promise: Promise) -> bool:
    param = promise.param_data()
    return isinstance(param, dict) and is_over(param.get("incarnation"))


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _import_opening() -> Any:
    from capsule_kernel.promises import embedded, names, opening  # noqa: F401 - so that they are there

    return opening
