"""The pool over real zygotes: who is in use, who waits, what follows a death, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.plan import START_ATTEMPTS
from capsule_kernel.sessions.pool import Pool
from capsule_kernel.sessions.process import SpawnedZygote
from capsule_kernel.sessions.session import Session
from capsule_kernel.wire.worker_messages import WorkerOptions, ZygoteOptions

from .workers import DEADLINE_S, Recorder, assert_gone, cell, environment, options, reap, start_zygote, wait_imported

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Pools:
    """Makes one pool, remembers its processes, and ends it with the test."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.worker_options: WorkerOptions = options()
        self.pool: Pool | None = None
        self.zygotes: list[int] = []

    def make(
        self,
        *,
        spares: int = 1,
        start_timeout_ms: int = 20_000,
        spawned: SpawnedZygote | None = None,
    ) -> Pool:
        spawned = spawned or start_zygote()
        self.zygotes.append(spawned.pid)
        self.pool = Pool(
            owner=self.recorder,
            zygote_options=ZygoteOptions(preload=[], ipython_args=[]),
            worker_options=lambda *_: self.worker_options,
            spares=spares,
            start_timeout_ms=start_timeout_ms,
            loop=asyncio.get_running_loop(),
            interceptors=[self.recorder.intercept],
        )
        self.pool.start(spawned)
        return self.pool

    async def in_use(self, *, besides: Session | None = None) -> Session:
        """The session in use, once it serves."""
        recorder = self.recorder
        await recorder.wait_until(lambda: recorder.ready and recorder.ready[-1] is not besides)
        return recorder.ready[-1]

    async def stands(self, text: str) -> None:
        """Wait until the pool describes itself so."""
        await self.recorder.wait_until(lambda: repr(self.pool) == f"<Pool {text}>")

    def sessions(self) -> list[Session]:
        pool = self.pool
        assert pool is not None
        return [each for each in (pool._current, *pool._spares) if each is not None]

    async def close(self, *, grace_ms: int = 0) -> None:
        assert self.pool is not None
        left = self.sessions()
        if self.pool._zygote is not None:
            self.zygotes.append(self.pool._zygote.pid)
        await self.pool.close(grace_ms=grace_ms)
        for session in left:
            if session.pid and session.phase is not Phase.DEAD:
                await asyncio.wait_for(asyncio.shield(session.ended), DEADLINE_S)
        for pid in set(self.zygotes):
            try:
                reap(pid)
            except ChildProcessError:
                # The pool has.
                continue
        self.pool = None


@pytest_asyncio.fixture(loop_scope="module")
async def pools(tmp_path: Path) -> AsyncIterator[Pools]:
    """A pool of one's own."""
    with environment(tmp_path) as mark:
        made = Pools()
        yield made
        if made.pool is not None:
            await made.close()
        assert_gone(mark)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_pools(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pools]:
    with environment(tmp_path_factory.mktemp("home")) as mark:
        made = Pools()
        pool = made.make()
        await made.in_use()
        pool.want_spares()
        yield made
        await made.close()
        assert_gone(mark)


@pytest_asyncio.fixture(loop_scope="module")
async def shared(shared_pools: Pools) -> Pools:
    """A pool with an idle worker in use and a ready spare, that has been told nothing yet."""
    await shared_pools.stands("current idle, 1 idle, 0 starting")
    recorder = shared_pools.recorder
    for records in (
        recorder.messages,
        recorder.texts,
        recorder.ready,
        recorder.deaths,
        recorder.refusals,
        recorder.seen,
    ):
        records.clear()
    return shared_pools


async def test_the_first_worker_comes_without_spares_and_spares_come_when_they_are_wanted(pools: Pools) -> None:
    pool = pools.make(spares=2)
    assert repr(pool) == "<Pool current forking, 0 idle, 0 starting>"
    await pools.in_use()
    assert repr(pool) == "<Pool current idle, 0 idle, 0 starting>"
    pool.want_spares()
    pool.want_spares()
    assert repr(pool) == "<Pool current idle, 0 idle, 2 starting>"
    await pools.stands("current idle, 2 idle, 0 starting")
    assert len(pools.recorder.ready) == 1


async def test_a_ready_spare_takes_over_at_once_and_another_takes_its_place(shared: Pools) -> None:
    first, spare = shared.sessions()
    os.kill(first.pid, signal.SIGKILL)
    assert await shared.in_use() is spare
    ((dead, death),) = shared.recorder.deaths
    assert dead is first
    assert "SIGKILL" in death.cause
    assert (await shared.recorder.run(spare, 1, "print('well')")).status == "ok"
    assert shared.recorder.text() == "well\n"
    await shared.stands("current idle, 1 idle, 0 starting")
    assert len({session.pid for session in (first, *shared.sessions())}) == 3


async def test_a_spare_that_dies_is_replaced_and_nobody_is_told(shared: Pools) -> None:
    first, spare = shared.sessions()
    os.kill(spare.pid, signal.SIGKILL)
    await asyncio.wait_for(asyncio.shield(spare.ended), DEADLINE_S)
    await shared.stands("current idle, 1 idle, 0 starting")
    assert shared.sessions()[0] is first
    assert shared.sessions()[1] is not spare
    assert shared.recorder.deaths == []
    assert shared.recorder.ready == []


async def test_a_worker_that_is_replaced_dies_of_the_cause_that_was_given(shared: Pools) -> None:
    assert shared.pool is not None
    first, spare = shared.sessions()
    first.execute(cell(1, "import os\nos.write(1, b'begun')\nwhile True: pass"))
    await shared.recorder.wait_until(lambda: "begun" in shared.recorder.captured())
    shared.pool.replace("it was asked for")
    assert await shared.in_use() is spare
    assert [death.cause for _, death in shared.recorder.deaths] == ["it was asked for"]


