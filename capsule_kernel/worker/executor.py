"""Runs cells: which mode, on what, and how they end. `AsyncExecutor` is what the worker uses unless told otherwise.

The worker gets its executor from a factory with the signature of `AsyncExecutor`, so that another can be put in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult

from capsule_kernel.worker import output
from capsule_kernel.worker.compiling import ExecutionMode, detect_mode, may_warn
from capsule_kernel.worker.interrupt import ExecutionCancellation, ExecutionCancelled, spare
from capsule_kernel.worker.loop import CoroutineManager, EventLoopCoordinator

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell


class Executor(Protocol):
    """What the worker needs of an executor."""

    def execute(self, code: str, *, silent: bool, store_history: bool, cell_id: str | None, serial: int) -> Any:
        """Run one cell to its end on the main thread; return IPython's `ExecutionResult`, user errors included."""


class AsyncExecutor:
    """Runs each cell natively in its mode: a task on the loop where it awaits, plain code beside the loop where not."""

    def __init__(
        self,
        *,
        shell: ZMQInteractiveShell,
        coordinator: EventLoopCoordinator,
        cancellation: ExecutionCancellation,
        coroutines: CoroutineManager,
    ) -> None:
        self._shell = shell
        self._coordinator = coordinator
        self._cancellation = cancellation
        self._coroutines = coroutines
        # Whether IPython's `run_cell` has triggered the events of the cell's end.
        self._has_run_cell_told = False
        self.threads = ThreadedExecutor(coordinator=coordinator, cancellation=cancellation)

    def execute(self, code: str, *, silent: bool, store_history: bool, cell_id: str | None, serial: int) -> Any:
        """See `Executor`."""
        shell = self._shell
        result: Any = None
        self._has_run_cell_told = False
        try:
            with self._cancellation.cancellable_execution(serial):
                result = self._run(code, silent=silent, store_history=store_history, cell_id=cell_id)
        except KeyboardInterrupt as exc:
            # Not in user code proper: before the cell began, or in what IPython does around it.
            result = self._failed(exc, code, silent=silent, store_history=store_history, cell_id=cell_id)
        except Exception as exc:  # noqa: BLE001 - IPython's machinery around the cell, with user code in it: the cell failed
            result = self._failed(exc, code, silent=silent, store_history=store_history, cell_id=cell_id)
        self._name_forgotten_coroutine(result)
        if self._has_run_cell_told:
            return result
        try:
            shell.events.trigger("post_execute")
            if not silent:
                shell.events.trigger("post_run_cell", result)
        except KeyboardInterrupt:
            return result
        return result

    def _run(self, code: str, *, silent: bool, store_history: bool, cell_id: str | None) -> Any:
        shell = self._shell
        failure = None
        try:
            transformed = self._transform_with_warnings(code) if may_warn(code) else shell.transform_cell(code)
        except Exception:  # noqa: BLE001 - transformers are user code; IPython reports it as the cell's error
            transformed = code
            failure = sys.exc_info()
        shell.last_transformed = transformed
        mode = ExecutionMode.UNKNOWN if failure else detect_mode(transformed)
        awaits = mode is ExecutionMode.TOP_LEVEL_AWAIT and shell.autoawait
        replaced = vars(shell).get("run_cell")
        if replaced is not None and not awaits:
            # A wrapper, such as the one of VS Code's interactive window: ipykernel calls it for these cells.
            with self._coordinator.stepping_aside():
                result = self._coordinator.context.run(
                    replaced, code, store_history=store_history, silent=silent, cell_id=cell_id
                )
            self._has_run_cell_told = True
            return result
        coroutine = shell.run_cell_async(
            code,
            store_history=store_history,
            silent=silent,
            transformed_cell=transformed,
            preprocessing_exc_tuple=failure,
            cell_id=cell_id,
        )
        if awaits:
            return self._coordinator.run(
                coroutine, on_task=self._cancellation.watch_task, cancel=self._cancellation.cancel_task
            )
        with self._coordinator.stepping_aside():
            return self._coordinator.context.run(_run_without_loop, coroutine)

    def _transform_with_warnings(self, code: str) -> str:
        """Return the cell as Python, with the compiler's warnings said as often as with ipykernel.

        IPython compiles a cell to see whether it awaits, and one that does not twice; the file's name is `<>` then.
        """
        transformed: str = self._shell.transform_fully(code)
        if not self._shell.should_run_async(code, transformed_cell=transformed):
            self._shell.should_run_async(code, transformed_cell=transformed)
        return transformed

    def _failed(self, exc: BaseException, code: str, *, silent: bool, store_history: bool, cell_id: str | None) -> Any:
        shell = self._shell
        result = ExecutionResult(ExecutionInfo(code, store_history, silent, True, cell_id, None))
        result.error_in_exec = exc
        shell.showtraceback((type(exc), exc, exc.__traceback__), exception_only=isinstance(exc, KeyboardInterrupt))
        return result

    def _name_forgotten_coroutine(self, result: Any) -> None:
        value = getattr(result, "result", None)
        if isinstance(value, CoroutineType):
            self._coroutines.track_coroutine(value)
            if value.__qualname__ in self._coroutines.never_awaited():
                name = value.__qualname__
                output.STDERR.write(f"coroutine '{name}' was never awaited: write `await {name}(…)` to run it\n")
        elif isinstance(value, asyncio.Task):
            self._coroutines.track_task(value)


