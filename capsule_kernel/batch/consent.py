"""Whether an interrupted cell is to be run again: a question that anybody may answer, here or with `capsule answer`."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

from capsule_kernel.batch.events import Observer, RunWaits
from capsule_kernel.promises import names
from capsule_kernel.promises.client import Promises

_YES = frozenset({"rerun", "yes", "y", "again", "1"})


async def is_agreed(promises: Promises, observer: Observer, promise_id: str, prompt: str, *, run: str) -> bool:
    """Ask, and wait for the first answer, wherever it comes from; one that was given earlier counts.

    Args:
        promises: where the question is kept.
        observer: is told that the run waits.
        promise_id: the question's, the same for every process that asks it.
        prompt: what is asked.
        run: id of the run's promise.
    """
    created = await promises.create(
        promise_id,
        {"v": 1, "prompt": prompt, "password": False},
        kind=names.INPUT,
        tags={"capsule:session": f"run:{run}", "capsule:run": run},
        is_durable=True,
    )
    promise = created.promise
    if promise.is_pending:
        observer(RunWaits(question=promise_id, prompt=prompt))
        asked = asyncio.create_task(_ask_here(promises, promise_id, prompt)) if sys.stdin.isatty() else None
        try:
            promise = await promises.wait(promise_id)
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.wait({asked})
    value = promise.value_data()
    text = value.get("text", "") if isinstance(value, dict) else value
    return promise.state == "resolved" and str(text).strip().lower() in _YES


async def _ask_here(promises: Promises, promise_id: str, prompt: str) -> None:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    text = await _line_of(sys.stdin)
    if text:
        await promises.settle(promise_id, "resolved", {"v": 1, "by": "terminal", "text": text.strip()}, is_durable=True)


async def _line_of(terminal: TextIO) -> str:
    """Return the next line, empty at its end; a thread that reads could not be called off when others answer."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(terminal, ready.set)
    try:
        await ready.wait()
        return terminal.readline()
    finally:
        loop.remove_reader(terminal)
