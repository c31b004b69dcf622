"""Remote mode against a real Resonate server."""

import asyncio
import base64
import json
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from resonate.context import Context

from capsule_kernel.errors import PromiseRejected
from capsule_kernel.promises.durable import on_remote
from capsule_kernel.promises.http import Deadlines
from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.server import Token
from tests.kernel.process import free_ports
from tests.promises.resonate_server import running_server, server_binary, start_server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("resonate"), "--messages-poll-interval", "10") as url:
        yield url


@pytest.fixture
async def promises(url: str) -> AsyncIterator[RemotePromises]:
    async with RemotePromises(url) as opened:
        yield opened


def new_id() -> str:
    return f"t{time.time_ns()}"


async def test_the_servers_dialect_fits(promises: RemotePromises) -> None:
    await promises.probe()
    await promises.probe()


async def test_who_was_first_is_known(promises: RemotePromises) -> None:
    promise_id = f"{new_id()}:input:1"
    created = [await promises.create(promise_id, {"prompt": "Name? "}, kind="input") for _ in range(2)]
    assert [one.is_new for one in created] == [True, False]
    settled = await asyncio.gather(*(promises.settle(promise_id, "resolved", number) for number in range(4)))
    assert sum(one.is_winner for one in settled) == 1
    assert len({one.promise.value_data() for one in settled}) == 1


async def test_notes_and_search(promises: RemotePromises) -> None:
    kernel = new_id()
    for number in range(600):
        promises.note_create(f"exec:{kernel}-{number}", kind="exec", tags={"capsule:kernel": kernel})
    promises.note_settle(f"exec:{kernel}-0", "resolved", {"status": "ok"})
    assert await promises.flush(20)
    assert promises.statistics.refused == 0
    pending = await promises.search(prefix=f"exec:{kernel}-", state="pending", tags={"capsule:kernel": kernel})
    assert len(pending) == 599


async def test_a_settlement_elsewhere_wakes(promises: RemotePromises, url: str) -> None:
    promise_id = new_id()
    await promises.create(promise_id)
    task = asyncio.create_task(promises.wait(promise_id, 30))
    await asyncio.sleep(0)
    async with RemotePromises(url) as other:
        await other.settle(promise_id, "rejected", "no")
    async with asyncio.timeout(10):
        promise = await task
    assert (promise.state, promise.value_data()) == ("rejected", "no")


@pytest.mark.parametrize(
    ("value", "data"),
    [('{"data":"\\"Alice\\""}', "Alice"), ('{"data":"Alice"}', "Alice"), ('{"data":{"text":"Al"}}', {"text": "Al"})],
)
async def test_an_answer_by_resonates_own_command_is_read(
    promises: RemotePromises, url: str, value: str, data: object
) -> None:
    promise_id = f"{new_id()}:input:1"
    await promises.create(promise_id)
    command = [server_binary(), "promises", "resolve", promise_id, "--value", value, "--server", url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert (await promises.wait(promise_id, 10)).value_data() == data


async def test_two_durable_functions_keep_their_leases_and_are_answered(promises: RemotePromises) -> None:
    async def ask(ctx: Context) -> Any:
        return await ctx.promise()

    async with await on_remote(promises, group=new_id(), pid="me") as resonate:
        resonate.register(ask)
        runs = [new_id() for _ in range(2)]
        handles = [resonate.run(run, ask) for run in runs]
        for handle in handles:
            await handle.id()
        for number, run in enumerate(runs):
            async with asyncio.timeout(10):
                while await promises.get(f"{run}:1") is None:
                    await asyncio.sleep(0.02)
            await promises.settle(f"{run}:1", "resolved", number)
        async with asyncio.timeout(20):
            assert [await handle.result() for handle in handles] == [0, 1]


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    process = start_server(tmp_path, port)
    acknowledged = 0
    try:
        deadlines = Deadlines(attempt_s=2, request_s=20)
        async with RemotePromises(f"http://127.0.0.1:{port}", deadlines=deadlines) as promises:
            await promises.create("awaited")
            task = asyncio.create_task(promises.wait("awaited", 60))
            for number in range(40):
                if number in {10, 25}:
                    process.kill()
                    process.wait(10)
                    process = start_server(tmp_path, port)
                await promises.create(f"exec:k-{number}", kind="exec")
                acknowledged += 1
            await promises.settle("awaited", "resolved", 1)
            async with asyncio.timeout(20):
                assert (await task).value_data() == 1
            assert len(await promises.search(prefix="exec:k-")) == acknowledged == 40
            start = time.monotonic()
        assert time.monotonic() - start < 2
    finally:
        process.kill()
        process.wait(10)


async def test_the_end_comes_within_two_seconds_while_the_server_is_stopped(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    process = start_server(tmp_path, port)
    try:
        promises = RemotePromises(f"http://127.0.0.1:{port}")
        await promises.create("a")
        functions = await on_remote(promises, pid="me")
        functions.resonate.start()
        task = asyncio.create_task(promises.wait("a", 60))
        await promises.get("a")
        process.send_signal(signal.SIGSTOP)  # accepts, and says nothing
        promises.note_create("b")
        start = time.monotonic()
        await functions.stop()
        between = time.monotonic()
        await promises.stop()
        assert between - start < 2
        assert time.monotonic() - between < 2
        await asyncio.gather(task, return_exceptions=True)
    finally:
        process.kill()
        process.wait(10)


class Signer:
    """Signs tokens for a server that is given the public key."""

    def __init__(self, folder: Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl, which makes the keys, is missing")
        self._openssl = openssl
        self._key, self.public_key = folder / "key.pem", folder / "public.pem"
        self._run("genrsa", "-out", str(self._key), "2048")
        self._run("rsa", "-in", str(self._key), "-pubout", "-out", str(self.public_key))

    def token(self, **claims: object) -> str:
        parts = ({"alg": "RS256", "typ": "JWT"}, {"exp": int(time.time()) + 600, **claims})
        text = ".".join(self._base64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{self._base64(self._run('dgst', '-sha256', '-sign', str(self._key), text=text))}"

    def _run(self, *arguments: str, text: str = "") -> bytes:
        command = [self._openssl, *arguments]
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=20, check=True)
        return done.stdout

    def _base64(self, data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_tokens_are_scoped_renewed_and_refused(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    file = tmp_path / "token"
    with running_server(tmp_path, "--auth-publickey", str(signer.public_key)) as url:
        async with RemotePromises(url, Token(text=signer.token(role="admin"))) as admin:
            await admin.probe()
            await admin.create("k-1:input:1", kind="input")
            await admin.create("k-1:input:2", kind="input")
            waiting = asyncio.create_task(admin.wait("k-1:input:1", 20))
            async with RemotePromises(url, Token(text=signer.token(prefix="k-1:input:1"))) as guest:
                await guest.probe()
                with pytest.raises(PromiseRejected, match="403"):
                    await guest.settle("k-1:input:2", "resolved", "no")
                assert (await guest.settle("k-1:input:1", "resolved", "yes")).is_winner
            assert (await waiting).value_data() == "yes"
        file.write_text(signer.token(role="admin", exp=int(time.time()) - 3600))
        async with RemotePromises(url, Token(command=f"cat {file}")) as promises:
            with pytest.raises(PromiseRejected, match="401"):
                await promises.get("k-1:input:1")
            file.write_text(signer.token(role="admin"))
            assert await promises.get("k-1:input:1") is not None
        async with RemotePromises(url) as nobody:
            with pytest.raises(PromiseRejected, match="check the token"):
                await nobody.probe()
