"""The run of one notebook on a kernel: an nbclient that reports typed events and says how the run ended.

It reads and writes no files and prints nothing.
"""

import asyncio
import atexit
import signal
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from capsule_kernel.batch.events import CellFinished, CellOutput, CellStarted, Observer, RunFinished, RunStarted
from capsule_kernel.batch.notebook import SKIP_TAG, expects_error, is_executed
from capsule_kernel.errors import NotebookError, NotebookRunError
from capsule_kernel.kernelspec import DEFAULT_NAME, kernel_spec


class Outcome(IntEnum):
    """How a run ended; the value is the command's exit status."""

    OK = 0
    FAILED = 1
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class EnvironmentKernelManager(AsyncKernelManager):
    """Starts the Capsule kernel of the running environment, whether or not a kernelspec is installed anywhere."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """A spec that names this very interpreter."""
        return KernelSpec(**kernel_spec(executable=sys.executable))


class NotebookRun(NotebookClient):
    """Executes a notebook in place, cell by cell, and tells an observer.

    A failed cell ends the run unless errors are allowed or its tag `raises-exception` announces one. The first SIGINT
    interrupts the running cell and ends the run after it; a second one, or SIGTERM, ends it at once. In every case the
    notebook keeps the outputs that came, and the kernel is shut down.
    """

    def __init__(  # noqa: D417 - the class says it
        self,
        notebook: NotebookNode,
        observer: Observer,
        *,
        name: str,
        kernel: str | None,
        cwd: str,
        timeout_s: int | None,
        allow_errors: bool,
        kernel_arguments: Sequence[str] = (),
    ) -> None:
        """Prepare a run; nothing is started.

        Args:
            name: the notebook's name in events and errors.
            kernel: a kernelspec's name; None is the Capsule kernel of this environment.
            cwd: folder in which the kernel runs.
            timeout_s: seconds that one cell may take; None is without limit.
            allow_errors: go on after a failed cell.
            kernel_arguments: further arguments for the kernel's command line.

        Raises:
            NotebookError: there is no such kernel, or this environment's does not run the notebook's language.
        """
        self._manager = _own_manager(notebook, name) if kernel is None else _named_manager(kernel, name)
        super().__init__(
            notebook,
            km=self._manager,
            resources={"metadata": {"path": cwd}},
            timeout=timeout_s,
            allow_errors=allow_errors,
            skip_cells_with_tag=SKIP_TAG,
            # A run is a program, not somebody's typing: it leaves the person's history alone.
            extra_arguments=[*(["--HistoryManager.hist_file=:memory:"] if kernel is None else []), *kernel_arguments],
            on_notebook_start=self._on_ready,
            on_cell_start=self._on_cell_start,
            on_cell_execute=self._on_cell_execute,
            on_cell_executed=self._on_cell_executed,
        )
        self.owns_km = True
        self._observer = observer
        self._name = name
        self._signal: signal.Signals | None = None
        self._number = 0
        self._failed = 0
        self._has_begun = False
        self._running: NotebookNode | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cell_began = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether the kernel came up, and the notebook's outputs are therefore this run's."""
        return self._has_begun

    async def run(self) -> Outcome:
        """Execute the notebook and report how it ended.

        Raises:
            NotebookRunError: the kernel did not start, or died between two cells.
        """
        began = time.monotonic()
        self._task = asyncio.current_task()
        try:
            await self.async_execute()
        except CellExecutionError:
            pass  # counted and reported when its cell ended
        except (CellTimeoutError, DeadKernelError, asyncio.CancelledError) as exc:
            if self._running is None and self._signal is None:
                raise NotebookRunError(self._name, "the kernel died between two cells") from exc
            self._end_cell_without_reply(exc)
        except (RuntimeError, OSError) as exc:
            if self._has_begun:
                raise
            raise NotebookRunError(self._name, f"the kernel did not start: {exc}") from exc
        finally:
            # nbclient leaves these behind when the start fails or is given up.
            if self.km is not None and self._manager.has_kernel:
                await self._async_cleanup_kernel()
            atexit.unregister(self._cleanup_kernel)
        duration_ms = (time.monotonic() - began) * 1000
        self._observer(RunFinished(executed=self._number, failed=self._failed, duration_ms=duration_ms))
        if self._signal is signal.SIGINT:
            return Outcome.INTERRUPTED
        if self._signal is signal.SIGTERM:
            return Outcome.TERMINATED
        return Outcome.FAILED if self._failed else Outcome.OK

    async def async_start_new_kernel(self, **kwargs: Any) -> None:
        """Start the kernel as nbclient does, with signal handlers of our own: nbclient's kill it under the cell."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        await super().async_start_new_kernel(**kwargs)

    def _on_ready(self, **_: Any) -> None:
        self._has_begun = True
        for cell in self.nb.cells:
            if cell.cell_type == "code":  # what an earlier run left must not look like this one's
                cell.outputs, cell.execution_count = [], None
        total = sum(1 for cell in self.nb.cells if is_executed(cell))
        spec = self._manager.kernel_spec
        self._observer(RunStarted(notebook=self._name, kernel=spec.display_name if spec else "", total=total))

    def _on_signal(self, number: signal.Signals) -> None:
        again = self._signal is not None
        self._signal = self._signal or number
        if number is signal.SIGINT and not again and self._running is not None:
            self._interruption = asyncio.ensure_future(self._interrupt())
        elif self._task is not None:
            self._task.cancel()

    def cancel_run(self) -> None:
        """End the run as SIGTERM does."""
        self._on_signal(signal.SIGTERM)

    async def _interrupt(self) -> None:
        await self._manager.interrupt_kernel()

    def _on_cell_start(self, **_: Any) -> None:
        if self._signal is not None:  # a cell that catches KeyboardInterrupt does not carry the run on
            raise asyncio.CancelledError

    def _on_cell_execute(self, *, cell: NotebookNode, **_: Any) -> None:
        self._number += 1
        self._running = cell
        self._cell_began = time.monotonic()
        self._observer(CellStarted(number=self._number, source=cell.source))

    def _on_cell_executed(self, *, cell: NotebookNode, execute_reply: dict[str, Any], **_: Any) -> None:
        content = execute_reply["content"]
        error = str(content.get("ename") or content["status"]) if content["status"] != "ok" else ""
        self._end_cell(error, expected=expects_error(cell))

    def _end_cell(self, error: str, *, expected: bool) -> None:
        self._running = None
        self._failed += bool(error) and not expected
        duration_ms = (time.monotonic() - self._cell_began) * 1000
        self._observer(
            CellFinished(number=self._number, duration_ms=duration_ms, error=error, expected=expected and bool(error))
        )

    def _end_cell_without_reply(self, exc: BaseException) -> None:
        """The notebook shows why a cell has no end: a time-out, a dead kernel, a run that was told to stop."""
        if self._running is None:
            return
        name, text = type(exc).__name__, str(exc).partition("\n")[0]
        if self._signal is not None:
            name, text = "RunStopped", f"the run was ended by {self._signal.name}"
        elif isinstance(exc, CellTimeoutError):
            name, text = "CellTimeoutError", f"the cell took longer than {self.timeout} s"
        output = new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])
        self._running.outputs.append(output)
        self._observer(CellOutput(output=output))
        self._end_cell(name, expected=False)

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Record an output as nbclient does, and report it."""
        output = super().output(outs, msg, display_id, cell_index)
        if output is not None:
            self._observer(CellOutput(output=output))
        return output


def _own_manager(notebook: NotebookNode, name: str) -> AsyncKernelManager:
    spec = notebook.metadata.get("kernelspec", {})
    language = str(spec.get("language") or notebook.metadata.get("language_info", {}).get("name") or "python")
    if language.lower() not in {"python", "ipython"}:
        reason = f"written for {language}, which Capsule does not run; name a kernel with --kernel"
        raise NotebookError(name, reason)
    manager: AsyncKernelManager = EnvironmentKernelManager(kernel_name=DEFAULT_NAME)
    return manager


def _named_manager(kernel: str, name: str) -> AsyncKernelManager:
    specs = KernelSpecManager()
    try:
        specs.get_kernel_spec(kernel)
    except NoSuchKernel as exc:
        known = ", ".join(sorted(specs.find_kernel_specs())) or "none"
        raise NotebookError(name, f"no kernel is named {kernel!r}; installed: {known}") from exc
    manager: AsyncKernelManager = AsyncKernelManager(kernel_name=kernel, kernel_spec_manager=specs)
    return manager
