import asyncio
import contextlib
import sqlite3
import stat
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from capsule_kernel.errors import PromiseNotFound, PromisesUnavailable
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.store import Store

_SETTLER = """
import asyncio, sys
from capsule_kernel.promises.embedded import EmbeddedPromises

async def main() -> None:
    async with EmbeddedPromises(sys.argv[1]) as promises:
        waiting = asyncio.create_task(promises.wait("question", 60))
        await promises.call(lambda store: store.bell.open())
        print("waiting", flush=True)
        promise = await waiting
        await promises.settle("answered", "resolved", {"heard": promise.value_data()})

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def waiting_process(path: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _SETTLER, path, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"waiting\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


_LOOKER = """
import sys
from capsule_kernel.clock import Clock
from capsule_kernel.promises.store import Store

store = Store(sys.argv[1], Clock())
print(store.find("question").state)
store.close()
"""


async def state_for_another_process(path: str) -> str:
    """What a process that opens the file, looks, and closes it finds."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _LOOKER, path, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return out.decode().strip()


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own, closed by now
            found.append(str(descriptor.readlink()))
    return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_only_the_first_creation_is_new(promises: EmbeddedPromises) -> None:
    first = await promises.create("k-1:input:1", {"prompt": "Name? "}, kind="input")
    second = await promises.create("k-1:input:1", {"prompt": "Age? "}, kind="input")
    assert (first.is_new, second.is_new) == (True, False)
    assert second.promise == first.promise
    assert second.promise.param_data() == {"prompt": "Name? "}


async def test_the_first_settlement_wins(promises: EmbeddedPromises) -> None:
    await promises.create("a")
    settled = await asyncio.gather(*(promises.settle("a", "resolved", number) for number in range(5)))
    assert [one.is_winner for one in settled] == [True, False, False, False, False]
    assert {one.promise.value_data() for one in settled} == {0}


async def test_settling_what_is_not_there_says_so(promises: EmbeddedPromises) -> None:
    with pytest.raises(PromiseNotFound, match="'nothing'"):
        await promises.settle("nothing", "resolved")
    with pytest.raises(PromiseNotFound, match="'nothing'"):
        await promises.wait("nothing")
    assert await promises.get("nothing") is None


async def test_waiting_ends_with_the_settlement(promises: EmbeddedPromises) -> None:
    await promises.create("a")
    waits = [asyncio.create_task(promises.wait("a", 30)) for _ in range(3)]
    await asyncio.sleep(0)
    await promises.settle("a", "rejected_canceled", "no")
    for promise in await asyncio.gather(*waits):
        assert (promise.state, promise.value_data()) == ("rejected_canceled", "no")
    assert (await promises.wait("a")).state == "rejected_canceled"


async def test_a_wait_has_its_own_deadline(promises: EmbeddedPromises) -> None:
    await promises.create("a")
    with pytest.raises(TimeoutError):
        await promises.wait("a", 0.01)
    assert "0 awaited" in repr(promises)


async def test_a_promise_times_out_by_itself(promises: EmbeddedPromises) -> None:
    await promises.create("a", timeout_at_ms=now_ms() + 50)
    assert (await promises.wait("a", 30)).state == "rejected_timedout"
    settled = await promises.settle("a", "resolved", "late")
    assert not settled.is_winner
    assert settled.promise.state == "rejected_timedout"


async def test_search_finds_by_prefix_state_and_kind(promises: EmbeddedPromises) -> None:
    for number in (1, 2, 10):
        await promises.create(f"exec:k-{number}", kind="exec", tags={"capsule:kernel": "k"})
    await promises.create("k-1:input:1", kind="input")
    await promises.settle("exec:k-2", "resolved")
    pending = await promises.search(state="pending", kind="exec")
    assert [promise.id for promise in pending] == ["exec:k-1", "exec:k-10"]
    assert [promise.id for promise in await promises.search(prefix="k-1:")] == ["k-1:input:1"]
    assert [promise.id for promise in await promises.search(tags={"capsule:kernel": "k"}, state="resolved")] == [
        "exec:k-2"
    ]
    first = await promises.search(prefix="exec:", limit=2)
    rest = await promises.search(prefix="exec:", after=first[-1].id)
    assert [promise.id for promise in first + rest] == ["exec:k-1", "exec:k-10", "exec:k-2"]


