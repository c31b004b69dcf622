"""Promises on a server, and every way in which that server may fail. What stands in is the SDK's in-memory server."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from resonate.context import Context

from capsule_kernel.errors import PromiseNotFound, PromiseRejected, PromisesUnavailable
from capsule_kernel.promises.durable import on_remote
from capsule_kernel.promises.http import Deadlines
from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.server import Token
from capsule_kernel.promises.sse import SseSource
from tests.promises.stand_in import StandIn

_SHORT = Deadlines(attempt_s=0.3, request_s=0.9)


@pytest.fixture
async def server() -> AsyncIterator[StandIn]:
    async with StandIn() as running:
        yield running


@pytest.fixture
async def promises(server: StandIn) -> AsyncIterator[RemotePromises]:
    async with RemotePromises(server.url, deadlines=Deadlines(attempt_s=1, request_s=8)) as opened:
        yield opened


async def waiting(promises: RemotePromises, server: StandIn, promise_id: str) -> "asyncio.Task[object]":
    """Begin to wait for a promise; return when the server knows."""
    task: asyncio.Task[object] = asyncio.create_task(promises.wait(promise_id, 30))
    async with asyncio.timeout(10):
        while not (server.streams and server.state.promises[promise_id].subscribers):
            await asyncio.sleep(0.01)
    return task


async def test_who_was_first_is_known(promises: RemotePromises) -> None:
    first = await promises.create("k-1:input:1", {"prompt": "Name? "}, kind="input")
    second = await promises.create("k-1:input:1", {"prompt": "Name? "}, kind="input")
    assert (first.is_new, second.is_new) == (True, False)
    assert second.promise.param_data() == {"prompt": "Name? "}
    won = await promises.settle("k-1:input:1", "resolved", "Alice")
    lost = await promises.settle("k-1:input:1", "resolved", "Alice")
    assert (won.is_winner, lost.is_winner) == (True, False)
    assert lost.promise.value_data() == "Alice"


async def test_what_is_not_there_is_not_found(promises: RemotePromises) -> None:
    assert await promises.get("nothing") is None
    with pytest.raises(PromiseNotFound):
        await promises.settle("nothing", "resolved")
    with pytest.raises(PromiseNotFound):
        await promises.wait("nothing", 10)


async def test_search_finds_by_prefix_state_and_kind(promises: RemotePromises) -> None:
    for number in range(3):
        promises.note_create(f"exec:k-{number}", kind="exec")
    promises.note_create("k-0:input:1", kind="input")
    promises.note_settle("exec:k-1", "resolved", {"status": "ok"})
    assert await promises.flush()
    pending = await promises.search(prefix="exec:", state="pending")
    assert [promise.id for promise in pending] == ["exec:k-0", "exec:k-2"]
    assert [promise.id for promise in await promises.search(kind="input")] == ["k-0:input:1"]


async def test_waiting_ends_with_a_settlement_elsewhere(promises: RemotePromises, server: StandIn) -> None:
    await promises.create("a")
    task = await waiting(promises, server, "a")
    async with RemotePromises(server.url) as other:
        await other.settle("a", "resolved", 1)
    promise = await task
    assert promise.value_data() == 1  # type: ignore[attr-defined]


async def test_a_settlement_while_disconnected_is_seen_after_reconnecting(
    promises: RemotePromises, server: StandIn
) -> None:
    await promises.create("a")
    task = await waiting(promises, server, "a")
    server.mood = "deaf"
    async with RemotePromises(server.url) as other:
        await other.settle("a", "resolved", 1)
    server.mood = "well"
    server.hang_up_streams()
    async with asyncio.timeout(8):
        assert (await task).value_data() == 1  # type: ignore[attr-defined]


async def test_a_promise_times_out_without_a_message(promises: RemotePromises) -> None:
    await promises.create("a", timeout_at_ms=time.time_ns() // 1_000_000 + 200)
    async with asyncio.timeout(8):
        assert (await promises.wait("a")).state == "rejected_timedout"


async def test_a_lost_answer_does_not_cost_the_victory(promises: RemotePromises, server: StandIn) -> None:
    server.mood = "loses answers"
    assert (await promises.create("a")).is_new
    server.mood = "loses answers"
    assert (await promises.settle("a", "resolved", 1)).is_winner
    assert server.requests == ["promise.create"] * 2 + ["promise.settle"] * 2


@pytest.mark.parametrize("mood", ["429", "502", "503", "truncated"])
async def test_what_passes_is_waited_for(promises: RemotePromises, server: StandIn, mood: str) -> None:
    server.mood = mood
    task = asyncio.create_task(promises.create("a"))
    await asyncio.sleep(0.1)
    assert not task.done()
    server.mood = "well"
    created = await task
    assert created.promise.is_pending


@pytest.mark.parametrize(
    ("mood", "reason"),
    [("stalled", "no answer within"), ("429", "429"), ("502", "502"), ("truncated", "no answer of Resonate|502")],
)
async def test_what_does_not_pass_is_said_in_time(server: StandIn, mood: str, reason: str) -> None:
    server.mood = mood
    async with RemotePromises(server.url, deadlines=_SHORT) as promises:
        start = time.monotonic()
        with pytest.raises(PromisesUnavailable, match=reason):
            await promises.create("a")
        assert time.monotonic() - start < 3


async def test_a_server_that_fails_again_and_again_is_left_alone(server: StandIn) -> None:
    server.mood = "502"
    async with RemotePromises(server.url, deadlines=Deadlines(attempt_s=0.2, request_s=0.3)) as promises:
        for _ in range(5):
            with pytest.raises(PromisesUnavailable):
                await promises.create("a")
        with pytest.raises(PromisesUnavailable, match="not asked again"):
            await promises.create("a")
    assert server.requests == []


async def test_without_a_server_notes_wait_and_are_written_later(server: StandIn) -> None:
    await server.stop()
    async with RemotePromises(server.url, deadlines=_SHORT) as promises:
        for number in range(20):
            promises.note_create(f"exec:k-{number}", kind="exec")
            promises.note_settle(f"exec:k-{number}", "resolved")
        assert not await promises.flush(3)
        assert promises.statistics.waiting == 40
        assert "127.0.0.1" in promises.statistics.last_error
        await server.start()
        promises._network._breaker.succeeded()  # type: ignore[union-attr]
        assert await promises.flush(5)
        assert (promises.statistics.written, promises.statistics.waiting) == (40, 0)
        assert promises.statistics.last_error == ""
    assert {promise.state for promise in server.state.promises.values()} == {"resolved"}


async def test_a_wait_outlives_the_servers_restart(promises: RemotePromises, server: StandIn) -> None:
    await promises.create("a")
    task = await waiting(promises, server, "a")
    await server.stop()
    await server.start()
    async with RemotePromises(server.url) as other:
        await other.settle("a", "resolved", 1)
    async with asyncio.timeout(15):
        assert (await task).value_data() == 1  # type: ignore[attr-defined]


async def test_a_refused_token_is_named(server: StandIn) -> None:
    server.tokens = {"good"}
    async with RemotePromises(server.url, Token(text="bad")) as promises:
        with pytest.raises(PromiseRejected, match="401"):
            await promises.create("a")
        with pytest.raises(PromiseRejected, match="check the token"):
            await promises.probe()


async def test_what_the_server_refuses_to_note_is_counted(server: StandIn) -> None:
    server.tokens = {"good"}
    async with RemotePromises(server.url, Token(text="bad")) as promises:
        promises.note_create("a")
        assert await promises.flush(5)
        assert (promises.statistics.refused, promises.statistics.written) == (1, 0)
        assert promises.statistics.last_error == "status 401: Unauthorized"


async def test_a_token_command_is_asked_again_when_a_token_is_refused(server: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    server.tokens = {"first"}
    token = Token(command=f"cat {file}")
    async with RemotePromises(server.url, token) as promises:
        await promises.create("a")
        server.tokens = {"second"}
        file.write_text("second\n")
        await asyncio.gather(*(promises.get("a") for _ in range(5)))
    assert server.auths == {"first", "second"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false", "status 1"),
        ("echo two words", "no single token"),
        ("no-such-program-here", "cannot be run"),
        ("echo 'unclosed", "cannot be run"),
    ],
)
async def test_a_token_command_that_gives_none_is_named(server: StandIn, command: str, reason: str) -> None:
    async with RemotePromises(server.url, Token(command=command)) as promises:
        with pytest.raises(PromisesUnavailable, match=reason):
            await promises.create("a")


async def test_no_token_is_written_to_a_log(server: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.tokens = {"secret-token"}

    async def leaf(ctx: Context) -> int:
        return 1

    async with RemotePromises(server.url, Token(text="secret-token")) as promises:
        async with await on_remote(promises, pid="me") as resonate:
            resonate.register(leaf)
            handle = resonate.run("run-1", leaf)
            await handle.id()
            assert await handle.result() == 1
        server.mood = "502"
        assert "secret" not in repr(promises) + repr(promises.token) + repr(promises._network)
    assert server.auths == {"secret-token"}
    assert "secret-token" not in caplog.text


async def test_a_server_with_other_rules_for_ids_is_refused_for_durable_functions(
    promises: RemotePromises, server: StandIn
) -> None:
    server.refuses_colons = True
    with pytest.raises(PromisesUnavailable, match=r"0\.10 and later"):
        await on_remote(promises, pid="me")
    assert (await promises.create("k-1:input:1")).is_new


async def test_something_else_at_the_address_is_named(unused_tcp_port_server: str) -> None:
    async with RemotePromises(unused_tcp_port_server, deadlines=_SHORT) as promises:
        with pytest.raises(PromisesUnavailable, match="no answer of Resonate"):
            await promises.probe()


@pytest.fixture
async def unused_tcp_port_server() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    other.close()


async def test_the_stream_is_renewed_before_the_old_one_ends(server: StandIn) -> None:
    connected = asyncio.Event()
    count = 0

    def on_connected() -> None:
        nonlocal count
        count += 1
        if count == 3:
            connected.set()

    source = SseSource(server.url, Token(), group="workers", pid="me", on_connected=on_connected, renewed_s=0.05)
    await source.start()
    async with asyncio.timeout(10):
        await connected.wait()
    assert source.connections >= 3
    await source.stop()


async def test_durable_functions_run_on_a_server(promises: RemotePromises) -> None:
    async def add(ctx: Context, number: int) -> int:
        return number + 1

    async def count(ctx: Context) -> int:
        total = 0
        for _ in range(5):
            total = await ctx.run(add, total)
        return total

    async with await on_remote(promises, pid="me", ttl=timedelta(seconds=5)) as resonate:
        resonate.register(count)
        handle = resonate.run("run-1", count)
        await handle.id()
        assert await handle.result() == 5


@pytest.mark.parametrize("state", ["stalled", "restarted", "gone", "401", "429", "502", "deaf", "well"])
async def test_the_end_comes_within_two_seconds_whatever_the_server_does(server: StandIn, state: str) -> None:
    promises = RemotePromises(server.url)
    await promises.create("a")
    task = await waiting(promises, server, "a")
    functions = await on_remote(promises, pid="me")

    async def ask(ctx: Context) -> object:
        return await ctx.promise()

    functions.resonate.register(ask)
    functions.resonate.start()
    handle = functions.resonate.run("run-1", ask)
    await handle.id()
    match state:
        case "gone":
            await server.stop()
        case "restarted":
            await server.stop()
            await server.start()
        case "401":
            server.tokens = {"another"}
            server.hang_up_streams()
        case _:
            server.mood = state
    promises.note_create("b")
    asking = asyncio.create_task(promises.get("a"))
    await asyncio.sleep(0.05)
    start = time.monotonic()
    await functions.stop()
    functions_s = time.monotonic() - start
    start = time.monotonic()
    await promises.stop()
    promises_s = time.monotonic() - start
    assert functions_s < 2
    assert promises_s < 2
    results = await asyncio.gather(task, asking, return_exceptions=True)
    assert isinstance(results[0], PromisesUnavailable)
    assert not isinstance(results[1], asyncio.CancelledError)
    leftover = [other for other in asyncio.all_tasks() if other.get_name().startswith("promises:")]
    assert leftover == []


def test_importing_what_the_front_needs_imports_neither_resonate_nor_aiohttp() -> None:
    import subprocess

    code = (
        "import sys; import capsule_kernel.promises.opening, capsule_kernel.promises.names; "
        "print([name for name in ('resonate', 'resonate_base', 'aiohttp') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "[]"
