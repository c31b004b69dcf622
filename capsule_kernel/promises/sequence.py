"""A durable function whose steps are done elsewhere: it waits for the result of each, one after the other.

    sequence = DurableSequence(promises, run_id, function="capsule.notebook", total=3, pid=pid)
    sequence.start()
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
import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from capsule_kernel.errors import PromisesUnavailable, TaskHeld
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.embedded import EmbeddedPromises

if TYPE_CHECKING:
    from resonate.context import Context

    from capsule_kernel.promises.durable import DurableFunctions

_SDK = "capsule_kernel.promises.durable"
_DEADLINE_S = 120.0
_TTL = timedelta(seconds=30)
_STEP_TIMEOUT = timedelta(days=36_500)


class DurableSequence:
    """A durable function of as many steps as its caller has.

    Args:
        promises: where it is kept; they are started and stopped by their owner.
        root_id: the function's promise, made with `invocation_param` and `invocation_tags`.
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
        function: str,
        total: int,
        pid: str,
        is_over: Callable[[str], bool],
        is_durable: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._promises = promises
        self._root_id = root_id
        self._function = function
        self._pid = pid
        self._is_over = is_over
        self._is_durable = is_durable
        self._begun: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._told: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._kept: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(total)]
        self._starting: asyncio.Task[None] | None = None
        self._functions: DurableFunctions | None = None
        self._body: asyncio.Task[Any] | None = None

    def start(self) -> None:
        """Begin, or go on; what stands in the way is raised by what is called next.

        The SDK is imported meanwhile, half a second on another thread.
        """
        self._starting = asyncio.create_task(self._start())

    async def begin(self, index: int) -> Any:
        """Begin a step, the ones before it being finished; return its result if it has one already, else None.

        Raises:
            TaskHeld: another process runs the function.
            PromiseError: it cannot be begun.
        """
        return await self._wait(self._begun[index], f"step {index + 1} of {self._root_id} was not begun")

    async def finish(self, index: int, result: Any) -> Any:
        """Finish a step that was begun; return what is kept: `result`, or that of whoever was first.

        Args:
            index: which one.
            result: what JSON can hold, not None.

        Raises:
            TaskHeld: another process runs the function.
            PromiseError: it cannot be kept.
        """
        if await self.begin(index) is None and not self._told[index].done():
            self._told[index].set_result(result)
        return await self._wait(self._kept[index], f"step {index + 1} of {self._root_id} could not be kept")

    async def end(self) -> None:
        """Wait until the function has returned, all its steps being finished.

        Raises:
            PromiseError: that could not be kept.
        """
        await self._started()
        try:
            await self._promises.wait(self._root_id, _DEADLINE_S)
        except TimeoutError:
            raise await self._failure(f"the end of {self._root_id} could not be kept") from None

    async def stop(self) -> None:
        """Let go; a function that has not returned goes on when somebody begins it again."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._functions is None:
            return
        stopping = asyncio.create_task(self._functions.stop())
        # From here on it takes no work: who cancels it before would be given the function again.
        await asyncio.sleep(0)
        if self._body is not None:
            self._body.cancel()
        await stopping

    async def _start(self) -> None:
        holder = await self._promises.free_task(self._root_id, self._is_over)
        if holder:
            raise TaskHeld(self._root_id, holder)
        await asyncio.to_thread(importlib.import_module, _SDK)
        self._functions = await self._opened()
        resonate = self._functions.resonate.start()
        resonate.register(self._run, name=self._function)
        await resonate.run(self._root_id, self._function).id()

    async def _opened(self) -> DurableFunctions:
        from capsule_kernel.promises.durable import on_embedded, on_remote
        from capsule_kernel.promises.remote import RemotePromises

        # A group of its own: nobody else has this function's steps at hand.
        if isinstance(self._promises, EmbeddedPromises):
            return on_embedded(
                self._promises, group=self._root_id, pid=self._pid, ttl=_TTL, is_durable=self._is_durable
            )
        assert isinstance(self._promises, RemotePromises)
        return await on_remote(self._promises, group=self._root_id, pid=self._pid, ttl=_TTL)

    async def _run(self, ctx: Context, /, **_arguments: Any) -> dict[str, Any]:
        """The function: whatever process it runs in, finished steps are not done again."""
        self._body = asyncio.current_task()
        steps = ctx.options(timeout=_STEP_TIMEOUT)
        for index in range(len(self._kept)):
            result = await steps.run(self._step, index)
            for future in (self._begun[index], self._kept[index]):
                if not future.done():
                    future.set_result(result)
        return {"v": 1, "status": "ok"}

    async def _step(self, _ctx: Context, index: int) -> Any:
        if not self._begun[index].done():
            self._begun[index].set_result(None)
        return await asyncio.shield(self._told[index])

    async def _started(self) -> None:
        assert self._starting is not None
        await asyncio.shield(self._starting)

    async def _wait(self, future: asyncio.Future[Any], problem: str) -> Any:
        await self._started()
        await asyncio.wait({future}, timeout=_DEADLINE_S)
        if not future.done():
            raise await self._failure(problem)
        return future.result()

    async def _failure(self, problem: str) -> Exception:
        """Return why the function does not go on."""
        holder = await self._promises.free_task(self._root_id, lambda _pid: False)
        if holder and holder != self._pid:
            return TaskHeld(self._root_id, holder)
        return PromisesUnavailable(repr(self._promises), f"{problem} within {_DEADLINE_S:g} s")
