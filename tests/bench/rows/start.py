"""Starting and restarting: by a raw client, and by jupyter_client as notebooks are started."""

from __future__ import annotations

import time
from contextlib import contextmanager
from subprocess import DEVNULL
from typing import TYPE_CHECKING

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.bench.client import Client
from tests.bench.process import KernelError, KernelProcess, kill_marked, mark_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking.client import BlockingKernelClient

    from tests.bench.kernels import Kernel
    from tests.bench.run import Run

_DEADLINE_S = 30.0
_READY = ("wait_for_ready", "first_execution", "restart")


def measure_launch(run: Run) -> None:
    """From just before the process is launched to the kernel_info_reply on control.

    The client retries its connection every millisecond, so that libzmq's reconnect interval is not what is measured.
    """
    for _, kernel in run.interleaved(run.rounds):
        if not run.has_failed(kernel, "launch"):
            with (
                run.attempt(kernel, "launch"),
                KernelProcess(kernel, run.scratch) as process,
                Client(process) as client,
            ):
                start = time.perf_counter()
                process.start()
                msg_id = client.send(client.control, "kernel_info_request")
                client.wait_reply(client.control, msg_id)
                run.record(kernel, "launch", (time.perf_counter() - start) * 1000)


def measure_ready(run: Run) -> None:
    """wait_for_ready, the first cell and restart, by jupyter_client (its own 0.2 s of flushing included)."""
    for _, kernel in run.interleaved(run.rounds):
        if not run.has_failed(kernel, *_READY):
            with run.attempt(kernel, *_READY):
                _measure_one_start(run, kernel)


def _measure_one_start(run: Run, kernel: Kernel) -> None:
    with _managed(run, kernel) as manager:
        start = time.perf_counter()
        manager.start_kernel(cwd=str(run.scratch.cwd), stdout=DEVNULL, stderr=DEVNULL)
        client = manager.blocking_client()
        client.start_channels()
        try:
            _wait_ready(client)
            run.record(kernel, "wait_for_ready", (time.perf_counter() - start) * 1000)
            _execute(client, run.tag("x = 1"))
            run.record(kernel, "first_execution", (time.perf_counter() - start) * 1000)
            if run.is_wanted("restart"):
                start = time.perf_counter()
                manager.restart_kernel(now=False)
                _wait_ready(client)
                run.record(kernel, "restart", (time.perf_counter() - start) * 1000)
        finally:
            client.stop_channels()


@contextmanager
def _managed(run: Run, kernel: Kernel) -> Iterator[KernelManager]:
    """A KernelManager for the kernel's command; every process it started is ended at exit."""
    mark, environment = mark_environment(run.scratch.environment(kernel))
    spec = KernelSpec(
        argv=list(kernel.argv),
        display_name=kernel.name,
        language="python",
        interrupt_mode=kernel.interrupt_mode,
        env=environment,
    )
    manager = KernelManager(kernel_name=kernel.name, kernel_spec_manager=_OneSpec(spec))
    try:
        yield manager
    finally:
        kill_marked(mark)
        manager.cleanup_resources()


class _OneSpec(KernelSpecManager):
    """Knows one kernel, whether it is installed or not."""

    def __init__(self, spec: KernelSpec) -> None:
        super().__init__()
        self._spec = spec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        del kernel_name
        return self._spec


def _wait_ready(client: BlockingKernelClient) -> None:
    try:
        client.wait_for_ready(timeout=_DEADLINE_S)
    except RuntimeError as exc:
        raise KernelError(str(exc)) from exc


def _execute(client: BlockingKernelClient, code: str) -> None:
    """Execute, and wait for idle and reply."""
    reply = client.execute_interactive(code, timeout=_DEADLINE_S, allow_stdin=False)
    if reply["content"]["status"] != "ok":
        msg = f"{code!r} failed: {reply['content']}"
        raise KernelError(msg)
