"""Durable checkpoints: what they cost, how much they add to the store, how much of real notebooks is back.

Capsule only. `%checkpoint` is measured as a cell; bytes are what the store says that it added.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from capsule_kernel import checkpoints
from tests.bench.kernels import CAPSULE
from tests.bench.process import KernelError
from tests.bench.rows import kishu
from tests.bench.rows.kishu import FRAME, ROWS_100_MB, ROWS_200_MB
from tests.differential import NOTEBOOKS, source

if TYPE_CHECKING:
    from pathlib import Path

    from capsule_kernel.state.exchange import Line
    from tests.bench.client import Client
    from tests.bench.run import Run

_PROOF_DEADLINE_S = 60.0
QUICK = ("pandas_basics", "tutorial_python", "bank_account_classes")


def measure(run: Run) -> None:
    """Take and restore checkpoints of small and large state."""
    kishu.measure_bytes(run)
    if CAPSULE not in run.kernels:
        return
    for round_ in range(run.few_rounds):
        folder = run.scratch.root / f"checkpoints{round_}"
        kernel = CAPSULE.with_arguments(f"--CapsuleKernel.checkpoints_folder={folder}")
        with run.attempt(CAPSULE, "checkpoint_small", "checkpoint_head"), run.client(kernel) as client:
            client.execute_ok(run.tag("x = [1, 2]; y = {'a': x}"))
            client.execute_ok("%checkpoint")
            for number in range(5):
                client.execute_ok(run.tag(f"x.append({number})"))
                run.record(CAPSULE, "checkpoint_small", client.execute("%checkpoint") * 1000)
            client.execute_ok(FRAME.format(rows=ROWS_100_MB))
            client.execute_ok("%checkpoint frame")
            client.execute_ok("h = df.head()")
            client.execute_ok("%checkpoint")
            run.record(CAPSULE, "checkpoint_head", _newest(folder).added_bytes / 1000)
            client.execute_ok(FRAME.format(rows=ROWS_200_MB))
            client.execute_ok("%checkpoint wide")
            client.execute_ok("df[7] = np.random.rand(len(df))")
            run.record(CAPSULE, "checkpoint_column_time", client.execute("%checkpoint") * 1000)
            whole = next(line for line in _lines(folder) if line.label == "wide")
            run.record(CAPSULE, "checkpoint_column", 100 * _newest(folder).added_bytes / whole.added_bytes)
        with run.attempt(CAPSULE, "checkpoint_restore"), run.client(kernel) as client:
            run.record(CAPSULE, "checkpoint_restore", client.execute("%restore frame") * 1000)


def measure_notebooks(run: Run) -> None:
    """Run each notebook of tests/differential, save its variables, and count what a fresh process has proven."""
    if CAPSULE not in run.kernels:
        return
    totals = {"all": 0, "back": 0}
    for path in sorted(NOTEBOOKS.glob("*.ipy")):
        if run.quick and path.stem not in QUICK:
            continue
        folder = run.scratch.root / "state" / path.stem
        kernel = CAPSULE.with_arguments(f"--CapsuleKernel.checkpoints_folder={folder}")
        try:
            with run.client(kernel) as client:
                _run_cells(client, path)
                client.execute_ok("%checkpoint")
                names = _proven(folder)
        except KernelError as failure:
            run.note(f"{path.stem}: its variables were not counted: {failure}")
            continue
        totals["all"] += len(names)
        totals["back"] += sum(entry.status == "saved and verified" for entry in names.values())
        for name, entry in names.items():
            if entry.status != "saved and verified":
                run.note(f"{path.stem}: {name} ({entry.kind}): {entry.status}: {entry.reason or 'not proven equal'}")
    if totals["all"]:
        run.record(CAPSULE, "variables_back", 100 * totals["back"] / totals["all"])
        run.note(f"variables that are no modules: {totals['back']} of {totals['all']} proven equal in a fresh process")


def _run_cells(client: Client, path: Path) -> None:
    for cell in source.read(path).cells:
        if cell.cell_type == "code" and "exit" not in cell.source and "_exit" not in cell.source:
            client.execute(cell.source)


def _proven(folder: Path) -> dict[str, Any]:
    """Return what is known of each variable once a fresh process has looked at the newest checkpoint."""
    end = time.monotonic() + _PROOF_DEADLINE_S
    number = _newest(folder).checkpoint
    while True:
        with checkpoints.open_store(str(folder), is_writable=False) as store:
            names = store.manifest(number).captured.names
        found = {
            name: entry
            for name, entry in names.items()
            if entry.kind != "module" and not name.strip("_").isdigit() and name.strip("_")
        }
        if not found or any(entry.status == "saved and verified" for entry in found.values()):
            return found
        if time.monotonic() > end:
            msg = f"checkpoint {number} was not proven within {_PROOF_DEADLINE_S:g} s"
            raise KernelError(msg)
        time.sleep(0.2)


def _lines(folder: Path) -> list[Line]:
    return [line for each in checkpoints.listing(folder=str(folder)) for line in each.lines]


def _newest(folder: Path) -> Line:
    return max(_lines(folder), key=lambda line: line.checkpoint)