async def test_notes_are_written_in_their_order_before_what_is_asked_next(promises: EmbeddedPromises) -> None:
    for number in range(700):
        promises.note_create(f"exec:k-{number}", kind="exec")
        promises.note_settle(f"exec:k-{number}", "resolved", {"status": "ok"})
    promises.note_create("exec:k-open", kind="exec")
    settled = await promises.settle("exec:k-open", "rejected", {"status": "interrupted"})
    assert settled.is_winner
    assert len(await promises.search(prefix="exec:", state="resolved")) == 700
    assert promises.statistics.written == 1401
    assert promises.statistics.refused == 0


async def test_what_was_noted_is_there_after_stop(path: str) -> None:
    async with EmbeddedPromises(path) as promises:
        promises.note_create("a", 1)
        promises.note_settle("a", "resolved", 2)
    async with EmbeddedPromises(path) as promises:
        promise = await promises.get("a")
        assert promise is not None
        assert promise.value_data() == 2


async def test_stop_wakes_whoever_waits(path: str) -> None:
    promises = EmbeddedPromises(path)
    await promises.create("a")
    wait = asyncio.create_task(promises.wait("a"))
    await promises.get("a")
    await promises.call(lambda store: store.bell.open())
    await promises.stop()
    with pytest.raises(PromisesUnavailable, match="closed"):
        await wait
    assert list(Path(path + ".wake").iterdir()) == []


async def test_nothing_is_opened_before_the_first_request(path: str) -> None:
    async with EmbeddedPromises(path):
        assert not Path(path).exists()
    assert not Path(path).exists()


