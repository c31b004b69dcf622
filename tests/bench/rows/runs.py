"""What a durable run adds to a cell: a notebook of 200 cells run plainly, and under an id in three ways.

Capsule only. A cell's time is that from its beginning to the next one's, so that claiming and settling are in it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.kernels import CAPSULE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.run import Run

_CELLS = 200
_LAST = 20
_DEADLINE_S = 900
_WAYS = {
    "run_step": {"has_checkpoints": False, "is_synced": False},
    "run_step_synced": {"has_checkpoints": False, "is_synced": True},
    "run_step_saved": {"has_checkpoints": True, "is_synced": True},
}
_PROGRAM = """
import asyncio, json, sys, time
from nbformat.v4 import new_code_cell, new_notebook
from capsule_kernel.batch.durable import DurableRun
from capsule_kernel.batch.events import CellStarted
from capsule_kernel.batch.runner import NotebookRun
from capsule_kernel.batch.steps import RunOptions

cells, run_id, options = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
notebook = new_notebook(cells=[new_code_cell(f"x{number % 10} = {number}") for number in range(cells)])
begun = []

def observe(event):
    if isinstance(event, CellStarted):
        begun.append(time.perf_counter())

if options is None:
    run = NotebookRun(
        notebook, observe, name="bench", kernel=None, cwd=".", timeout_s=60, allow_errors=False,
        kernel_arguments=["--CapsuleKernel.durability=off"],
    )
else:
    run = DurableRun(notebook, observe, RunOptions(name="bench", cwd=".", run_id=run_id, timeout_s=60, **options))
status = asyncio.run(run.run())
assert status == 0, status
print(json.dumps([(later - earlier) * 1000 for earlier, later in zip(begun, begun[1:])]))
"""


def measure(run: Run) -> None:
    """Run the notebook in each way, one after the other, in each round."""
    if CAPSULE not in run.kernels:
        return
    folder = run.scratch.root / "durable-runs"
    for round_ in range(run.few_rounds):
        plain = statistics.median(_cells(folder, "plain", None))
        for name, options in _WAYS.items():
            if not run.is_wanted(name, f"{name}_last"):
                continue
            took_ms = _cells(folder, f"{name}-{round_}", options)
            run.record(CAPSULE, name, statistics.median(took_ms) - plain)
            run.record(CAPSULE, f"{name}_last", statistics.median(took_ms[-_LAST:]) - plain)


def _cells(folder: Path, run_id: str, options: dict[str, bool] | None) -> list[float]:
    """Return each cell's milliseconds."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "CAPSULE_PROMISES_FILE": str(folder / "promises.sqlite3"),
        "CAPSULE_CHECKPOINTS": str(folder / "checkpoints"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(_CELLS), run_id, json.dumps(options)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=_DEADLINE_S,
    )
    samples: list[float] = json.loads(done.stdout)
    return samples
