"""A durable function whose steps are done elsewhere: it waits for the result of each, one after the other.

    sequence = DurableSequence(promises, run_id, group=run_id, function="work", total=3, pid=pid, is_over=has_ended)
    await sequence.start()
    for index in range(3):
        result = await sequence.begin(index)          # the step's, if an earlier process has finished it
        if result is None:
            await sequence.finish(index, do(index))   # kept when this returns
    await sequence.end()                              # the function has returned
    await sequence.stop()

Resonate's SDK runs the function: its task is held by one process at a time, each step is a durable promise
`{run_id}:{n}`, and what is finished is not done again, in whatever process. A step that was begun and not finished is
begun again: whether what it stands for may be done again is for the caller to know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from capsule_kernel.errors import FunctionStalled, FunctionStopped, PromiseError, PromisesUnavailable, TaskHeld
from capsule_kernel.promises.client import Promises

if TYPE_CHECKING:
    from resonate.context import Context

    from capsule_kernel.promises.durable import DurableFunctions

_LOOK_S = 2.0
_LOOKS = 60
_LETTING_GO_S = 0.5
_TTL = timedelta(seconds=30)
_STEP_TIMEOUT = timedelta(days=36_500)


class DurableSequence:
    """A durable function of as many steps as its caller has.

    Args:
        promises: where it is kept; they are started and stopped by their owner.
        root_id: the function's promise, made with `invocation_param` and `invocation_tags`.
        group: the group that its work is sent to: nobody else has its steps at hand, so it is one of its own.
        function: its name.
        total: how many steps it has now; those that are finished stay what they are.
        pid: this process, as holder of the task.
        is_over: whether another process that holds it, by its pid, is known to have ended.
        is_durable: whether what is kept waits for the disk.
    """

    def __init__(
        self,
        promises: Promises,
        root_id: str,
        *,
        group: str,
        function: str,
        total: int,
        pid: str,
        is_over: Callable[[str], bool],
        is_durable: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._promises = promises
        self._root_id = root_id
        self._group = group
        self._function = function
        self._pid = pid
        self._is_over = is_over
        self._is_durable = is_durable
        self._begun: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._told: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._kept: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._ended: asyncio.Future[None] = loop.create_future()
        # Why the function goes on no more; never awaited by itself.
        self._problem: asyncio.Future[PromiseError] = loop.create_future()
        self._starting: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._functions: DurableFunctions | None = None
        self._bodies: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begin, or go on.

        The SDK is imported meanwhile, half a second on another thread; what goes wrong with that is raised by what is
        called next.

        Raises:
            TaskHeld: another process runs the function.
            PromiseError: its promise cannot be read.
        """
        holder = await self._promises.free_task(self._root_id, lambda pid: pid == self._pid or self._is_over(pid))
        if holder:
            raise TaskHeld(self._root_id, holder)
        self._starting = asyncio.create_task(self._start())
        self._watch = asyncio.create_task(self._watch_root())

    async def begin(self, index: int) -> Any:
        """Begin a step, the ones before it being finished; return its result if it has one already, else None.

        Raises:
            TaskHeld: another process runs the function.
            FunctionStopped: somebody has settled its promise, or the step's.
            PromiseError: it cannot be begun.
        """
        return await self._wait(self._begun[index], f"step {index + 1} was not begun")

    async def finish(self, index: int, result: Any) -> Any:
        """Finish a step that was begun; return what is kept: `result`, or that of whoever was first.

        Args:
            index: which one.
            result: what JSON can hold, not None.

        Raises:
            TaskHeld: another process runs the function.
            FunctionStopped: somebody has settled its promise, or the step's.
            PromiseError: it cannot be kept.
        """
        if await self.begin(index) is None and not self._told[index].done():
            self._told[index].set_result(result)
        return await self._wait(self._kept[index], f"step {index + 1} could not be kept")

    async def end(self) -> None:
        """Wait until the function has returned, all its steps being finished.

        Raises:
            FunctionStopped: somebody else has settled its promise.
            PromiseError: that could not be kept.
        """
        await self._wait(self._ended, "its end could not be kept")

    async def stop(self) -> None:
        """Let go: a function that has not returned goes on as soon as somebody begins it again."""
        for task in (self._starting, self._watch):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._functions is not None:
            stopping = asyncio.create_task(self._functions.stop())
            # From here on it takes no work: who cancels the function before that would be given it again.
            await asyncio.sleep(0)
            for body in list(self._bodies):
                body.cancel()
            await stopping
        if self._starting is not None:
            # Where that fails its lease will end.
            with contextlib.suppress(PromiseError, TimeoutError):
                async with asyncio.timeout(_LETTING_GO_S):
                    await self._promises.free_task(self._root_id, lambda pid: pid == self._pid)

    async def _start(self) -> None:
        self._functions = await self._promises.functions(
            group=self._group, pid=self._pid, ttl=_TTL, is_durable=self._is_durable
        )
        await self._functions.begin(self._root_id, self._function, self._run)

    async def _run(self, ctx: Context, /, **_arguments: Any) -> dict[str, Any]:
        """The function: whatever process it runs in, finished steps are not done again."""
        body = asyncio.current_task()
        assert body is not None
        self._bodies.add(body)
        body.add_done_callback(self._bodies.discard)
        steps = ctx.options(timeout=_STEP_TIMEOUT)
        for index in range(len(self._kept)):
            try:
                result = await steps.run(self._step, index)
            except Exception as exc:
                self._stop_for(FunctionStopped(f"{self._root_id}:{index + 1}", str(exc) or "rejected"))
                # To return, or raise, would be the end of the function.
                await asyncio.get_running_loop().create_future()
                raise
            for future in (self._begun[index], self._kept[index]):
                if not future.done():
                    future.set_result(result)
        return {"v": 1, "status": "ok"}

    async def _step(self, _ctx: Context, index: int) -> Any:
        if not self._begun[index].done():
            self._begun[index].set_result(None)
        return await asyncio.shield(self._told[index])

    async def _watch_root(self) -> None:
        """See how the function ends, or who ends it."""
        while True:
            try:
                promise = await self._promises.wait(self._root_id)
            except PromiseError:
                # Whether it is over is asked again.
                await asyncio.sleep(_LOOK_S)
                continue
            if promise.state == "resolved":
                self._ended.set_result(None)
            else:
                self._stop_for(FunctionStopped(self._root_id, promise.state.removeprefix("rejected_")))
            return

    def _stop_for(self, problem: PromiseError) -> None:
        if not self._problem.done():
            self._problem.set_result(problem)

    async def _wait(self, future: asyncio.Future[Any], missing: str) -> Any:
        assert self._starting is not None
        await asyncio.shield(self._starting)
        awaited = {future, self._problem}
        for _ in range(_LOOKS):
            done, _pending = await asyncio.wait(awaited, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if future in done:
                return future.result()
            if done:
                raise self._problem.result()
            # Lost on the way, it is taken again, unless somebody else was sooner.
            with contextlib.suppress(PromisesUnavailable):
                holder = await self._promises.free_task(self._root_id, lambda _pid: False)
                if holder and holder != self._pid:
                    raise TaskHeld(self._root_id, holder)
        raise FunctionStalled(self._root_id, f"{missing} within {_LOOKS * _LOOK_S:g} s")
