"""Starts kernels for a test and ends them afterwards, with everything that descends from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .client import Client
from .process import UNDER_TEST, KernelProcess

if TYPE_CHECKING:
    from pathlib import Path


def only_capsule(reason: str) -> pytest.MarkDecorator:
    """Mark what ipykernel cannot do, for the times when the suite itself is checked against ipykernel."""
    return pytest.mark.skipif(UNDER_TEST != "capsule", reason=f"only Capsule: {reason}")


class KernelStarter:
    """Starts kernels in a test's own folder and ends them afterwards."""

    def __init__(self, directory: Path) -> None:
        """Kernels get the folders kernel0, kernel1, ... under the directory."""
        self.directory = directory
        self.processes: list[KernelProcess] = []
        self.clients: list[Client] = []

    def process(self, *args: str, **kw: Any) -> KernelProcess:
        """Start a kernel without a client."""
        process = KernelProcess.start(self.directory / f"kernel{len(self.processes)}", *args, **kw)
        self.processes.append(process)
        return process

    def __call__(self, *args: str, **kw: Any) -> Client:
        """Start a kernel and connect to it."""
        return self.connect(self.process(*args, **kw))

    def connect(self, process: KernelProcess) -> Client:
        """Connect one more client to a kernel."""
        client = Client(process)
        self.clients.append(client)
        return client.connect()

    def stop(self) -> None:
        """Shut every kernel down; fails if one does not go or leaves a process behind."""
        problems = []
        for process in self.processes:
            clients = [client for client in self.clients if client.process is process and client.healthy]
            try:
                if process.is_alive() and clients and clients[0].is_open():
                    clients[0].shutdown()
                    process.wait_exit()
                    process.wait_gone()
            except AssertionError as exc:
                problems.append(str(exc))
            finally:
                process.destroy()
        for client in self.clients:
            client.close()
        assert not problems, "\n".join(problems)
