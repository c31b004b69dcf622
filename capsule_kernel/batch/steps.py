"""The steps of a durable run on one kernel: finished cells are shown, the others claimed, run, saved and settled."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_hook
from nbformat import NotebookNode

from capsule_kernel.batch.events import Observer, RunResumed, RunWaits
from capsule_kernel.batch.ledger import Attempt, CellRecord, Changed, Ledger, kept_last
from capsule_kernel.batch.notebook import expects_error, is_executed
from capsule_kernel.batch.reads import names_read
from capsule_kernel.batch.runner import NotebookRun, Outcome
from capsule_kernel.errors import PromiseError, RunUnavailable
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.sequence import DurableSequence

Policy = Literal["ask", "safe", "never"]
POLICIES: tuple[Policy, ...] = ("ask", "safe", "never")
type Hook = Callable[..., Any]
_INSIDE = "__import__('capsule_kernel.batch.inside', fromlist=['save'])"
_INSIDE_DEADLINE_S = 600.0
_LOOK_S = 1.0
_WORKER_DIED = "WorkerDied"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a durable run is done."""

    name: str
    """The notebook's name in events and errors."""
    cwd: str
    """Folder in which the kernel runs."""
    run_id: str
    """The run's; the same id goes on with the same run."""
    policy: Policy = "ask"
    """What to do with a cell whose end nobody saw: run it again (`safe`), ask, or stop (`never`). A cell's tag
    `rerun:safe`, `rerun:ask`, `rerun:never`, or short `safe` or `rerun-safe`, goes before."""
    timeout_s: int | None = None
    """Seconds that one cell may take; None is without limit."""
    allow_errors: bool = False
    """Go on after a failed cell."""
    from_start: bool = False
    """Leave behind what is known of the run, and run all cells."""
    kernel_arguments: Sequence[str] = ()
    """Further arguments for the kernel's command line."""
    has_checkpoints: bool = True
    """Whether variables are saved after each cell; without, a resumed run starts its kernel anew and can only go on
    with cells that need nothing of earlier ones."""
    is_synced: bool = True
    """Whether records wait for the disk."""
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    """Nbclient's hooks by name (`on_cell_executed`, …), called for the cells that are run."""


class CellInterrupted(Exception):
    """A cell's worker, or its kernel, has died under it.

    Attributes:
        cell: the cell's index among the executed ones.
    """

    def __init__(self, cell: int) -> None:
        super().__init__(cell)
        self.cell = cell


