"""Durable runs whose promises are on a Resonate server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from capsule_kernel.promises.remote import RemotePromises
from tests.promises.servers import KINDS, Server, serving

from .test_durable_runs import Place, hanging, noting
from .test_run import make, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from capsule_kernel.promises.model import Promise

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(request.param, tmp_path) as running:
        yield running


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    settings = {"CapsuleKernel": {"durability": "remote", "resonate_url": server.url}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_capsule_config.json").write_text(json.dumps(settings), encoding="utf-8")
    yield found
    found.close()


def kept(server: Server, prefix: str) -> list[Promise]:
    async def search() -> list[Promise]:
        async with RemotePromises(server.url) as promises:
            return await promises.search(prefix=prefix)

    return asyncio.run(search())


def test_a_run_goes_on_at_once_after_all_of_it_was_killed(place: Place, server: Server) -> None:
    path = make(place.folder / "a.ipynb", noting("a", "x = 1"), tagged(hanging("b") + "\nprint(x + 1)", "rerun:safe"))
    process = place.start("run", path, "--id", "r")
    place.wait_for_log(2)
    place.kill_all(process)
    states = [(promise.id, promise.state) for promise in kept(server, "r")]
    assert states == [("r", "pending"), ("r:1", "resolved"), ("r:2", "pending")]
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
    assert place.log() == ["a", "b", "b"]
    states = [(promise.id, promise.state) for promise in kept(server, "r")]
    assert states == [("r", "resolved"), ("r:1", "resolved"), ("r:2", "resolved")]
    assert place.state()["state"] == "finished"


def test_a_cell_that_failed_is_a_step_that_was_not_finished(place: Place, server: Server) -> None:
    path = make(place.folder / "a.ipynb", "x = 1", "print(x / y)")
    failed = place.run(path)
    assert failed.returncode == 1
    assert [promise.state for promise in kept(server, "r")] == ["pending", "resolved", "pending"]
    make(path, "x = 1", "y = 2; print(x / y)")
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0.5\n"
    assert [promise.state for promise in kept(server, "r")] == ["resolved"] * 3