async def test_the_file_is_its_owners_alone(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("a")
    wait = asyncio.create_task(promises.wait("a", 30))
    await promises.get("a")
    await promises.settle("a", "resolved")
    await wait
    for file in Path(path).parent.glob("promises.sqlite3*"):
        mode = stat.S_IMODE(file.stat().st_mode)
        assert mode == (0o700 if file.is_dir() else 0o600), file


async def test_another_process_is_woken(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("question")
    await promises.create("answered")
    async with waiting_process(path) as process:
        await promises.settle("question", "resolved", "Alice")
        promise = await promises.wait("answered", 30)
        assert promise.value_data() == {"heard": "Alice"}
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_without_a_socket_the_log_is_looked_at(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("a")
    wait = asyncio.create_task(promises.wait("a", 30))
    await promises.get("a")
    await promises.call(lambda store: store.bell.open())
    for socket in Path(path + ".wake").iterdir():
        socket.unlink()
    async with EmbeddedPromises(path) as other:
        await other.settle("a", "resolved", 1)
    assert (await wait).value_data() == 1


async def test_a_dead_process_leaves_no_socket(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("question")
    wake = Path(path + ".wake")
    async with waiting_process(path) as process:
        assert len(list(wake.iterdir())) == 1
        process.kill()
        await process.wait()
        await promises.settle("question", "resolved")
        assert list(wake.iterdir()) == []


async def test_a_file_deleted_under_us_is_made_again(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("a")
    await promises.get("a")  # both connections are open
    for file in Path(path).parent.glob("promises.sqlite3*"):
        if file.is_file():
            file.unlink()
    assert (await promises.create("b")).is_new
    async with EmbeddedPromises(path) as other:
        assert await other.get("b") is not None
        assert await other.get("a") is None


async def test_a_file_that_is_no_database_is_named_and_left_alone(path: str) -> None:
    Path(path).write_bytes(b"something else" * 100)
    async with EmbeddedPromises(path) as promises:
        promises.note_create("noted")
        with pytest.raises(PromisesUnavailable, match="move it away"):
            await promises.create("a")
        assert not await promises.flush(0.1)
        assert promises.statistics.waiting == 1
        assert "move it away" in promises.statistics.last_error
        assert Path(path).read_bytes() == b"something else" * 100
        Path(path).unlink()
        assert await promises.flush()
        assert await promises.get("noted") is not None


async def test_a_file_of_a_later_capsule_is_refused(path: str) -> None:
    async with EmbeddedPromises(path) as promises:
        await promises.create("a")
        await promises.call(lambda store: store._connection.execute("PRAGMA user_version=99"))
    async with EmbeddedPromises(path) as promises:
        with pytest.raises(PromisesUnavailable, match="format 99"):
            await promises.get("a")


async def test_processes_that_come_and_go_do_not_part_the_others_from_the_file(promises: EmbeddedPromises) -> None:
    await promises.create("question")
    waiting = asyncio.create_task(promises.wait("question", 30))
    # The second connection of this process is open when another process is the last to close its own.
    await promises.wait_watching()
    assert await state_for_another_process(promises.path) == "pending"
    await promises.settle("question", "resolved", 1)
    assert await state_for_another_process(promises.path) == "resolved"
    await waiting


async def test_another_process_that_writes_holds_up_its_request_and_not_the_loop(
    promises: EmbeddedPromises, path: str
) -> None:
    await promises.create("a")
    await promises._thread.quick()
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        settling = asyncio.create_task(promises.settle("a", "resolved", 1))
        creating = asyncio.create_task(promises.create("b"))
        done, _ = await asyncio.wait({settling, creating}, timeout=0.1)
        assert not done
        other.execute("COMMIT")
    finally:
        other.close()
    async with asyncio.timeout(30):
        assert (await settling).is_winner
        assert (await creating).is_new


async def test_what_is_written_ahead_moves_into_the_file(promises: EmbeddedPromises, path: str) -> None:
    """Requests of the loop write nothing but SQLite's log: without the thread, that would grow for ever."""
    log = Path(path + "-wal")
    for number in range(450):
        await promises.create(f"exec:k-{number}", "x" * 1000)
    await promises.call(lambda _: None)
    assert Path(path).stat().st_size > 400_000
    before = log.stat().st_size
    for number in range(450, 550):
        await promises.create(f"exec:k-{number}", "x" * 1000)
    assert log.stat().st_size == before


async def test_stop_closes_every_connection(path: str) -> None:
    async with EmbeddedPromises(path) as promises:
        for number in range(3):
            await promises.create(f"exec:k-{number}")
        waiting = asyncio.create_task(promises.wait("exec:k-0"))
        await promises.wait_watching()
        assert any(name.startswith(path) for name in open_files())
    with pytest.raises(PromisesUnavailable):
        await waiting
    assert not [name for name in open_files() if name.startswith(path)]
    # The last connection that is closed moves what was written ahead into the file, and removes the log.
    assert not Path(path + "-wal").exists()


async def test_nothing_overtakes_what_somebody_gave_up(promises: EmbeddedPromises, path: str) -> None:
    """A question whose creation took too long is canceled: that must not come before the creation."""
    await promises._thread.quick()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await promises.create("question")
        release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        release.start()
        canceled = await promises.settle("question", "rejected_canceled")
        release.join()
    finally:
        other.close()
    assert canceled.is_winner
    assert (await promises.get("question")) == canceled.promise


async def test_a_file_deleted_under_us_is_kept_small_too(promises: EmbeddedPromises, path: str) -> None:
    await promises.create("a")
    await promises._thread.quick()
    for file in Path(path).parent.glob("promises.sqlite3*"):
        if file.is_file():
            file.unlink()
    for number in range(450):
        await promises.create(f"exec:k-{number}", "x" * 1000)
    await promises.call(lambda _: None)
    assert Path(path).stat().st_size > 400_000


async def test_a_second_connection_that_cannot_be_opened_is_done_without(
    promises: EmbeddedPromises, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: Store) -> Store:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "quick", refuse)
    for number in range(3):
        assert (await promises.create(f"a-{number}")).is_new
    assert len(await promises.search(prefix="a-")) == 3
