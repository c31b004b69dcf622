import asyncio
import json

from capsule_kernel.promises.heartbeat import GroupedHeartbeat


async def test_each_origin_has_a_request_of_its_own_and_failures_end_nothing() -> None:
    seen: list[tuple[str, list[str]]] = []
    reports: list[str] = []
    enough = asyncio.Event()

    async def send(request: str, headers: dict[str, str] | None) -> str:
        assert headers is not None
        data = json.loads(request)["data"]
        assert data["pid"] == "me"
        seen.append((headers["resonate:origin"], [task["id"] for task in data["tasks"]]))
        if len(seen) >= 6:
            enough.set()
        await asyncio.sleep(0)
        if headers["resonate:origin"] == "b":
            raise OSError("gone")
        return "{}"

    heartbeat = GroupedHeartbeat(send, pid="me", interval_s=0.01, report=reports.append)
    for task_id in ("a", "a:1", "b"):
        heartbeat.start(task_id, 1)
    async with asyncio.timeout(10):
        await enough.wait()
    heartbeat.stop("a")
    heartbeat.stop("a:1")
    heartbeat.stop("b")
    count = len(seen)
    await asyncio.sleep(0.05)
    assert len(seen) == count
    assert seen[:2] == [("a", ["a", "a:1"]), ("b", ["b"])]
    assert seen[2:4] == seen[:2]
    assert reports[0] == "heartbeat: gone"


async def test_a_task_that_was_taken_again_is_kept_when_its_first_run_ends() -> None:
    versions: list[int] = []
    beaten = asyncio.Event()

    async def send(request: str, headers: dict[str, str] | None) -> str:
        versions.extend(task["version"] for task in json.loads(request)["data"]["tasks"])
        beaten.set()
        return "{}"

    heartbeat = GroupedHeartbeat(send, pid="me", interval_s=0.01, report=print)
    heartbeat.start("a", 1)
    heartbeat.start("a", 2)
    heartbeat.stop("a")
    async with asyncio.timeout(10):
        await beaten.wait()
    heartbeat.stop("a")
    assert set(versions) == {2}
