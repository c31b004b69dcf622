"""What a durable run has the kernel do between cells; called by expressions that leave no trace in the session."""

from __future__ import annotations

import json

from capsule_kernel import checkpoints


def save() -> str:
    """Save the variables; return as JSON which checkpoint it is, and what is not in it."""
    verdict = checkpoints.save()
    names = verdict.manifest.captured.names
    live_only = {name: entry.reason for name, entry in names.items() if entry.value is None}
    return json.dumps({"checkpoint": verdict.checkpoint, "live_only": live_only})


def restore(number: int, count: int, sources: list[str]) -> str:
    """Bring back the variables of a checkpoint, and the prompt's number; return as JSON what could not be had.

    Args:
        number: the checkpoint.
        count: number of the next prompt.
        sources: the cells that were run, for `In`.
    """
    from IPython.core.getipython import get_ipython

    restored = checkpoints.restore(str(number))
    shell = get_ipython()
    assert shell is not None
    shell.user_ns["_ih"][:] = ["", *sources]
    shell.execution_count = count
    lost = {name: entry.reason for name, entry in restored.names.items() if entry.status == "lost"}
    return json.dumps({"lost": lost})
