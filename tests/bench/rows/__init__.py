"""The measurements: one function per group of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (
    checkpoints,
    completion,
    execution,
    interrupts,
    kishu,
    memory,
    notebooks,
    output,
    promises,
    runs,
    snapshots,
    start,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.run import Run

GROUPS: dict[str, Callable[[Run], None]] = {
    "exec": execution.measure_cells,
    "pipelined": execution.measure_pipelined,
    "launch": start.measure_launch,
    "start": start.measure_ready,
    "worker": workers.measure,
    "snapshots": snapshots.measure_pauses,
    "returns": snapshots.measure_returns,
    "slowdowns": snapshots.measure_slowdowns,
    "lines": output.measure_lines,
    "big_line": output.measure_big_line,
    "displays": output.measure_displays,
    "paced": output.measure_pacing,
    "completion": completion.measure,
    "interrupt": interrupts.measure,
    "memory": memory.measure,
    "notebooks": notebooks.measure,
    "checkpoints": checkpoints.measure,
    "keeping": kishu.measure_cells,
    "variables": checkpoints.measure_notebooks,
    "promises": promises.measure_store,
    "promises_cell": promises.measure_cell,
    "promises_start": promises.measure_start,
    "runs": runs.measure,
}
