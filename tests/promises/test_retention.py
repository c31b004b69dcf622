import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.notes import creation, settling
from capsule_kernel.promises.retention import DAY_MS, Collected
from capsule_kernel.promises.store import Store
from tests.promises.backends import HandClock

_LINEAGE = {"resonate:branch": "run-1", "resonate:origin": "run-1"}


@pytest.fixture
def clock() -> HandClock:
    clock = HandClock()
    clock.now_ms = 1_700_000_000_000
    return clock


@pytest.fixture
def aged(path: str, clock: HandClock) -> Iterator[Store]:
    store = Store(path, clock)
    yield store
    store.close()


def ids(store: Store) -> list[str]:
    return [promise.id for promise in store.search()]


def test_what_was_settled_long_ago_goes_and_the_rest_stays(aged: Store, clock: HandClock) -> None:
    aged.apply([creation(one, None, "exec", None, None) for one in ("old", "new", "pending")])
    aged.apply([settling("old", "resolved", 1)])
    clock.now_ms += 31 * DAY_MS
    aged.apply([settling("new", "resolved", 1)])
    assert aged.collect(30) == Collected(promises=1, entries=4)
    assert ids(aged) == ["new", "pending"]


def test_the_steps_of_a_pending_function_stay(aged: Store, clock: HandClock) -> None:
    for one in ("run-1", "run-1:1", "run-1:2"):
        aged.apply([creation(one, None, "", _LINEAGE, None)])
    aged.apply([settling("run-1:1", "resolved", 1), settling("run-1:2", "resolved", 2)])
    clock.now_ms += 40 * DAY_MS
    aged.collect(30)
    assert len(ids(aged)) == 3
    aged.apply([settling("run-1", "resolved", 3)])
    aged.collect(30)
    assert len(ids(aged)) == 3
    clock.now_ms += 31 * DAY_MS
    aged.collect(30)
    assert ids(aged) == []


def test_the_cells_and_answers_of_a_pending_run_stay(aged: Store, clock: HandClock) -> None:
    aged.apply([creation("nightly", None, "run", None, None)])
    aged.apply([creation("exec:nightly-0", None, "exec", {"capsule:run": "nightly"}, None)])
    aged.apply([creation("nightly-1:input:1", None, "input", {"capsule:session": "run:nightly"}, None)])
    aged.apply([creation("other:input:1", None, "input", {"capsule:session": "a.ipynb"}, None)])
    steps = ("exec:nightly-0", "nightly-1:input:1", "other:input:1")
    aged.apply([settling(one, "resolved", 1) for one in steps])
    clock.now_ms += 40 * DAY_MS
    aged.collect(30)
    assert set(ids(aged)) == {"nightly", "exec:nightly-0", "nightly-1:input:1"}
    aged.apply([settling("nightly", "resolved", 3)])
    clock.now_ms += 31 * DAY_MS
    aged.collect(30)
    assert ids(aged) == []


def test_many_go_in_several_transactions(aged: Store, clock: HandClock) -> None:
    for start in range(0, 3000, 500):
        names = [f"exec:k-{number}" for number in range(start, start + 500)]
        aged.apply([creation(one, None, "exec", None, None) for one in names])
        aged.apply([settling(one, "resolved", 1) for one in names[:-1]])
    clock.now_ms += 2 * DAY_MS
    collected = aged.collect(1)
    assert collected is not None
    assert collected.promises == 3000 - 6
    assert len(ids(aged)) == 6


def test_the_log_goes_on_where_it_was(aged: Store, clock: HandClock) -> None:
    aged.apply([creation("a", None, "", None, None)])
    before = aged.last_seq()
    clock.now_ms += 2 * DAY_MS
    aged.collect(1)
    aged.apply([settling("a", "resolved", 1)])
    assert [entry.op for entry in aged.log_after(before)] == ["settle"]


def test_once_a_day_is_enough(aged: Store, clock: HandClock) -> None:
    assert aged.collect(30, only_if_due=True) is not None
    assert aged.collect(30, only_if_due=True) is None
    clock.now_ms += DAY_MS
    assert aged.collect(30, only_if_due=True) is not None


async def test_who_awaits_a_promise_keeps_it(path: str, clock: HandClock) -> None:
    async with EmbeddedPromises(path, clock) as promises:
        await promises.create("a")
        wait = asyncio.create_task(promises.wait("a", 30))
        await promises.get("a")
        clock.now_ms += 100 * DAY_MS
        await promises.call(lambda store: store.collect(1))
        await promises.settle("a", "resolved", 1)
        assert (await wait).value_data() == 1


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_lists_and_collects(path: str, clock: HandClock) -> None:
    missing = run("promises", "list", "--file", path)
    assert missing.returncode == 1
    assert "nothing was recorded yet" in missing.stderr
    assert not Path(path).exists()
    store = Store(path, clock)
    store.apply([creation("exec:k-1", None, "exec", None, None), creation("k-1:input:1", None, "input", None, None)])
    store.apply([settling("exec:k-1", "resolved", 1)])
    store.close()
    assert run("promises", "list", "--file", path).stdout == "pending           input    k-1:input:1\n"
    assert "resolved          exec     exec:k-1\n" in run("promises", "list", "--all", "--file", path).stdout
    assert run("promises", "gc", "--days", "x", "--file", path).returncode == 2
    assert "let go of 1 promises" in run("promises", "gc", "--file", path).stdout
    assert run("promises", "list", "exec:", "--all", "--file", path).stdout == ""
