"""Taking the task of a durable function from a process that has ended, before its lease has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from capsule_kernel.errors import PromiseRejected
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.outcome import CONFLICT, MISSING, OK

SDK = "capsule_kernel.promises.durable"
"""The module that imports Resonate's SDK."""

_LOOKS = 3

type Ask = Callable[[rq.Request], Awaitable[tuple[int, Any]]]


class _Task(msgspec.Struct):
    state: str
    version: int
    pid: str | None = None


class _Found(msgspec.Struct):
    task: _Task


async def free_task(ask: Ask, task_id: str, is_over: Callable[[str], bool]) -> str:
    """Give a task back that is held by a process that has ended (see `Promises.free_task`).

    Args:
        ask: carries out a request; returns the answer's status and data.
        task_id: the function's promise.
        is_over: whether a process, by the pid that it gave, is known to have ended.
    """
    for _ in range(_LOOKS):
        get = rq.TaskGet(id=task_id)
        status, data = await ask(get)
        if status == MISSING:
            return ""
        if status != OK:
            raise PromiseRejected(rq.kind_of(get), status, str(data))
        try:
            task = msgspec.convert(data, _Found).task
        except msgspec.ValidationError as exc:
            raise PromiseRejected(rq.kind_of(get), status, f"its answer is not Resonate's: {exc}") from exc
        if task.state != "acquired":
            return ""
        if task.pid is None or not is_over(task.pid):
            return task.pid or "?"
        release = rq.TaskRelease(id=task_id, version=task.version)
        status, data = await ask(release)
        if status == OK:
            return ""
        if status != CONFLICT:
            raise PromiseRejected(rq.kind_of(release), status, str(data))
        # Its lease has ended by itself, or another process was sooner.
    return "?"
