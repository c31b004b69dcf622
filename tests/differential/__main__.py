"""Compare notebooks on ipykernel and on Capsule: `python -m tests.differential [NOTEBOOK or FOLDER …]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import NOTEBOOKS
from .run import compare_all, described, notebooks_in

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 when a cell differs that is not meant to."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("places", nargs="*", type=Path, default=[NOTEBOOKS], metavar="NOTEBOOK")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time; default 2")
    arguments = parser.parse_args(argv)
    results = asyncio.run(compare_all(notebooks_in(arguments.places), arguments.jobs))
    for result in results:
        sys.stdout.write(
            f"{result.path.name}: {result.comparison.cells} cells, {result.defects} differ, "
            f"{result.capsule_s:.1f} s (ipykernel {result.ipykernel_s:.1f} s)\n"
        )
        if result.comparison.left_out:
            sys.stdout.write(f"  left out: {result.comparison.left_out}\n")
        if text := described(result):
            sys.stdout.write(text + "\n")
    cells = sum(result.comparison.cells for result in results)
    left_out = sum(len(result.comparison.left_out) for result in results)
    differences = sum(len(result.comparison.differences) for result in results)
    defects = sum(result.defects for result in results)
    compared = max(cells - left_out, 1)
    sys.stdout.write(
        f"{len(results)} notebooks, {cells} cells, {left_out} left out (ipykernel differs from itself), "
        f"{differences - defects} intended differences, {defects} others: {1 - defects / compared:.2%} equal\n"
    )
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
