"""Requests to a Resonate server: deadlines, retries, a circuit breaker, tokens that are renewed.

The SDK's own connection waits 300 s for a server that accepts and says nothing, retries without limit and jitter, and
keeps one token for ever. Every request of the protocol can be repeated: ids and versions make its effect the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
from resonate_base import ConnectorError

from capsule_kernel.clock import Clock
from capsule_kernel.errors import CapsuleError, PromisesUnavailable
from capsule_kernel.promises.patience import RETRIABLE, Backoff, Breaker
from capsule_kernel.promises.server import Token, redacted

CONNECT_S = 5.0
_CONNECTIONS = 64


class Deadlines(msgspec.Struct, frozen=True):
    """How long things may take.

    Attributes:
        attempt_s: one attempt.
        request_s: a request with all its attempts.
    """

    attempt_s: float = 5.0
    request_s: float = 10.0


class _Head(msgspec.Struct):
    status: int = 200


class _Reply(msgspec.Struct):
    head: _Head = msgspec.field(default_factory=_Head)


_REPLY = msgspec.json.Decoder(_Reply)


class HttpNetwork:
    """Resonate's `Network` over HTTP.

    Args:
        url: the server.
        token: its token.
        deadlines: how long requests may take.
        breaker: may be shared by what talks to the same server.
        clock: for the breaker.
        chance: numbers between 0 and 1, for the jitter.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        deadlines: Deadlines | None = None,
        breaker: Breaker | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._token = token
        self._deadlines = deadlines or Deadlines()
        self._breaker = breaker or Breaker()
        self._clock = clock or Clock()
        self._chance = chance
        self._backoff = Backoff()
        self._session: aiohttp.ClientSession | None = None
        self._in_flight: set[asyncio.Task[str]] = set()
        self._is_stopped = False

    def __repr__(self) -> str:
        return f"<HttpNetwork {redacted(self._url)} {self._breaker!r} {len(self._in_flight)} in flight>"

    async def start(self) -> None:
        """Begin; the connection comes with the first request."""

    async def stop(self) -> None:
        """End at once: requests that are under way fail with `ConnectorError`."""
        self._is_stopped = True
        in_flight = list(self._in_flight)
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:
        """Send a request and return the server's answer, whatever status it has.

        Raises:
            ConnectorError: there is none.
        """
        if self._is_stopped:
            raise ConnectorError(PromisesUnavailable(redacted(self._url), "the connection was closed"))
        task = asyncio.create_task(self._persist(req, headers or {}))
        self._in_flight.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._is_stopped:
                reason = "the connection was closed"
                raise ConnectorError(PromisesUnavailable(redacted(self._url), reason)) from None
            task.cancel()
            raise
        except CapsuleError as exc:
            raise ConnectorError(exc) from exc
        finally:
            self._in_flight.discard(task)

    async def _persist(self, req: str, headers: dict[str, str]) -> str:
        end_s = self._clock.monotonic() + self._deadlines.request_s
        attempt, reason, has_renewed = 0, "", False
        while True:
            pause_s = self._breaker.closed_in_s(self._clock.monotonic())
            if pause_s > 0:
                raise PromisesUnavailable(
                    redacted(self._url), f"it did not answer several times: not asked again for {pause_s:.0f} s"
                )
            token = await self._token.get()
            status, answer, wait_s = await self._try(req, headers, token, end_s)
            if status == 401 and not has_renewed and await self._token.renew(token):
                has_renewed = True
                continue
            if status != 0 and status not in RETRIABLE:
                return answer
            reason = answer if status == 0 else f"HTTP status {status}"
            delay_s = max(self._backoff.delay_s(attempt, self._chance()), wait_s)
            if self._clock.monotonic() + delay_s >= end_s:
                raise PromisesUnavailable(redacted(self._url), f"{reason} (attempt {attempt + 1}, the last)")
            await asyncio.sleep(delay_s)
            attempt += 1

    async def _try(self, req: str, headers: dict[str, str], token: str, end_s: float) -> tuple[int, str, float]:
        """Return status, answer and how long the server wants to be left alone; status 0 and a reason for no answer."""
        attempt_s = min(self._deadlines.attempt_s, max(end_s - self._clock.monotonic(), 0.05))
        all_headers = {"Content-Type": "application/json", **headers}
        if token:
            all_headers["Authorization"] = f"Bearer {token}"
            req = with_token(req, token)
        wait_s = 0.0
        try:
            async with (
                asyncio.timeout(attempt_s),
                self._opened().post(f"{self._url}/", data=req, headers=all_headers, allow_redirects=False) as response,
            ):
                text = await response.text()
                status = response.status
                wait_s = _seconds(response.headers.get("Retry-After", ""))
        except TimeoutError:
            status, text = 0, f"no answer within {attempt_s:.1f} s"
        except (aiohttp.ClientError, OSError) as exc:
            status, text = 0, str(exc) or type(exc).__name__
        except asyncio.CancelledError:
            self._breaker.gave_up()
            raise
        if status not in RETRIABLE and status != 0:
            try:
                status = _REPLY.decode(text).head.status
            except msgspec.MsgspecError:
                if status not in {401, 403}:
                    reason = f"HTTP status {status} with something that is no answer of Resonate"
                    status, text = (502 if status < 400 else 0), reason
        if status == 0 or status in RETRIABLE:
            self._breaker.failed(self._clock.monotonic())
        else:
            self._breaker.succeeded()
        return status, text, wait_s

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                auto_decompress=True,
                trust_env=False,
            )
        return self._session


def with_token(req: str, token: str) -> str:
    """Return a request with the token in its head (`head.auth`)."""
    envelope: dict[str, Any] = msgspec.json.decode(req)
    envelope["head"] = {**envelope.get("head", {}), "auth": token}
    return msgspec.json.encode(envelope).decode()


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
