"""Messages from a Resonate server: a stream of server-sent events that survives hours.

The server sends no signs of life, and drops messages for who is not connected. So the stream is renewed every few
minutes, the new one before the old one ends; the system watches the connection; and after every interruption whoever
waits is told to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable

import aiohttp

from capsule_kernel.errors import PromisesUnavailable
from capsule_kernel.promises.http import CONNECT_S
from capsule_kernel.promises.patience import Backoff
from capsule_kernel.promises.server import Token, address_of, redacted

_LOG = logging.getLogger(__name__)
_RENEWED_S = 240.0
_ANSWER_S = 10.0
_LINE_BYTES_MAX = 16 << 20
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class SseSource:
    """Resonate's `Source` over server-sent events.

    Args:
        url: the server.
        token: its token.
        group: the group whose work this process takes.
        pid: this process.
        on_connected: called after each connection: what happened before it may have been missed.
        renewed_s: how long a stream is used.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        group: str,
        pid: str,
        on_connected: Callable[[], None] = lambda: None,
        renewed_s: float = _RENEWED_S,
    ) -> None:
        self._url = url
        self._token = token
        self._group, self._pid = group, pid
        self._on_connected = on_connected
        self._renewed_s = renewed_s
        self._backoff = Backoff()
        self._callbacks: list[Callable[[str], None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.Task[None] | None = None
        self._streams: set[asyncio.Task[None]] = set()
        self.connections = 0

    def __repr__(self) -> str:
        return f"<SseSource {redacted(self._url)} {self.connections} connections so far>"

    def unicast(self) -> str:
        """Return this process's address."""
        return f"poll://uni@{self._group}/{self._pid}"

    def resolve_target(self, target: str) -> str:
        """Return a group's address."""
        return address_of(target)

    def recv(self, callback: Callable[[str], None]) -> None:
        """Have messages handed to `callback`, as JSON texts."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Connect, and stay connected."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._stay_connected(), name="promises: messages")

    async def stop(self) -> None:
        """Take no messages any more."""
        self._callbacks.clear()
        tasks = [task for task in (self._loop, *self._streams) if task is not None]
        self._loop = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            connected = asyncio.Event()
            stream = asyncio.create_task(self._read(connected))
            self._streams.add(stream)
            stream.add_done_callback(self._streams.discard)
            waiting = asyncio.create_task(connected.wait())
            await asyncio.wait({stream, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if connected.is_set():
                attempt = 0
                for old in self._streams - {stream}:
                    old.cancel()
                self._on_connected()
                await asyncio.wait({stream}, timeout=self._renewed_s)
                if not stream.done():
                    continue  # time for a new one; this one ends when that is there
            reason = stream.exception() if not stream.cancelled() else None
            if reason is not None and not isinstance(
                reason, aiohttp.ClientError | OSError | ValueError | PromisesUnavailable
            ):
                raise reason
            delay_s = self._backoff.delay_s(attempt, random.random())  # noqa: S311 - jitter
            _LOG.info("%s: %s; again in %.1f s", redacted(self._url), reason or "the stream ended", delay_s)
            await asyncio.sleep(delay_s)
            attempt += 1

    async def _read(self, connected: asyncio.Event) -> None:
        token = await self._token.get()
        headers = {"Accept": "text/event-stream"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False, read_bufsize=_LINE_BYTES_MAX)
        url = f"{self._url}/poll/{self._group}/{self._pid}"
        async with asyncio.timeout(_ANSWER_S):
            response = await self._session.get(url, headers=headers, allow_redirects=False)
        try:
            if response.status == 401:
                await self._token.renew(token)
            if response.status != 200:
                raise PromisesUnavailable(redacted(url), f"HTTP status {response.status} for the stream of messages")
            _keep_alive(response)
            self.connections += 1
            connected.set()
            await self._take(response)
        finally:
            response.close()

    async def _take(self, response: aiohttp.ClientResponse) -> None:
        async for line in response.content:
            name, _, value = line.decode(errors="replace").strip().partition(":")
            if name == "data" and value.strip():
                for callback in list(self._callbacks):
                    callback(value.strip())


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Have the system ask the other end for signs of life: a peer that is gone is noticed within a minute."""
    transport = response.connection.transport if response.connection is not None else None
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
