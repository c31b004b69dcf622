"""Kishu beside Capsule, where both do the job: what a cell costs whose variables are kept, what is stored, going back.

Kishu (0.3.4 on PyPI) is an extension of ipykernel. It needs an interpreter of its own, as it brings a `dataclasses`
that breaks debugpy: name that interpreter in CAPSULE_BENCH_KISHU, and the kernel `kishu` in `--kernels`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nbformat

from tests.bench.kernels import CAPSULE, IPYKERNEL, KISHU

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.client import Client
    from tests.bench.kernels import Kernel
    from tests.bench.run import Run

FRAME = "import numpy as np, pandas as pd; df = pd.DataFrame(np.random.rand({rows}, 20))"
ROWS_100_MB, ROWS_200_MB = 625_000, 1_250_000
_CELLS = 20
_SETTLED_S = 0.3
_UNDO = {CAPSULE: "%undo", KISHU: "_kishu.checkout(_kishu._kishu_graph.list_history()[1].commit_id)"}
_READ = "def read():\n    for _ in range(2_000_000):\n        value\nvalue = 1"


@contextmanager
def client_of(run: Run, kernel: Kernel) -> Iterator[Client]:
    """A client of a fresh kernel; where that is Kishu's, the extension is at work."""
    with run.client(kernel) as client:
        if kernel is KISHU:
            for file in run.scratch.cwd.glob("kept.*"):
                file.unlink()
            nbformat.write(nbformat.v4.new_notebook(), run.scratch.cwd / "kept.ipynb")
            client.execute_ok("from kishu import init_kishu; init_kishu('kept.ipynb')")
        yield client


def measure_cells(run: Run) -> None:
    """Cells whose variables are kept, with all at its defaults; ipykernel keeps nothing."""
    for round_ in range(run.few_rounds):
        kernels = [kernel for kernel in (CAPSULE, IPYKERNEL, KISHU) if kernel in run.kernels]
        for kernel in kernels if round_ % 2 else reversed(kernels):
            names = ("keep_cell", "keep_undo", "keep_head", "keep_globals")
            with run.attempt(kernel, *names), client_of(run, kernel) as client:
                client.execute_ok(_READ)
                time.sleep(_SETTLED_S)
                for number in range(_CELLS):
                    run.record(kernel, "keep_cell", client.execute(f"x = {number}") * 1000)
                if kernel in _UNDO:
                    time.sleep(_SETTLED_S)
                    client.execute_ok("x = -1")
                    took_s = client.execute(_UNDO[kernel])
                    run.record(kernel, "keep_undo", (took_s + client.execute("y = x")) * 1000)
                client.execute_ok(run.tag(FRAME.format(rows=ROWS_100_MB)))
                time.sleep(_SETTLED_S)
                run.record(kernel, "keep_head", client.execute("h = df.head()") * 1000)
                client.execute_ok("h = 0")
                run.record(kernel, "keep_globals", client.execute(run.tag("read()")) * 1000)


def measure_bytes(run: Run) -> None:
    """What Kishu's file grows by, for the cells that `checkpoints` measures."""
    if KISHU not in run.kernels:
        return
    with run.attempt(KISHU, "checkpoint_head", "checkpoint_column"), client_of(run, KISHU) as client:
        client.execute_ok(FRAME.format(rows=ROWS_100_MB))
        before = _stored(run.scratch.cwd)
        client.execute_ok("h = df.head()")
        run.record(KISHU, "checkpoint_head", (_stored(run.scratch.cwd) - before) / 1000)
        client.execute_ok("del h")
        before = _stored(run.scratch.cwd)
        client.execute_ok(FRAME.format(rows=ROWS_200_MB))
        whole = _stored(run.scratch.cwd) - before
        before += whole
        client.execute_ok("df[7] = np.random.rand(len(df))")
        run.record(KISHU, "checkpoint_column", 100 * (_stored(run.scratch.cwd) - before) / whole)


def _stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("kept.kishudb*"))
