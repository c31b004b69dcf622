"""Compares what one notebook gave on both kernels, cell by cell.

The reference is ipykernel, run again where Capsule differs from it: where it differs from itself, nothing can be said.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from .intended import SURVIVES, reason_for
from .masking import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .execution import Executed


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A cell whose outputs differ.

    Attributes:
        cell: its index among the code cells, from 0.
        source: its code.
        expected: ipykernel's outputs, masked.
        got: Capsule's outputs, masked.
        intended: name of the intended difference that this is; empty when it is a defect.
    """

    cell: int
    source: str
    expected: Any
    got: Any
    intended: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A notebook's comparison.

    Attributes:
        cells: how many code cells there are.
        left_out: how many of them differ between two runs on ipykernel.
        differences: the cells that differ, intended ones included.
        failure: why Capsule's run ended early although ipykernel's did not; empty when it did not.
    """

    cells: int
    left_out: list[int]
    differences: list[Difference]
    failure: str = ""


def compare(sources: Sequence[str], references: Sequence[Executed], capsule: Executed) -> Comparison:
    """Compare a run on Capsule with one or more on ipykernel."""
    first = references[0]
    left_out: list[int] = []
    differences: list[Difference] = []
    lost = _lost_at(first) if first.failure else len(sources)
    for index, source in enumerate(sources):
        expected, *again, got = (canonical(run.outputs[index], run.folder) for run in (*references, capsule))
        if expected == got:
            continue
        if any(other != expected for other in again):
            left_out.append(index)
            continue
        intended = SURVIVES if index >= lost else reason_for(source, expected, got)
        differences.append(Difference(cell=index, source=source, expected=expected, got=got, intended=intended))
    failure = capsule.failure if capsule.failure and not any(run.failure for run in references) else ""
    return Comparison(cells=len(sources), left_out=left_out, differences=differences, failure=failure)


def _lost_at(run: Executed) -> int:
    """Return the index of the cell with which the kernel was lost: the one after the last that has outputs."""
    return max((index + 1 for index, outputs in enumerate(run.outputs) if outputs), default=0)


def canonical(outputs: Sequence[dict[str, Any]], folder: str) -> list[Any]:
    """Return outputs as they look to a reader: masked, text that goes on in the same stream as one."""
    result: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and result and result[-1].get("name") == output["name"]:
            result[-1]["text"] += output["text"]
        else:
            result.append(json.loads(json.dumps(output)))
    return [masked(output, folder) for output in result]
