"""What is known of a durable run: its promises, its folder, and the lock that says who runs it.

A run is the promise of a durable function, `{run_id}`, and each cell a step of it, `{run_id}:{n}`, which is finished
when the cell is. What became of a cell says another promise, `exec:{run_id}-{cell}`, created when the cell is claimed
and settled when what it made is on the disk: outputs in the run's folder, variables in a checkpoint. A cell that is
tried again has another promise, `exec:{run_id}-{cell}_{attempt}` (a step that is finished keeps how it was finished
first), and a run that is begun again another id, `{run_id}__{generation}`: what stands before the last `-` is one run's
alone, whatever other runs are called.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.errors import NotebookError, RunUnavailable
from capsule_kernel.folders import data_folder
from capsule_kernel.incarnation import holder, incarnation, is_foreign, is_holder_over
from capsule_kernel.promises import names
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.invocation import invocation_param, invocation_tags, is_invocation
from capsule_kernel.promises.model import Promise
from capsule_kernel.promises.sequence import DurableSequence

KIND = "run"
FUNCTION = "capsule.notebook"
"""Name of the durable function that a run is one of."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_GENERATION_MARK = "__"
ATTEMPTS_MAX = 1000
_LOOKED_AT_S = 1.0
_LOOK_AGAIN_S = 0.02


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell has made of the outputs of one before it, by updating a display.

    Attributes:
        cell: which one.
        outputs: name of the file with all its outputs as they are now, in the run's folder.
        sha256: of that file.
    """

    cell: int
    outputs: str
    sha256: str


class CellRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a cell ended.

    Attributes:
        status: `ok`, `error`, `interrupted`.
        execution_count: its prompt's number.
        outputs: name of the file with its outputs, in the run's folder.
        sha256: of that file.
        checkpoint: number of the checkpoint with the variables after it; 0: none was taken.
        taken_ms: when that was taken, as every store counts from one; 0: not known.
        live_only: names that are not in it, with the reason.
        displays: which of its outputs can be updated, by the id of the display.
        changed: outputs of cells before it, where it has updated them.
        after: number of the attempt at the cell before it whose effects it has seen; 0: not known, or it is the first.
        is_overdue: whether the run ended it since it took too long: it has not come to its end, and is run again even
            where errors are allowed.
    """

    v: int = 1
    status: str
    after: int = 0
    is_overdue: bool = False
    execution_count: int | None = None
    outputs: str = ""
    sha256: str = ""
    checkpoint: int = 0
    taken_ms: int = 0
    live_only: dict[str, str] = {}
    displays: dict[str, list[int]] = {}
    changed: list[Changed] = []


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The newest attempt at a cell.

    Attributes:
        number: from 1; 0: none was made.
        source_sha256: of the cell that was run.
        record: how it ended; None: it runs, or whoever ran it is gone.
        is_elsewhere: whether it may still run, on another machine: here the lock says that nobody does.
        answers_from: number of the first attempt whose answers the next one is given: an attempt that came to its end
            has used up what it was told, which may be why it failed; one that was interrupted has not.
    """

    number: int = 0
    source_sha256: str = ""
    record: CellRecord | None = None
    is_elsewhere: bool = False
    answers_from: int = 1


def runs_folder(environ: Mapping[str, str]) -> Path:
    """Return where the folders of runs are."""
    return Path(data_folder(environ)) / "capsule" / "runs"


def checked_id(text: str) -> str:
    """Return `text` if it can be a run's id.

    Raises:
        NotebookError: it cannot.
    """
    if not _ID.fullmatch(text) or _GENERATION_MARK in text:
        raise NotebookError(f"--id {text}", "use letters, digits, '_' (not twice in a row) and '-', 100 at most")
    if text in names.TAKEN:
        raise NotebookError(f"--id {text}", "other promises begin so: use another word")
    return text


class RunLock:
    """The exclusive right to run: it ends with the process that has it, however that ends."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self._path = folder / "lock"
        self._run_id = run_id
        self._file = -1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOOKED_AT_S
        while not _is_locked(self._file, fcntl.LOCK_EX):
            # Who lists runs holds it as well, for an instant.
            if time.monotonic() > deadline:
                holder = os.pread(self._file, 100, 0).decode(errors="replace").strip()
                os.close(self._file)
                raise RunUnavailable(self._run_id, f"process {holder or '?'} runs it now: wait, or end that one")
            time.sleep(_LOOK_AGAIN_S)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._file)