def _run_without_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never really awaits."""
    try:
        coroutine.send(None)
    except StopIteration as exc:
        return exc.value
    coroutine.close()
    raise RuntimeError("a cell without a top-level await has awaited: an input or AST transformer added it")


class InterruptibleAwait:
    """Awaits a cell's code, with an interrupt's cancellation turned into `KeyboardInterrupt` at the innermost await."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], cancellation: ExecutionCancellation) -> None:
        self._coroutine = coroutine
        self._cancellation = cancellation

    def __await__(self) -> Generator[Any, Any, Any]:
        """Drive the coroutine."""
        coroutine = self._coroutine
        error: BaseException | None = None
        while True:
            try:
                yielded = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                yield yielded
            except asyncio.CancelledError as exc:
                error = exc
                if self._cancellation.interrupts_task:
                    self._cancellation.interrupts_task = False
                    task = asyncio.current_task()
                    if task is not None:
                        task.uncancel()
                    error = KeyboardInterrupt()
            except BaseException as exc:  # noqa: BLE001 - whatever was thrown in is the cell's
                error = exc


spare(InterruptibleAwait.__await__.__code__)


class ThreadedExecutor:
    """Runs blocking work in a thread while the loop goes on. Nothing asynchronous goes through it."""

    def __init__(self, *, coordinator: EventLoopCoordinator, cancellation: ExecutionCancellation) -> None:
        self._coordinator = coordinator
        self._cancellation = cancellation

    def run(self, function: Callable[[], Any]) -> Any:
        """Run `function` in a thread, and the loop meanwhile; return its result. An interrupt is raised in the thread.

        Called from synchronous code on the main thread.
        """
        loop = self._coordinator.ensure_event_loop()
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def work() -> None:
            try:
                future.set_result(function())
            except ExecutionCancelled:
                future.set_exception(KeyboardInterrupt())
            except BaseException as exc:  # noqa: BLE001 - the thread's top: the caller gets it
                future.set_exception(exc)

        thread = threading.Thread(target=work, name="capsule-cell", daemon=True)
        thread.start()
        try:
            return loop.run_until_complete(_outcome(future))
        except KeyboardInterrupt:
            ident = thread.ident or 0
            self._cancellation.cancel_thread(ident)
            # The only way into a thread that runs Python code; one that blocks in C sees it when it returns.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))
            raise


async def _outcome(future: concurrent.futures.Future[Any]) -> Any:
    return await asyncio.wrap_future(future)
