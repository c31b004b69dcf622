"""Durable functions whose steps are done elsewhere, on each kind of store."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from capsule_kernel.errors import FunctionStopped, TaskHeld
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.client import Promises
from capsule_kernel.promises.durable import on_embedded
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.invocation import arguments_of, invocation_param, invocation_tags
from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.sequence import DurableSequence
from tests.promises.resonate_server import running_server
from tests.promises.stand_in import StandIn


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("resonate"), "--messages-poll-interval", "10") as url:
        yield url


@pytest.fixture(params=["embedded", "stand-in", "server"])
async def promises(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Promises]:
    async with contextlib.AsyncExitStack() as stack:
        match request.param:
            case "embedded":
                yield await stack.enter_async_context(EmbeddedPromises(str(tmp_path / "promises.sqlite3")))
            case "stand-in":
                double = await stack.enter_async_context(StandIn())
                yield await stack.enter_async_context(RemotePromises(double.url))
            case _:
                yield await stack.enter_async_context(RemotePromises(request.getfixturevalue("url")))


async def root(promises: Promises) -> str:
    """Make a function's promise."""
    run_id = f"run-{time.time_ns()}"
    tags = invocation_tags(run_id, promises.address_of(run_id))
    await promises.create(run_id, invocation_param("work", notebook="n.ipynb"), kind="run", tags=tags)
    return run_id


def sequence(promises: Promises, run_id: str, *, total: int = 3, pid: str = "one", over: str = "") -> DurableSequence:
    return DurableSequence(
        promises,
        run_id,
        group=run_id,
        function="work",
        total=total,
        pid=pid,
        is_over=lambda other: other == over,
        is_durable=False,
    )


@contextlib.asynccontextmanager
async def running(found: DurableSequence) -> AsyncIterator[DurableSequence]:
    try:
        async with asyncio.timeout(30):
            await found.start()
            yield found
    finally:
        await found.stop()


