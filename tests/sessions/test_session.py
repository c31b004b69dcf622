"""A session over a real zygote: how a worker comes, what moves on its links, and how each of its ends is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from capsule_kernel.errors import IllegalTransition, WorkerStartError
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.session import Interceptor, Session
from capsule_kernel.sessions.zygote import Zygote
from capsule_kernel.wire.worker_messages import (
    Answer,
    Done,
    Execute,
    Inspect,
    Interrupt,
    Publish,
    Ready,
    Shutdown,
    Stream,
    Taken,
)

from .workers import DEADLINE_S, Recorder, assert_gone, cell, environment, options, reap, start_zygote, wait_imported

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment(tmp_path_factory.mktemp("home")) as given:
        yield given


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote(mark: str) -> AsyncIterator[Zygote]:
    spawned = start_zygote()
    client = Zygote(spawned, loop=asyncio.get_running_loop())
    client.start()
    yield client
    client.close()
    reap(spawned.pid)
    assert_gone(mark)


class Sessions:
    """Starts sessions, and ends them with the test."""

    def __init__(self, zygote: Zygote) -> None:
        self.zygote = zygote
        self.recorder = Recorder()
        self.all: list[Session] = []

    def new(self, *interceptors: Interceptor) -> Session:
        loop = asyncio.get_running_loop()
        number = NUMBERS.pop()
        session = Session(number, owner=self.recorder, interceptors=list(interceptors), loop=loop)
        self.all.append(session)
        return session

    async def started(self, *interceptors: Interceptor) -> Session:
        session = self.new(*interceptors)
        await session.start(self.zygote, options())
        await self.recorder.wait_until(lambda: session in self.recorder.ready)
        return session

    async def death_of(self, session: Session) -> Any:
        await asyncio.wait_for(asyncio.shield(session.ended), DEADLINE_S)
        return next(death for dead, death in self.recorder.deaths if dead is session)


NUMBERS = list(range(10_000, 0, -1))


@pytest_asyncio.fixture(loop_scope="module")
async def sessions(zygote: Zygote) -> AsyncIterator[Sessions]:
    before = len(os.listdir("/proc/self/fd"))
    made = Sessions(zygote)
    yield made
    for session in made.all:
        if session.pid and session.phase is not Phase.DEAD:
            session.kill("the test is over")
            await asyncio.wait_for(asyncio.shield(session.ended), DEADLINE_S)
        if session.pid:
            with pytest.raises(ProcessLookupError):
                os.kill(session.pid, 0)
    assert len(os.listdir("/proc/self/fd")) == before


# --- from the fork to the first cell --------------------------------------------------------------------------------


async def test_a_worker_is_forked_and_says_that_it_serves(sessions: Sessions) -> None:
    session = sessions.new()
    assert (session.phase, session.pid, session.was_started) == (Phase.FORKING, 0, False)
    await session.start(sessions.zygote, options())
    assert session.pid > 0
    await sessions.recorder.wait_until(lambda: sessions.recorder.ready)
    assert os.getpgid(session.pid) == session.pid
    assert (session.phase, session.was_started) == (Phase.IDLE, True)
    assert f"idle pid={session.pid}" in repr(session)


async def test_a_cell_makes_the_session_busy_until_it_is_done(sessions: Sessions) -> None:
    session = await sessions.started()
    session.execute(cell(7, "print('hello')\n6 * 7"))
    assert "busy" in repr(session)
    with pytest.raises(IllegalTransition):
        session.execute(cell(8, "1"))
    await sessions.recorder.wait_until(lambda: sessions.recorder.done(7))
    assert session.phase is Phase.IDLE
    assert sessions.recorder.text() == "hello\n"
    assert [type(message) for message in sessions.recorder.messages] == [Stream, Publish, Done]


async def test_what_goes_to_descriptors_is_captured_and_decoded_across_reads(sessions: Sessions) -> None:
    session = await sessions.started()
    recorder = sessions.recorder
    await recorder.run(session, 1, "import os\nfor byte in 'é\U0001f600'.encode(): os.write(1, bytes([byte]))")
    session.drain_descriptors()
    assert recorder.captured() == "é\U0001f600"
    text = "é\U0001f600" * 30_000
    await recorder.run(session, 2, f"data = {text!r}.encode()\nwhile data: data = data[os.write(2, data[:4095]):]")
    session.drain_descriptors()
    await recorder.wait_until(lambda: len(recorder.captured("stderr")) == len(text))
    assert recorder.captured("stderr") == text


async def test_the_side_link_answers_while_a_cell_runs(sessions: Sessions) -> None:
    session = await sessions.started()
    session.execute(cell(1, "import time\nwhile True: time.sleep(0.01)"))
    session.say(Inspect(serial=2, code="time", cursor_pos=4, detail_level=0, omit_sections=[]))
    await sessions.recorder.wait_until(lambda: any(isinstance(each, Answer) for each in sessions.recorder.messages))
    assert session.phase is Phase.BUSY


async def test_an_interrupt_ends_the_cell_and_not_the_worker(sessions: Sessions) -> None:
    session = await sessions.started()
    session.execute(cell(1, "import os\nos.write(1, b'begun')\nwhile True: pass"))
    await sessions.recorder.wait_until(lambda: "begun" in sessions.recorder.captured())
    session.interrupt(1)
    await sessions.recorder.wait_until(lambda: sessions.recorder.done(1))
    done = sessions.recorder.done(1)
    assert done is not None
    assert done.status == "error"
    assert b"KeyboardInterrupt" in done.content
    assert (await sessions.recorder.run(session, 2, "1")).status == "ok"


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_a_kill_is_put_down_to_its_cause(sessions: Sessions) -> None:
    session = await sessions.started()
    session.kill("somebody wanted a fresh one")
    session.kill("a second reason")
    assert "stopping" in repr(session)
    death = await sessions.death_of(session)
    assert death.cause == "somebody wanted a fresh one"
    assert os.WTERMSIG(death.status) == signal.SIGKILL
    assert session.phase is Phase.DEAD
    session.kill("too late")
    session.stop()
    assert len(sessions.recorder.deaths) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
async def test_a_signal_from_elsewhere_is_named(number: signal.Signals, sessions: Sessions) -> None:
    session = await sessions.started()
    os.kill(session.pid, number)
    death = await sessions.death_of(session)
    assert number.name in death.cause
    assert os.WTERMSIG(death.status) == number


async def test_an_exit_in_the_middle_of_a_cell_is_named_after_what_the_cell_wrote(sessions: Sessions) -> None:
    session = await sessions.started()
    session.execute(cell(1, "import os, sys\nprint('last words', flush=True)\nos.write(2, b'and \\xc3')\nos._exit(3)"))
    death = await sessions.death_of(session)
    assert death.cause == "it ended by itself with exit status 3"
    assert sessions.recorder.text() == "last words\n"
    assert sessions.recorder.captured("stderr") == "and \ufffd"
    assert sessions.recorder.done(1) is None


async def test_a_crash_comes_with_its_trace(sessions: Sessions) -> None:
    session = await sessions.started()
    session.execute(cell(1, "import faulthandler\nfaulthandler._sigsegv()"))
    death = await sessions.death_of(session)
    assert "SIGSEGV" in death.cause
    assert "Segmentation fault" in death.fault_trace
    assert "<module>" in death.fault_trace


async def test_a_worker_that_is_asked_to_stop_runs_its_exit_handlers(sessions: Sessions) -> None:
    session = await sessions.started()
    await sessions.recorder.run(session, 1, "import atexit\n_ = atexit.register(print, 'goodbye')")
    session.stop()
    session.stop()
    assert session.phase is Phase.STOPPING
    with pytest.raises(IllegalTransition):
        session.execute(cell(2, "1"))
    death = await sessions.death_of(session)
    assert death.status == 0
    assert sessions.recorder.text() == "goodbye\n"


async def test_a_worker_whose_link_is_written_to_by_others_is_ended(sessions: Sessions) -> None:
    session = await sessions.started()
    code = """
        import os
        for name in os.listdir('/proc/self/fd'):
            try:
                if os.readlink(f'/proc/self/fd/{name}').startswith('socket:'): os.write(int(name), b'\\xff' * 8)
            except OSError:
                continue
        """
    session.execute(cell(1, "\n".join(line[8:] for line in code.splitlines())))
    death = await sessions.death_of(session)
    assert "broke its link" in death.cause
    assert "limit" in death.cause


async def test_children_in_the_workers_group_end_with_it(sessions: Sessions) -> None:
    session = await sessions.started()
    await sessions.recorder.run(
        session, 1, "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\nprint(child.pid)"
    )
    pidfd = os.pidfd_open(int(sessions.recorder.text()))
    try:
        os.kill(session.pid, signal.SIGKILL)
        await sessions.death_of(session)
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()
        loop.add_reader(pidfd, gone.set_result, None)
        gone.add_done_callback(lambda _: loop.remove_reader(pidfd))
        await asyncio.wait_for(gone, DEADLINE_S)
    finally:
        os.close(pidfd)


async def test_a_session_killed_before_its_fork_leaves_no_process(sessions: Sessions) -> None:
    session = sessions.new()
    starting = asyncio.ensure_future(session.start(sessions.zygote, options()))
    await asyncio.sleep(0)
    session.kill("changed my mind")
    await starting
    death = await sessions.death_of(session)
    assert death.cause == "changed my mind"
    assert session not in sessions.recorder.ready


async def test_a_start_that_is_given_up_leaves_no_process(sessions: Sessions, mark: str) -> None:
    session = sessions.new()
    starting = asyncio.ensure_future(session.start(sessions.zygote, options()))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    # The zygote has forked it by the time that the next one serves; it finds its links closed.
    other = await sessions.started()
    other.kill("done")
    await sessions.death_of(other)
    assert session.pid == 0


async def test_a_session_of_a_zygote_that_has_ended_cannot_start(sessions: Sessions) -> None:
    spawned = start_zygote()
    wait_imported(spawned)
    gone = Zygote(spawned, loop=asyncio.get_running_loop())
    gone.start()
    os.kill(spawned.pid, signal.SIGKILL)
    reap(spawned.pid)
    for _ in range(2):
        session = sessions.new()
        with pytest.raises(WorkerStartError, match="zygote"):
            await session.start(gone, options())
        assert session.phase is Phase.DEAD
    await asyncio.wait_for(asyncio.shield(gone.gone), DEADLINE_S)
    gone.close()


# --- interceptors ---------------------------------------------------------------------------------------------------


async def test_interceptors_see_every_message_both_ways_in_order(sessions: Sessions) -> None:
    recorder = sessions.recorder
    session = await sessions.started(recorder.intercept)
    await recorder.run(session, 1, "print('x')")
    session.say(Inspect(serial=2, code="print", cursor_pos=5, detail_level=0, omit_sections=[]))
    await recorder.wait_until(lambda: any(isinstance(message, Answer) for _, message in recorder.seen))
    session.interrupt(1)
    session.stop()
    await sessions.death_of(session)
    assert [(direction, type(message)) for direction, message in recorder.seen] == [
        ("in", Ready),
        ("out", Execute),
        ("in", Stream),
        ("in", Done),
        ("out", Inspect),
        ("in", Taken),
        ("in", Answer),
        ("out", Interrupt),
        ("out", Shutdown),
    ]


async def test_an_interceptor_that_raises_breaks_nothing(sessions: Sessions) -> None:
    loop = asyncio.get_running_loop()
    reported: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken(direction: str, message: object) -> None:
        raise ArithmeticError(direction)

    try:
        session = await sessions.started(broken, sessions.recorder.intercept)
        done = await sessions.recorder.run(session, 1, "print('x')")
        await sessions.recorder.wait_until(lambda: ("in", done) in sessions.recorder.seen)
    finally:
        loop.set_exception_handler(None)
    assert done.status == "ok"
    assert sessions.recorder.text() == "x\n"
    assert len(reported) == len(sessions.recorder.seen) == 4
    assert {str(error) for error in reported} == {"in", "out"}
