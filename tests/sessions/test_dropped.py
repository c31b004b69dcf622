"""Snapshots that a newer one has replaced: ended a moment later, and until then still to be had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.pool import Pool
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.wire.worker_messages import Born, WorkerOptions, ZygoteOptions

DEATH = Death(status=None, cause="it was undone", fault_trace="", was_ours=True)

KILLED = Death(status=9, cause="it was killed", fault_trace="", was_ours=False)


class Sleeper:
    """What a pool asks of a session."""

    running = 0
    was_started = True

    def __init__(self, serial: int) -> None:
        self.serial = self.count = self.number = serial
        self.phase = Phase.SLEEPING
        self.ended_for = ""

    def adopt(self, *_: object) -> bool:
        return True

    def kill(self, cause: str) -> None:
        self.phase, self.ended_for = Phase.DEAD, cause

    give_up = kill

    def wake(self, _previous: object, *, is_chosen: bool) -> None:
        assert is_chosen is (self.serial == 1)
        self.phase = Phase.STARTING


class Owner:
    heir: Any = None

    def on_worker_death(self, _session: object, _death: object, heir: object) -> None:
        self.heir = heir


class Kernel:
    """A pool with a worker in use, a full ring, and no processes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.owner = Owner()
        self.pool = Pool(
            owner=cast("Any", self.owner),
            zygote_options=ZygoteOptions(preload=[], ipython_args=[]),
            worker_options=lambda *_: cast("WorkerOptions", None),
            spares=0,
            start_timeout_ms=1,
            loop=loop,
            snapshots=2,
        )
        self.made: list[Sleeper] = []
        self.worker = Sleeper(99)
        self.pool._current = cast("Session", self.worker)
        self.pool._zygote = cast("Any", object())
        self.pool._carry_out = lambda: None  # type: ignore[method-assign]
        monkeypatch.setattr("capsule_kernel.sessions.pool.Session", lambda *_, **__: self.made[-1])
        for serial in (1, 2):
            self.bear(serial)

    def bear(self, serial: int) -> Sleeper:
        self.made.append(Sleeper(serial))
        born = Born(pid=1, cost_us=0, count=serial, serial=serial)
        self.pool.on_birth(cast("Session", self.worker), born, cast("Any", ()))
        return self.made[-1]

    def living(self) -> list[int]:
        return [sleeper.serial for sleeper in self.made if sleeper.phase is not Phase.DEAD]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    loop = asyncio.new_event_loop()
    made = Kernel(loop, monkeypatch)
    yield made
    made.pool._ration.close()
    loop.close()


def pass_a_moment(kernel: Kernel) -> None:
    loop = kernel.pool._loop
    kernel.pool._ration.close()
    loop.call_later(0.26, loop.stop)
    loop.run_forever()


def test_one_that_was_chosen_and_then_replaced_is_gone_back_to(kernel: Kernel) -> None:
    """The birth was under way when the user asked for what it replaces."""
    chosen = kernel.pool.undo([2])
    kernel.bear(3)
    assert kernel.living() == [1, 2, 3]
    kernel.pool.on_death(cast("Session", kernel.worker), DEATH)
    assert kernel.owner.heir is chosen is kernel.made[0]
    # Nobody can go back to what was left behind, which ends when the one that was chosen has had its moment to wake.
    assert [sleeper.serial for sleeper in kernel.pool._ring.sleepers] == []
    assert kernel.pool.undo([4]) is None
    pass_a_moment(kernel)
    assert kernel.living() == [1]


def test_what_is_left_behind_ends_at_once_when_a_worker_dies(kernel: Kernel) -> None:
    """It may have died for want of memory."""
    kernel.bear(3)
    assert kernel.living() == [1, 2, 3]
    heir = kernel.pool._ring.newest()
    kernel.pool.on_death(cast("Session", kernel.worker), KILLED)
    assert kernel.owner.heir is heir is kernel.made[2]
    assert kernel.living() == [2, 3]


def test_they_end_with_the_worker_that_a_fresh_one_replaces(kernel: Kernel) -> None:
    kernel.bear(3)
    kernel.worker.stop = lambda _cause: None  # type: ignore[attr-defined]
    kernel.pool.retire("%reset --worker", grace_ms=0)
    assert kernel.living() == [2, 3]


def test_they_end_a_moment_after_they_were_replaced(kernel: Kernel) -> None:
    kernel.bear(3)
    pass_a_moment(kernel)
    assert kernel.living() == [2, 3]


def test_they_end_with_the_kernel(kernel: Kernel) -> None:
    kernel.bear(3)
    kernel.pool._zygote = None
    kernel.worker.phase = Phase.DEAD
    for sleeper in kernel.made:
        sleeper.pid = 0  # type: ignore[attr-defined]
    kernel.worker.pid = 0  # type: ignore[attr-defined]
    kernel.pool._loop.run_until_complete(kernel.pool.close(grace_ms=0))
    assert kernel.living() == []
