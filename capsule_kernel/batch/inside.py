"""What a durable run has the kernel do between cells; called by expressions that leave no trace in the session."""

from __future__ import annotations

import json
from typing import Any

from capsule_kernel import checkpoints
from capsule_kernel.errors import StateError


def save() -> str:
    """Save the variables; return as JSON which checkpoint it is, when it was taken, and what is not in it."""
    verdict = checkpoints.save()
    names = verdict.manifest.captured.names
    live_only = {name: entry.reason for name, entry in names.items() if entry.value is None}
    taken_ms = verdict.manifest.about.created_ms
    return json.dumps({"checkpoint": verdict.checkpoint, "taken_ms": taken_ms, "live_only": live_only})


def restore(session: str, number: int, taken_ms: int, count: int, sources: list[str], remaining: list[str]) -> str:
    """Bring back the variables of a checkpoint, and the prompt's number.

    Return as JSON the names that could not be had and that a remaining cell may read, with the reasons; or why there
    is nothing to be had.

    Args:
        session: the run's: no other checkpoint has its variables.
        number: the checkpoint.
        taken_ms: when it was taken; 0: not known.
        count: number of the next prompt.
        sources: the cells that were run, for `In`.
        remaining: the cells that will be run.
    """
    from IPython.core.getipython import get_ipython

    try:
        restored = checkpoints.restore(str(number), session=session, taken_ms=taken_ms)
    except StateError as exc:
        return json.dumps({"refused": str(exc)})
    shell = get_ipython()
    assert shell is not None
    shell.user_ns["_ih"][:] = ["", *sources]
    shell.execution_count = count
    lost = {name: entry.reason for name, entry in restored.names.items() if entry.status == "lost"}
    return json.dumps({"lost": _needed(lost, shell.user_ns, remaining) if lost else {}})


def _needed(lost: dict[str, str], namespace: dict[str, Any], remaining: list[str]) -> dict[str, str]:
    """Return those of the lost names that a remaining cell may read, itself or by what it calls."""
    from capsule_kernel.batch.reach import names_reached
    from capsule_kernel.batch.reads import needs_of

    found: set[str] = set()
    for need in needs_of(remaining):
        open_names = lost.keys() - need.assigned - found
        if not open_names:
            continue
        reached = None if need.names is None else names_reached(namespace, need.names)
        found |= open_names if need.names is None or reached is None else open_names & (need.names | reached)
    return {name: lost[name] for name in lost if name in found}
