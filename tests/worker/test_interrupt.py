"""Which signals become a `KeyboardInterrupt`, when, and how often: real signals in this process, a clock of ours."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import INTERRUPT_SIGNAL, Stream, decode_from_worker
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.executor import InterruptibleAwait
from capsule_kernel.worker.interrupt import ExecutionCancellation, ExecutionCancelled
from capsule_kernel.worker.loop import EventLoopCoordinator

DEADLINE_S = 20.0
FRONT, RAW = INTERRUPT_SIGNAL, signal.SIGINT


class Interrupts:
    """A cancellation that has taken over the signals, its clock, and what it told the front."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.seen: list[int] = []
        self.cancellation = ExecutionCancellation(monotonic=lambda: self.now)
        self.cancellation.install(self.seen.append)

    def deliver(self, *signals: int) -> int:
        """Send the signals in one execution; how many of them were interrupts."""
        count = 0
        with self.cancellation.cancellable_execution(1):
            for number in signals:
                count += self.strikes(number)
        return count

    def strikes(self, number: int) -> bool:
        """Send a signal; whether it raised."""
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            return True
        return False


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = {number: signal.getsignal(number) for number in (FRONT, RAW)}
    hook = sys.unraisablehook
    yield Interrupts()
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


# --- one interrupt, however many signals ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [FRONT, RAW])
def test_either_signal_interrupts_what_runs_and_the_front_is_told(number: int, interrupts: Interrupts) -> None:
    with interrupts.cancellation.cancellable_execution(7), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert interrupts.seen == [7]


@pytest.mark.parametrize("number", [FRONT, RAW])
def test_between_executions_nothing_is_raised(number: int, interrupts: Interrupts) -> None:
    assert not interrupts.strikes(number)
    interrupts.deliver()
    assert not interrupts.strikes(number)
    assert interrupts.seen == []
    assert interrupts.cancellation.serial == 0


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        # The front's signal, and the SIGINT that it or a front end sends to the whole group besides.
        ([FRONT, RAW], 1),
        ([RAW, FRONT], 1),
        ([RAW, RAW], 1),
        ([FRONT, RAW, RAW], 1),
        ([RAW, FRONT, RAW], 1),
        # The front counts what it was asked for: two are two, however soon.
        ([FRONT, FRONT], 2),
        ([RAW, FRONT, FRONT], 2),
        ([FRONT, RAW, FRONT, RAW], 2),
    ],
)
def test_signals_within_half_a_second_are_as_many_interrupts_as_the_front_sent(
    signals: list[int], expected: int, interrupts: Interrupts
) -> None:
    assert interrupts.deliver(*signals) == expected
    assert interrupts.seen == [1] * expected


@pytest.mark.parametrize(("gap_s", "expected"), [(0.0, 1), (0.49, 1), (0.51, 2), (10.0, 2)])
@pytest.mark.parametrize("pair", [(FRONT, RAW), (RAW, FRONT), (RAW, RAW)], ids=str)
def test_later_ones_are_interrupts_of_their_own(
    pair: tuple[int, int], gap_s: float, expected: int, interrupts: Interrupts
) -> None:
    with interrupts.cancellation.cancellable_execution(1):
        struck = [interrupts.strikes(pair[0])]
        interrupts.now += gap_s
        struck.append(interrupts.strikes(pair[1]))
    assert sum(struck) == expected


def test_an_interrupt_of_one_cell_does_not_count_for_the_next(interrupts: Interrupts) -> None:
    assert interrupts.deliver(FRONT) == 1
    assert interrupts.deliver() == 0
    assert interrupts.deliver(FRONT) == 1


def test_the_fronts_signal_goes_through_a_handler_that_user_code_has_put_in_place(interrupts: Interrupts) -> None:
    caught: list[int] = []
    with interrupts.cancellation.cancellable_execution(1):
        signal.signal(RAW, lambda number, _: caught.append(number))
        signal.raise_signal(FRONT)
    assert caught == [RAW]


# --- an interrupt that overtakes its cell, or is late ---------------------------------------------------------------


