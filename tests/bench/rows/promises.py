"""Promises in the embedded store: what each costs, how soon another process is awake, what many of them cost a start.

Capsule only: the peers have none.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from capsule_kernel.clock import Clock
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.notes import creation, settling
from capsule_kernel.promises.store import Store
from tests.bench.client import Client
from tests.bench.kernels import CAPSULE
from tests.bench.process import KernelProcess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from resonate.context import Context

    from tests.bench.run import Run

_OPERATIONS = 1000
_WAKES = 100
_CELLS = 100
_STEPS = 200
_MANY = 100_000
_WAITER = """
import asyncio, sys, time
from capsule_kernel.promises.embedded import EmbeddedPromises

async def main() -> None:
    async with EmbeddedPromises(sys.argv[1]) as promises:
        for number in range(int(sys.argv[2])):
            waiting = asyncio.create_task(promises.wait(f"question-{number}", 60))
            await promises.get("ready")
            await promises.settle(f"ready-{number}", "resolved")
            await waiting
            awake_ns = time.monotonic_ns()
            await promises.settle(f"answer-{number}", "resolved", awake_ns)

asyncio.run(main())
"""


def measure_store(run: Run) -> None:
    """The store alone, over its asynchronous face."""
    if CAPSULE in run.kernels:
        asyncio.run(_measure_store(run, run.scratch.cwd / "bench-promises"))


async def _measure_store(run: Run, folder: Path) -> None:
    for round_ in range(run.few_rounds):
        path = str(folder / f"{time.monotonic_ns()}.sqlite3")
        async with EmbeddedPromises(path) as promises:
            await promises.get("opened")

            async def timed(name: str, count: int, operation: Callable[[int], Awaitable[Any]]) -> None:
                samples = []
                for number in range(count):
                    start = time.perf_counter()
                    await operation(number)
                    samples.append((time.perf_counter() - start) * 1000)
                run.record(CAPSULE, name, statistics.median(samples))

            async def cycle(number: int) -> None:
                await promises.create(f"cycle-{number}", {"prompt": "?"}, kind="input")
                waiting = asyncio.create_task(promises.wait(f"cycle-{number}", 60))
                await asyncio.sleep(0)
                await promises.settle(f"cycle-{number}", "resolved", "yes")
                await waiting

            async def note(number: int) -> None:
                promises.note_create(f"exec:note-{number}", {"v": 1}, kind="exec")
                promises.note_settle(f"exec:note-{number}", "resolved", {"v": 1, "status": "ok"})

            await timed("promise_create", _OPERATIONS, lambda n: promises.create(f"exec:k-{n}", {"v": 1}, kind="exec"))
            await timed("promise_settle", _OPERATIONS, lambda n: promises.settle(f"exec:k-{n}", "resolved", {"v": 1}))
            await timed("promise_cycle", _OPERATIONS // 2, cycle)
            await timed("promise_note", _OPERATIONS, note)
            if run.is_wanted("promise_wake"):
                run.record(CAPSULE, "promise_wake", statistics.median(await _wakes(promises)))
            if run.is_wanted("promise_step", "promise_step_last"):
                steps = await _steps(promises, f"run-{round_}")
                run.record(CAPSULE, "promise_step", statistics.median(steps))
                run.record(CAPSULE, "promise_step_last", statistics.median(steps[-20:]))


async def _wakes(promises: EmbeddedPromises) -> list[float]:
    """Milliseconds from just before a settlement to the other process's being awake, on the machine's one clock."""
    for number in range(_WAKES):
        for kind in ("question", "ready", "answer"):
            await promises.create(f"{kind}-{number}")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _WAITER, promises.path, str(_WAKES))
    samples = []
    try:
        for number in range(_WAKES):
            await promises.wait(f"ready-{number}", 60)
            await asyncio.sleep(0.005)  # it waits, and is at rest
            start_ns = time.monotonic_ns()
            await promises.settle(f"question-{number}", "resolved", "yes")
            awake_ns = (await promises.wait(f"answer-{number}", 60)).value_data()
            samples.append((awake_ns - start_ns) / 1e6)
    finally:
        if process.returncode is None:
            async with asyncio.timeout(30):
                await process.wait()
    return samples


async def _steps(promises: EmbeddedPromises, run_id: str) -> list[float]:
    from capsule_kernel.promises.durable import on_embedded

    samples = []

    async def step(ctx: Context, number: int) -> int:
        return number

    async def flow(ctx: Context) -> None:
        for number in range(_STEPS):
            start = time.perf_counter()
            await ctx.run(step, number)
            samples.append((time.perf_counter() - start) * 1000)

    async with on_embedded(promises, pid="bench") as resonate:
        resonate.register(flow)
        handle = resonate.run(run_id, flow)
        await handle.id()
        await handle.result()
    return samples


def measure_cell(run: Run) -> None:
    """What recording adds to a small cell: two kernels in turn, one of which records."""
    if CAPSULE not in run.kernels:
        return
    file = run.scratch.root / "cells.sqlite3"
    recording = CAPSULE.with_arguments(f"--CapsuleKernel.promises_file={file}")
    silent = CAPSULE.with_arguments("--CapsuleKernel.durability=off")
    with run.attempt(CAPSULE, "promise_cell"), run.client(recording) as first, run.client(silent) as second:
        for _ in range(run.rounds):
            took_ms: dict[str, list[float]] = {"recording": [], "silent": []}
            for _ in range(_CELLS):
                took_ms["recording"].append(first.execute(run.tag("x = 1+1")) * 1000)
                took_ms["silent"].append(second.execute(run.tag("x = 1+1")) * 1000)
            run.record(
                CAPSULE, "promise_cell", statistics.median(took_ms["recording"]) - statistics.median(took_ms["silent"])
            )


def measure_start(run: Run) -> None:
    """Opening a file with many promises; and launch to first execution with it and with an empty one, in turn.

    The latter is the difference of two starts, each of which a busy machine moves by a tenth of a second.
    """
    if CAPSULE not in run.kernels:
        return
    folder = run.scratch.cwd / "bench-promises"
    full, empty = str(folder / "full.sqlite3"), str(folder / "empty.sqlite3")
    _fill(full)
    for _ in range(run.rounds):
        run.record(CAPSULE, "promises_open", asyncio.run(_open_ms(full)))
    for round_ in range(run.rounds):
        with run.attempt(CAPSULE, "promises_start"):
            paths = (full, empty) if round_ % 2 else (empty, full)
            took_ms = {path: _start_ms(run, path) for path in paths}
            run.record(CAPSULE, "promises_start", took_ms[full] - took_ms[empty])


async def _open_ms(path: str) -> float:
    """Milliseconds to open a file, find what is pending in it, and create a promise, as a kernel does."""
    start = time.perf_counter()
    async with EmbeddedPromises(path) as promises:
        pending = await promises.search(kind="exec", state="pending")
        await promises.create("opened", kind="test")
        took_ms = (time.perf_counter() - start) * 1000
    assert pending == []
    return took_ms


def _fill(path: str) -> None:
    store = Store(path, Clock())
    try:
        for start in range(0, _MANY, 1000):
            names = [f"exec:earlier-{number}" for number in range(start, start + 1000)]
            store.apply([creation(name, {"v": 1, "code_sha256": "0" * 64}, "exec", None, None) for name in names])
            store.apply([settling(name, "resolved", {"v": 1, "status": "ok"}) for name in names])
    finally:
        store.close()


def _start_ms(run: Run, path: str) -> float:
    kernel = CAPSULE.with_arguments(f"--CapsuleKernel.promises_file={path}")
    with KernelProcess(kernel, run.scratch) as process, Client(process) as client:
        start = time.perf_counter()
        process.start()
        client.wait_reply(client.shell, client.send_execute(run.tag("x = 1")))
        return (time.perf_counter() - start) * 1000
