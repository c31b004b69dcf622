"""What the rules read and what they say: rows that are stored, and the outcome of a request. Pure."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from capsule_kernel.promises.model import Promise, State, Task, TaskState

OK, REDIRECT, INVALID, MISSING, CONFLICT, UNPROCESSABLE = 200, 300, 400, 404, 409, 422


class Rows(Protocol):
    """What is stored."""

    def promise(self, promise_id: str) -> Promise | None:
        """Return a promise."""

    def task(self, task_id: str) -> Task | None:
        """Return a task."""

    def watchers(self, promise_id: str) -> tuple[list[str], list[str]]:
        """Return the tasks to resume and the addresses to tell when a promise is settled, each in their order."""

    def branch(self, branch: str) -> list[Promise]:
        """Return the promises of a branch, in the order of their ids."""

    def overdue(self, now_ms: int) -> tuple[list[Promise], list[Task]]:
        """Return pending promises and tasks whose time has come."""

    def find_promises(self, *, state: State | None, tags: dict[str, str], after: str, limit: int) -> list[Promise]:
        """Return up to `limit` promises behind the id `after`, in the order of their ids."""

    def find_tasks(self, *, state: TaskState | None, after: str, limit: int) -> list[Task]:
        """Return up to `limit` tasks behind the id `after`, in the order of their ids."""


class Execute(msgspec.Struct, frozen=True):
    """Somebody at `address` may acquire the task now."""

    address: str
    task_id: str
    version: int


class Unblock(msgspec.Struct, frozen=True):
    """The promise was settled: `address` wanted to know."""

    address: str
    promise: Promise


type Message = Execute | Unblock


class Outcome(msgspec.Struct):
    """What a request does.

    Attributes:
        status: the answer's status, as in HTTP.
        given: the answer; a text says what is wrong.
        found: the promise that is the answer, instead of that.
        is_effective: whether the request itself created or settled a promise: false where somebody else was first.
        promises: to store, by id.
        tasks: to store, by id.
        waits: to add: awaited promise and the task to resume.
        listeners: to add: promise and address.
        heard: promises whose waits and listeners are done with.
        idle: tasks that wait for nothing any more.
        messages: to send.
    """

    status: int = OK
    given: Any = msgspec.field(default_factory=dict)
    found: Promise | None = None
    is_effective: bool = False
    promises: dict[str, Promise] = msgspec.field(default_factory=dict)
    tasks: dict[str, Task] = msgspec.field(default_factory=dict)
    waits: list[tuple[str, str]] = msgspec.field(default_factory=list)
    listeners: list[tuple[str, str]] = msgspec.field(default_factory=list)
    heard: list[str] = msgspec.field(default_factory=list)
    idle: list[str] = msgspec.field(default_factory=list)
    messages: list[Message] = msgspec.field(default_factory=list)

    @property
    def data(self) -> Any:
        """The answer, as the protocol has it: only who sends it on needs that form."""
        return self.given if self.found is None else {"promise": self.found.record()}

    @property
    def is_write(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.promises or self.tasks or self.waits or self.listeners or self.heard or self.idle)
