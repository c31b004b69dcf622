"""Small cells: one at a time, and many queued at once."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench.run import no_collection

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.kernels import Kernel
    from tests.bench.run import Run

CELLS = {
    "exec_assign": "x = 1+1",
    "exec_expr": "1+1",
    "exec_print": "print(1)",
    "exec_await": "await asyncio.sleep(0)",
}
BLOCK = 100
WARM_UP = 30


def measure_cells(run: Run) -> None:
    """Request → idle, with reply and idle received, in blocks that alternate between the kernels."""
    wanted = {name: code for name, code in CELLS.items() if run.is_wanted(name)}
    with ExitStack() as stack:
        clients = _start_all(run, stack, *wanted)
        for kernel, client in clients.items():
            with run.attempt(kernel, *wanted):
                client.execute_ok("import asyncio")
                for code in wanted.values():
                    for _ in range(WARM_UP):
                        client.execute(run.tag(code))
        for _, kernel in run.interleaved(run.rounds):
            for name, code in wanted.items():
                if kernel in clients and not run.has_failed(kernel, name):
                    with run.attempt(kernel, name), no_collection():
                        samples = [clients[kernel].execute(run.tag(code)) * 1000 for _ in range(BLOCK)]
                        run.record(kernel, name, *samples)


def measure_pipelined(run: Run) -> None:
    """Operations per second of requests that were sent all at once, up to the last reply and the last idle."""
    count = 300 if run.quick else 1000
    with ExitStack() as stack:
        clients = _start_all(run, stack, "pipelined")
        for _, kernel in run.interleaved(run.few_rounds):
            if kernel in clients and not run.has_failed(kernel, "pipelined"):
                with run.attempt(kernel, "pipelined"), no_collection():
                    cells = [run.tag("x = 1+1") for _ in range(count)]
                    run.record(kernel, "pipelined", count / _pipeline(clients[kernel], cells))


def _pipeline(client: Client, cells: list[str]) -> float:
    start = time.perf_counter()
    ids = [client.send_execute(code) for code in cells]
    # Requests are executed in order: the last one's idle and reply end them all.
    client.wait_idle(ids[-1], start + 60)
    client.wait_reply(client.shell, ids[-1], start + 60)
    return time.perf_counter() - start


def _start_all(run: Run, stack: ExitStack, *names: str) -> dict[Kernel, Client]:
    clients = {}
    for kernel in run.kernels:
        with run.attempt(kernel, *names):
            clients[kernel] = stack.enter_context(run.client(kernel))
    return clients
