"""Durable runs: a notebook's cells are steps of a durable function, finished once, whatever is killed in between.

    run = DurableRun(notebook, print, RunOptions(name="nightly.ipynb", cwd=".", run_id="nightly-42"))
    outcome = await run.run()

The same call, in another process after a crash, goes on after the last finished cell. A cell whose end nobody saw is
run again only under its policy.
"""

from __future__ import annotations

import os
from collections import Counter

import msgspec
from nbformat import NotebookNode

from capsule_kernel.batch.consent import is_agreed
from capsule_kernel.batch.events import Observer, RunResumed
from capsule_kernel.batch.ledger import (
    ATTEMPTS_MAX,
    Attempt,
    CellRecord,
    Ledger,
    RunLock,
    checked_id,
    kept_last,
    runs_folder,
    sha256,
)
from capsule_kernel.batch.notebook import expects_error, is_executed
from capsule_kernel.batch.runner import Outcome
from capsule_kernel.batch.steps import POLICIES, CellInterrupted, Policy, RunOptions, Steps, show
from capsule_kernel.clock import Clock
from capsule_kernel.errors import FunctionStalled, FunctionStopped, NotebookRunError, RunUnavailable, TaskHeld
from capsule_kernel.incarnation import described_holder
from capsule_kernel.promises import names
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.model import Promise
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.promises.sequence import DurableSequence
from capsule_kernel.settings import Settings, load_launch

_DEATHS_MAX = 3


class DurableRun:
    """Runs a notebook under an id, so that every cell is finished once.

    Args:
        notebook: executed in place.
        observer: is told what happens.
        options: the id, and how it is done.

    Attributes:
        has_begun: whether the notebook's outputs are this run's.

    Raises:
        NotebookError: the id cannot be one.
    """

    def __init__(self, notebook: NotebookNode, observer: Observer, options: RunOptions) -> None:
        self._notebook = notebook
        self._observer = observer
        self._options = options
        self._run_id = checked_id(options.run_id)
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
            except TaskHeld as exc:
                raise RunUnavailable(
                    self._run_id, f"{described_holder(exc.holder)} runs it now: wait, or end that one"
                ) from exc
            except FunctionStopped as exc:
                then = "the same command goes on" if isinstance(exc, FunctionStalled) else "--from-start runs all cells"
                raise RunUnavailable(self._run_id, f"{exc}: {then}") from exc
            finally:
                await promises.stop()

    async def _run(self, promises: Promises) -> Outcome:
        ledger = Ledger(promises, self._folder, self._run_id, self._clock, is_synced=self._options.is_synced)
        if self._options.from_start:
            await ledger.start_again()
        cells = [cell for cell in self._notebook.cells if is_executed(cell)]
        root = await ledger.begin(self._options.name, len(cells))
        if root.state == "rejected_canceled":
            raise RunUnavailable(self._run_id, "it was canceled: --from-start runs it again")
        sequence = ledger.sequence(len(cells))
        try:
            if root.is_pending:
                await sequence.start()
            return await self._run_cells(promises, ledger, sequence, root, cells)
        finally:
            await sequence.stop()

    async def _run_cells(
        self, promises: Promises, ledger: Ledger, sequence: DurableSequence, root: Promise, cells: list[NotebookNode]
    ) -> Outcome:
        deaths: Counter[int] = Counter()
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
                if root.is_pending:
                    for index, attempt in enumerate(attempts):
                        assert attempt.record is not None
                        await sequence.finish(index, msgspec.to_builtins(attempt.record))
                    await sequence.end()
                failed = any(
                    attempt.record is not None and attempt.record.status == "error" and not expects_error(cell)
                    for cell, attempt in zip(cells, attempts, strict=True)
                )
                return Outcome.FAILED if failed else Outcome.OK
            for index in range(done, len(cells)):
                await self._settle_interrupted(promises, ledger, cells, attempts, index)
            step = Steps(
                self._notebook,
                self._observer,
                self._options,
                promises,
                ledger,
                sequence,
                cells,
                attempts,
                done,
            )
            try:
                outcome = await step.run_watched()
            except CellInterrupted as exc:
                deaths[exc.cell] += 1
                if deaths[exc.cell] >= _DEATHS_MAX:
                    raise NotebookRunError(
                        self._options.name,
                        f"cell {exc.cell + 1} has ended its kernel {deaths[exc.cell]} times: it is not run again",
                    ) from exc
                continue
            finally:
                self.has_begun = self.has_begun or step.has_begun
            if outcome is Outcome.OK:
                await sequence.end()
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
            if record.is_overdue:
                return index
            if index and record.after not in {0, attempts[index - 1].number}:
                # The cell before it has run again since: this one has not seen what that did.
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
        return self._options.allow_errors or expects_error(cell)

    async def _settle_interrupted(
        self, promises: Promises, ledger: Ledger, cells: list[NotebookNode], attempts: list[Attempt], index: int
    ) -> None:
        """Decide about a cell that is not finished, where it was begun and nobody saw its end."""
        attempt = attempts[index]
        if not attempt.number or (attempt.record is not None and attempt.record.status != "interrupted"):
            # Not begun; or its end was seen: it failed, or a cell before it has run again since.
            return
        if attempt.is_elsewhere:
            raise RunUnavailable(
                self._run_id,
                f"cell {index + 1} may still run in a process on another machine: end that, or cancel the run",
            )
        policy = _policy_of(cells[index], self._options.policy)
        if policy == "never" or (
            policy == "ask" and not await self._is_agreed(promises, ledger, index, attempt, cells)
        ):
            root = await promises.get(ledger.root_id)
            if root is not None and root.state == "rejected_canceled":
                raise RunUnavailable(self._run_id, "it was canceled")
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

        def id_of(unclear: int) -> str:
            return names.approval(ledger.execution_id(index), attempt.number + unclear * ATTEMPTS_MAX)

        prompt = (
            f"Cell {index + 1} of {self._run_id} was interrupted: {_first_line(cells[index].source)!r}. "
            "Run it again? (yes/no) "
        )
        return await is_agreed(promises, self._observer, id_of, prompt, run=ledger.root_id)

    def _show_all(self, ledger: Ledger, cells: list[NotebookNode], attempts: list[Attempt]) -> None:
        records = [attempt.record for attempt in attempts if attempt.record is not None]
        for cell, record, kept in zip(cells, records, kept_last(records), strict=True):
            show(ledger, cell, record, kept)
        self.has_begun = True
        self._observer(RunResumed(done=len(cells)))

    def _settings(self) -> Settings:
        return load_launch(self._options.kernel_arguments, os.environ).settings


def _policy_of(cell: NotebookNode, default: Policy) -> Policy:
    tags = cell.metadata.get("tags", [])
    for policy in POLICIES:
        if f"rerun:{policy}" in tags or f"rerun-{policy}" in tags or (policy == "safe" and "safe" in tags):
            return policy
    return default


def _first_line(source: str) -> str:
    return source.strip().partition("\n")[0][:80]
