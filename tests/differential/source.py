"""Notebooks to compare: `.ipynb` files, and IPython scripts (`.ipy`) whose cells begin with `# %%`.

A cell's tags follow in brackets, as in Jupytext's percent format: `# %% tags=["raises-exception"]`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import nbformat
from nbformat import v4

if TYPE_CHECKING:
    from pathlib import Path

    from nbformat import NotebookNode

_MARK = re.compile(r"^# %%(.*)\n", re.MULTILINE)
_TAGS = re.compile(r"tags=(\[.*\])")


def read(path: Path) -> NotebookNode:
    """Read a notebook of either kind; it has no outputs."""
    if path.suffix == ".ipynb":
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        return notebook
    _, *pieces = _MARK.split(path.read_text(encoding="utf-8"))
    cells = []
    for options, text in zip(pieces[::2], pieces[1::2], strict=True):
        found = _TAGS.search(options)
        metadata = {"tags": json.loads(found[1])} if found else {}
        cells.append(v4.new_code_cell(text.strip("\n"), metadata=metadata))
    return v4.new_notebook(cells=cells)