def test_an_interrupt_that_came_before_its_cell_interrupts_it_at_once(interrupts: Interrupts) -> None:
    cancellation = interrupts.cancellation
    cancellation.ask(5, 1)
    ran = []
    with pytest.raises(KeyboardInterrupt), cancellation.cancellable_execution(5):
        ran.append("the cell")
    assert ran == []
    assert interrupts.seen == [5]
    assert cancellation.serial == 0
    with cancellation.cancellable_execution(6):
        ran.append("the next")
    assert ran == ["the next"]


def test_the_signal_of_an_interrupt_that_was_taken_already_is_ignored(interrupts: Interrupts) -> None:
    with interrupts.cancellation.cancellable_execution(1):
        assert interrupts.strikes(FRONT)
        interrupts.cancellation.ask(1, 1)
        assert not interrupts.strikes(RAW)
    interrupts.cancellation.ask(2, 1)
    with pytest.raises(KeyboardInterrupt), interrupts.cancellation.cancellable_execution(2):
        pass
    assert interrupts.seen == [1, 2]


def wait_for_interrupt(by: threading.Thread) -> None:
    """Start a thread, and sleep until its signal strikes."""
    by.start()
    time.sleep(DEADLINE_S)
    pytest.fail("no interrupt came")


@pytest.mark.parametrize("how", ["ask", "cancel"])
def test_another_thread_can_interrupt_what_runs(how: str, interrupts: Interrupts) -> None:
    cancellation = interrupts.cancellation
    with cancellation.cancellable_execution(1):
        if how == "ask":
            # The front's signal was lost on a worker that had not begun.
            thread = threading.Thread(target=cancellation.ask, args=(1, 1))
        else:
            thread = threading.Thread(target=cancellation.cancel_execution)
        with pytest.raises(KeyboardInterrupt):
            wait_for_interrupt(thread)
    thread.join()
    assert interrupts.seen == [1]


def test_cancelling_when_nothing_runs_does_nothing(interrupts: Interrupts) -> None:
    interrupts.cancellation.cancel_execution()
    interrupts.cancellation.ask(1, 1)
    assert interrupts.seen == []


# --- holding back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [[FRONT], [RAW], [FRONT, RAW], [FRONT, FRONT]], ids=str)
def test_what_comes_while_interrupts_are_held_is_raised_once_at_their_release(
    signals: list[int], interrupts: Interrupts
) -> None:
    cancellation = interrupts.cancellation
    with cancellation.cancellable_execution(1):
        assert cancellation.hold()
        assert cancellation.hold()
        assert not any(map(interrupts.strikes, signals))
        cancellation.release()
        with pytest.raises(KeyboardInterrupt):
            cancellation.release()
        cancellation.hold()
        cancellation.release()
    assert interrupts.seen == [1]


def test_what_is_released_after_the_execution_is_dropped(interrupts: Interrupts) -> None:
    cancellation = interrupts.cancellation
    with cancellation.cancellable_execution(1):
        cancellation.hold()
        assert not interrupts.strikes(FRONT)
    cancellation.release()
    assert interrupts.seen == []
    assert interrupts.deliver() == 0


def test_other_threads_hold_nothing_back(interrupts: Interrupts) -> None:
    held: list[bool] = []
    with interrupts.cancellation.cancellable_execution(1):
        thread = threading.Thread(target=lambda: held.append(interrupts.cancellation.hold()))
        thread.start()
        thread.join()
        assert interrupts.strikes(FRONT)
    assert held == [False]


def test_an_interrupt_in_the_middle_of_a_write_waits_for_the_end_of_the_frame(interrupts: Interrupts) -> None:
    front, ours = socket.socketpair()
    main = threading.main_thread().ident
    assert main is not None
    received: list[Any] = []

    def interrupt_and_read() -> None:
        """Read a little, so that the writer is surely inside of the frame; interrupt; read the rest."""
        decoder = FrameDecoder()
        front.settimeout(DEADLINE_S)
        data = front.recv(1)
        signal.pthread_kill(main, RAW)
        while len(received) < 2:
            received.extend(map(decode_from_worker, decoder.feed(data)))
            data = front.recv(1 << 16) if len(received) < 2 else b""

    channel = Channel(ours, interrupts.cancellation)
    message = Stream(parent=1, name="stdout", text="x" * 5_000_000)
    thread = threading.Thread(target=interrupt_and_read)
    with front, ours:
        with interrupts.cancellation.cancellable_execution(1):
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                channel.send(message)
            channel.send(message)
        thread.join()
    assert received == [message, message]


