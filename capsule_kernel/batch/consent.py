"""Whether an interrupted cell is to be run again: a question that anybody may answer, here or with `capsule answer`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TextIO

from capsule_kernel.batch.events import Observer, RunWaits
from capsule_kernel.promises import names
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.model import Promise
from capsule_kernel.terminal import printable

_YES = frozenset({"rerun", "yes", "y", "again", "1"})
_NO = frozenset({"no", "n", "0"})
_SHOWN_MAX = 40


async def is_agreed(
    promises: Promises, observer: Observer, id_of: Callable[[int], str], prompt: str, *, run: str
) -> bool:
    """Ask, and wait for the first answer, wherever it comes from; one that was given earlier counts.

    An answer that says neither yes nor no is none: it is asked again.

    Args:
        promises: where the question is kept.
        observer: is told that the run waits.
        id_of: returns the question's id, from how often it was answered unclearly: the same for every process that
            asks it.
        prompt: what is asked.
        run: id of the run's promise.
    """
    asked, unclear = prompt, 0
    while True:
        promise = await _answered(promises, observer, id_of(unclear), asked, run=run)
        if promise.state != "resolved":
            return False
        value = promise.value_data()
        text = str(value.get("text", "") if isinstance(value, dict) else value).strip()
        if text.lower() in _YES | _NO:
            return text.lower() in _YES
        unclear += 1
        asked = f"{text[:_SHOWN_MAX]!r} is neither yes (y) nor no (n). {prompt}"


async def _answered(promises: Promises, observer: Observer, promise_id: str, prompt: str, *, run: str) -> Promise:
    """Return the promise of a question when it is settled."""
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
        # There is no standard input in a process that has closed it.
        is_here = sys.stdin is not None and sys.stdin.isatty()
        asked = asyncio.create_task(_ask_here(promises, promise_id, prompt)) if is_here else None
        try:
            promise = await promises.wait(promise_id)
        finally:
            if asked is not None:
                asked.cancel()
                await asyncio.wait({asked})
    return promise


async def _ask_here(promises: Promises, promise_id: str, prompt: str) -> None:
    sys.stderr.write(printable(prompt))
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
