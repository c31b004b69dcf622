"""Durable runs: a notebook's cells are steps that are finished once, whatever is killed in between.

    run = DurableNotebookClient(notebook, print, name="nightly.ipynb", cwd=".", run_id="nightly-42")
    outcome = await run.run()

The same call, in another process after a crash, goes on after the last finished cell. A cell whose end nobody saw is
run again only under its policy.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import queue
from collections.abc import Sequence
from typing import Any, Literal

from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from capsule_kernel.batch.consent import is_agreed
from capsule_kernel.batch.events import Observer, RunResumed, RunWaits
from capsule_kernel.batch.ledger import Attempt, CellRecord, Ledger, RunLock, checked_id, runs_folder, sha256
from capsule_kernel.batch.notebook import is_executed
from capsule_kernel.batch.reads import names_read
from capsule_kernel.batch.runner import NotebookRun, Outcome
from capsule_kernel.clock import Clock
from capsule_kernel.errors import NotebookRunError, RunUnavailable
from capsule_kernel.promises import names
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.settings import Settings, load_launch

Policy = Literal["ask", "safe", "never"]
POLICIES: tuple[Policy, ...] = ("ask", "safe", "never")
_INSIDE = "__import__('capsule_kernel.batch.inside', fromlist=['save'])"
_INSIDE_DEADLINE_S = 600.0
_DEATHS_MAX = 3
_LOOK_S = 1.0
_WORKER_DIED = "WorkerDied"


class DurableNotebookClient:
    """Runs a notebook under an id, so that every cell is finished once.

    Args:
        notebook: executed in place.
        observer: is told what happens.
        name: the notebook's name in events and errors.
        cwd: folder in which the kernel runs.
        run_id: the run's; the same id goes on with the same run.
        policy: what to do with a cell whose end nobody saw, unless its tag says (`rerun:safe`, `rerun:ask`,
            `rerun:never`, or short `safe`): run it again, ask, or stop.
        timeout_s: seconds that one cell may take; None is without limit.
        allow_errors: go on after a failed cell.
        from_start: leave behind what is known of the run, and run all cells.
        kernel_arguments: further arguments for the kernel's command line.
        has_checkpoints: whether variables are saved after each cell; without, a resumed run starts its kernel anew and
            can only go on with cells that need nothing of earlier ones.
        is_synced: whether records wait for the disk.
    """

    def __init__(
        self,
        notebook: NotebookNode,
        observer: Observer,
        *,
        name: str,
        cwd: str,
        run_id: str,
        policy: Policy = "ask",
        timeout_s: int | None = None,
        allow_errors: bool = False,
        from_start: bool = False,
        kernel_arguments: Sequence[str] = (),
        has_checkpoints: bool = True,
        is_synced: bool = True,
    ) -> None:
        self._notebook = notebook
        self._observer = observer
        self._name = name
        self._cwd = cwd
        self._run_id = checked_id(run_id)
        self._policy: Policy = policy
        self._timeout_s = timeout_s
        self._allow_errors = allow_errors
        self._from_start = from_start
        self._kernel_arguments = list(kernel_arguments)
        self._has_checkpoints = has_checkpoints
        self._is_synced = is_synced
        self._folder = runs_folder(os.environ) / self._run_id
        self._clock = Clock()
        self.has_begun = False

    async def run(self) -> Outcome:
        """Run what is left; return how it ended.

        Raises:
            RunUnavailable: another process runs it, it was canceled, or what it needs is gone.
            NotebookError: the notebook cannot be used.
            NotebookRunError: the kernel did not start.
        """
        settings = self._settings()
        promises = open_promises(settings, os.environ)
        if promises is None:
            raise RunUnavailable(self._run_id, "CapsuleKernel.durability is off: a durable run needs it")
        with RunLock(self._folder, self._run_id):
            await promises.start()
            try:
                return await self._run(promises)
            finally:
                await promises.stop()

    async def _run(self, promises: Promises) -> Outcome:
        ledger = Ledger(promises, self._folder, self._run_id, self._clock, is_synced=self._is_synced)
        if self._from_start:
            await ledger.start_again()
        cells = [cell for cell in self._notebook.cells if is_executed(cell)]
        root = await ledger.begin(self._name, len(cells))
        if root.state == "rejected_canceled":
            raise RunUnavailable(self._run_id, "it was canceled: --from-start runs it again")
        deaths = 0
        while True:
            attempts = [await ledger.attempt(index) for index in range(len(cells))]
            done = self._finished(cells, attempts)
            await self._check_none_gone(ledger, len(cells))
            unknown = next((index for index, attempt in enumerate(attempts) if attempt.record is None), None)
            if unknown is not None and not root.is_pending:
                raise RunUnavailable(
                    self._run_id,
                    f"it had finished before cell {unknown + 1} was there ({_first_line(cells[unknown].source)!r}): "
                    "--from-start runs all cells, another id begins another run",
                )
            if done == len(cells) or not root.is_pending:
                self._show_all(ledger, cells, attempts)
                await ledger.finish("ok")
                return Outcome.OK
            await self._settle_interrupted(promises, ledger, cells, attempts, done)
            step = _Steps(self, promises, ledger, cells, attempts[:done], attempts[done].number + 1)
            try:
                outcome = await step.run_watched()
            except CellInterrupted as exc:
                deaths += 1
                if deaths >= _DEATHS_MAX:
                    raise NotebookRunError(
                        self._name, f"cell {exc.cell + 1} has ended its kernel {deaths} times: it is not run again"
                    ) from exc
                continue
            finally:
                self.has_begun = self.has_begun or step.has_begun
            if outcome is Outcome.OK:
                await ledger.finish("ok")
            return outcome

    def _finished(self, cells: list[NotebookNode], attempts: list[Attempt]) -> int:
        """Return how many cells are finished, all of them as they are in the notebook now.

        Raises:
            RunUnavailable: one of them has changed since it ran.
        """
        for index, (cell, attempt) in enumerate(zip(cells, attempts, strict=True)):
            record = attempt.record
            if record is None or not (record.status == "ok" or (record.status == "error" and self._passes(cell))):
                return index
            if attempt.source_sha256 != sha256(cell.source):
                raise RunUnavailable(
                    self._run_id,
                    f"cell {index + 1} has changed since it ran ({_first_line(cell.source)!r} now): --from-start runs "
                    "all cells, another id begins another run",
                )
        return len(cells)

    async def _check_none_gone(self, ledger: Ledger, total: int) -> None:
        """Check that the notebook still has all cells that are finished.

        Raises:
            RunUnavailable: some were taken out.
        """
        beyond = await ledger.attempt(total)
        if beyond.record is not None and beyond.record.status == "ok":
            raise RunUnavailable(
                self._run_id,
                f"cell {total + 1} ran, and is not in the notebook any more: --from-start runs all cells, another id "
                "begins another run",
            )

    def _passes(self, cell: NotebookNode) -> bool:
        return self._allow_errors or "raises-exception" in cell.metadata.get("tags", [])

    async def _settle_interrupted(
        self, promises: Promises, ledger: Ledger, cells: list[NotebookNode], attempts: list[Attempt], index: int
    ) -> None:
        """Decide about the first cell that is not finished, where it was begun and nobody saw its end."""
        attempt = attempts[index]
        if not attempt.number or (attempt.record is not None and attempt.record.status == "error"):
            # Not begun; or it failed, which whoever runs it again has seen.
            return
        if attempt.is_elsewhere:
            raise RunUnavailable(
                self._run_id,
                f"cell {index + 1} may still run in a process on another machine: end that, or cancel the run",
            )
        policy = _policy_of(cells[index], self._policy)
        if policy == "never" or (
            policy == "ask" and not await self._is_agreed(promises, ledger, index, attempt, cells)
        ):
            raise RunUnavailable(
                self._run_id,
                f"cell {index + 1} was interrupted ({_first_line(cells[index].source)!r}), and is not to be run again: "
                "--rerun safe does so, --from-start runs all cells",
            )
        if attempt.record is None:
            await ledger.settle(index, attempt.number, CellRecord(status="interrupted"))

    async def _is_agreed(
        self, promises: Promises, ledger: Ledger, index: int, attempt: Attempt, cells: list[NotebookNode]
    ) -> bool:
        """Ask whether an interrupted cell is to be run again, and wait for the answer, wherever it comes from."""
        promise_id = names.approval(ledger.execution_id(index), attempt.number)
        prompt = (
            f"Cell {index + 1} of {self._run_id} was interrupted: {_first_line(cells[index].source)!r}. "
            "Run it again? (yes/no) "
        )
        return await is_agreed(promises, self._observer, promise_id, prompt, run=ledger.root_id)

    def _show_all(self, ledger: Ledger, cells: list[NotebookNode], attempts: list[Attempt]) -> None:
        for cell, attempt in zip(cells, attempts, strict=True):
            assert attempt.record is not None
            show(ledger, cell, attempt.record)
        self.has_begun = True
        self._observer(RunResumed(done=len(cells)))

    def _settings(self) -> Settings:
        return load_launch(self._kernel_arguments, os.environ).settings


class CellInterrupted(Exception):
    """A cell's worker, or its kernel, has died under it.

    Attributes:
        cell: the cell's index among the executed ones.
    """

    def __init__(self, cell: int) -> None:
        super().__init__(cell)
        self.cell = cell


class _Steps(NotebookRun):
    """The run of the cells that are left, on one kernel."""

    def __init__(
        self,
        durable: DurableNotebookClient,
        promises: Promises,
        ledger: Ledger,
        cells: list[NotebookNode],
        done: list[Attempt],
        attempt: int,
    ) -> None:
        session = f"run:{ledger.root_id}"
        super().__init__(
            durable._notebook,  # noqa: SLF001 - the other half of this file
            durable._observer,  # noqa: SLF001 - as above
            name=durable._name,  # noqa: SLF001 - as above
            kernel=None,
            cwd=durable._cwd,  # noqa: SLF001 - as above
            timeout_s=durable._timeout_s,  # noqa: SLF001 - as above
            allow_errors=durable._allow_errors,  # noqa: SLF001 - as above
            kernel_arguments=[
                *durable._kernel_arguments,  # noqa: SLF001 - as above
                f"--CapsuleKernel.session={session}",
                "--CapsuleKernel.durable_input=True",
            ],
        )
        self._durable = durable
        self._promises = promises
        self._ledger = ledger
        self._cells = cells
        self._done = done
        self._attempt = attempt
        self._index = 0
        self._told: set[str] = set()

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
                await self._tell_questions()
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
        if index < len(self._done):
            record = self._done[index].record
            assert record is not None
            show(self._ledger, cell, record)
            self.code_cells_executed += 1
            self._number += 1
            if index + 1 == len(self._done):
                await self._resume()
            return cell
        attempt = self._attempt if index == len(self._done) else 1
        await self._ledger.claim(index, attempt, cell.source)
        assert self.kc is not None
        self.kc.session.metadata = {"capsule_execution_id": self._ledger.execution_id(index)}
        status = "ok"
        try:
            await super().async_execute_cell(cell, cell_index, execution_count, store_history)
        except CellExecutionError as exc:
            if self._is_dead(cell):
                raise CellInterrupted(index) from exc
            await self._settle(index, attempt, cell, "error", needs_state=False)
            raise
        except DeadKernelError as exc:
            if self._signal is None:
                raise CellInterrupted(index) from exc
            raise
        if self._is_dead(cell):
            raise CellInterrupted(index)
        if any(output.output_type == "error" for output in cell.outputs):
            status = "error"
        await self._settle(index, attempt, cell, status, needs_state=True)
        return cell

    async def _settle(self, index: int, attempt: int, cell: NotebookNode, status: str, *, needs_state: bool) -> None:
        name, digest = self._ledger.write_outputs(index, attempt, cell.outputs)
        state: dict[str, Any] = {}
        if needs_state and self._durable._has_checkpoints:  # noqa: SLF001 - the other half of this file
            state = await self._inside("save()")
        record = CellRecord(
            status=status,
            execution_count=cell.execution_count,
            outputs=name,
            sha256=digest,
            checkpoint=state.get("checkpoint", 0),
            live_only=state.get("live_only", {}),
        )
        await self._ledger.settle(index, attempt, record)

    async def _resume(self) -> None:
        """Have the kernel be where the last finished cell left it.

        Raises:
            RunUnavailable: what the remaining cells may need cannot be had.
        """
        self._observer(RunResumed(done=len(self._done)))
        record = self._done[-1].record
        assert record is not None
        sources = [cell.source for cell in self._cells[: len(self._done)]]
        remaining = [cell.source for cell in self._cells[len(self._done) :]]
        count = (record.execution_count or len(self._done)) + 1
        if record.checkpoint:
            call = f"restore({record.checkpoint}, {count}, {sources!r}, {remaining!r})"
            missing = (await self._inside(call))["lost"]
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

    async def _inside(self, call: str) -> dict[str, Any]:
        """Have the kernel evaluate a call of `batch.inside`; return its result.

        Raises:
            RunUnavailable: it failed.
        """
        assert self.kc is not None
        self.kc.session.metadata = {}
        expressions = {"capsule": f"{_INSIDE}.{call}"}
        request = self.kc.execute("", silent=True, store_history=False, user_expressions=expressions)
        reply = await self._reply_to(request)
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


def show(ledger: Ledger, cell: NotebookNode, record: CellRecord) -> None:
    """Have a cell show what it did when it ran.

    Raises:
        RunUnavailable: its outputs are not there any more.
    """
    from nbformat import from_dict

    cell.outputs = [from_dict(output) for output in ledger.read_outputs(record)]
    cell.execution_count = record.execution_count


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


def _policy_of(cell: NotebookNode, default: Policy) -> Policy:
    tags = cell.metadata.get("tags", [])
    for policy in POLICIES:
        if f"rerun:{policy}" in tags or (policy == "safe" and "safe" in tags):
            return policy
    return default


def _first_line(source: str) -> str:
    return source.strip().partition("\n")[0][:80]
