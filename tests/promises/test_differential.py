"""The same random requests to the embedded store and to the SDK's in-memory server, and to a real one."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.promises.backends import EmbeddedBackend, MemoryBackend, ServerBackend
from tests.promises.operations import IDS, Operations
from tests.promises.resonate_server import running_server

_STEPS = 150


def _records(data: Any) -> Any:
    """What an answer says about promises and tasks, in one form for all."""
    if not isinstance(data, dict):
        return None
    found: dict[str, Any] = {}
    action = data.get("action")
    promise = data.get("promise") or (action.get("data", {}) if isinstance(action, dict) else {})
    if isinstance(promise, dict) and "promise" in promise:
        promise = promise["promise"]
    if isinstance(promise, dict) and promise:
        found["promise"] = _promise(promise)
    if isinstance(data.get("task"), dict):
        task = data["task"]
        found["task"] = {key: task.get(key) for key in ("id", "state", "pid", "ttl")}
    return found


def _promise(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "param": record.get("param") or {}, "value": record.get("value") or {}}


@pytest.fixture
def ours(path: str) -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend(path)
    yield backend
    backend.store.close()


@pytest.mark.parametrize("seed", range(25))
def test_the_embedded_store_answers_as_the_sdks_in_memory_server(ours: EmbeddedBackend, seed: int) -> None:
    theirs = MemoryBackend()
    operations = Operations(seed, can_expire=False)
    for _ in range(_STEPS):
        kind, data = operations.next()
        if _is_beyond_memory(kind, data, theirs):
            continue
        answer = ours.send(operations.now_ms, kind, data)
        if answer[0] == 400:
            continue  # it checks nothing
        answers = [answer, theirs.send(operations.now_ms, kind, data)]
        # The in-memory server says 201 for new, and 409 where the real one says 422.
        statuses = [{201: 200, 422: 409}.get(status, status) for status, _ in answers]
        assert statuses[0] == statuses[1], (kind, data, answers)
        if statuses[0] == 200:
            assert _records(answers[0][1]) == _records(answers[1][1]), (kind, data)
        if operations.random.random() < 0.1:
            for backend in (ours, theirs):
                backend.tick(operations.now_ms)
                for promise_id in IDS:  # it does not expire promises without a target by itself
                    backend.send(operations.now_ms, "promise.get", {"id": promise_id})
    assert ours.messages() == theirs.messages()
    states = {task.id: task.state for task in theirs.state.tasks.values()}
    assert {task["id"]: task["state"] for task in ours.snapshot()["tasks"]} == states


def _is_beyond_memory(kind: str, data: dict[str, Any], memory: MemoryBackend) -> bool:
    """Where the in-memory server is known to let pass what a real one refuses."""
    if kind == "task.suspend":
        return data["version"] == "stale" or any(
            action["data"]["awaited"] not in memory.state.promises for action in data["actions"]
        )
    return kind in {"task.acquire", "task.release", "task.fulfill"} and data["version"] == "stale"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("resonate"), "--debug") as url:
        yield url


@pytest.mark.parametrize("seed", range(25))
def test_the_embedded_store_answers_as_a_real_server(ours: EmbeddedBackend, server: str, seed: int) -> None:
    theirs = ServerBackend(server)
    operations = Operations(1000 + seed)
    for step in range(_STEPS):
        kind, data = operations.next()
        answers = [backend.send(operations.now_ms, kind, data) for backend in (ours, theirs)]
        assert answers[0][0] == answers[1][0], (step, kind, data, answers)
        if answers[0][0] == 200:
            assert _records(answers[0][1]) == _records(answers[1][1]), (step, kind, data)
        if operations.random.random() < 0.1:
            for backend in (ours, theirs):
                backend.tick(operations.now_ms)
        expected, found = theirs.snapshot(), ours.snapshot()
        for part, there in expected.items():
            assert _normal(found[part]) == _normal(there), (step, kind, data, part)


def _normal(rows: list[Any]) -> list[Any]:
    return [{key: value or None for key, value in row.items()} if isinstance(row, dict) else row for row in rows]
