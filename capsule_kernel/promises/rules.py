"""What a request of the Resonate protocol does: from the time and the rows that it touches to an answer and changes.

Pure. The rules are those of Resonate's server v0.9.8; the tests compare them with it and with the SDK's in-memory
server. They know no file, no clock and no process: `Rows` hands them what is stored, `Outcome` says what to store.

Two things differ, on purpose: addresses are not checked for schemes, and the answer to `task.fence` carries no preload
(with it, n steps would read n²/2 results).
"""

from __future__ import annotations

from typing import Any, assert_never

import msgspec

from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.model import (
    BRANCH_TAG,
    EMPTY_VALUE,
    TARGET_TAG,
    TIMER_TAG,
    Promise,
    Settlement,
    State,
    Task,
)
from capsule_kernel.promises.outcome import (
    CONFLICT,
    INVALID,
    MISSING,
    OK,
    REDIRECT,
    UNPROCESSABLE,
    Execute,
    Outcome,
    Rows,
    Unblock,
)

RETRY_MS = 30_000
"""A pending task that nobody took is announced again after this time."""


def decide(now_ms: int, rows: Rows, request: rq.Request) -> Outcome:
    """Decide a request.

    Args:
        now_ms: the time (Unix time).
        rows: what is stored.
        request: what is asked.
    """
    return _Case(now_ms, rows).answer(request)


def decide_tick(now_ms: int, rows: Rows) -> Outcome:
    """Decide what is due: promises time out, acquisitions lapse, tasks that nobody took are announced again."""
    return _Case(now_ms, rows).tick()


