"""Resonate's SDK on the embedded store, in several real processes."""

import asyncio
import base64
import contextlib
import json
import pickle
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from resonate.context import Context
from resonate.error import ApplicationError
from resonate.retry import Never

from capsule_kernel.promises.durable import on_embedded
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.network import EmbeddedConnection

_RUNNER = """
import asyncio, os, sys
from datetime import timedelta
from resonate.context import Context
from capsule_kernel.promises.durable import on_embedded
from capsule_kernel.promises.embedded import EmbeddedPromises

path, effects, pid = sys.argv[1:]

async def step(ctx: Context, number: int) -> int:
    with open(effects, "a") as file:
        file.write(f"{pid} {number}\\n")
    if pid == "first" and number == 2:
        print("in step", number, flush=True)
        await asyncio.sleep(3600)
    return number * 10

async def flow(ctx: Context) -> int:
    return sum([await ctx.run(step, number) for number in range(4)])

async def main() -> None:
    async with EmbeddedPromises(path) as promises:
        async with on_embedded(promises, pid=pid, ttl=timedelta(seconds=1)) as resonate:
            resonate.register(flow)
            handle = resonate.run("nightly-1", flow)
            await handle.id()
            print("result", await handle.result(), flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def runner(path: str, effects: Path, pid: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUNNER, path, str(effects), pid, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(process: Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).strip()


async def child(promises: EmbeddedPromises, root: str) -> str:
    async with asyncio.timeout(30):
        while not (found := await promises.search(prefix=f"{root}:", state="pending")):
            await promises.call(lambda store: store.tick())
    return found[0].id


async def add(ctx: Context, number: int) -> int:
    return number + 1


async def count(ctx: Context, steps: int) -> int:
    total = 0
    for _ in range(steps):
        total = await ctx.run(add, total)
    return total


async def ask(ctx: Context) -> Any:
    return await ctx.promise()


async def test_a_function_runs_its_steps(promises: EmbeddedPromises) -> None:
    async with on_embedded(promises, pid="me") as resonate:
        resonate.register(count)
        handle = resonate.run("run-1", count, 20)
        await handle.id()
        assert await handle.result() == 20
    kept = await promises.search(prefix="run-1:")
    assert len(kept) == 20
    assert {promise.state for promise in kept} == {"resolved"}


async def test_what_was_killed_continues_after_its_last_finished_step(path: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    async with runner(path, effects, "first") as first:
        assert await line(first) == b"in step 2"
        async with runner(path, effects, "second") as second:
            first.kill()
            await first.wait()
            assert await line(second) == b"result 60"
            async with asyncio.timeout(10):
                assert await second.wait() == 0
    assert effects.read_text().splitlines() == ["first 0", "first 1", "first 2", "second 2", "second 3"]


async def test_a_step_that_takes_longer_than_its_lease_runs_once(promises: EmbeddedPromises) -> None:
    runs = []

    async def slow(ctx: Context) -> str:
        runs.append(time.monotonic())
        await asyncio.sleep(1.5)
        return "done"

    async with on_embedded(promises, pid="me", ttl=timedelta(seconds=0.6)) as resonate:
        resonate.register(slow)
        handle = resonate.run("run-1", slow)
        await handle.id()
        assert await handle.result() == "done"
    assert len(runs) == 1


async def test_an_answer_from_elsewhere_resumes_the_function(promises: EmbeddedPromises, path: str) -> None:
    async with on_embedded(promises, pid="me") as resonate:
        resonate.register(ask)
        handle = resonate.run("run-1", ask)
        await handle.id()
        async with EmbeddedPromises(path) as other:
            await other.settle(await child(promises, "run-1"), "resolved", {"text": "Alice"})
        async with asyncio.timeout(30):
            assert await handle.result() == {"text": "Alice"}


async def test_a_pickle_in_a_rejection_is_not_loaded(promises: EmbeddedPromises, tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(trace), "w")

    payload = base64.b64encode(pickle.dumps(Bomb())).decode()
    hidden = '{"__type": "error", "message": "no", "\\u005f_py_pickle": "%s"}' % payload  # noqa: UP031 - braces
    async with on_embedded(promises, pid="me") as resonate:
        resonate.register(ask)
        for number, text in enumerate((hidden, hidden.replace("\\u005f", "_"))):
            handle = resonate.run(f"run-{number}", ask)
            await handle.id()
            data = base64.b64encode(text.encode()).decode()
            value = {"id": await child(promises, f"run-{number}"), "state": "rejected", "value": {"data": data}}
            await send(promises, "promise.settle", value)
            with pytest.raises(ApplicationError, match="no"):
                await handle.result()
    assert not trace.exists()


async def test_our_own_rejections_hold_no_pickle(promises: EmbeddedPromises) -> None:
    async def fail(ctx: Context) -> None:
        raise ValueError("broken")

    async with on_embedded(promises, pid="me") as resonate:
        resonate.register(fail, name="fail-once", retry_policy=Never())
        handle = resonate.run("run-1", "fail-once")
        await handle.id()
        with pytest.raises(ApplicationError, match="broken"):
            await handle.result()
    promise = await promises.get("run-1")
    assert promise is not None
    assert promise.value_data() == {"__type": "error", "message": "broken"}


async def test_the_end_does_not_wait_for_a_step(promises: EmbeddedPromises) -> None:
    begun = asyncio.Event()

    async def endless(ctx: Context) -> None:
        begun.set()
        await asyncio.sleep(3600)

    functions = on_embedded(promises, pid="me")
    async with functions as resonate:
        resonate.register(endless)
        resonate.run("run-1", endless)
        async with asyncio.timeout(30):
            await begun.wait()
        start = time.monotonic()
    assert time.monotonic() - start < 2.5


async def send(promises: EmbeddedPromises, kind: str, data: dict[str, Any]) -> str:
    connection = EmbeddedConnection(promises, pid="test")
    return await connection.send(json.dumps({"kind": kind, "head": {"corrId": "1"}, "data": data}))


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("promise.get", {}, 400),
        ("promise.create", {"id": 3}, 400),
        ("promise.settle", {"id": "a", "state": "done"}, 400),
        ("schedule.create", {"id": "a"}, 400),
        ("promise.get", {"id": "missing"}, 404),
        ("task.acquire", {"id": "missing", "version": 0, "pid": "me", "ttl": 0}, 400),
    ],
)
async def test_a_bad_request_gets_a_status(
    promises: EmbeddedPromises, kind: str, data: dict[str, Any], status: int
) -> None:
    answer = await send(promises, kind, data)
    assert f'"status":{status}' in answer
    assert f'"kind":"{kind}"' in answer