def holder_of(folder: Path) -> int:
    """Return the process that runs a run now, 0 for none."""
    try:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        if _is_locked(file, fcntl.LOCK_SH):
            return 0
        text = os.pread(file, 100, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(file)


def _is_locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Ledger:
    """The records of one run.

    Args:
        promises: where they are kept.
        folder: the run's own.
        run_id: what the person calls it.
        is_synced: whether records wait for the disk.
    """

    def __init__(self, promises: Promises, folder: Path, run_id: str, clock: Clock, *, is_synced: bool = True) -> None:
        self._promises = promises
        self.folder = folder
        self.run_id = run_id
        self._clock = clock
        self._is_synced = is_synced
        self._incarnation = incarnation()
        self._generation = self._read_generation()

    @property
    def root_id(self) -> str:
        """Id of the run's promise, and of everything below it: another one after each `--from-start`."""
        return self.run_id if self._generation == 1 else f"{self.run_id}{_GENERATION_MARK}{self._generation}"

    @property
    def _group(self) -> str:
        # Not the id alone: other processes may be in a group that is called so.
        return f"capsule-run-{self.root_id}"

    async def begin(self, notebook: str, total: int) -> Promise:
        """Return the run's promise, made now if there is none.

        Raises:
            RunUnavailable: it is not one that can go on.
        """
        created = await self._promises.create(
            self.root_id,
            invocation_param(FUNCTION, v=1, notebook=notebook, cells=total, started_at=self._clock.unix_ms()),
            kind=KIND,
            tags=invocation_tags(self.root_id, self._promises.address_of(self._group)),
            is_durable=self._is_synced,
        )
        if created.promise.kind != KIND or not is_invocation(created.promise, FUNCTION):
            raise RunUnavailable(
                self.run_id, "its promise is not that of a run of this version of Capsule: --from-start begins another"
            )
        return created.promise

    def sequence(self, total: int) -> DurableSequence:
        """Return the run's durable function, with a step for each cell."""
        return DurableSequence(
            self._promises,
            self.root_id,
            group=self._group,
            function=FUNCTION,
            total=total,
            pid=holder(),
            is_over=is_holder_over,
            is_durable=self._is_synced,
        )

    async def start_again(self) -> None:
        """Leave what there is of the run behind, and begin another under the same id."""
        generation = self._generation
        # Where the folder was lost, the number in it was lost as well: the newest run of this id is a later one.
        while (promise := await self._promises.get(self.root_id)) is not None:
            if promise.kind == KIND:
                if promise.is_pending:
                    await self._promises.settle(self.root_id, "rejected_canceled", {"v": 1, "status": "started again"})
                await self.leave("run that was started again")
            self._generation += 1
        if self._generation == generation:
            return
        shutil.rmtree(self.folder / "outputs", ignore_errors=True)
        path = self.folder / "generation"
        fresh = path.with_suffix(".new")
        fresh.write_text(str(self._generation), encoding="ascii")
        fresh.replace(path)

    async def questions(self) -> list[Promise]:
        """Return what this run waits for: its cells' questions, and whether one is to be run again."""
        # `nightly-` is also how the ids of a run begin that is called nightly-2.
        found = await self._promises.search(prefix=f"{self.root_id}-", state="pending", kind=names.INPUT)
        owner = re.compile(re.escape(self.root_id) + r"-\d+(_\d+)?")
        return [promise for promise in found if owner.fullmatch(names.origin_of(promise.id))]

    async def leave(self, by: str) -> None:
        """Cancel what of the run is still pending: its questions, its steps; a cell that runs counts as interrupted."""
        running = await self._promises.search(
            prefix=names.execution(f"{self.root_id}-"), state="pending", tags={"capsule:run": self.root_id}
        )
        for promise in running:
            await self._promises.settle(promise.id, "rejected", msgspec.to_builtins(CellRecord(status="interrupted")))
        # Below `nightly-0:` are the steps of the run nightly-0, and the questions of the first cell of the run nightly.
        below = await self._promises.search(prefix=f"{self.root_id}:", state="pending")
        step = re.compile(re.escape(self.root_id) + r":\d+")
        steps = [promise for promise in below if step.fullmatch(promise.id)]
        for promise in [*await self.questions(), *steps]:
            await self._promises.settle(promise.id, "rejected_canceled", {"v": 1, "by": by})

    async def attempt(self, cell: int) -> Attempt:
        """Return the newest attempt at a cell."""
        found = Attempt()
        for number in range(1, ATTEMPTS_MAX):
            promise = await self._promises.get(self._id(cell, number))
            if promise is None:
                break
            param, value = promise.param_data(), promise.value_data()
            param = param if isinstance(param, dict) else {}
            record = None
            if not promise.is_pending:
                try:
                    record = msgspec.convert(value, CellRecord)
                except msgspec.ValidationError:
                    record = CellRecord(status="interrupted")
            found = Attempt(
                number=number,
                source_sha256=str(param.get("source_sha256", "")),
                record=record,
                is_elsewhere=promise.is_pending and is_foreign(param.get("incarnation")),
                answers_from=found.answers_from if record is None or record.status == "interrupted" else number + 1,
            )
        return found

    async def claim(self, cell: int, attempt: int, source: str) -> None:
        """Note that this process runs the cell; when this returns, no other one takes it for never begun.

        Raises:
            RunUnavailable: another process has claimed it.
        """
        param = {"v": 1, "source_sha256": sha256(source), "incarnation": self._incarnation, "attempt": attempt}
        created = await self._promises.create(
            self._id(cell, attempt),
            param,
            kind=names.EXECUTION,
            tags={"capsule:run": self.root_id},
            is_durable=self._is_synced,
        )
        if not created.is_new:
            raise RunUnavailable(self.run_id, f"another process has begun with cell {cell + 1} meanwhile")

    async def settle(self, cell: int, attempt: int, record: CellRecord) -> None:
        """Note how the cell ended; what it made is on the disk by then."""
        await self._promises.settle(
            self._id(cell, attempt),
            "resolved" if record.status == "ok" else "rejected",
            msgspec.to_builtins(record),
            is_durable=self._is_synced,
        )

    def execution_id(self, cell: int, attempt: int = 1) -> str:
        """Return the id of a cell's execution: for its questions, with the attempt from which on answers count."""
        execution = names.execution_id(self.root_id, cell)
        return execution if attempt == 1 else f"{execution}_{attempt}"

    async def drop_questions(self, cell: int, before: int) -> None:
        """Cancel what attempts at a cell before the one of number `before` have asked: no answer would be used."""
        asked = {self.execution_id(cell, attempt) for attempt in range(1, before)}
        for promise in await self.questions():
            name = names.parse(promise.id)
            if name is not None and name.kind == names.INPUT and name.execution_id in asked:
                await self._promises.settle(promise.id, "rejected_canceled", {"v": 1, "by": "run"})

    def write_outputs(self, cell: int, attempt: int, outputs: list[Any], *, by: str = "") -> tuple[str, str]:
        """Keep a cell's outputs; return the file's name and its hash.

        Args:
            cell: whose outputs they are.
            attempt: which attempt at it has made them.
            outputs: all of them.
            by: which later cell and attempt has changed them; empty: none.

        Raises:
            RunUnavailable: they cannot be written.
        """
        data = json.dumps(outputs).encode()
        name = f"outputs/{self._generation}-{cell}-{attempt}{by and f'-by-{by}'}.json"
        path = self.folder / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                if self._is_synced:
                    os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as exc:
            raise RunUnavailable(self.run_id, f"its outputs cannot be written to {path}: {exc.strerror}") from exc
        return name, hashlib.sha256(data).hexdigest()

    def read_outputs(self, record: CellRecord | Changed) -> list[Any]:
        """Return a cell's outputs.

        Raises:
            RunUnavailable: they are not there, or damaged.
        """
        path = self.folder / record.outputs
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise RunUnavailable(
                self.run_id, f"{path} cannot be read ({exc.strerror}): --from-start runs all cells again"
            ) from exc
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise RunUnavailable(self.run_id, f"{path} is damaged: --from-start runs all cells again")
        outputs: list[Any] = json.loads(data)
        return outputs

    def _id(self, cell: int, attempt: int) -> str:
        return names.execution(self.execution_id(cell, attempt))

    def _read_generation(self) -> int:
        try:
            return int((self.folder / "generation").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 1


def kept_last(records: list[CellRecord]) -> list[CellRecord | Changed]:
    """Return what has the outputs of each cell as the newest of the cells has left them."""
    found: list[CellRecord | Changed] = [*records]
    for record in records:
        for changed in record.changed:
            found[changed.cell] = changed
    return found


def sha256(source: str) -> str:
    """Return the hash that says whether a cell is still the same."""
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()
