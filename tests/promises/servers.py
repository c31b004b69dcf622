"""Servers for processes under test, which go away and come back: the SDK's in-memory one behind a real one's wire, or a
real one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from tests.kernel.exchange import DEADLINE_S
from tests.kernel.process import free_ports
from tests.promises.resonate_server import server_binary, start_server
from tests.promises.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server(Protocol):
    url: str

    def start(self) -> None:
        """Serve."""

    def stop(self) -> None:
        """Go away; what is kept stays."""


class Double:
    """The stand-in, on a thread and loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = StandIn()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(DEADLINE_S)
        self.url = self._server.url

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(DEADLINE_S)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()


class Real:
    """A real server, which is killed and started again on its file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = start_server(self._folder, self._port)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_S)


KINDS = ("double", "real")


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    """Run a server of a kind; skips where there is none."""
    if kind == "real":
        server_binary()
        real = Real(folder)
        real.start()
        try:
            yield real
        finally:
            real.stop()
        return
    double = Double()
    try:
        double.start()
        yield double
    finally:
        double.close()
