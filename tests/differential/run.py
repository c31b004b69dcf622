"""Compares notebooks, several at a time, and describes what differs."""

from __future__ import annotations

import asyncio
import difflib
import json
from typing import TYPE_CHECKING

import msgspec

from . import source
from .comparison import Comparison, compare
from .execution import execute

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHOWN_CHARACTERS = 400
_RUNS_MAX = 4


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A notebook's comparison, with the seconds of the faster run on ipykernel and of that on Capsule."""

    path: Path
    comparison: Comparison
    capsule_s: float
    ipykernel_s: float

    @property
    def defects(self) -> int:
        """How many cells differ that are not meant to; an early end counts as one."""
        return sum(not item.intended for item in self.comparison.differences) + bool(self.comparison.failure)


async def compare_notebook(path: Path) -> Result:
    """Run one notebook on Capsule and on ipykernel, and there a second time where that is needed.

    A third and a fourth time where a difference is not meant: an order that timers decide shows at one time in several.
    """
    notebook = source.read(path)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    capsule = await execute(notebook, "capsule")
    references = [await execute(notebook, "ipykernel")]
    comparison = compare(sources, references, capsule)
    while comparison.differences and len(references) < _RUNS_MAX:
        if len(references) > 1 and all(item.intended for item in comparison.differences):
            break
        references.append(await execute(notebook, "ipykernel"))
        comparison = compare(sources, references, capsule)
    ipykernel_s = min(run.seconds for run in references)
    return Result(path=path, comparison=comparison, capsule_s=capsule.seconds, ipykernel_s=ipykernel_s)


async def compare_all(paths: Sequence[Path], jobs: int) -> list[Result]:
    """Compare notebooks, `jobs` at a time."""
    slots = asyncio.Semaphore(jobs)

    async def one(path: Path) -> Result:
        async with slots:
            return await compare_notebook(path)

    return list(await asyncio.gather(*map(one, paths)))


def notebooks_in(places: Sequence[Path]) -> list[Path]:
    """Return the notebooks that files and folders stand for."""
    found: list[Path] = []
    for place in places:
        found += sorted([*place.rglob("*.ipy"), *place.rglob("*.ipynb")]) if place.is_dir() else [place]
    return found


def described(result: Result, *, intended: bool = True) -> str:
    """Say what differs, for a person; intended differences only when asked for."""
    comparison = result.comparison
    lines: list[str] = []
    for difference in comparison.differences:
        if difference.intended and not intended:
            continue
        note = f" (intended: {difference.intended})" if difference.intended else ""
        lines.append(f"  cell {difference.cell}{note}: {difference.source!r}")
        texts = [
            json.dumps(outputs, indent=1, sort_keys=True).replace("\\n", "\n").splitlines()
            for outputs in (difference.expected, difference.got)
        ]
        diff = difflib.unified_diff(*texts, "ipykernel", "capsule", lineterm="", n=2)
        lines += ["    " + line[:_SHOWN_CHARACTERS] for line in diff]
    if comparison.failure:
        lines.append(f"  the run ended early: {comparison.failure}")
    return "\n".join(lines)
