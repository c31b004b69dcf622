"""What may happen to the file and to the processes that share it."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from capsule_kernel.clock import Clock
from capsule_kernel.errors import PromisesUnavailable
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.notes import creation, settling
from capsule_kernel.promises.store import Store
from tests.promises.backends import HandClock

_WRITER = """
import asyncio, sys
from capsule_kernel.promises.embedded import EmbeddedPromises

async def main() -> None:
    async with EmbeddedPromises(sys.argv[1]) as promises:
        for number in range(1_000_000):
            name = f"{sys.argv[2]}-{number}"
            await promises.create(name, is_durable=number % 50 == 0)
            await promises.settle(name, "resolved", number)
            print(name, flush=True)

asyncio.run(main())
"""


def writer(path: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, path, name], stdout=subprocess.PIPE, text=True)


def test_nothing_acknowledged_is_lost_when_writers_are_killed(path: str) -> None:
    chance = random.Random(5)
    acknowledged: list[str] = []
    for round_ in range(3):
        processes = [writer(path, f"w{round_}{which}") for which in "ab"]
        try:
            for process in processes:
                assert process.stdout is not None
                acknowledged += [process.stdout.readline().strip() for _ in range(chance.randrange(1, 200))]
        finally:
            for process in processes:
                process.kill()
        for process in processes:
            assert process.stdout is not None
            # What was read ahead of the kill too; the last line may have been cut off.
            acknowledged += [line.strip() for line in process.stdout.readlines() if line.endswith("\n")]
            process.stdout.close()
            process.wait(10)
    store = Store(path, Clock())
    try:
        assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        for name in acknowledged:
            promise = store.find(name)
            assert promise is not None, name
            assert promise.state == "resolved"
    finally:
        store.close()
    assert len(acknowledged) > 100


async def test_two_writers_share_the_file_and_one_of_them_wins(path: str) -> None:
    async with EmbeddedPromises(path) as one, EmbeddedPromises(path) as other:
        created = await asyncio.gather(*(side.create(f"a-{number}") for number in range(100) for side in (one, other)))
        assert sum(each.is_new for each in created) == 100
        settled = await asyncio.gather(
            *(
                side.settle(f"a-{number}", "resolved", str(side is one))
                for number in range(100)
                for side in (one, other)
            )
        )
        assert sum(each.is_winner for each in settled) == 100
        for mine, theirs in zip(settled[::2], settled[1::2], strict=True):
            assert mine.promise == theirs.promise


async def limit(promises: EmbeddedPromises, pages: int) -> None:
    """Have both connections take the disk for full when the file has so many pages."""
    await promises.call(lambda store: store._connection.execute(f"PRAGMA max_page_count={pages}"))
    (await promises._thread.quick())._connection.execute(f"PRAGMA max_page_count={pages}")


async def test_a_full_disk_loses_nothing_that_was_kept_and_notes_wait(path: str) -> None:
    async with EmbeddedPromises(path) as promises:
        await promises.create("kept")
        pages = await promises.call(lambda store: store._connection.execute("PRAGMA page_count").fetchone()[0])
        await limit(promises, pages)
        with pytest.raises(PromisesUnavailable, match="full"):
            await promises.create("a", "x" * 1_000_000)
        promises.note_create("noted", "x" * 50_000)
        assert not await promises.flush(1)
        assert (promises.statistics.waiting, promises.statistics.dropped) == (1, 0)
        assert "full" in promises.statistics.last_error
        await limit(promises, 1_000_000)
        assert await promises.flush(2)
        assert await promises.get("kept") is not None
        assert await promises.get("noted") is not None


async def test_who_holds_the_file_for_long_is_waited_for_off_the_loop(path: str) -> None:
    async with EmbeddedPromises(path) as promises:
        await promises.create("a")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
        release.start()
        try:
            task = asyncio.create_task(promises.settle("a", "resolved"))
            longest_s, last_s = 0.0, time.monotonic()
            while not task.done():
                await asyncio.sleep(0.01)
                longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
            assert (await task).is_winner
            assert longest_s < 0.4
        finally:
            release.join(5)
            other.close()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with EmbeddedPromises(str(tmp_path / "file" / "promises.sqlite3")) as promises:
        with pytest.raises(PromisesUnavailable, match="set another file"):
            await promises.create("a")


def test_a_clock_that_is_set_back_settles_nothing_before_its_creation(path: str) -> None:
    clock = HandClock()
    clock.now_ms = 1_700_000_000_000
    store = Store(path, clock)
    try:
        store.apply([creation("a", None, "", None, None)])
        clock.now_ms -= 3_600_000
        store.apply([settling("a", "resolved", 1)])
        promise = store.find("a")
        assert promise is not None
        assert promise.settled_at_ms == promise.created_at_ms == 1_700_000_000_000
    finally:
        store.close()


async def test_values_of_any_size_and_kind_come_back(promises: EmbeddedPromises) -> None:
    big = "ä" * 1_000_000
    await promises.create("a", big)
    promise = (await promises.settle("a", "resolved", {"text": big, "zero": "\0"})).promise
    assert promise.param_data() == big
    assert promise.value_data() == {"text": big, "zero": "\0"}
