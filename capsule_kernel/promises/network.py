"""Resonate's SDK on the embedded store: the seam `Network`/`Source` of `resonate_base`, for any number of processes.

A request is a transaction; messages are lines of the log, which every process reads for itself: what is addressed to a
group may be seen by several of its members, and the first that acquires the task has it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from resonate_base import PROTOCOL_VERSION, ConnectorError

from capsule_kernel.errors import PromiseError
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.embedded import SCHEME, EmbeddedPromises
from capsule_kernel.promises.model import TARGET_TAG
from capsule_kernel.promises.outcome import INVALID
from capsule_kernel.promises.store import LogEntry, Store

_TICK_S = 1.0


class EmbeddedConnection:
    """`Network` and `Source` over the embedded store.

    Args:
        promises: the store; it is started and stopped by its owner.
        group: the group whose work this process takes.
        pid: this process, as holder of tasks.
        is_durable: whether each request waits until the disk has it (`Store.apply`).
    """

    def __init__(
        self, promises: EmbeddedPromises, *, group: str = "default", pid: str, is_durable: bool = False
    ) -> None:
        self._promises = promises
        self._unicast = f"{SCHEME}://uni@{group}/{pid}"
        self._anycast = self.resolve_target(group)
        self._is_durable = is_durable
        self._callbacks: list[Callable[[str], None]] = []
        self._stop_hearing: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def unicast(self) -> str:
        """Return this process's address."""
        return self._unicast

    def resolve_target(self, target: str) -> str:
        """Return a group's address."""
        return self._promises.address_of(target)

    def recv(self, callback: Callable[[str], None]) -> None:
        """Have messages handed to `callback`, as JSON texts."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Take messages, and tasks that are pending already; keep time."""
        self._stop_hearing = self._promises.hear(self._hear)
        self._spawn(self._adopt())
        self._spawn(self._keep_time())

    async def stop(self) -> None:
        """Take no messages any more."""
        if self._stop_hearing is not None:
            self._stop_hearing()
            self._stop_hearing = None
        self._callbacks.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:  # noqa: ARG002 - the file has no partitions to route to
        """Carry out a request.

        Raises:
            ConnectorError: the store cannot be used.
        """
        try:
            envelope = rq.read_envelope(req)
        except msgspec.MsgspecError as exc:
            return _reply("error", None, INVALID, f"Invalid request: {exc}")
        corr_id = envelope.head.corr_id
        try:
            request = rq.read_request(envelope.kind, envelope.data)
        except msgspec.MsgspecError as exc:
            return _reply(envelope.kind, corr_id, INVALID, f"Invalid request: {exc}")
        if request is None:
            return _reply(envelope.kind, corr_id, INVALID, f"the embedded store has no {envelope.kind}")
        try:
            outcome = (await self._promises.apply([request], is_durable=self._is_durable))[0]
        except PromiseError as exc:
            raise ConnectorError(exc) from exc
        return _reply(envelope.kind, corr_id, outcome.status, outcome.data)

    def _hear(self, entry: LogEntry) -> None:
        match entry.op:
            case "execute":
                version, _, address = entry.note.partition(" ")
                if address in {self._unicast, self._anycast}:
                    self._execute(entry.id, int(version))
            case "unblock" if entry.note == self._unicast:
                self._spawn(self._unblock(entry.id))

    def _execute(self, task_id: str, version: int) -> None:
        self._hand_over({"kind": "execute", "head": {}, "data": {"task": {"id": task_id, "version": version}}})

    async def _unblock(self, promise_id: str) -> None:
        with contextlib.suppress(PromiseError):  # the SDK looks after its promises from time to time as well
            promise = await self._promises.get(promise_id)
            if promise is not None:
                self._hand_over({"kind": "unblock", "head": {}, "data": {"promise": promise.record()}})

    def _hand_over(self, message: dict[str, Any]) -> None:
        text = msgspec.json.encode(message).decode()
        for callback in list(self._callbacks):
            callback(text)

    async def _adopt(self) -> None:
        """Take up what was announced before this process listened."""
        with contextlib.suppress(PromiseError):  # it is announced again within 30 s
            await self._promises.wait_watching()
            addresses = {self._unicast, self._anycast}
            for task_id, version in await self._promises.call(lambda store: _pending(store, addresses)):
                self._execute(task_id, version)

    async def _keep_time(self) -> None:
        """Have what is due carried out."""
        while True:
            with contextlib.suppress(PromiseError):
                await self._promises.tick()
            await asyncio.sleep(_TICK_S)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _pending(store: Store, addresses: set[str]) -> list[tuple[str, int]]:
    found = []
    for task in store.pending_tasks():
        promise = store.find(task.id)
        if promise is not None and promise.tags.get(TARGET_TAG) in addresses:
            found.append((task.id, task.version))
    return found


def _reply(kind: str, corr_id: object, status: int, data: object) -> str:
    head = {"corrId": corr_id, "status": status, "version": PROTOCOL_VERSION}
    return msgspec.json.encode({"kind": kind, "head": head, "data": data}).decode()
