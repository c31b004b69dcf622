"""`Promises` on a Resonate server.

Who was first is told by a nonce in the headers of param and value, as the protocol itself does not say it; that also
makes a request that is repeated after a lost answer count as one. Interactive cells only note: what cannot be written
is kept for a while, and then counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from resonate_base import ORIGIN_HEADER, ConnectorError

from capsule_kernel.clock import Clock
from capsule_kernel.errors import PromiseNotFound, PromiseRejected, PromisesUnavailable
from capsule_kernel.ids import new_session
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.client import Created, Settled, Statistics
from capsule_kernel.promises.envelopes import (
    Found,
    Page,
    PushMessage,
    Reply,
    decoded,
    envelope,
    origin,
    reason_of,
    translated_error,
)
from capsule_kernel.promises.model import (
    BRANCH_TAG,
    ORIGIN_TAG,
    PARENT_TAG,
    Promise,
    Settlement,
    State,
    encode_value,
)
from capsule_kernel.promises.names import PROBE
from capsule_kernel.promises.notes import Notes, creation
from capsule_kernel.promises.outcome import INVALID, MISSING, OK, Outcome
from capsule_kernel.promises.server import Token, address_of, redacted
from capsule_kernel.promises.tasks import SDK, free_task

if TYPE_CHECKING:
    from capsule_kernel.promises.durable import DurableFunctions
    from capsule_kernel.promises.http import Deadlines, HttpNetwork
    from capsule_kernel.promises.sse import SseSource

NONCE = "capsule-nonce"
_LOOK_S = 10.0
_PAGE = 500
_TOGETHER = 16
_PROBE_ID = f"{PROBE}:1"


class RemotePromises:
    """`Promises` on a Resonate server. aiohttp is imported when it starts, on another thread.

    Args:
        url: the server (`server.server_url`).
        token: its token.
        group: this process's group at the server.
        deadlines: how long requests may take.
        clock: the time of day.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        group: str = "capsule",
        deadlines: Deadlines | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.url = url
        self.token = token or Token()
        self.pid = new_session()
        self._group = group
        self._deadlines = deadlines
        self._clock = clock or Clock()
        self._notes = Notes(self._write_notes)
        self._waiters: dict[str, list[asyncio.Future[Promise]]] = {}
        self._looks = asyncio.Event()
        self._network: HttpNetwork | None = None
        self._source: SseSource | None = None
        self._opening = asyncio.Lock()
        self._is_stopped = False
        self._count = 0

    def __repr__(self) -> str:
        return f"<RemotePromises {redacted(self.url)} {len(self._waiters)} awaited, {self.statistics.waiting} to write>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def statistics(self) -> Statistics:
        """What became of what was noted."""
        return self._notes.statistics

    async def start(self) -> None:
        """Begin. The server is connected with the first request."""

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Write what was noted as far as half the time allows, wake whoever waits, disconnect."""
        await self.flush(timeout_s / 2)
        self._is_stopped = True
        self._notes.stop()
        for futures in self._waiters.values():
            for future in futures:
                if not future.done():
                    future.set_exception(PromisesUnavailable(redacted(self.url), "they were closed"))
        for part in (self._source, self._network):
            if part is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s / 4):
                        await part.stop()

    async def probe(self) -> None:
        """See whether there is a server whose rules for ids fit the SDK's.

        Raises:
            PromisesUnavailable: there is none; the text says what is there instead.
            PromiseRejected: the server refuses the token.
        """
        lineage = {ORIGIN_TAG: PROBE, BRANCH_TAG: _PROBE_ID, PARENT_TAG: PROBE}
        request = creation(_PROBE_ID, None, "", lineage, self._clock.unix_ms() + 1000)
        status, data = await self._ask(request)
        if status in {400, 422}:
            raise PromisesUnavailable(
                redacted(self.url),
                f"the server refuses ids such as {_PROBE_ID!r} ({reason_of(data)}): durable functions need Resonate "
                "v0.9.8 as it was tagged, or 0.10 and later",
            )
        if status == 401:
            raise PromiseRejected("promise.create", status, f"{reason_of(data)}: check the token")
        # 403: a token for one prefix only; nothing can be known, and nothing is wrong.

    async def create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
        is_durable: bool = False,  # noqa: ARG002 - the server decides how it keeps them
    ) -> Created:
        """Create a promise, or find the one of this id (see `Promises.create`)."""
        nonce = new_session()
        request = creation(promise_id, None, kind, tags, timeout_at_ms)
        request = msgspec.structs.replace(request, param=rq.raw(encode_value(param, {NONCE: nonce})))
        promise = self._promise(request, *await self._ask(request))
        return Created(promise, promise.param_headers().get(NONCE) == nonce)

    async def settle(
        self,
        promise_id: str,
        state: Settlement,
        value: Any = None,
        *,
        is_durable: bool = False,  # noqa: ARG002 - the server decides how it keeps them
    ) -> Settled:
        """Settle a promise, unless that is done (see `Promises.settle`)."""
        nonce = new_session()
        request = rq.PromiseSettle(id=promise_id, state=state, value=rq.raw(encode_value(value, {NONCE: nonce})))
        promise = self._promise(request, *await self._ask(request))
        self._tell(promise)
        return Settled(promise, promise.value_headers().get(NONCE) == nonce)

    async def get(self, promise_id: str) -> Promise | None:
        """Return a promise; one that is overdue is settled by that."""
        request = rq.PromiseGet(id=promise_id)
        status, data = await self._ask(request)
        return None if status == MISSING else self._promise(request, status, data)

    async def search(
        self,
        *,
        prefix: str = "",
        state: State | None = None,
        kind: str | None = None,
        tags: dict[str, str] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Promise]:
        """Return promises in the order of their ids (see `Promises.search`)."""
        labels = {**(tags or {}), **({"capsule:kind": kind} if kind is not None else {})}
        found: list[Promise] = []
        cursor: str | None = None
        while True:
            request = rq.PromiseSearch(state=state, tags=labels or None, limit=_PAGE, cursor=cursor)
            status, data = await self._ask(request)
            if status != OK:
                raise PromiseRejected("promise.search", status, reason_of(data))
            page = decoded(data, Page, self.url)
            found += [
                record.promise() for record in page.promises if record.id.startswith(prefix) and record.id > after
            ]
            cursor = page.cursor
            if cursor is None or len(found) >= limit:
                return found[:limit]

    def address_of(self, group: str) -> str:
        """Return where work for a group of processes is sent (see `Promises.address_of`)."""
        return address_of(group)

    async def functions(self, *, group: str, pid: str, ttl: timedelta, is_durable: bool) -> DurableFunctions:  # noqa: ARG002 - the server decides how it keeps them
        """Return durable functions on these promises (see `Promises.functions`)."""
        durable = await asyncio.to_thread(importlib.import_module, SDK)
        functions: DurableFunctions = await durable.on_remote(self, group=group, pid=pid, ttl=ttl)
        return functions

    async def free_task(self, task_id: str, is_over: Callable[[str], bool]) -> str:
        """Have a task held by nobody, if a process holds it that has ended (see `Promises.free_task`)."""

        async def ask(request: rq.Request) -> tuple[int, Any]:
            status, data = await self._ask(request)
            return status, msgspec.json.decode(data)

        return await free_task(ask, task_id, is_over)

    async def wait(self, promise_id: str, timeout_s: float | None = None) -> Promise:
        """Wait until a promise is settled (see `Promises.wait`). The server being away for a while ends nothing."""
        future: asyncio.Future[Promise] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(promise_id, []).append(future)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    left_s = _LOOK_S
                    looks = self._looks
                    try:
                        promise = await self._listen(promise_id)
                        if not promise.is_pending:
                            return promise
                        left_s = min(left_s, max((promise.timeout_at_ms - self._clock.unix_ms()) / 1000, 0.05))
                    except PromisesUnavailable:
                        if self._is_stopped:
                            raise
                    look = asyncio.create_task(looks.wait())
                    awaited: set[asyncio.Future[Any]] = {future, look}
                    try:
                        await asyncio.wait(awaited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        look.cancel()
                    if future.done():
                        return future.result()
        finally:
            future.cancel()
            futures = self._waiters[promise_id]
            futures.remove(future)
            if not futures:
                del self._waiters[promise_id]

    def note_create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
    ) -> None:
        """Create a promise a moment later."""
        self._notes.add((promise_id, param, kind, tags, timeout_at_ms))

    def note_settle(self, promise_id: str, state: Settlement, value: Any = None) -> None:
        """Settle a promise a moment later."""
        self._notes.add((promise_id, state, value))

    async def flush(self, timeout_s: float = 2.0) -> bool:
        """Write what was noted; return whether all of it is kept now."""
        return await self._notes.flush(timeout_s)

    async def _listen(self, promise_id: str) -> Promise:
        source = await self._connected_source()
        request = rq.PromiseRegisterListener(awaited=promise_id, address=source.unicast())
        status, data = await self._ask(request)
        if status == MISSING:
            raise PromiseNotFound(promise_id)
        if status != OK:
            raise PromiseRejected("promise.register_listener", status, reason_of(data))
        return decoded(data, Found, self.url).promise.promise()

    async def _write_notes(self, requests: list[rq.Request]) -> list[Outcome]:
        """Write what was noted: one promise's in their order, several promises' at a time."""
        queues: dict[str, list[tuple[int, rq.Request]]] = {}
        for at, request in enumerate(requests):
            assert isinstance(request, rq.PromiseCreate | rq.PromiseSettle)
            queues.setdefault(request.id, []).append((at, request))
        outcomes = [Outcome() for _ in requests]
        together = asyncio.Semaphore(_TOGETHER)

        async def write(queue: Sequence[tuple[int, rq.Request]]) -> None:
            for at, request in queue:
                async with together:
                    status, data = await self._ask(request)
                outcomes[at] = Outcome(status=status, given=reason_of(data) if status >= INVALID else data)

        results = await asyncio.gather(*(write(queue) for queue in queues.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return outcomes

    async def _ask(self, request: rq.Request) -> tuple[int, msgspec.Raw]:
        network = await self._connected()
        self._count += 1
        body = envelope(request, f"{self.pid}-{self._count}")
        try:
            text = await network.send(body, {ORIGIN_HEADER: origin(request)})
        except ConnectorError as exc:
            raise translated_error(exc, self.url) from exc
        reply = decoded(text, Reply, self.url)
        return reply.head.status, reply.data

    async def _connected(self) -> HttpNetwork:
        if self._is_stopped:
            raise PromisesUnavailable(redacted(self.url), "they were closed")
        if self._network is None:
            async with self._opening:
                if self._network is None:
                    http = await asyncio.to_thread(importlib.import_module, "capsule_kernel.promises.http")
                    deadlines = self._deadlines or http.Deadlines()
                    self._network = http.HttpNetwork(self.url, self.token, deadlines=deadlines, clock=self._clock)
        network = self._network
        assert network is not None
        return network

    async def _connected_source(self) -> SseSource:
        if self._source is None:
            async with self._opening:
                if self._source is None:
                    sse = await asyncio.to_thread(importlib.import_module, "capsule_kernel.promises.sse")
                    source: SseSource = sse.SseSource(
                        self.url, self.token, group=self._group, pid=self.pid, on_connected=self._look_again
                    )
                    source.recv(self._take)
                    await source.start()
                    self._source = source
        return self._source

    def _look_again(self) -> None:
        """Whatever is awaited may have been settled while nothing was heard."""
        self._looks.set()
        self._looks = asyncio.Event()

    def _take(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text, type=PushMessage)
            if message.kind == "unblock":
                self._tell(msgspec.json.decode(message.data, type=Found).promise.promise())
        except msgspec.MsgspecError:
            self._look_again()  # somebody meant to say something

    def _tell(self, promise: Promise) -> None:
        if promise.is_pending:
            return
        for future in self._waiters.get(promise.id, ()):
            if not future.done():
                future.set_result(promise)

    def _promise(
        self, request: rq.PromiseCreate | rq.PromiseSettle | rq.PromiseGet, status: int, data: msgspec.Raw
    ) -> Promise:
        if status == MISSING:
            raise PromiseNotFound(request.id)
        if status not in {OK, 201}:
            raise PromiseRejected(rq.kind_of(request), status, reason_of(data))
        return decoded(data, Found, self.url).promise.promise()
