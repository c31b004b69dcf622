"""A kernel whose promises are on a Resonate server: the SDK's in-memory one behind a real one's wire, or a real one.

The server goes away under the kernel: cells and questions of the front end go on, and what could not be recorded waits.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from capsule_kernel.promises.remote import RemotePromises
from capsule_kernel.promises.server import Token
from tests.promises.servers import KINDS, Server, serving

from .exchange import DEADLINE_S
from .process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from capsule_kernel.promises.model import Promise
    from tests.kernel.client import Client
    from tests.kernel.starter import KernelStarter

pytestmark = pytest.mark.timeout(120)
_BACK_S = 45.0
"""A breaker that is open tries again after 15 s, notes every 5 s; the rest is for a busy machine."""


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(request.param, tmp_path) as running:
        yield running


@pytest.fixture
def kernel(server: Server, start_kernel: KernelStarter) -> Client:
    return start_kernel("--CapsuleKernel.durability=remote", f"--CapsuleKernel.resonate_url={server.url}")


def found(server: Server, kind: str) -> list[Promise]:
    async def search() -> list[Promise]:
        promises = RemotePromises(server.url, Token())
        await promises.start()
        try:
            return await promises.search(kind=kind)
        finally:
            await promises.stop()

    return asyncio.run(search())


def statistics(kernel: Client) -> dict[str, Any]:
    content: dict[str, Any] = kernel.request("usage_request", {}, channel="control").wait().content["promises"]
    return content


def wait_statistics(kernel: Client, name: str, wanted: int, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while (counts := statistics(kernel)).get(name, 0) != wanted:
        assert time.monotonic() < deadline, f"{counts}; {kernel.process.log()}"
        kernel.pass_time(0.05)
    return counts


def command(server: Server, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `capsule` as on another machine: it knows the server, and that promises are there."""
    settings = {"CapsuleKernel": {"durability": "remote", "resonate_url": server.url}}
    (folder / "jupyter_capsule_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())", *args],
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_executions_are_recorded_on_the_server(server: Server, kernel: Client) -> None:
    kernel.run("x = 1")
    kernel.execute("1/0").claim("error")
    counts = wait_statistics(kernel, "written", 4)
    assert (counts["durability"], counts["waiting"], counts["dropped"]) == ("remote", 0, 0)
    states = sorted((promise.state, promise.value_data()["status"]) for promise in found(server, "exec"))
    assert states == [("rejected", "error"), ("resolved", "ok")]


def test_a_question_is_answered_over_the_server(server: Server, kernel: Client, tmp_path: Path) -> None:
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    listed = command(server, tmp_path, "inputs", "--json")
    assert listed.returncode == 0, listed.stderr
    (question,) = json.loads(listed.stdout)
    assert question["prompt"] == "Name? "
    answered = command(server, tmp_path, "answer", question["id"], "Grace")
    assert answered.returncode == 0, answered.stderr
    cell.wait()
    assert kernel.evaluate("x") == "'Grace'"


@pytest.mark.slow
def test_cells_and_questions_go_on_when_the_server_is_away(server: Server, kernel: Client) -> None:
    kernel.run("x = 1")
    wait_statistics(kernel, "written", 2)
    server.stop()
    try:
        cells = [kernel.start(f"x = {number}").wait() for number in range(5)]
        deadline = time.monotonic() + DEADLINE_S
        while not (counts := statistics(kernel))["last_error"]:
            assert time.monotonic() < deadline, counts
            kernel.pass_time(0.05)
        cell = kernel.start("y = input('Name? ')", allow_stdin=True)
        kernel.answer(kernel.wait_input_request(cell), "Ada")
        told = [each.stderr for each in (*cells, cell)]
        assert sum("records nothing now, cells go on" in text for text in told) == 1
        assert told.count("") == 5
        assert kernel.evaluate("x, y") == "(4, 'Ada')"
    finally:
        server.start()
    counts = wait_statistics(kernel, "waiting", 0, _BACK_S)
    assert (counts["written"], counts["dropped"], counts["refused"], counts["last_error"]) == (14, 0, 0, "")
    assert all(promise.state == "resolved" for promise in found(server, "exec"))
    assert len(found(server, "exec")) == 7


def test_a_kernel_starts_and_ends_without_its_server(start_kernel: KernelStarter) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    kernel = start_kernel("--CapsuleKernel.durability=remote", f"--CapsuleKernel.resonate_url={url}")
    kernel.run("x = 1")
    cell = kernel.start("y = input('Name? ')", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "Ada")
    cell.wait()
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    log = kernel.process.log()
    kernel.close()
    assert "notes about executions were not written" in log
