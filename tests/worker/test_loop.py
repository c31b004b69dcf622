"""The worker's loop: it lives between cells, runs what awaits, and steps aside for code that runs a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from asyncio import events
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any

import anyio
import pytest

from capsule_kernel.worker.loop import CoroutineManager, EventLoopCoordinator, teach_asyncio

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


@pytest.fixture(autouse=True)
def _taught() -> Iterator[None]:
    """Teach asyncio as every worker does, for one test."""
    names: list[tuple[Any, str]] = [
        (asyncio, "get_running_loop"),
        (events, "_get_running_loop"),
        (events, "_set_running_loop"),
    ]
    before = [getattr(module, name) for module, name in names]
    teach_asyncio()
    yield
    for (module, name), value in zip(names, before, strict=True):
        setattr(module, name, value)


@pytest.fixture
def coordinator() -> Iterator[EventLoopCoordinator]:
    made = EventLoopCoordinator()
    yield made
    loop = made.ensure_event_loop()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    asyncio.set_event_loop(None)


def run(coordinator: EventLoopCoordinator, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return coordinator.run(coroutine, on_task=lambda *_: None, cancel=lambda: None)


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# --- one loop -------------------------------------------------------------------------------------------------------


def test_there_is_one_loop_which_is_the_threads_current_one(coordinator: EventLoopCoordinator) -> None:
    loop = coordinator.ensure_event_loop()
    assert coordinator.ensure_event_loop() is loop
    assert asyncio.get_event_loop() is loop
    assert not has_running_loop()


def test_a_loop_that_user_code_closed_is_replaced_and_everybody_told(coordinator: EventLoopCoordinator) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    coordinator.on_new_loop(loops.append)
    first = coordinator.ensure_event_loop()
    first.close()
    second = coordinator.ensure_event_loop()
    assert second is not first
    assert loops == [first, second]
    assert run(coordinator, add(1, 2)) == 3


# --- cells that await -----------------------------------------------------------------------------------------------


def test_a_coroutine_runs_to_its_result_or_its_error(coordinator: EventLoopCoordinator) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ArithmeticError

    assert run(coordinator, add(1, 2)) == 3
    with pytest.raises(ArithmeticError):
        run(coordinator, fail())
    assert run(coordinator, add(3, 4)) == 7


def test_tasks_of_an_earlier_cell_go_on_beside_a_later_one(coordinator: EventLoopCoordinator) -> None:
    seen: list[int] = []
    done = asyncio.Event()

    async def ticker() -> None:
        for number in range(3):
            seen.append(number)
            await asyncio.sleep(0)
        done.set()

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(ticker())

    task = run(coordinator, start())
    assert not task.done()
    run(coordinator, done.wait())
    assert seen == [0, 1, 2]


def test_context_variables_stay_from_cell_to_cell_with_and_without_await(coordinator: EventLoopCoordinator) -> None:
    async def set_and_wait(value: int) -> None:
        await asyncio.sleep(0)
        variable.set(value)

    async def get() -> int:
        return variable.get()

    run(coordinator, set_and_wait(1))
    assert run(coordinator, get()) == 1
    with coordinator.stepping_aside():
        assert coordinator.context.run(variable.get) == 1
        coordinator.context.run(variable.set, 2)
    assert run(coordinator, get()) == 2
    assert variable.get() == 0


def test_who_interrupts_is_told_the_task_and_its_end(coordinator: EventLoopCoordinator) -> None:
    told: list[Any] = []

    async def fail() -> None:
        told.append(asyncio.current_task())
        raise ArithmeticError

    for coroutine in (add(1, 2), fail()):
        with contextlib.suppress(ArithmeticError):
            coordinator.run(coroutine, on_task=lambda task, _: told.append(task), cancel=lambda: None)
    assert told[0].done()
    assert told[1] is None
    assert told[2] is told[3]
    assert told[4] is None


def test_an_interrupt_that_strikes_another_task_cancels_the_cell(coordinator: EventLoopCoordinator) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def struck() -> None:
        raise KeyboardInterrupt

    async def cell() -> None:
        other = asyncio.create_task(struck())
        try:
            await asyncio.Event().wait()
        finally:
            assert isinstance(other.exception(), KeyboardInterrupt)

    def cancel() -> None:
        tasks[0].cancel()

    with pytest.raises(asyncio.CancelledError):
        coordinator.run(cell(), on_task=lambda task, _: tasks.append(task) if task else None, cancel=cancel)
    assert run(coordinator, add(1, 2)) == 3


# --- between cells --------------------------------------------------------------------------------------------------


def test_what_is_there_is_taken_without_running_the_loop(coordinator: EventLoopCoordinator) -> None:
    inbox = deque(["first", "second"])
    assert coordinator.wait(inbox) == "first"
    assert list(inbox) == ["second"]


def test_tasks_run_while_a_message_is_waited_for(coordinator: EventLoopCoordinator) -> None:
    inbox: deque[str] = deque()

    async def deliver() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        inbox.append("message")
        coordinator.wake()

    coordinator.queue_for_async(deliver())
    assert coordinator.wait(inbox) == "message"


def test_a_thread_can_reach_the_loop_that_waits(coordinator: EventLoopCoordinator) -> None:
    coordinator.ensure_event_loop()
    inbox: deque[str] = deque()

    def deliver() -> None:
        inbox.append(threading.current_thread().name)
        coordinator.wake()

    thread = threading.Thread(target=coordinator.call_from_thread, args=(deliver,))
    thread.start()
    assert coordinator.wait(inbox) == threading.main_thread().name
    thread.join()


def test_reaching_a_loop_that_is_not_there_is_no_error() -> None:
    EventLoopCoordinator().call_from_thread(lambda: None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_task_cannot_end_the_wait_by_what_it_raises(
    kind: type[BaseException], coordinator: EventLoopCoordinator
) -> None:
    inbox: deque[str] = deque()
    tasks: list[asyncio.Task[None]] = []

    async def raise_it() -> None:
        raise kind

    async def deliver() -> None:
        tasks.append(asyncio.create_task(raise_it()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        inbox.append("message")
        coordinator.wake()

    coordinator.queue_for_async(deliver())
    assert coordinator.wait(inbox) == "message"
    assert isinstance(tasks[0].exception(), kind)


def test_waking_a_loop_that_does_not_wait_does_not_stop_what_runs(coordinator: EventLoopCoordinator) -> None:
    async def wake_and_go_on() -> int:
        coordinator.wake()
        return await add(1, 2)

    assert run(coordinator, wake_and_go_on()) == 3


# --- the queue ------------------------------------------------------------------------------------------------------


def test_what_is_queued_becomes_tasks_in_order_once(coordinator: EventLoopCoordinator) -> None:
    seen: list[int] = []

    async def note(number: int) -> None:
        seen.append(number)

    for number in range(3):
        coordinator.queue_for_async(note(number))
    assert seen == []
    assert coordinator.flush_queue() == 3
    assert coordinator.flush_queue() == 0
    run(coordinator, add(1, 2))
    assert seen == [0, 1, 2]


def test_what_is_queued_is_not_collected_before_it_ran(coordinator: EventLoopCoordinator) -> None:
    seen: list[str] = []

    async def slow() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        seen.append("done")

    async def wait() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    coordinator.queue_for_async(slow())
    coordinator.flush_queue()
    gc.collect()
    run(coordinator, wait())
    assert seen == ["done"]


def test_a_synchronous_cell_finds_what_is_queued_among_the_tasks(coordinator: EventLoopCoordinator) -> None:
    coordinator.queue_for_async(add(1, 2))
    with coordinator.stepping_aside():
        assert len(asyncio.all_tasks()) == 1


# --- synchronous cells ----------------------------------------------------------------------------------------------


def test_a_synchronous_cell_can_start_tasks_that_run_afterwards(coordinator: EventLoopCoordinator) -> None:
    with coordinator.stepping_aside():
        task = asyncio.create_task(add(1, 2))
        future = asyncio.ensure_future(add(3, 4))
        assert asyncio.get_running_loop() is coordinator.ensure_event_loop()
        assert asyncio.get_event_loop() is coordinator.ensure_event_loop()
    assert not has_running_loop()

    async def wait() -> list[int]:
        return [await task, await future]

    assert run(coordinator, wait()) == [3, 7]


def test_asyncio_run_just_works_as_often_as_one_likes(coordinator: EventLoopCoordinator) -> None:
    loop = coordinator.ensure_event_loop()
    with coordinator.stepping_aside():
        for number in range(3):
            assert asyncio.run(add(number, 1)) == number + 1
            assert asyncio.get_running_loop() is loop
            assert asyncio.get_event_loop() is loop
            task = asyncio.create_task(add(1, 1))
    assert run(coordinator, asyncio.wait_for(task, 10)) == 2


def run_by_asyncio() -> int:
    return asyncio.run(add(1, 2))


def run_by_runner() -> int:
    with asyncio.Runner() as runner:
        return runner.run(add(0, 1)) + runner.run(add(1, 1))


def run_by_the_loop() -> int:
    return asyncio.get_event_loop().run_until_complete(add(1, 2))


def run_by_a_new_loop() -> int:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(add(1, 2))
    finally:
        loop.close()


def run_by_anyio() -> int:
    return anyio.run(add, 1, 2)


def run_by_anyio_in_a_portal() -> int:
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(add, 1, 2)


def run_in_a_thread() -> int:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(add(1, 2))))
    thread.start()
    thread.join()
    return results[0]


WAYS = [
    run_by_asyncio,
    run_by_runner,
    run_by_the_loop,
    run_by_a_new_loop,
    run_by_anyio,
    run_by_anyio_in_a_portal,
    run_in_a_thread,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_runs_a_loop_in_a_synchronous_cell_just_works(way: Any, coordinator: EventLoopCoordinator) -> None:
    loop = coordinator.ensure_event_loop()
    with coordinator.stepping_aside():
        assert [way(), way()] == [3, 3]
        assert asyncio.get_running_loop() is loop
    assert not has_running_loop()
    assert not loop.is_closed()
    assert run(coordinator, add(1, 2)) == 3


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_error_in_a_nested_loop_leaves_everything_as_it_was(way: Any, coordinator: EventLoopCoordinator) -> None:
    async def fail() -> None:
        raise ArithmeticError

    loop = coordinator.ensure_event_loop()

    def cell() -> None:
        with pytest.raises(ArithmeticError):
            asyncio.run(fail())
        assert asyncio.get_running_loop() is loop
        assert way() == 3
        raise ArithmeticError

    with pytest.raises(ArithmeticError), coordinator.stepping_aside():
        cell()
    assert not has_running_loop()
    assert run(coordinator, add(1, 2)) == 3


def test_inside_a_nested_loop_that_one_is_the_running_loop(coordinator: EventLoopCoordinator) -> None:
    async def look() -> tuple[asyncio.AbstractEventLoop, bool]:
        return asyncio.get_running_loop(), asyncio.get_running_loop().is_running()

    with coordinator.stepping_aside():
        nested, is_running = asyncio.run(look())
    assert is_running
    assert nested is not coordinator.ensure_event_loop()


@pytest.mark.parametrize("nested", [asyncio.run, lambda work: asyncio.get_event_loop().run_until_complete(work)])
def test_a_loop_in_a_loop_in_a_cell_is_refused_as_anywhere(nested: Any, coordinator: EventLoopCoordinator) -> None:
    async def nest() -> str:
        work = add(1, 2)
        with pytest.raises(RuntimeError) as refused:
            nested(work)
        work.close()
        return str(refused.value)

    with coordinator.stepping_aside():
        assert "running" in asyncio.run(nest())
    assert "running" in run(coordinator, nest())


def test_other_threads_have_no_running_loop_meanwhile(coordinator: EventLoopCoordinator) -> None:
    found: list[bool] = []
    with coordinator.stepping_aside():
        thread = threading.Thread(target=lambda: found.append(has_running_loop()))
        thread.start()
        thread.join()
    assert found == [False]


def test_a_loop_closed_by_a_synchronous_cell_is_replaced_for_the_next(coordinator: EventLoopCoordinator) -> None:
    with coordinator.stepping_aside():
        asyncio.get_event_loop().close()
    assert not has_running_loop()
    with coordinator.stepping_aside():
        assert run_by_asyncio() == 3
    assert run(coordinator, add(1, 2)) == 3


def test_ipythons_loop_runner_works_from_synchronous_code(coordinator: EventLoopCoordinator) -> None:
    with coordinator.stepping_aside():
        assert coordinator.run_until_complete(add(1, 2)) == 3


# --- forgotten coroutines -------------------------------------------------------------------------------------------


def test_a_coroutine_that_nobody_began_to_await_is_named(coordinator: EventLoopCoordinator) -> None:
    manager = CoroutineManager()
    forgotten, awaited = add(1, 2), add(3, 4)
    manager.track_coroutine(forgotten)  # type: ignore[arg-type]
    manager.track_coroutine(awaited)  # type: ignore[arg-type]
    assert manager.never_awaited() == ["add", "add"]
    run(coordinator, awaited)
    assert manager.never_awaited() == ["add"]
    forgotten.close()
    assert manager.never_awaited() == []


def test_cleaning_up_counts_what_is_left_and_forgets_what_is_finished(coordinator: EventLoopCoordinator) -> None:
    manager = CoroutineManager()
    finished, forgotten, pending = add(1, 2), add(3, 4), asyncio.Event().wait()
    for coroutine in (finished, forgotten, pending):
        manager.track_coroutine(coroutine)  # type: ignore[arg-type]

    async def start() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(pending), asyncio.create_task(finished)]
        for task in tasks:
            manager.track_task(task)
        await tasks[1]
        return tasks

    tasks = run(coordinator, start())
    assert manager.cleanup() == {"tracked": 3, "pending": 1, "never_awaited": 1, "tasks": 1}
    tasks[0].cancel()
    forgotten.close()
    with pytest.raises(asyncio.CancelledError):
        run(coordinator, asyncio.wait_for(tasks[0], 10))
    assert manager.cleanup() == {"tracked": 3, "pending": 0, "never_awaited": 0, "tasks": 0}


def test_tracking_keeps_nothing_alive() -> None:
    manager = CoroutineManager()
    coroutine = add(1, 2)
    manager.track_coroutine(coroutine)  # type: ignore[arg-type]
    coroutine.close()
    del coroutine
    gc.collect()
    assert manager.cleanup() == {"tracked": 1, "pending": 0, "never_awaited": 0, "tasks": 0}
