"""Questions that notebooks wait with, for programs: which are open, and answers to them, from any process.

    for question in pending(): answer(question.id, "yes")

Where promises are on a Resonate server, its environment variables and the kernel's configuration files are read as the
kernel reads them, so that this works from another machine too. The first answer wins.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from capsule_kernel.errors import PromiseNotFound, PromisesUnavailable, QuestionClosed
from capsule_kernel.incarnation import is_over
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.model import Promise
from capsule_kernel.promises.names import INPUT
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.promises.place import promises_file
from capsule_kernel.settings import load_launch

_DOOR_S = 10.0
_LINE_BYTES = 1 << 16


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question of `input()` or `getpass()`.

    Attributes:
        id: its promise's.
        prompt: what user code asks.
        password: whether the answer must not be shown or written down.
        session: the notebook, as far as its kernel knows.
        asked_at_ms: since when it waits (Unix time).
        state: `pending`, or how it ended.
        is_left: whether the process that asked is known to have ended: an answer is kept, but nobody waits for it.
    """

    id: str
    prompt: str
    password: bool
    session: str
    asked_at_ms: int
    state: str = "pending"
    is_left: bool = False


def pending(*, file: str = "") -> list[Question]:
    """Return the open questions, oldest first.

    Args:
        file: the promises' file; empty: where the settings say.

    Raises:
        PromisesUnavailable: they cannot be read.
        ConfigurationError: the settings cannot be used.
    """
    return _run(_with_promises(file, _pending))


def answer(question_id: str, text: str, *, file: str = "") -> None:
    """Answer a question.

    Raises:
        PromiseNotFound: there is none of this id.
        QuestionClosed: it has been answered, or is over.
        PromisesUnavailable: the answer could not be brought there; the question is still open.
    """

    async def work(promises: Promises) -> None:
        promise = await _question(promises, question_id)
        if _of(promise).password:
            await asyncio.to_thread(_whisper, promise, text)
            return
        settled = await promises.settle(
            question_id, "resolved", {"v": 1, "by": "command", "text": text}, is_durable=True
        )
        if not settled.is_winner:
            raise QuestionClosed(question_id, _how(settled.promise))

    _run(_with_promises(file, work))


def refuse(question_id: str, *, file: str = "") -> None:
    """End a question without an answer: `input()` raises `EOFError`.

    Raises:
        PromiseNotFound: there is none of this id.
        QuestionClosed: it has been answered, or is over.
    """

    async def work(promises: Promises) -> None:
        await _question(promises, question_id)
        settled = await promises.settle(question_id, "rejected", {"v": 1, "by": "command"}, is_durable=True)
        if not settled.is_winner:
            raise QuestionClosed(question_id, _how(settled.promise))

    _run(_with_promises(file, work))


def find(question_id: str, *, file: str = "") -> Question:
    """Return a question that is open.

    Raises:
        PromiseNotFound: there is none of this id.
        QuestionClosed: it has been answered, or is over.
    """

    async def work(promises: Promises) -> Question:
        return _of(await _question(promises, question_id))

    return _run(_with_promises(file, work))


def _run[T](work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, also where a loop runs already, as in a notebook."""
    with ThreadPoolExecutor(1, thread_name_prefix="questions") as executor:
        return executor.submit(asyncio.run, work).result()


async def _with_promises[T](file: str, work: Callable[[Promises], Awaitable[T]]) -> T:
    settings = load_launch([], os.environ).settings
    if file:
        settings = msgspec.structs.replace(settings, durability="embedded", promises_file=file)
    if settings.durability == "embedded":
        path = promises_file(os.environ, settings.promises_file)
        if not Path(path).exists():  # noqa: ASYNC240 - nothing else runs on this loop
            raise PromisesUnavailable(path, "there is no such file: nothing was asked yet")
        # Looking must not let go of anything.
        settings = msgspec.structs.replace(settings, promises_retention_days=0)
    promises = open_promises(settings, os.environ)
    if promises is None:
        raise PromisesUnavailable("nowhere", "CapsuleKernel.durability is off in the configuration files")
    await promises.start()
    try:
        return await work(promises)
    finally:
        await promises.stop()


async def _pending(promises: Promises) -> list[Question]:
    found = await promises.search(state="pending", kind=INPUT)
    return sorted((_of(promise) for promise in found), key=lambda question: question.asked_at_ms)


async def _question(promises: Promises, question_id: str) -> Promise:
    promise = await promises.get(question_id)
    if promise is None or promise.kind != INPUT:
        raise PromiseNotFound(question_id)
    if not promise.is_pending:
        raise QuestionClosed(question_id, _how(promise))
    return promise


def _of(promise: Promise) -> Question:
    param: Any = promise.param_data()
    param = param if isinstance(param, dict) else {}
    return Question(
        id=promise.id,
        prompt=str(param.get("prompt", "")),
        password=param.get("password") is True,
        session=promise.tags.get("capsule:session", ""),
        asked_at_ms=promise.created_at_ms,
        state=promise.state,
        is_left=is_over(param.get("incarnation")),
    )


def _how(promise: Promise) -> str:
    match promise.state:
        case "resolved":
            value = promise.value_data()
            by = value.get("by") if isinstance(value, dict) else None
            return f"it was answered{f' by the {by}' if by else ''}"
        case "rejected":
            return "it was refused"
        case "rejected_canceled":
            return "it was canceled: nobody waits for the answer any more"
        case _:
            return "its time is over"


def _whisper(promise: Promise, text: str) -> None:
    """Bring a secret to the kernel that asks, by its socket.

    Raises:
        PromisesUnavailable: the kernel is not on this machine, or is gone.
        QuestionClosed: another answer was first.
    """
    param = promise.param_data()
    path = param.get("socket") if isinstance(param, dict) else None
    if not isinstance(path, str):
        raise PromisesUnavailable(promise.id, "a password can only be answered where its kernel runs")
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_DOOR_S)
            door.connect(path)
            door.sendall(msgspec.json.encode({"text": text}) + b"\n")
            line = door.recv(_LINE_BYTES)
    except OSError as exc:
        raise PromisesUnavailable(
            promise.id, f"a password can only be answered while its kernel runs, on its machine ({exc})"
        ) from exc
    if not line or not msgspec.json.decode(line).get("accepted"):
        raise QuestionClosed(promise.id, "another answer was first")