# --- threads that ask -----------------------------------------------------------------------------------------------


def test_a_thread_that_was_cancelled_learns_it_once_when_it_asks(interrupts: Interrupts) -> None:
    cancellation = interrupts.cancellation
    cancellation.check_cancelled()
    outcomes: list[str] = []
    may_check = threading.Event()

    def work() -> None:
        assert may_check.wait(DEADLINE_S)
        for _ in range(2):
            try:
                cancellation.check_cancelled()
                outcomes.append("goes on")
            except ExecutionCancelled:
                outcomes.append("cancelled")

    thread = threading.Thread(target=work)
    thread.start()
    assert thread.ident is not None
    cancellation.cancel_thread(thread.ident)
    cancellation.check_cancelled()
    may_check.set()
    thread.join()
    assert outcomes == ["cancelled", "goes on"]
    assert not issubclass(ExecutionCancelled, Exception)


# --- cells that await -----------------------------------------------------------------------------------------------


@pytest.fixture
def coordinator() -> Iterator[EventLoopCoordinator]:
    made = EventLoopCoordinator()
    yield made
    made.ensure_event_loop().close()
    asyncio.set_event_loop(None)


def run_cell(coordinator: EventLoopCoordinator, cancellation: ExecutionCancellation, cell: Any) -> Any:
    """Run a coroutine as the executor runs a cell that awaits."""

    async def body() -> Any:
        return await InterruptibleAwait(cell, cancellation)

    with cancellation.cancellable_execution(1):
        return coordinator.run(body(), on_task=cancellation.watch_task, cancel=cancellation.cancel_task)


@pytest.mark.parametrize("number", [FRONT, RAW])
def test_an_await_is_interrupted_where_it_stands_and_the_loop_lives(
    number: int, interrupts: Interrupts, coordinator: EventLoopCoordinator
) -> None:
    places: list[str] = []

    async def cell() -> str:
        asyncio.get_running_loop().call_later(0, signal.raise_signal, number)
        try:
            await asyncio.Event().wait()
        except KeyboardInterrupt:
            places.append("at the await")
        await asyncio.sleep(0)
        return "goes on"

    assert run_cell(coordinator, interrupts.cancellation, cell()) == "goes on"
    assert places == ["at the await"]
    assert interrupts.seen == [1]
    assert coordinator.run_until_complete(asyncio.sleep(0, "alive")) == "alive"


def test_an_await_that_catches_nothing_ends_the_cell(interrupts: Interrupts, coordinator: EventLoopCoordinator) -> None:
    async def cell() -> None:
        asyncio.get_running_loop().call_later(0, signal.raise_signal, FRONT)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_cell(coordinator, interrupts.cancellation, cell())
    assert interrupts.cancellation.serial == 0


def test_a_cancellation_by_user_code_stays_a_cancellation(
    interrupts: Interrupts, coordinator: EventLoopCoordinator
) -> None:
    async def cell() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0, task.cancel)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.uncancel()
            return "cancelled"
        return "not"

    assert run_cell(coordinator, interrupts.cancellation, cell()) == "cancelled"
    assert interrupts.seen == []


def test_python_code_between_awaits_is_interrupted_like_any(
    interrupts: Interrupts, coordinator: EventLoopCoordinator
) -> None:
    async def cell() -> bool:
        await asyncio.sleep(0)
        struck = interrupts.strikes(FRONT)
        await asyncio.sleep(0)
        return struck

    assert run_cell(coordinator, interrupts.cancellation, cell()) is True
    assert interrupts.seen == [1]
