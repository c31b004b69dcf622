"""Durable runs from outside: which there are, where they stand, how to cancel one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from capsule_kernel.batch.ledger import KIND, Attempt, Ledger, checked_id, holder_of, runs_folder
from capsule_kernel.clock import Clock
from capsule_kernel.errors import RunUnavailable
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.invocation import arguments_of
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.settings import load_launch


class CellState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cell stands: `waiting`, `running`, `ok`, `error`, `interrupted`."""

    status: str
    attempt: int = 0
    live_only: dict[str, str] = {}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A durable run.

    Attributes:
        id: what it was called.
        state: `running`, `waiting` (for an answer), `stopped` (the same command goes on), `finished`, `canceled`.
        notebook: the notebook's name.
        done: how many cells are finished.
        total: how many there are.
        question: id of the question that it waits for; empty: none.
        prompt: what is asked.
        pid: the process that runs it; 0: none.
        cells: each cell.
    """

    id: str
    state: str
    notebook: str
    done: int
    total: int
    question: str = ""
    prompt: str = ""
    pid: int = 0
    cells: list[CellState] = []


async def listing() -> list[Run]:
    """Return all runs of this user, by id.

    Raises:
        PromisesUnavailable: their promises cannot be read.
    """
    folder = runs_folder(os.environ)
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    async with _Opened() as promises:
        runs = [await _run(promises, folder / name) for name in found]
    return [run for run in runs if run is not None]


async def detail(run_id: str) -> Run:
    """Return one run.

    Raises:
        RunUnavailable: there is none of this id.
    """
    async with _Opened() as promises:
        run = await _run(promises, _folder(run_id))
    if run is None:
        raise RunUnavailable(run_id, "there is no such run")
    return run


async def cancel(run_id: str) -> None:
    """Cancel a run; a process that runs it stops.

    Raises:
        RunUnavailable: there is none of this id, or it is over.
    """
    async with _Opened() as promises:
        ledger = Ledger(promises, _folder(run_id), run_id, Clock())
        root = await promises.get(ledger.root_id)
        if root is None or root.kind != KIND:
            raise RunUnavailable(run_id, "there is no such run")
        settled = await promises.settle(
            ledger.root_id, "rejected_canceled", {"v": 1, "status": "canceled"}, is_durable=True
        )
        if not settled.is_winner:
            raise RunUnavailable(run_id, "it is over already")
        await ledger.leave("canceled run")


async def _run(promises: Promises, folder: Path) -> Run | None:
    ledger = Ledger(promises, folder, folder.name, Clock())
    root = await promises.get(ledger.root_id)
    if root is None or root.kind != KIND:
        return None
    # Runs of earlier versions have them in another place.
    arguments: Any = arguments_of(root) or root.param_data()
    arguments = arguments if isinstance(arguments, dict) else {}
    total = int(arguments.get("cells", 0))
    pid = holder_of(folder)
    cells = [_state_of(await ledger.attempt(index), is_held=bool(pid)) for index in range(total)]
    questions = await ledger.questions()
    asked: Any = questions[0].param_data() if questions else {}
    if root.state == "rejected_canceled":
        state = "canceled"
    elif not root.is_pending:
        state = "finished"
    elif questions:
        state = "waiting"
    else:
        state = "running" if pid else "stopped"
    return Run(
        id=folder.name,
        state=state,
        notebook=str(arguments.get("notebook", "")),
        done=sum(cell.status == "ok" for cell in cells),
        total=total,
        question=questions[0].id if questions else "",
        prompt=str(asked.get("prompt", "")) if isinstance(asked, dict) else "",
        pid=pid,
        cells=cells,
    )


def _state_of(attempt: Attempt, *, is_held: bool) -> CellState:
    if not attempt.number:
        return CellState(status="waiting")
    if attempt.record is None:
        return CellState(status="running" if is_held or attempt.is_elsewhere else "interrupted", attempt=attempt.number)
    return CellState(status=attempt.record.status, attempt=attempt.number, live_only=attempt.record.live_only)


def _folder(run_id: str) -> Path:
    folder = runs_folder(os.environ) / checked_id(run_id)
    if not folder.is_dir():
        raise RunUnavailable(run_id, "there is no such run on this machine: `capsule runs list`")
    return folder


class _Opened:
    """The user's promises, for as long as they are looked at."""

    async def __aenter__(self) -> Promises:
        settings = msgspec.structs.replace(load_launch([], os.environ).settings, promises_retention_days=0)
        promises = open_promises(settings, os.environ)
        if promises is None:
            raise RunUnavailable("", "CapsuleKernel.durability is off in the configuration files")
        await promises.start()
        self._promises = promises
        return promises

    async def __aexit__(self, *_exc: object) -> None:
        await self._promises.stop()