class _Case:
    """One request: reads through what it has changed already."""

    def __init__(self, now_ms: int, rows: Rows) -> None:
        self._now_ms = now_ms
        self._rows = rows
        self._out = Outcome()
        self._read: dict[str, Promise | None] = {}

    def answer(self, request: rq.Request) -> Outcome:
        match request:
            case rq.PromiseGet(id=promise_id):
                self._expire(promise_id)
                promise = self._promise(promise_id)
                return self._refuse(MISSING, "Promise not found") if promise is None else self._found(promise)
            case rq.PromiseCreate():
                return self._found(self._create(request))
            case rq.PromiseSettle():
                settled = self._settle(request)
                return self._refuse(MISSING, "Promise not found") if settled is None else self._found(settled)
            case rq.PromiseRegisterListener():
                return self._listen(request)
            case rq.PromiseRegisterCallback():
                return self._call_back(request)
            case rq.PromiseSearch():
                return self._search_promises(request)
            case rq.TaskGet(id=task_id):
                return self._task_get(task_id)
            case rq.TaskCreate():
                return self._task_create(request)
            case rq.TaskAcquire():
                return self._task_acquire(request)
            case rq.TaskRelease():
                return self._task_release(request)
            case rq.TaskFulfill():
                return self._task_fulfill(request)
            case rq.TaskFence():
                return self._task_fence(request)
            case rq.TaskSuspend():
                return self._task_suspend(request)
            case rq.TaskHeartbeat():
                return self._task_heartbeat(request)
            case rq.TaskHalt(id=task_id):
                return self._task_halt(task_id)
            case rq.TaskContinue(id=task_id):
                return self._task_continue(task_id)
            case rq.TaskSearch():
                return self._search_tasks(request)
        assert_never(request)

    def tick(self) -> Outcome:
        promises, tasks = self._rows.overdue(self._now_ms)
        for promise in promises:
            self._expire(promise.id)
        for found in tasks:
            task = self._task(found.id)
            if task is None or task.due_at_ms is None or task.due_at_ms > self._now_ms:
                continue
            if task.state in {"acquired", "pending"}:
                self._offer(task)
        return self._out

    # Promises

    def _create(self, request: rq.PromiseCreate) -> Promise:
        self._expire(request.id)
        known = self._promise(request.id)
        if known is not None:
            return known
        promise = self._put_new(request)
        target = promise.tags.get(TARGET_TAG)
        if target is None:
            return promise
        if not promise.is_pending:
            self._put_task(Task(id=promise.id, state="fulfilled"))
            return promise
        due_at_ms = max(self._now_ms + RETRY_MS, _delayed_until_ms(promise.tags))
        self._put_task(Task(id=promise.id, state="pending", due_at_ms=due_at_ms))
        if _delayed_until_ms(promise.tags) <= self._now_ms:
            self._out.messages.append(Execute(target, promise.id, 0))
        return promise

    def _put_new(self, request: rq.PromiseCreate) -> Promise:
        is_over = self._now_ms >= request.timeout_at
        promise = Promise(
            id=request.id,
            state=_state_after_timeout(request.tags) if is_over else "pending",
            param=_text(request.param),
            tags=request.tags,
            timeout_at_ms=request.timeout_at,
            created_at_ms=request.timeout_at if is_over else self._now_ms,
            settled_at_ms=request.timeout_at if is_over else None,
        )
        self._put_promise(promise)
        self._out.is_effective = True
        return promise

    def _settle(self, request: rq.PromiseSettle) -> Promise | None:
        self._expire(request.id)
        promise = self._promise(request.id)
        if promise is None or not promise.is_pending:
            return promise
        self._out.is_effective = True
        return self._put_settled(promise, request.state, _text(request.value), self._now_ms)

    def _put_settled(self, promise: Promise, state: State, value: str, at_ms: int) -> Promise:
        """Settle a pending promise: its own task is done, tasks that wait for it go on, listeners hear of it."""
        # A clock that was set back must not let a promise be settled before it was created.
        settled = msgspec.structs.replace(
            promise, state=state, value=value, settled_at_ms=max(at_ms, promise.created_at_ms)
        )
        self._put_promise(settled)
        # Only a promise with a target has a task.
        task = self._task(promise.id) if TARGET_TAG in promise.tags else None
        if task is not None:
            self._finish(task)
        waiting, listeners = self._rows.watchers(promise.id)
        awaiters = [task_id for task_id in waiting if task_id not in self._out.idle]
        for awaiter in awaiters:
            self._resume(awaiter, promise.id)
        self._out.messages.extend(Unblock(address, settled) for address in listeners)
        if awaiters or listeners:
            self._out.heard.append(promise.id)
        return settled

    def _expire(self, promise_id: str) -> None:
        promise = self._promise(promise_id)
        if promise is not None and promise.is_pending and self._now_ms >= promise.timeout_at_ms:
            self._put_settled(promise, _state_after_timeout(promise.tags), EMPTY_VALUE, promise.timeout_at_ms)

    def _listen(self, request: rq.PromiseRegisterListener) -> Outcome:
        self._expire(request.awaited)
        promise = self._promise(request.awaited)
        if promise is None:
            return self._refuse(MISSING, "Awaited promise not found")
        if promise.is_pending:
            self._out.listeners.append((promise.id, request.address))
        return self._found(promise)

    def _call_back(self, request: rq.PromiseRegisterCallback) -> Outcome:
        self._expire(request.awaited)
        self._expire(request.awaiter)
        awaited, awaiter = self._promise(request.awaited), self._promise(request.awaiter)
        if awaited is None:
            return self._refuse(MISSING, "Awaited promise not found")
        if awaiter is None:
            return self._refuse(UNPROCESSABLE, "Awaiter promise not found")
        if TARGET_TAG not in awaiter.tags:
            return self._refuse(UNPROCESSABLE, "Awaiter promise has no resonate:target tag")
        if awaiter.is_pending and awaited.is_pending:
            self._out.waits.append((awaited.id, awaiter.id))
        elif awaiter.is_pending:
            task = self._task(awaiter.id)
            if task is not None and task.state != "halted":  # when it is continued, it reads the promise anyway
                self._resume(awaiter.id, awaited.id)
        return self._found(awaited)

    def _search_promises(self, request: rq.PromiseSearch) -> Outcome:
        found = self._rows.find_promises(
            state=request.state, tags=request.tags or {}, after=request.cursor or "", limit=request.limit + 1
        )
        page = found[: request.limit]
        self._out.given = {
            "promises": [promise.record() for promise in page],
            "cursor": page[-1].id if len(found) > len(page) else None,
        }
        return self._out

    # Tasks

    def _task_get(self, task_id: str) -> Outcome:
        self._expire(task_id)
        task = self._task(task_id)
        if task is None:
            return self._refuse(MISSING, "Task not found")
        self._out.given = {"task": task.record()}
        return self._out

    def _task_create(self, request: rq.TaskCreate) -> Outcome:
        action = request.action.data
        self._expire(action.id)
        task, promise = self._task(action.id), self._promise(action.id)
        if task is not None and promise is not None:
            if task.state == "pending":
                return self._held(self._acquire(task, request.pid, request.ttl), promise)
            if task.state == "fulfilled":
                return self._held(task, promise)
            return self._refuse(CONFLICT, "Already exists")
        if promise is not None:
            return self._refuse(UNPROCESSABLE, "Promise exists without a target task")
        promise = self._put_new(action)
        task = Task(id=promise.id, state="pending" if promise.is_pending else "fulfilled")
        if promise.is_pending:
            task = self._acquire(task, request.pid, request.ttl)
        else:
            self._put_task(task)
        return self._held(task, promise)

    def _task_acquire(self, request: rq.TaskAcquire) -> Outcome:
        self._expire(request.id)
        task, promise = self._task(request.id), self._promise(request.id)
        if task is None or promise is None:
            return self._refuse(MISSING, "Task not found")
        if task.state != "pending":
            return self._refuse(CONFLICT, "Task is not pending")
        if task.version != request.version:
            return self._refuse(CONFLICT, "Version mismatch")
        return self._held(self._acquire(task, request.pid, request.ttl), promise)

    def _task_release(self, request: rq.TaskRelease) -> Outcome:
        task = self._held_by(request.id, request.version, request.id)
        if isinstance(task, Outcome):
            return task
        self._offer(task)
        return self._out

    def _task_fulfill(self, request: rq.TaskFulfill) -> Outcome:
        action = request.action.data
        task = self._held_by(request.id, request.version, action.id)
        if isinstance(task, Outcome):
            return task
        promise = self._settle(action)
        if promise is None:
            return self._refuse(MISSING, "Promise not found")
        # Whose promise somebody else has settled is finished too.
        self._finish(self._task(task.id) or task)
        return self._found(promise)

    def _task_fence(self, request: rq.TaskFence) -> Outcome:
        action: rq.PromiseCreate | rq.PromiseSettle
        try:
            if request.action.kind == "promise.create":
                action = msgspec.json.decode(request.action.data, type=rq.PromiseCreate)
            else:
                action = msgspec.json.decode(request.action.data, type=rq.PromiseSettle)
        except msgspec.MsgspecError as exc:
            return self._refuse(INVALID, f"Invalid request: {exc}")
        task = self._held_by(request.id, request.version, request.id, action.id)
        if isinstance(task, Outcome):
            return task
        promise = self._create(action) if isinstance(action, rq.PromiseCreate) else self._settle(action)
        self._out.given = {
            "action": {
                "kind": request.action.kind,
                "head": {"status": MISSING if promise is None else OK},
                "data": "Promise not found" if promise is None else {"promise": promise.record()},
            },
            "preload": [],
        }
        return self._out

    def _task_suspend(self, request: rq.TaskSuspend) -> Outcome:
        awaited_ids = sorted({action.data.awaited for action in request.actions})
        task = self._held_by(request.id, request.version, request.id, *awaited_ids)
        if isinstance(task, Outcome):
            return task
        awaited = [self._promise(promise_id) for promise_id in awaited_ids]
        if None in awaited:
            return self._refuse(UNPROCESSABLE, "Awaited promise not found")
        if any(promise is not None and not promise.is_pending for promise in awaited):
            self._put_task(msgspec.structs.replace(task, resumes=()))
            self._out.status = REDIRECT
            self._out.given = {"preload": self._preload(task.id)}
            return self._out
        self._out.waits.extend((promise_id, task.id) for promise_id in awaited_ids)
        self._put_task(
            msgspec.structs.replace(task, state="suspended", pid=None, ttl_ms=None, resumes=(), due_at_ms=None)
        )
        return self._out

    def _task_heartbeat(self, request: rq.TaskHeartbeat) -> Outcome:
        for ref in request.tasks:
            task, promise = self._task(ref.id), self._promise(ref.id)
            if task is None or promise is None or not promise.is_pending or task.ttl_ms is None:
                continue
            if (task.state, task.version, task.pid) == ("acquired", ref.version, request.pid):
                self._put_task(msgspec.structs.replace(task, due_at_ms=self._now_ms + task.ttl_ms))
        return self._out

    def _task_halt(self, task_id: str) -> Outcome:
        self._expire(task_id)
        task = self._task(task_id)
        if task is None:
            return self._refuse(MISSING, "Task not found")
        if task.state == "fulfilled":
            return self._refuse(CONFLICT, "Task is fulfilled")
        if task.state != "halted":
            self._put_task(msgspec.structs.replace(task, state="halted", pid=None, ttl_ms=None, due_at_ms=None))
        return self._out

    def _task_continue(self, task_id: str) -> Outcome:
        self._expire(task_id)
        task = self._task(task_id)
        if task is None:
            return self._refuse(MISSING, "Task not found")
        if task.state != "halted":
            return self._refuse(CONFLICT, "Task is not halted")
        self._offer(task)
        return self._out

    def _search_tasks(self, request: rq.TaskSearch) -> Outcome:
        found = self._rows.find_tasks(state=request.state, after=request.cursor or "", limit=request.limit + 1)
        page = found[: request.limit]
        self._out.given = {
            "tasks": [task.record() for task in page],
            "cursor": page[-1].id if len(found) > len(page) else None,
        }
        return self._out

    def _held_by(self, task_id: str, version: int, *touched: str) -> Task | Outcome:
        """Return a task that its holder still holds, after what is overdue was settled; else the refusal."""
        for promise_id in touched:
            self._expire(promise_id)
        task = self._task(task_id)
        if task is None:
            return self._refuse(MISSING, "Task not found")
        if task.state != "acquired" or task.version != version:
            return self._refuse(CONFLICT, "Task version mismatch or invalid state")
        return task

    def _acquire(self, task: Task, pid: str, ttl_ms: int) -> Task:
        held = Task(
            id=task.id,
            state="acquired",
            version=task.version + 1,
            pid=pid,
            ttl_ms=ttl_ms,
            due_at_ms=self._now_ms + ttl_ms,
        )
        self._put_task(held)
        return held

    def _offer(self, task: Task, resumes: tuple[str, ...] | None = None) -> None:
        """Make a task pending and announce it."""
        self._put_task(
            msgspec.structs.replace(
                task,
                state="pending",
                pid=None,
                ttl_ms=None,
                resumes=task.resumes if resumes is None else resumes,
                due_at_ms=self._now_ms + RETRY_MS,
            )
        )
        promise = self._promise(task.id)
        if promise is not None and TARGET_TAG in promise.tags:
            self._out.messages.append(Execute(promise.tags[TARGET_TAG], task.id, task.version))

    def _resume(self, awaiter: str, awaited: str) -> None:
        promise, task = self._promise(awaiter), self._task(awaiter)
        if promise is None or task is None or not promise.is_pending:
            return
        if task.state == "suspended":
            self._offer(task, (awaited,))
        elif task.state != "fulfilled" and awaited not in task.resumes:
            self._put_task(msgspec.structs.replace(task, resumes=(*task.resumes, awaited)))

    def _finish(self, task: Task) -> None:
        if task.state != "fulfilled":
            self._put_task(Task(id=task.id, state="fulfilled", version=task.version))
            self._out.idle.append(task.id)

    def _held(self, task: Task, promise: Promise) -> Outcome:
        self._out.given = {
            "task": task.record(),
            "promise": promise.record(),
            "preload": self._preload(promise.id),
        }
        return self._out

    def _preload(self, promise_id: str) -> list[dict[str, Any]]:
        promise = self._promise(promise_id)
        branch = promise.tags.get(BRANCH_TAG) if promise is not None else None
        if not branch:
            return []
        return [
            self._out.promises.get(other.id, other).record()
            for other in self._rows.branch(branch)
            if other.id != promise_id
        ]

    # Rows

    def _promise(self, promise_id: str) -> Promise | None:
        if promise_id in self._out.promises:
            return self._out.promises[promise_id]
        if promise_id not in self._read:
            self._read[promise_id] = self._rows.promise(promise_id)
        return self._read[promise_id]

    def _task(self, task_id: str) -> Task | None:
        return self._out.tasks.get(task_id) or self._rows.task(task_id)

    def _put_promise(self, promise: Promise) -> None:
        self._out.promises[promise.id] = promise

    def _put_task(self, task: Task) -> None:
        self._out.tasks[task.id] = task

    def _found(self, promise: Promise) -> Outcome:
        self._out.found = promise
        return self._out

    def _refuse(self, status: int, reason: str) -> Outcome:
        self._out.status = status
        self._out.given = reason
        return self._out


def settlement(state: Settlement, promise_id: str, value: str) -> rq.PromiseSettle:
    """Return the request that settles a promise."""
    return rq.PromiseSettle(id=promise_id, state=state, value=rq.raw(value))


def _state_after_timeout(tags: dict[str, str]) -> State:
    return "resolved" if tags.get(TIMER_TAG) == "true" else "rejected_timedout"


def _delayed_until_ms(tags: dict[str, str]) -> int:
    """Return when a task may first be taken (`resonate:delay`, Unix time); 0 for at once."""
    text = tags.get("resonate:delay", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _text(value: msgspec.Raw) -> str:
    text = bytes(value).decode()
    return EMPTY_VALUE if text == "null" else text
