"""Keeps tasks held while they run: one request per origin, as newer servers refuse several origins in one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from resonate_base import ORIGIN_HEADER, PROTOCOL_VERSION

from capsule_kernel.promises.names import origin_of

type Send = Callable[[str, dict[str, str] | None], Awaitable[str]]


class GroupedHeartbeat:
    """Resonate's `Heartbeat`.

    Args:
        send: carries out a request (`Network.send`).
        pid: this process, as holder of tasks.
        interval_s: how often; a third of the tasks' `ttl` survives two lost requests.
        report: takes what went wrong, as text.
    """

    def __init__(self, send: Send, *, pid: str, interval_s: float, report: Callable[[str], None]) -> None:
        self._send = send
        self._pid = pid
        self._interval_s = interval_s
        self._report = report
        self._held: dict[str, int] = {}
        # A task that was lost and taken again is begun anew before its first run has ended.
        self._runs: Counter[str] = Counter()
        self._loop: asyncio.Task[None] | None = None
        self._count = 0

    def start(self, task_id: str, task_version: int) -> None:
        """Keep a task held."""
        self._held[task_id] = task_version
        self._runs[task_id] += 1
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), name="promises: heartbeat")

    def stop(self, task_id: str) -> None:
        """Keep a task held no longer."""
        self._runs[task_id] -= 1
        if self._runs[task_id] <= 0:
            del self._runs[task_id]
            self._held.pop(task_id, None)
        if not self._held:
            self.shutdown()

    def shutdown(self) -> None:
        """Keep nothing held any more."""
        self._held.clear()
        self._runs.clear()
        if self._loop is not None:
            self._loop.cancel()
            self._loop = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            groups: dict[str, list[dict[str, Any]]] = {}
            for task_id, version in self._held.items():
                groups.setdefault(origin_of(task_id), []).append({"id": task_id, "version": version})
            results = await asyncio.gather(
                *(self._beat(origin, tasks) for origin, tasks in groups.items()), return_exceptions=True
            )
            for result in results:
                if isinstance(result, Exception):
                    self._report(f"heartbeat: {result}")

    async def _beat(self, origin: str, tasks: list[dict[str, Any]]) -> None:
        self._count += 1
        head = {"corrId": f"heartbeat-{self._count}", "version": PROTOCOL_VERSION}
        request = {"kind": "task.heartbeat", "head": head, "data": {"pid": self._pid, "tasks": tasks}}
        await self._send(msgspec.json.encode(request).decode(), {ORIGIN_HEADER: origin})
