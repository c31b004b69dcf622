"""Whole notebooks, from kernel start to end: none may take longer than on ipykernel by more than 5 % + 0.3 s."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.differential import NOTEBOOKS, source
from tests.differential.execution import ARGUMENTS, execute

if TYPE_CHECKING:
    from tests.bench.run import Run

QUICK = ("pandas_basics", "plots_gallery", "shell_commands", "tutorial_python")
ROUNDS = 3
FACTOR = 1.05
ALLOWANCE_S = 0.3


def measure(run: Run) -> None:
    """All notebooks of tests/differential, the best of three runs each; a few of them when quick."""
    kernels = [kernel for kernel in run.kernels if kernel.name in ARGUMENTS]
    for kernel in set(run.kernels) - set(kernels):
        run.fail(kernel, "its outputs are not compared", "notebooks", "notebook_excess")
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipy")) if not run.quick or path.stem in QUICK]
    best: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    for path in paths:
        notebook = source.read(path)
        for _ in range(ROUNDS):
            for kernel in kernels:
                seconds = asyncio.run(execute(notebook, kernel.name)).seconds
                best[path.stem, kernel.name] = min(best[path.stem, kernel.name], seconds)
    for kernel in kernels:
        run.record(kernel, "notebooks", sum(best[path.stem, kernel.name] for path in paths))
        if "ipykernel" not in {each.name for each in kernels}:
            continue
        excess = {
            path.stem: best[path.stem, kernel.name] - best[path.stem, "ipykernel"] * FACTOR - ALLOWANCE_S
            for path in paths
        }
        run.record(kernel, "notebook_excess", max(0, *excess.values()))
        for name, value in excess.items():
            if value > 0:
                run.note(f"{kernel.name}: {name} takes {value:.2f} s longer than ipykernel's time with 5 % and 0.3 s")
