"""Cells give on Capsule what they give on ipykernel (issue, section "Proof: differential test")."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from . import NOTEBOOKS
from .run import compare_all, described, notebooks_in

TEACHING = Path(__file__).parents[2] / "notebooks"
OWN = {"state.ipynb"}
"""Notebooks about what ipykernel does not have."""
QUICK = ("errors.ipy",)


def check(paths: list[Path], jobs: int) -> None:
    results = asyncio.run(compare_all(paths, jobs))
    text = "\n".join(f"{r.path.name}:\n{described(r, intended=False)}" for r in results if r.defects)
    assert not text, text
    cells = sum(result.comparison.cells for result in results)
    left_out = sum(len(result.comparison.left_out) for result in results)
    intended = sum(len(result.comparison.differences) for result in results)
    # Neither may become the way out.
    assert left_out <= cells * 0.05
    assert intended <= max(3, cells * 0.01)


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_gives_what_it_gives_on_ipykernel(name: str) -> None:
    check([NOTEBOOKS / name], jobs=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_notebooks_give_what_they_give_on_ipykernel() -> None:
    check([path for path in notebooks_in([NOTEBOOKS, TEACHING]) if path.name not in OWN], jobs=2)
