"""Durable functions: Resonate's SDK, set up so that what is known to break it cannot.

Pickles are taken off (`plain`), heartbeats are grouped (`heartbeat`), no variable of the environment redirects it, and
its end has a deadline. Importing this module imports the SDK: half a second, 36 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from resonate.resonate import Resonate
from resonate_base import ConnectorError, Network, ResonateError, Source

from capsule_kernel.errors import FunctionStopped, PromisesUnavailable
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.heartbeat import GroupedHeartbeat
from capsule_kernel.promises.http import HttpNetwork
from capsule_kernel.promises.network import EmbeddedConnection
from capsule_kernel.promises.plain import Encryptor, PlainValues
from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.sse import SseSource

_LOG = logging.getLogger(__name__)
_BEATS_PER_TTL = 3
_REFRESH_S = 10.0
_STOP_S = 1.5


class DurableFunctions:
    """A running `Resonate`, to be used with `async with`.

    Attributes:
        resonate: the SDK's object: `register`, `run`, `rpc`, ….

    Args:
        network: carries requests.
        source: brings messages.
        group: the group whose work this process takes.
        pid: this process, as holder of tasks; the same that network and source were given.
        ttl: how long a task stays held when this process dies.
        encryptor: encrypts values.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        *,
        group: str,
        pid: str,
        ttl: timedelta = timedelta(seconds=30),
        encryptor: Encryptor | None = None,
    ) -> None:
        logger = logging.getLogger("resonate")
        if not logger.handlers:
            # What the SDK logs is for who asks for it: without a handler anywhere Python would write it to stderr.
            logger.addHandler(logging.NullHandler())
        self._connections: list[Network | Source] = list(dict.fromkeys([source, network]))
        self._heartbeat = GroupedHeartbeat(
            network.send, pid=pid, interval_s=ttl.total_seconds() / _BEATS_PER_TTL, report=_LOG.warning
        )
        self.resonate = Resonate(
            network=network,
            sources=[source],
            group=group,
            pid=pid,
            ttl=ttl,
            encryptor=PlainValues(encryptor),
            heartbeat=self._heartbeat,
            subscription_refresh_secs=_REFRESH_S,
            env={},
            autostart=False,
        )

    async def __aenter__(self) -> Resonate:
        return self.resonate.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def begin(self, promise_id: str, name: str, function: Callable[..., Any]) -> None:
        """Run a function, whose promise there is already, from now on.

        Args:
            promise_id: the promise.
            name: the function's name, as in the promise.
            function: takes the SDK's context.

        Raises:
            FunctionStopped: it cannot be begun: the promise is not that of a function, for example.
            PromisesUnavailable: the store or server cannot be used now.
        """
        self.resonate.start()
        self.resonate.register(function, name=name)
        try:
            await self.resonate.run(promise_id, name).id()
        except ConnectorError as exc:
            raise PromisesUnavailable(promise_id, str(exc)) from exc
        except ResonateError as exc:
            raise FunctionStopped(promise_id, str(exc)) from exc

    async def stop(self) -> None:
        """End within 2 s: steps that still run are cancelled, and taken up by whoever holds their task next."""
        try:
            async with asyncio.timeout(_STOP_S):
                await self.resonate.stop()
        except TimeoutError:
            _LOG.warning("durable functions still ran at the end: they were cancelled")
        finally:
            self._heartbeat.shutdown()
            for connection in self._connections:
                with contextlib.suppress(ResonateError, TimeoutError):
                    async with asyncio.timeout(_STOP_S / 4):
                        await connection.stop()


async def on_remote(
    promises: RemotePromises, *, group: str = "default", pid: str, ttl: timedelta = timedelta(seconds=30)
) -> DurableFunctions:
    """Return durable functions on a Resonate server, over connections of their own.

    Raises:
        PromisesUnavailable: it cannot be reached, or its rules do not fit the SDK's; the text says which.
        PromiseRejected: it refuses the token.
    """
    await promises.probe()
    network = HttpNetwork(promises.url, promises.token)
    source = SseSource(promises.url, promises.token, group=group, pid=pid)
    return DurableFunctions(network, source, group=group, pid=pid, ttl=ttl)


def on_embedded(
    promises: EmbeddedPromises,
    *,
    group: str = "default",
    pid: str,
    ttl: timedelta = timedelta(seconds=30),
    is_durable: bool = False,
) -> DurableFunctions:
    """Return durable functions on the embedded store (see `EmbeddedConnection`)."""
    connection = EmbeddedConnection(promises, group=group, pid=pid, is_durable=is_durable)
    return DurableFunctions(connection, connection, group=group, pid=pid, ttl=ttl)
