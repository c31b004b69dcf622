"""Every figure that is measured, and its bar: the one table that decides what a good result is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Ratio:
    """At most (or, where more is better, at least) `factor` times a peer's figure."""

    peer: Literal["ipykernel", "xeus"]
    factor: float


@dataclass(frozen=True)
class Limit:
    """At most (or, where more is better, at least) `value`, in the figure's unit."""

    value: float


Bar = Ratio | Limit
Statistic = Literal["median", "p95", "p99", "max"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A line of the table."""

    name: str
    group: str
    """The measurement that yields it: a key of `rows.GROUPS`."""
    title: str
    unit: str
    bars: tuple[Bar, ...]
    samples: str = ""
    """The samples it is computed from, where they are another figure's."""
    statistic: Statistic = "median"
    is_more_better: bool = False

    @property
    def source(self) -> str:
        """The name under which samples are recorded."""
        return self.samples or self.name


def _cell(name: str, code: str) -> tuple[Figure, Figure]:
    quick = Ratio("ipykernel", 0.35), Ratio("xeus", 0.7)
    return (
        Figure(name=name, group="exec", title=f"{code}: request → idle", unit="ms", bars=quick),
        Figure(
            name=f"{name}_p99",
            group="exec",
            title=f"{code}: p99",
            unit="ms",
            bars=(Ratio("xeus", 1),),
            samples=name,
            statistic="p99",
        ),
    )


def _interrupt(name: str, title: str) -> tuple[Figure, Figure]:
    return (
        Figure(
            name=f"interrupt_{name}_first", group="interrupt", title=f"{title}: first", unit="ms", bars=(Limit(100),)
        ),
        Figure(name=f"interrupt_{name}", group="interrupt", title=f"{title}: repeats", unit="ms", bars=(Limit(100),)),
    )


def _figure(group: str, name: str, title: str, unit: str, *bars: Bar) -> Figure:
    return Figure(name=name, group=group, title=title, unit=unit, bars=bars)


def _p95(group: str, name: str, title: str, unit: str, *bars: Bar) -> Figure:
    return Figure(name=f"{name}_p95", group=group, title=title, unit=unit, bars=bars, samples=name, statistic="p95")


def _none(group: str, name: str, title: str, unit: str) -> Figure:
    return Figure(name=name, group=group, title=title, unit=unit, bars=(Limit(0),), statistic="max")


FIGURES: tuple[Figure, ...] = (
    *_cell("exec_assign", "x = 1+1"),
    *_cell("exec_expr", "1+1"),
    *_cell("exec_print", "print(1)"),
    *_cell("exec_await", "await asyncio.sleep(0)"),
    Figure(
        name="pipelined",
        group="pipelined",
        title="executes pipelined",
        unit="ops/s",
        bars=(Ratio("xeus", 1), Limit(1000)),
        is_more_better=True,
    ),
    _figure("launch", "launch", "launch → kernel_info_reply (control)", "ms", Ratio("xeus", 0.6)),
    _figure("start", "wait_for_ready", "wait_for_ready", "ms", Ratio("xeus", 1)),
    _figure("start", "first_execution", "launch → first execution done", "ms", Ratio("xeus", 1)),
    _figure("start", "restart", "restart by the client → ready", "ms", Ratio("xeus", 1)),
    _figure("worker", "worker_spare", "new worker: from the spare", "ms", Limit(10)),
    _figure("worker", "worker_zygote", "new worker: from the zygote", "ms", Limit(20)),
    _figure("worker", "worker_pandas", "new worker: zygote, pandas preloaded", "ms", Limit(30)),
    _figure("snapshots", "snapshot_bare", "pause of a snapshot: bare", "ms", Limit(4)),
    _figure("snapshots", "snapshot_pandas", "pause of a snapshot: pandas", "ms", Limit(8)),
    _p95("snapshots", "snapshot_array", "pause of a snapshot: 1 GB array, p95", "ms", Limit(12)),
    _p95("snapshots", "snapshot_objects", "pause of a snapshot: 1 GB of objects, p95", "ms", Limit(30)),
    _figure("returns", "snapshot_undo", "%undo → next cell, 1 GB", "ms", Limit(10)),
    _p95("returns", "snapshot_undo", "  p95", "ms", Limit(50)),
    _p95("returns", "snapshot_crash", "crash → next cell, 1 GB, p95", "ms", Limit(50)),
    _figure("slowdowns", "snapshot_globals", "slower by snapshots: reads of globals", "%", Limit(1)),
    _figure("slowdowns", "snapshot_loop", "slower by snapshots: module-level loop", "%", Limit(1)),
    _figure("slowdowns", "snapshot_overwrite", "  overwriting 1 GB after a snapshot", "%"),
    _figure("slowdowns", "snapshot_iterate", "  iterating 1 GB of objects after a snapshot", "%"),
    _figure("lines", "lines", "100,000 printed lines", "ms", Ratio("ipykernel", 0.4)),
    _none("lines", "lines_lost", "  lines lost", "bytes"),
    _none("lines", "lines_dropped", "  dropped by jupyter_server", "messages"),
    _figure("big_line", "big_line", "one 50 MB line", "ms", Ratio("ipykernel", 0.8)),
    _none("big_line", "big_line_lost", "  lost", "bytes"),
    _figure("displays", "displays", "2,000 displays", "ms", Ratio("ipykernel", 0.5)),
    _none("displays", "displays_lost", "  displays lost", "displays"),
    _none("displays", "displays_dropped", "  dropped by jupyter_server", "messages"),
    _none("paced", "paced_dropped", "5,000 displays: dropped by jupyter_server", "messages"),
    _figure("completion", "complete_first", "completion: first", "ms", Ratio("ipykernel", 0.5)),
    _figure("completion", "complete_later", "completion: later", "ms", Ratio("ipykernel", 1)),
    _figure("completion", "complete_sleep", "completion: during time.sleep", "ms", Limit(100)),
    _figure("completion", "complete_loop", "completion: in a Python loop", "ms", Limit(300)),
    _none("completion", "complete_differs", "  inputs with other matches than ipykernel", "inputs"),
    *_interrupt("loop", "interrupt while True: pass"),
    *_interrupt("sleep", "interrupt time.sleep"),
    *_interrupt("await", "interrupt await asyncio.sleep"),
    *_interrupt("input", "interrupt input()"),
    *_interrupt("child", "interrupt subprocess.run"),
    *_interrupt("shell", "interrupt !sleep"),
    _figure("keeping", "keep_cell", "a small cell, variables kept", "ms"),
    _figure("keeping", "keep_undo", "going back by a small cell → next cell", "ms"),
    _figure("keeping", "keep_head", "df.head() of 100 MB, variables kept", "ms"),
    _figure("keeping", "keep_globals", "2 million reads of a global, variables kept", "ms"),
    _figure("checkpoints", "checkpoint_small", "%checkpoint, small state", "ms"),
    _figure("checkpoints", "checkpoint_head", "  added by df.head() of 100 MB", "KB", Limit(64)),
    _figure("checkpoints", "checkpoint_column", "  added by 1 of 20 columns of 200 MB", "%", Limit(5.5)),
    _figure("checkpoints", "checkpoint_column_time", "  and its time", "ms"),
    _figure("checkpoints", "checkpoint_restore", "%restore of 100 MB in a fresh kernel", "ms"),
    Figure(
        name="variables_back",
        group="variables",
        title="variables of real notebooks back, proven equal",
        unit="%",
        bars=(Limit(99.8),),
        is_more_better=True,
    ),
    _figure("promises", "promise_create", "promise: create", "ms", Limit(0.1)),
    _figure("promises", "promise_settle", "promise: settle", "ms", Limit(0.1)),
    _figure("promises", "promise_cycle", "promise: create → await → resolve", "ms", Limit(0.5)),
    _figure("promises", "promise_note", "promise: a cell's two notes", "ms", Limit(0.1)),
    _figure("promises_cell", "promise_cell", "promise: added to an interactive cell", "ms", Limit(0.1)),
    _figure("promises", "promise_wake", "promise: settled → another process awake", "ms", Limit(2)),
    _figure("promises", "promise_step", "durable step, among 200", "ms", Limit(5)),
    _figure("promises", "promise_step_last", "  the last 20 of them", "ms", Limit(5)),
    _figure("runs", "run_step", "durable run, a cell more by", "ms", Limit(5)),
    _figure("runs", "run_step_last", "  the last 20 of 200", "ms", Limit(5)),
    _figure("runs", "run_step_synced", "  with fsync", "ms"),
    _figure("runs", "run_step_saved", "  with fsync and checkpoint", "ms"),
    _figure("runs", "run_step_saved_last", "    the last 20 of 200", "ms"),
    _figure("promises_start", "promises_open", "100,000 promises: open, find what is pending", "ms", Limit(50)),
    _figure("promises_start", "promises_start", "  kernel's first execution later by", "ms", Limit(50)),
    _figure("notebooks", "notebooks", "notebooks of tests/differential, best of three", "s", Ratio("ipykernel", 1.05)),
    _none("notebooks", "notebook_excess", "  one of them: beyond 1.05 x ipykernel + 0.3 s", "s"),
    _figure("memory", "memory", "memory (PSS of all processes), idle", "MiB", Ratio("ipykernel", 0.9)),
    _figure("memory", "memory_alone", "  the same, had nobody else Python in memory", "MiB", Ratio("ipykernel", 0.9)),
)
