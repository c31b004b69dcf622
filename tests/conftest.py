"""Fixtures for tests of the whole kernel: real processes with deadlines, and nothing left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .kernel.client import Client
from .kernel.starter import KernelStarter

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Strictness is a part of the test: a message that it did not assert fails it."""
    result = yield
    for client in clients_of(pyfuncitem):
        client.finish()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its kernels wrote to their own standard streams."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for client in clients_of(item):
            client.healthy = False
            report.sections.append((f"kernel {client.process.pid}", client.process.log()))
    return report


def clients_of(item: pytest.Function) -> list[Client]:
    """The clients among a test's fixtures, those that `start_kernel` made included."""
    clients = [value for value in item.funcargs.values() if isinstance(value, Client)]
    maker = item.funcargs.get("start_kernel")
    return clients + [client for client in getattr(maker, "clients", []) if client not in clients]


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[KernelStarter]:
    """Start a kernel with arguments or an environment of one's own; ended after the test."""
    starter = KernelStarter(tmp_path)
    yield starter
    starter.stop()


@pytest.fixture
def kernel(start_kernel: KernelStarter) -> Client:
    """A fresh kernel."""
    return start_kernel()


@pytest.fixture(scope="module")
def _module_starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelStarter]:
    starter = KernelStarter(tmp_path_factory.mktemp("shared"))
    yield starter
    starter.stop()


@pytest.fixture
def shared_kernel(_module_starter: KernelStarter, request: pytest.FixtureRequest) -> Client:
    """One kernel for a module's cheap tests, with the module's KERNEL_ARGS; replaced after a test that failed."""
    clients = _module_starter.clients
    if clients and clients[-1].healthy and clients[-1].process.is_alive():
        return clients[-1]
    return _module_starter(*getattr(request.module, "KERNEL_ARGS", ()))


@pytest.fixture(scope="session", autouse=True)
def own_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep promises and checkpoints of kernels that commands start out of the folders of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSULE_PROMISES_FILE", str(folder / "promises.sqlite3"))
        patch.setenv("CAPSULE_CHECKPOINTS", str(folder / "checkpoints"))
        yield