async def test_steps_are_kept_and_the_function_returns(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        for index in range(3):
            assert await work.begin(index) is None
            kept = await promises.get(f"{run_id}:{index + 1}")
            assert kept is not None
            assert kept.is_pending
            assert await work.finish(index, {"cell": index}) == {"cell": index}
            kept = await promises.get(f"{run_id}:{index + 1}")
            assert kept is not None
            assert (kept.state, kept.value_data()) == ("resolved", {"cell": index})
        await work.end()
    promise = await promises.get(run_id)
    assert promise is not None
    assert (promise.state, promise.value_data()) == ("resolved", {"v": 1, "status": "ok"})
    assert arguments_of(promise) == {"notebook": "n.ipynb"}


async def test_whoever_goes_on_has_what_was_finished(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        await work.finish(0, "first")
        await work.begin(1)
    # Who lets go has it no longer: nobody has to wait for its lease.
    async with running(sequence(promises, run_id, pid="two")) as work:
        assert await work.begin(0) == "first"
        assert await work.finish(0, "not again") == "first"
        assert await work.begin(1) is None
        await work.finish(1, "second")
        await work.finish(2, "third")
        await work.end()
    kept = await promises.search(prefix=f"{run_id}:")
    assert [promise.value_data() for promise in kept] == ["first", "second", "third"]


async def test_one_process_goes_on_with_what_it_let_go_of(promises: Promises) -> None:
    run_id = await root(promises)
    for attempt in range(3):
        async with running(sequence(promises, run_id)) as work:
            assert await work.begin(0) == (None if attempt == 0 else "first")
            await work.finish(0, "first")
            await work.begin(1)


async def test_who_is_taken_for_dead_and_is_not_can_keep_nothing_any_more(tmp_path: Path) -> None:
    async with EmbeddedPromises(str(tmp_path / "promises.sqlite3")) as promises:
        run_id = await root(promises)
        async with running(sequence(promises, run_id)) as slow:
            await slow.begin(0)
            task = (await promises.apply([rq.TaskGet(id=run_id)]))[0].data["task"]
            release = rq.TaskRelease(id=run_id, version=task["version"])
            # In one transaction: the group of the first hears of it, and would be sooner.
            acquire = rq.TaskAcquire(id=run_id, version=task["version"], pid="two", ttl=60_000)
            taken = await promises.apply([release, acquire])
            assert [outcome.status for outcome in taken] == [200, 200]
            with pytest.raises(TaskHeld, match="is run by two"):
                await slow.finish(0, "too late")
        kept = await promises.get(f"{run_id}:1")
        assert kept is not None
        assert kept.is_pending


async def test_what_somebody_cancels_stops_at_once(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        await work.finish(0, "first")
        await work.begin(1)
        await promises.settle(run_id, "rejected_canceled")
        with pytest.raises(FunctionStopped, match="canceled"):
            await work.finish(1, "second")
        with pytest.raises(FunctionStopped, match="canceled"):
            await work.end()


async def test_a_step_that_somebody_else_settles_is_not_the_end_of_the_function(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        await work.begin(0)
        await promises.settle(f"{run_id}:1", "rejected_canceled")
        with pytest.raises(FunctionStopped, match=f"{run_id}:1 does not go on"):
            await work.finish(0, "first")
    found = await promises.get(run_id)
    assert found is not None
    assert found.is_pending


async def test_steps_may_be_added(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id, total=1)) as work:
        await work.begin(0)
    async with running(sequence(promises, run_id, total=2, pid="two")) as work:
        await work.finish(0, "first")
        await work.finish(1, "second")
        await work.end()


async def test_two_processes_do_not_run_one_function(promises: Promises) -> None:
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        await work.begin(0)
        other = sequence(promises, run_id, pid="two")
        with pytest.raises(TaskHeld, match="is run by one"):
            await other.start()
        await other.stop()
        await work.finish(0, "mine")


# The SDK's in-memory server lets a holder of long ago give the task back.
@pytest.mark.parametrize("promises", ["embedded", "server"], indirect=True)
async def test_a_task_that_was_lost_on_the_way_is_taken_again(promises: Promises) -> None:
    """As when the machine slept for longer than the lease."""
    run_id = await root(promises)
    async with running(sequence(promises, run_id)) as work:
        await work.finish(0, "first")
        await work.begin(1)
        assert await promises.free_task(run_id, lambda pid: pid == "one") == ""
        await work.finish(1, "second")
        await work.finish(2, "third")
        await work.end()


async def test_the_sdk_reads_how_it_ended(tmp_path: Path) -> None:
    async with EmbeddedPromises(str(tmp_path / "promises.sqlite3")) as promises:
        run_id = await root(promises)
        async with running(sequence(promises, run_id, total=1)) as work:
            await work.finish(0, "done")
            await work.end()
        async with on_embedded(promises, pid="reader") as resonate:
            assert await (await resonate.get(run_id)).result() == {"v": 1, "status": "ok"}


async def test_nobody_holds_what_is_not_there(promises: Promises) -> None:
    assert await promises.free_task("nothing", lambda _pid: True) == ""


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20])
async def test_a_stop_in_the_middle_of_the_start_leaves_nothing(promises: Promises, steps: int) -> None:
    run_id = await root(promises)
    work = sequence(promises, run_id)
    await work.start()
    for _ in range(steps):
        await asyncio.sleep(0)
    await work.stop()
    async with running(sequence(promises, run_id, pid="two")) as other:
        await other.finish(0, "first")


# The SDK's in-memory server says that it was run.
@pytest.mark.parametrize("promises", ["embedded", "server"], indirect=True)
async def test_what_is_no_run_of_the_function_is_named(promises: Promises) -> None:
    run_id = f"run-{time.time_ns()}"
    await promises.create(run_id)
    async with running(sequence(promises, run_id)) as work:
        with pytest.raises(FunctionStopped, match=run_id):
            await work.begin(0)