async def test_code_is_called_complete_or_not_by_the_zygote_while_the_worker_is_stuck(shared: Pools) -> None:
    assert shared.pool is not None
    session = shared.sessions()[0]
    session.execute(cell(1, "import os\nos.write(1, b'begun')\nwhile True: pass"))
    await shared.recorder.wait_until(lambda: "begun" in shared.recorder.captured())
    answers = {}
    for code in ("1 + 1", "def f():", "for x in y:\n    pass", "a = )", "%timeit 1"):
        answer = await shared.pool.is_complete(code)
        assert answer is not None
        answers[code] = (answer.status, answer.indent)
    session.interrupt(1)
    await shared.recorder.wait_until(lambda: shared.recorder.done(1))
    assert answers == {
        "1 + 1": ("complete", ""),
        "def f():": ("incomplete", "    "),
        "for x in y:\n    pass": ("incomplete", "    "),
        "a = )": ("invalid", ""),
        "%timeit 1": ("complete", ""),
    }


async def test_a_zygote_that_is_killed_takes_its_workers_along_and_is_replaced(pools: Pools) -> None:
    pool = pools.make()
    first = await pools.in_use()
    pool.want_spares()
    await pools.stands("current idle, 1 idle, 0 starting")
    await pools.recorder.run(first, 1, "before = 1")
    os.kill(pools.zygotes[0], signal.SIGSTOP)
    question = asyncio.ensure_future(pool.is_complete("1"))
    await asyncio.sleep(0)
    os.kill(pools.zygotes[0], signal.SIGKILL)
    await pools.recorder.wait_until(lambda: pools.recorder.deaths)
    # What the zygote was asked has no answer.
    assert await asyncio.wait_for(question, DEADLINE_S) is None
    # The spare may be promoted before its own death shows; the worker that comes to stay is a new zygote's.
    await pools.stands("current idle, 1 idle, 0 starting")
    session = pools.sessions()[0]
    done = await pools.recorder.run(session, 2, "print('before' in globals())")
    assert done.status == "ok"
    assert pools.recorder.text() == "False\n"
    assert pool._zygote is not None
    assert pool._zygote.pid != pools.zygotes[0]


async def test_workers_that_end_while_they_start_are_given_up_with_the_reason(pools: Pools) -> None:
    pools.worker_options = options(executor_factory="no_such_module:Executor")
    pool = pools.make(spares=0)
    await pools.recorder.wait_until(lambda: pools.recorder.refusals)
    assert len(pools.recorder.deaths) == START_ATTEMPTS
    assert pools.recorder.ready == []
    (reason,) = pools.recorder.refusals
    assert f"worker {START_ATTEMPTS}" in reason
    assert "exit status 70" in reason
    assert "No module named 'no_such_module'" in pools.recorder.captured("stderr")
    assert repr(pool) == "<Pool current none, 0 idle, 0 starting>"
    # Asked again, with what was wrong put right.
    pools.worker_options = options()
    pool.try_again()
    session = await pools.in_use()
    assert (await pools.recorder.run(session, 1, "1")).status == "ok"
    # Without spares a dead worker is replaced from the zygote.
    pool.want_spares()
    assert repr(pool) == "<Pool current idle, 0 idle, 0 starting>"
    os.kill(session.pid, signal.SIGKILL)
    assert (await pools.in_use(besides=session)).pid != session.pid


async def test_workers_that_do_not_come_to_serve_in_time_are_given_up(pools: Pools) -> None:
    spawned = start_zygote(lines=["import signal", "signal.pause()"])
    wait_imported(spawned)
    pools.make(spawned=spawned, start_timeout_ms=100)
    await pools.recorder.wait_until(lambda: pools.recorder.refusals)
    assert [death.cause for _, death in pools.recorder.deaths] == ["it did not start within 0.1 s"] * START_ATTEMPTS
    assert "it did not start within 0.1 s" in pools.recorder.refusals[0]


async def test_a_module_that_cannot_be_preloaded_is_logged_and_costs_no_worker(
    pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pools.make(spawned=start_zygote(preload=["no_such_module", "colorsys"]))
        session = await pools.in_use()
    assert "cannot preload 'no_such_module': ModuleNotFoundError" in caplog.text
    await pools.recorder.run(session, 1, "import sys\nprint('colorsys' in sys.modules)")
    assert pools.recorder.text() == "True\n"
    # Closing lets exit handlers run.
    await pools.recorder.run(session, 2, "import atexit\n_ = atexit.register(print, 'goodbye')")
    await pools.close(grace_ms=10_000)
    assert pools.recorder.text() == "True\ngoodbye\n"


async def test_closing_waits_for_a_worker_that_does_not_listen_no_longer_than_its_grace(pools: Pools) -> None:
    pool = pools.make()
    session = await pools.in_use()
    pool.want_spares()
    session.execute(cell(1, "import os\nos.write(1, b'begun')\nwhile True: pass"))
    await pools.recorder.wait_until(lambda: "begun" in pools.recorder.captured())
    await pools.close(grace_ms=50)
    assert [death.cause for _, death in pools.recorder.deaths] == ["the kernel shut down"]


async def test_closing_before_anything_is_ready_leaves_nothing(pools: Pools) -> None:
    pools.make()
    await asyncio.sleep(0)
    await pools.close()
    assert pools.recorder.ready == []
