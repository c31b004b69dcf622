"""jupyter_client's ways with a kernel: start, restart, interrupt, shut down, kill, watch it die."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.manager import KernelManager

    from .jupyter import Installed


@pytest.fixture
def manager(installed: Installed) -> Iterator[KernelManager]:
    manager = installed.manager()
    manager.start_kernel(env=installed.environment, cwd=str(installed.directory))
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.fixture
def client(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    yield client
    client.stop_channels()


def run(client: BlockingKernelClient, code: str, **kw: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The reply's content and the outputs."""
    outputs: list[dict[str, Any]] = []
    reply = client.execute_interactive(code, timeout=20, output_hook=outputs.append, **kw)
    return reply["content"], [m for m in outputs if m["msg_type"] not in {"status", "execute_input"}]


def result_of(client: BlockingKernelClient, expression: str) -> str:
    _, outputs = run(client, expression)
    return str(outputs[-1]["content"]["data"]["text/plain"])


def test_a_cell_runs(client: BlockingKernelClient) -> None:
    assert result_of(client, "6 * 7") == "42"


@pytest.mark.parametrize("now", [False, True])
def test_a_restart_gives_a_fresh_kernel_on_the_same_connection(
    now: bool, manager: KernelManager, client: BlockingKernelClient
) -> None:
    run(client, "gone = 1")
    manager.restart_kernel(now=now)
    client.wait_for_ready(timeout=30)
    assert run(client, "gone")[0]["ename"] == "NameError"
    assert run(client, "pass")[0]["execution_count"] == 2


@only_capsule("ipykernel waits for the cell")
@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "sum(range(10**13))", "while True: pass"])
def test_a_restart_during_a_cell_works(code: str, manager: KernelManager, client: BlockingKernelClient) -> None:
    client.execute(code)
    # Only when it runs is a restart a restart during a cell.
    while client.get_iopub_msg(timeout=10)["msg_type"] != "execute_input":
        pass
    manager.restart_kernel(now=False)
    client.wait_for_ready(timeout=30)
    assert result_of(client, "6 * 7") == "42"


def test_the_manager_interrupts(manager: KernelManager, client: BlockingKernelClient) -> None:
    client.execute("import time\nprint('running', flush=True)\ntime.sleep(600)")
    while client.get_iopub_msg(timeout=10)["msg_type"] != "stream":
        pass
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=10)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    while client.get_iopub_msg(timeout=10)["content"].get("execution_state") != "idle":
        pass
    assert result_of(client, "6 * 7") == "42"


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_shutdown_leaves_nothing(now: bool, busy: bool, manager: KernelManager, client: BlockingKernelClient) -> None:
    if busy:
        client.execute("import time\nprint('running', flush=True)\ntime.sleep(600)")
        while client.get_iopub_msg(timeout=10)["msg_type"] != "stream":
            pass
    manager.shutdown_kernel(now=now)
    assert not manager.is_alive()


@only_capsule("other kernels die")
def test_the_manager_never_sees_the_kernel_die_with_a_worker(
    manager: KernelManager, client: BlockingKernelClient
) -> None:
    content, outputs = run(client, "import os; os._exit(1)")
    assert content["status"] == "error"
    assert [m["msg_type"] for m in outputs if m["msg_type"] == "error"] == ["error"]
    assert manager.is_alive()
    assert client.is_alive()
    assert result_of(client, "6 * 7") == "42"


def test_stdin_works_through_execute_interactive(client: BlockingKernelClient) -> None:
    def answer(message: dict[str, Any]) -> None:
        client.input(message["content"]["prompt"] + "!")

    outputs: list[dict[str, Any]] = []
    client.execute_interactive(
        "input('echo')", allow_stdin=True, timeout=20, stdin_hook=answer, output_hook=outputs.append
    )
    assert [m["content"]["data"]["text/plain"] for m in outputs if m["msg_type"] == "execute_result"] == ["'echo!'"]
