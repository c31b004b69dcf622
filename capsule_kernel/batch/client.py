"""Durable runs for Python users: nbclient's `NotebookClient`, with an id under which every cell is finished once."""

from __future__ import annotations

from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import run_sync
from nbformat import NotebookNode

from capsule_kernel.batch.durable import DurableRun
from capsule_kernel.batch.events import Observer, RunEvent
from capsule_kernel.batch.notebook import is_executed
from capsule_kernel.batch.runner import Outcome
from capsule_kernel.batch.steps import Policy, RunOptions
from capsule_kernel.errors import NotebookRunError

_HOOKS = (
    *("on_cell_start", "on_cell_execute", "on_cell_executed", "on_cell_complete", "on_cell_error"),
    *("on_notebook_start", "on_notebook_complete", "on_notebook_error"),
)


class DurableNotebookClient(NotebookClient):
    """Executes a notebook in place under an id: the same call after a crash goes on after the last finished cell.

    nbclient's `timeout`, `allow_errors`, `extra_arguments`, `resources` and hooks mean what they mean there; hooks are
    called for the cells that are run. The kernel is always Capsule's, of this environment.

    Args:
        nb: the notebook.
        run_id: letters, digits, `_` and `-`.
        rerun: what to do with a cell whose end nobody saw: `ask` (`capsule answer` does), `safe` or `never`.
        from_start: leave behind what is known of the run, and run all cells.
        observer: is told what happens, for example that the run waits for an answer.
        options: nbclient's.
    """

    def __init__(
        self,
        nb: NotebookNode,
        *,
        run_id: str,
        rerun: Policy = "ask",
        from_start: bool = False,
        observer: Observer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nb, **options)
        self._run_id = run_id
        self._rerun: Policy = rerun
        self._from_start = from_start
        self._observer = observer or _nobody

    async def async_execute(self, reset_kc: bool = False, **_kwargs: Any) -> NotebookNode:  # noqa: ARG002 - nbclient has it
        """Run what is left of the notebook; return it, with the outputs of all cells.

        nbclient's arguments have no meaning here: each run has a kernel of its own.

        Raises:
            CellExecutionError: a cell failed; the same call runs it again.
            NotebookRunError: the kernel did not start, or a signal ended the run.
            RunUnavailable: another process runs it, it was canceled, or it cannot go on; the text says why.
        """
        options = RunOptions(
            name=self._run_id,
            cwd=str(self.resources.get("metadata", {}).get("path") or "."),
            run_id=self._run_id,
            policy=self._rerun,
            timeout_s=self.timeout,
            allow_errors=self.allow_errors,
            from_start=self._from_start,
            kernel_arguments=self.extra_arguments,
            hooks={name: getattr(self, name) for name in _HOOKS if getattr(self, name) is not None},
        )
        outcome = await DurableRun(self.nb, self._observer, options).run()
        if outcome is Outcome.FAILED:
            raise self._failure()
        if outcome is not Outcome.OK:
            raise NotebookRunError(self._run_id, f"ended by a signal ({outcome.name.lower()}): the same call goes on")
        return self.nb

    execute = run_sync(async_execute)

    def _failure(self) -> Exception:
        """Return the error of the cell that ended the run: the last one that was executed."""
        for cell in reversed(self.nb.cells):
            for output in cell.outputs if is_executed(cell) else ():
                if output.output_type == "error":
                    content = {key: output[key] for key in ("ename", "evalue", "traceback")}
                    return CellExecutionError.from_cell_and_msg(cell, content)
        return NotebookRunError(self._run_id, "a cell failed and left no error in the notebook")


def _nobody(_event: RunEvent) -> None:
    """Nobody is told."""
