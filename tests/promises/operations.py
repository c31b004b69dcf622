"""Random sequences of requests, the same for every backend; what they name by role, each resolves by its own state."""

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

BEGINNING_MS = 1_700_000_000_000
IDS = tuple(f"p{number}" for number in range(8))
PIDS = ("one", "two")


class Backend(Protocol):
    def send(self, now_ms: int, kind: str, data: dict[str, Any]) -> tuple[int, Any]: ...

    def tick(self, now_ms: int) -> None: ...


class Operations:
    """Args:
    seed: makes the sequence.
    can_expire: whether tasks' own promises may time out, and whether to ask what only a real server knows.
    """

    def __init__(self, seed: int, *, can_expire: bool = True) -> None:
        self.random = Random(seed)
        self.now_ms = BEGINNING_MS
        self._can_expire = can_expire
        self._kinds: tuple[Callable[[], tuple[str, dict[str, Any]]], ...] = (
            self._create,
            self._create,
            self._create,
            self._settle,
            self._settle,
            self._get,
            self._listen,
            self._task_create,
            self._task_create,
            self._acquire,
            self._acquire,
            self._suspend,
            self._suspend,
            self._fence,
            self._fence,
            self._fulfill,
            self._release,
            self._heartbeat,
        )
        if can_expire:
            self._kinds += (self._call_back, self._halt, self._continue, self._continue, self._task_get)

    def next(self) -> tuple[str, dict[str, Any]]:
        """Return kind and data; a task's version is `held` (the current one) or `stale`."""
        self.now_ms += self.random.choice((0, 1, 1, 5, 50))
        return self.random.choice(self._kinds)()

    def _id(self) -> str:
        return self.random.choice(IDS)

    def _version(self) -> str:
        return self.random.choice(("held", "held", "held", "held", "stale"))

    def _value(self) -> dict[str, Any]:
        return self.random.choice(({}, {"data": "MQ=="}, {"data": "Mg==", "headers": {"a": "b"}}))

    def _new(self, *, has_target: bool) -> dict[str, Any]:
        tags = {"resonate:branch": self.random.choice("xy")} if self.random.random() < 0.5 else {}
        if has_target:
            tags["resonate:target"] = "poll://any@workers"
        if self.random.random() < 0.2:
            tags["resonate:timer"] = "true"
        is_long = has_target and not self._can_expire
        timeout_ms = 10_000_000 if is_long else self.random.choice((-5, 0, 20, 200, 10_000, 10_000_000))
        return {"id": self._id(), "timeoutAt": self.now_ms + timeout_ms, "param": self._value(), "tags": tags}

    def _settlement(self, promise_id: str) -> dict[str, Any]:
        state = self.random.choice(("resolved", "rejected", "rejected_canceled"))
        return {"id": promise_id, "state": state, "value": self._value()}

    def _create(self) -> tuple[str, dict[str, Any]]:
        return "promise.create", self._new(has_target=self.random.random() < 0.5)

    def _settle(self) -> tuple[str, dict[str, Any]]:
        return "promise.settle", self._settlement(self._id())

    def _get(self) -> tuple[str, dict[str, Any]]:
        return "promise.get", {"id": self._id()}

    def _listen(self) -> tuple[str, dict[str, Any]]:
        address = f"poll://uni@workers/{self.random.choice(PIDS)}"
        return "promise.register_listener", {"awaited": self._id(), "address": address}

    def _task_create(self) -> tuple[str, dict[str, Any]]:
        action = {"kind": "promise.create", "head": {}, "data": self._new(has_target=True)}
        ttl = self.random.choice((10, 1000))
        return "task.create", {"pid": self.random.choice(PIDS), "ttl": ttl, "action": action}

    def _acquire(self) -> tuple[str, dict[str, Any]]:
        pid, ttl = self.random.choice(PIDS), self.random.choice((10, 1000))
        return "task.acquire", {"id": self._id(), "version": self._version(), "pid": pid, "ttl": ttl}

    def _release(self) -> tuple[str, dict[str, Any]]:
        return "task.release", {"id": self._id(), "version": self._version()}

    def _fulfill(self) -> tuple[str, dict[str, Any]]:
        task_id = self._id()
        action = {"kind": "promise.settle", "head": {}, "data": self._settlement(task_id)}
        return "task.fulfill", {"id": task_id, "version": self._version(), "action": action}

    def _fence(self) -> tuple[str, dict[str, Any]]:
        task_id = self._id()
        is_creation = self.random.random() < 0.6
        data = self._new(has_target=False) if is_creation else self._settlement(self._id())
        kind = "promise.create" if is_creation else "promise.settle"
        action = {"kind": kind, "head": {}, "data": data}
        return "task.fence", {"id": task_id, "version": self._version(), "action": action}

    def _suspend(self) -> tuple[str, dict[str, Any]]:
        task_id = self._id()
        # A task always waits for the same others: whether an earlier settlement counts is then no question.
        at = IDS.index(task_id)
        awaited = [IDS[(at + 1) % len(IDS)], IDS[(at + 3) % len(IDS)]]
        actions = [
            {"kind": "promise.register_callback", "head": {}, "data": {"awaited": one, "awaiter": task_id}}
            for one in awaited
        ]
        return "task.suspend", {"id": task_id, "version": self._version(), "actions": actions}

    def _call_back(self) -> tuple[str, dict[str, Any]]:
        awaited, awaiter = self.random.sample(IDS, 2)
        return "promise.register_callback", {"awaited": awaited, "awaiter": awaiter}

    def _halt(self) -> tuple[str, dict[str, Any]]:
        return "task.halt", {"id": self._id()}

    def _continue(self) -> tuple[str, dict[str, Any]]:
        return "task.continue", {"id": self._id()}

    def _task_get(self) -> tuple[str, dict[str, Any]]:
        return "task.get", {"id": self._id()}

    def _heartbeat(self) -> tuple[str, dict[str, Any]]:
        tasks = [{"id": one, "version": self._version()} for one in self.random.sample(IDS, 2)]
        return "task.heartbeat", {"pid": self.random.choice(PIDS), "tasks": tasks}