class Steps(NotebookRun):
    """The run of the cells that are left, on one kernel."""

    def __init__(
        self,
        notebook: NotebookNode,
        observer: Observer,
        options: RunOptions,
        promises: Promises,
        ledger: Ledger,
        sequence: DurableSequence,
        cells: list[NotebookNode],
        attempts: list[Attempt],
        done: int,
    ) -> None:
        super().__init__(
            notebook,
            observer,
            name=options.name,
            kernel=None,
            cwd=options.cwd,
            timeout_s=options.timeout_s,
            allow_errors=options.allow_errors,
            kernel_arguments=[
                *options.kernel_arguments,
                f"--CapsuleKernel.session={_session_of(ledger)}",
                "--CapsuleKernel.durable_input=True",
            ],
        )
        for name, hook in options.hooks.items():
            setattr(self, name, _both(getattr(self, name), hook))
        self._has_checkpoints = options.has_checkpoints
        self._promises = promises
        self._ledger = ledger
        self._sequence = sequence
        self._cells = cells
        self._done = [attempt.record for attempt in attempts[:done] if attempt.record is not None]
        self._kept = kept_last(self._done)
        self._is_resumed = not done
        self._attempts = [attempt.number for attempt in attempts]
        self._answers_from = [attempt.answers_from for attempt in attempts]
        self._index = 0
        # Where the executed cells are in the notebook, and which of these has had a display updated by a later one.
        self._places: list[int] = []
        self._updated: set[int] = set()
        self._told: set[str] = set()

    @property
    def has_begun(self) -> bool:
        """Whether the remaining cells could be begun with; before that there is nothing new to be written down."""
        return super().has_begun and self._is_resumed

    async def run_watched(self) -> Outcome:
        """Run; end early when the run is canceled, tell of questions meanwhile.

        Raises:
            CellInterrupted: a cell's worker or kernel died.
        """
        work = asyncio.create_task(self.run())
        watch = asyncio.create_task(self._watch(work))
        try:
            return await work
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self, work: asyncio.Task[Outcome]) -> None:
        """Stop the run when its promise is settled by somebody else; say what it waits for."""
        while True:
            try:
                promise = await self._promises.wait(self._ledger.root_id, _LOOK_S)
            except TimeoutError:
                with contextlib.suppress(PromiseError):
                    await self._tell_questions()
                continue
            except PromiseError:
                # The run goes on; whether it was canceled is asked again.
                await asyncio.sleep(_LOOK_S)
                continue
            if promise.state == "rejected_canceled":
                self.cancel_run()
                await asyncio.wait({work})
            return

    async def _tell_questions(self) -> None:
        for promise in await self._ledger.questions():
            if promise.id not in self._told:
                self._told.add(promise.id)
                param = promise.param_data()
                prompt = str(param.get("prompt", "")) if isinstance(param, dict) else ""
                self._observer(RunWaits(question=promise.id, prompt=prompt))

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, execution_count: int | None = None, store_history: bool = True
    ) -> NotebookNode:
        """Execute a cell, unless it is finished already; see nbclient."""
        if not is_executed(cell):
            return await super().async_execute_cell(cell, cell_index, execution_count, store_history)
        index, self._index = self._index, self._index + 1
        self._places.append(cell_index)
        if index < len(self._done):
            record = self._done[index]
            await self._sequence.finish(index, msgspec.to_builtins(record))
            show(self._ledger, cell, record, self._kept[index])
            for display_id, places in record.displays.items():
                self._display_id_map.setdefault(display_id, {})[cell_index] = [*places]
            self._failed += record.status == "error" and not expects_error(cell)
            self.code_cells_executed += 1
            self._number += 1
            if index + 1 == len(self._done):
                await self._resume()
            return cell
        attempt = self._attempts[index] = self._attempts[index] + 1
        await self._sequence.begin(index)
        await self._ledger.claim(index, attempt, cell.source)
        assert self.kc is not None
        answers_from = self._answers_from[index]
        if answers_from > 1:
            await self._ledger.drop_questions(index, answers_from)
        self.kc.session.metadata = {"capsule_execution_id": self._ledger.execution_id(index, answers_from)}
        status = "ok"
        try:
            await super().async_execute_cell(cell, cell_index, execution_count, store_history)
        except CellExecutionError as exc:
            if self._is_dead(cell):
                raise CellInterrupted(index) from exc
            await self._settle_failed(index, attempt, cell)
            raise
        except CellTimeoutError:
            await self._settle_failed(index, attempt, cell, is_overdue=True)
            raise
        except DeadKernelError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # What nbclient takes for a dead kernel is that this run is given up.
                raise asyncio.CancelledError from exc
            if self._signal is None:
                raise CellInterrupted(index) from exc
            raise
        if self._is_dead(cell):
            raise CellInterrupted(index)
        if any(output.output_type == "error" for output in cell.outputs):
            status = self._failure
        record = await self._settle(index, attempt, cell, status, needs_state=True)
        if status != "interrupted":
            await self._sequence.finish(index, msgspec.to_builtins(record))
        return cell

    @property
    def _failure(self) -> str:
        """What a cell's error is recorded as: one that Ctrl-C ended has not come to its end."""
        return "error" if self._signal is None else "interrupted"

    async def _settle_failed(self, index: int, attempt: int, cell: NotebookNode, *, is_overdue: bool = False) -> None:
        """Settle a cell whose error ends the run."""
        await self._settle(index, attempt, cell, self._failure, needs_state=False, is_overdue=is_overdue)
        if self._failure == "error":
            # The kernel ends as well: its tasks wait for no answer any more.
            await self._ledger.drop_questions(index, attempt + 1)

    async def _settle(
        self,
        index: int,
        attempt: int,
        cell: NotebookNode,
        status: str,
        *,
        needs_state: bool,
        is_overdue: bool = False,
    ) -> CellRecord:
        name, digest = self._ledger.write_outputs(index, attempt, cell.outputs)
        state: dict[str, Any] = {}
        if needs_state and self._has_checkpoints:
            state = await self._inside("save()", changes_nothing=True)
        record = CellRecord(
            status=status,
            execution_count=cell.execution_count,
            outputs=name,
            sha256=digest,
            checkpoint=state.get("checkpoint", 0),
            taken_ms=state.get("taken_ms", 0),
            live_only=state.get("live_only", {}),
            after=self._attempts[index - 1] if index else 0,
            is_overdue=is_overdue,
            displays=self._displays(self._places[index]),
            changed=self._keep_updated(index, attempt),
        )
        await self._ledger.settle(index, attempt, record)
        return record

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        """Update a display wherever it is shown, as nbclient does, and note where that is."""
        super()._update_display_id(display_id, msg)
        self._updated |= {place for place, shown in self._display_id_map.get(display_id, {}).items() if shown}

    def _displays(self, place: int) -> dict[str, list[int]]:
        """Return which outputs of the cell at a place in the notebook are displays that can be updated."""
        return {name: [*shown[place]] for name, shown in self._display_id_map.items() if shown.get(place)}

    def _keep_updated(self, index: int, attempt: int) -> list[Changed]:
        """Keep the outputs of earlier cells that this one has updated."""
        updated, self._updated = self._updated, set()
        kept = []
        for earlier in (cell for cell in range(index) if self._places[cell] in updated):
            outputs = self.nb.cells[self._places[earlier]].outputs
            name, digest = self._ledger.write_outputs(
                earlier, self._attempts[earlier], outputs, by=f"{index}-{attempt}"
            )
            kept.append(Changed(cell=earlier, outputs=name, sha256=digest))
        return kept

    async def _resume(self) -> None:
        """Have the kernel be where the last finished cell left it.

        Raises:
            RunUnavailable: what the remaining cells may need cannot be had.
        """
        self._observer(RunResumed(done=len(self._done)))
        record = self._done[-1]
        sources = [cell.source for cell in self._cells[: len(self._done)]]
        remaining = [cell.source for cell in self._cells[len(self._done) :]]
        count = (record.execution_count or len(self._done)) + 1
        if record.checkpoint:
            which = f"{_session_of(self._ledger)!r}, {record.checkpoint}, {record.taken_ms}"
            answer = await self._inside(f"restore({which}, {count}, {sources!r}, {remaining!r})")
            if "refused" in answer:
                raise RunUnavailable(
                    self._ledger.run_id,
                    f"the variables after cell {len(self._done)} cannot be restored: {answer['refused']}. "
                    "--from-start runs all cells again",
                )
            missing = answer["lost"]
        else:
            needed = names_read(remaining)
            assigned = sorted(names_assigned(sources))
            missing = {name: "no checkpoint was taken" for name in assigned if needed is None or name in needed}
        if missing:
            told = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise RunUnavailable(
                self._ledger.run_id,
                f"a remaining cell may read what could not be kept: {told}. --from-start runs all cells",
            )
        self._is_resumed = True

    async def _inside(self, call: str, *, changes_nothing: bool = False) -> dict[str, Any]:
        """Have the kernel evaluate a call of `batch.inside`; return its result.

        Args:
            call: the call.
            changes_nothing: whether the session is the same afterwards.

        Raises:
            CellInterrupted: what the last cell did is lost: its worker has died since.
            RunUnavailable: it failed.
        """
        assert self.kc is not None
        # As of this run, it is refused where cells' effects are lost.
        self.kc.session.metadata = {"capsule_run": self._ledger.root_id} | (
            {"capsule_changes_nothing": True} if changes_nothing else {}
        )
        expressions = {"capsule": f"{_INSIDE}.{call}"}
        request = self.kc.execute("", silent=True, store_history=False, user_expressions=expressions)
        reply = await self._reply_to(request)
        if reply["content"].get("ename") == _WORKER_DIED:
            raise CellInterrupted(self._index - 1)
        answer = reply["content"].get("user_expressions", {}).get("capsule", {})
        if answer.get("status") != "ok":
            reason = answer.get("evalue") or reply["content"].get("evalue") or "the kernel did not say why"
            raise RunUnavailable(self._ledger.run_id, f"its state cannot be {call.partition('(')[0]}d: {reason}")
        result: dict[str, Any] = json.loads(ast.literal_eval(answer["data"]["text/plain"]))
        return result

    async def _reply_to(self, request: str) -> dict[str, Any]:
        client: Any = self.kc
        async with asyncio.timeout(_INSIDE_DEADLINE_S):
            while True:
                try:
                    reply: dict[str, Any] = await client.get_shell_msg(timeout=_LOOK_S)
                except queue.Empty:
                    if not await self._manager.is_alive():
                        raise CellInterrupted(self._index - 1) from None
                    continue
                if reply["parent_header"].get("msg_id") == request:
                    return reply

    def _is_dead(self, cell: NotebookNode) -> bool:
        return any(output.output_type == "error" and output.ename == _WORKER_DIED for output in cell.outputs)


def show(ledger: Ledger, cell: NotebookNode, record: CellRecord, kept: CellRecord | Changed) -> None:
    """Have a cell show what it did when it ran.

    Args:
        ledger: the run's.
        cell: the cell.
        record: how it ended.
        kept: what has its outputs as later cells have left them.

    Raises:
        RunUnavailable: its outputs are not there any more.
    """
    from nbformat import from_dict

    cell.outputs = [from_dict(output) for output in ledger.read_outputs(kept)]
    cell.execution_count = record.execution_count


def _session_of(ledger: Ledger) -> str:
    """Return the session that a run's checkpoints are of."""
    return f"run:{ledger.root_id}"


def names_assigned(sources: Sequence[str]) -> set[str]:
    """Return the names that cells assign anywhere."""
    found: set[str] = set()
    for source in sources:
        with contextlib.suppress(SyntaxError, ValueError):
            tree = ast.parse(source)
            found |= {
                node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return found


def _both(first: Hook | None, second: Hook) -> Hook:
    """Return a hook that calls two."""

    async def hook(**arguments: Any) -> None:
        await run_hook(first, **arguments)
        await run_hook(second, **arguments)

    return hook
