"""What the same requests are sent to: the embedded store, the SDK's in-memory server, a real server."""

import json
import urllib.request
from typing import Any

import msgspec
from resonate.connections.local import ServerState

from capsule_kernel.clock import Clock
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.store import Store


class HandClock(Clock):
    def __init__(self) -> None:
        self.now_ms = 0

    def unix_ms(self) -> int:
        return self.now_ms


class EmbeddedBackend:
    def __init__(self, path: str) -> None:
        self._clock = HandClock()
        self.store = Store(path, self._clock)

    def send(self, now_ms: int, kind: str, data: dict[str, Any]) -> tuple[int, Any]:
        self._clock.now_ms = now_ms
        try:
            request = rq.read_request(kind, msgspec.Raw(json.dumps(self._resolved(data)).encode()))
        except msgspec.MsgspecError as exc:
            return 400, str(exc)
        assert request is not None
        outcome = self.store.apply([request])[0]
        return outcome.status, json.loads(msgspec.json.encode(outcome.data))

    def tick(self, now_ms: int) -> None:
        self._clock.now_ms = now_ms
        self.store.tick()

    def messages(self) -> list[str]:
        """What was announced since the beginning, without duplicates: executions and settled promises."""
        found = set()
        for entry in self.store.log_after(0):
            if entry.op == "execute":
                found.add(f"execute {entry.id} {entry.note.partition(' ')[2]}")
            elif entry.op == "unblock":
                found.add(f"unblock {entry.id} {entry.note}")
        return sorted(found)

    def snapshot(self) -> dict[str, Any]:
        run = self.store._connection.execute
        promises = self.store.search()
        tasks = self.store._rows.find_tasks(state=None, after="", limit=1000)
        return {
            "promises": [json.loads(msgspec.json.encode(promise.record())) for promise in promises],
            "tasks": [task.record() for task in tasks],
            "callbacks": [list(row) for row in run("SELECT awaited, awaiter FROM wait ORDER BY awaited, awaiter")],
            "listeners": [list(row) for row in run("SELECT promise, address FROM listener ORDER BY 1, 2")],
            "taskTimeouts": [[task.id, task.due_at_ms] for task in tasks if task.due_at_ms is not None],
        }

    def _resolved(self, data: Any) -> Any:
        return resolved(data, lambda task_id: getattr(self.store._rows.task(task_id), "version", 0))


class MemoryBackend:
    def __init__(self) -> None:
        self.state = ServerState()
        self._messages: set[str] = set()

    def send(self, now_ms: int, kind: str, data: dict[str, Any]) -> tuple[int, Any]:
        flat = {"kind": kind, **resolved(data, self._version)}
        answer = self.state.apply(now_ms, flat)
        self._take()
        return answer.pop("status"), answer

    def tick(self, now_ms: int) -> None:
        self.state.tick(now_ms)
        self._take()

    def messages(self) -> list[str]:
        return sorted(self._messages)

    def _version(self, task_id: str) -> int:
        return self.state.tasks[task_id].version if task_id in self.state.tasks else 0

    def _take(self) -> None:
        for one in self.state.outgoing:
            message = one.message
            if message["kind"] == "execute":
                self._messages.add(f"execute {message['data']['task']['id']} {one.address}")
            else:
                self._messages.add(f"unblock {message['data']['promise']['id']} {one.address}")
        self.state.outgoing.clear()


class ServerBackend:
    def __init__(self, url: str) -> None:
        self._url = url
        self._now_ms = 0
        self._versions: dict[str, int] = {}
        self.post("debug.start", {})
        self.post("debug.reset", {})

    def post(self, kind: str, data: Any) -> tuple[int, Any]:
        head = {"corrId": "1", "version": "2026-04-01", "resonate:debug_time": self._now_ms}
        body = json.dumps({"kind": kind, "head": head, "data": data}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
        except urllib.error.HTTPError as exc:
            text = exc.read()
        reply = json.loads(text)
        return reply["head"]["status"], reply["data"]

    def send(self, now_ms: int, kind: str, data: dict[str, Any]) -> tuple[int, Any]:
        self._now_ms = now_ms
        return self.post(kind, resolved(data, self._versions.get, 0))

    def tick(self, now_ms: int) -> None:
        self._now_ms = now_ms
        status, _ = self.post("debug.tick", {"time": now_ms})
        assert status == 200

    def snapshot(self) -> dict[str, Any]:
        status, snap = self.post("debug.snap", {})
        assert status == 200
        self._versions = {task["id"]: task["version"] for task in snap["tasks"]}
        return {
            "promises": sorted(snap["promises"], key=lambda one: str(one["id"])),
            "tasks": sorted(snap["tasks"], key=lambda one: str(one["id"])),
            "callbacks": sorted([one["awaited"], one["awaiter"]] for one in snap["callbacks"]),
            "listeners": sorted([one["id"], one["address"]] for one in snap["listeners"]),
            "taskTimeouts": sorted([one["id"], one["timeout"]] for one in snap["taskTimeouts"]),
        }


def resolved(data: Any, version_of: Any, default: int | None = None) -> Any:
    """Replace the versions that are named by their role."""
    if isinstance(data, list):
        return [resolved(one, version_of, default) for one in data]
    if not isinstance(data, dict):
        return data
    found = {key: resolved(value, version_of, default) for key, value in data.items()}
    if found.get("version") in {"held", "stale"}:
        current = version_of(found["id"]) if default is None else version_of(found["id"], default)
        found["version"] = current if found["version"] == "held" else current - 1
    return found
