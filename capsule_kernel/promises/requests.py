"""The requests of the Resonate protocol, as one closed union. Pure.

What a request must hold is checked where it is read: `msgspec` refuses the rest, and the answer is status 400. Unknown
fields are ignored, as Resonate's server does.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import msgspec

from capsule_kernel.promises.model import EMPTY_VALUE, FAR_FUTURE_MS, TARGET_TAG, Settlement, State, TaskState

type Id = Annotated[str, msgspec.Meta(min_length=1)]
type Version = Annotated[int, msgspec.Meta(ge=0)]
type Ttl = Annotated[int, msgspec.Meta(ge=1)]


class PromiseGet(msgspec.Struct, frozen=True, tag="promise.get"):
    """Read a promise; one that is overdue is settled first, here and everywhere else."""

    id: Id


class PromiseCreate(msgspec.Struct, frozen=True, tag="promise.create", rename="camel"):
    """Create a promise, or read the one that has its id."""

    id: Id
    timeout_at: Annotated[int, msgspec.Meta(ge=0)] = FAR_FUTURE_MS
    param: msgspec.Raw = msgspec.Raw(EMPTY_VALUE.encode())
    tags: dict[str, str] = {}


class PromiseSettle(msgspec.Struct, frozen=True, tag="promise.settle"):
    """Settle a promise, or read it when that is done already."""

    id: Id
    state: Settlement
    value: msgspec.Raw = msgspec.Raw(EMPTY_VALUE.encode())


class PromiseRegisterListener(msgspec.Struct, frozen=True, tag="promise.register_listener"):
    """Read a promise, and be told at `address` when it is settled."""

    awaited: Id
    address: Id


class PromiseRegisterCallback(msgspec.Struct, frozen=True, tag="promise.register_callback"):
    """Have the task `awaiter` resumed when the promise `awaited` is settled."""

    awaited: Id
    awaiter: Id


class PromiseSearch(msgspec.Struct, frozen=True, tag="promise.search"):
    """List promises by state and tags, in the order of their ids, from behind `cursor`."""

    state: State | None = None
    tags: dict[str, str] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: str | None = None


class CreateAction(msgspec.Struct, frozen=True):
    """A creation inside of another request."""

    data: PromiseCreate


class SettleAction(msgspec.Struct, frozen=True):
    """A settlement inside of another request."""

    data: PromiseSettle


class CallbackAction(msgspec.Struct, frozen=True):
    """A callback inside of another request."""

    data: PromiseRegisterCallback


class FenceAction(msgspec.Struct, frozen=True):
    """A creation or a settlement inside of a fence."""

    kind: Literal["promise.create", "promise.settle"]
    data: msgspec.Raw


class TaskRef(msgspec.Struct, frozen=True):
    """A task as its holder knows it."""

    id: Id
    version: int


class TaskGet(msgspec.Struct, frozen=True, tag="task.get"):
    """Read a task."""

    id: Id


class TaskCreate(msgspec.Struct, frozen=True, tag="task.create"):
    """Create a promise together with its task, held by `pid` already."""

    pid: Id
    ttl: Ttl
    action: CreateAction


class TaskAcquire(msgspec.Struct, frozen=True, tag="task.acquire"):
    """Take a pending task for `ttl` milliseconds."""

    id: Id
    version: Version
    pid: Id
    ttl: Ttl


class TaskRelease(msgspec.Struct, frozen=True, tag="task.release"):
    """Give a task back unfinished."""

    id: Id
    version: Version


class TaskFulfill(msgspec.Struct, frozen=True, tag="task.fulfill"):
    """Finish a task by settling its promise."""

    id: Id
    version: Version
    action: SettleAction


class TaskFence(msgspec.Struct, frozen=True, tag="task.fence"):
    """Create or settle a promise, but only while the task is held."""

    id: Id
    version: Version
    action: FenceAction


class TaskSuspend(msgspec.Struct, frozen=True, tag="task.suspend"):
    """Give a task back until one of the awaited promises is settled."""

    id: Id
    version: Version
    actions: Annotated[list[CallbackAction], msgspec.Meta(min_length=1)]


class TaskHeartbeat(msgspec.Struct, frozen=True, tag="task.heartbeat"):
    """Hold tasks for another `ttl`."""

    pid: Id
    tasks: list[TaskRef] = []


class TaskHalt(msgspec.Struct, frozen=True, tag="task.halt"):
    """Stop a task until it is continued."""

    id: Id


class TaskContinue(msgspec.Struct, frozen=True, tag="task.continue"):
    """Continue a halted task."""

    id: Id


class TaskSearch(msgspec.Struct, frozen=True, tag="task.search"):
    """List tasks by state, in the order of their ids, from behind `cursor`."""

    state: TaskState | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: str | None = None


type PromiseRequest = (
    PromiseGet | PromiseCreate | PromiseSettle | PromiseRegisterListener | PromiseRegisterCallback | PromiseSearch
)
type TaskRequest = (
    TaskGet
    | TaskCreate
    | TaskAcquire
    | TaskRelease
    | TaskFulfill
    | TaskFence
    | TaskSuspend
    | TaskHeartbeat
    | TaskHalt
    | TaskContinue
    | TaskSearch
)
type Request = PromiseRequest | TaskRequest

_REQUESTS: tuple[type[Any], ...] = (
    PromiseGet,
    PromiseCreate,
    PromiseSettle,
    PromiseRegisterListener,
    PromiseRegisterCallback,
    PromiseSearch,
    TaskGet,
    TaskCreate,
    TaskAcquire,
    TaskRelease,
    TaskFulfill,
    TaskFence,
    TaskSuspend,
    TaskHeartbeat,
    TaskHalt,
    TaskContinue,
    TaskSearch,
)


class Head(msgspec.Struct, frozen=True, rename="camel"):
    """The head of a request's envelope."""

    corr_id: Any = None


class Envelope(msgspec.Struct, frozen=True):
    """A request as it travels."""

    kind: str
    head: Head = Head()
    data: msgspec.Raw = msgspec.Raw(b"{}")


def raw(text: str) -> msgspec.Raw:
    """Return a JSON text as part of a request."""
    return msgspec.Raw(text.encode())


def kind_of(request: Request) -> str:
    """Return a request's kind, as the protocol names it."""
    tag = type(request).__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def read_envelope(text: str | bytes) -> Envelope:
    """Read an envelope.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return msgspec.json.decode(text, type=Envelope)


def read_request(kind: str, data: msgspec.Raw) -> Request | None:
    """Read a request's data; None for an unknown kind.

    Raises:
        msgspec.MsgspecError: it is not what the kind needs.
    """
    decoder = _decoder(kind)
    if decoder is None:
        return None
    request: Request = decoder.decode(data)
    flaw = _flaw(request)
    if flaw:
        raise msgspec.ValidationError(flaw)
    return request


def _flaw(request: Request) -> str:
    """Return what is wrong between the fields of a request; empty for nothing."""
    match request:
        case PromiseCreate(id=promise_id) if "\0" in promise_id:
            return "Promise ID must not contain null bytes"
        case PromiseRegisterCallback(awaited=awaited, awaiter=awaiter) if awaited == awaiter:
            return "Awaited and awaiter must be different promises"
        case TaskCreate(action=action) if TARGET_TAG not in action.data.tags:
            return "Action must have a resonate:target tag"
        case TaskFulfill(id=task_id, action=settle) if settle.data.id != task_id:
            return "Action ID must match the task ID"
        case TaskSuspend(id=task_id, actions=actions):
            if any(action.data.awaiter != task_id for action in actions):
                return "All action awaiter IDs must match the task ID"
            if any(action.data.awaited == task_id for action in actions):
                return "Action awaited promise must not equal the task ID"
        case TaskFence(id=task_id, action=fenced) if _read_id(fenced.data) == task_id:
            return "Action ID must not equal the task ID"
    return ""


def _read_id(data: msgspec.Raw) -> object:
    """Return the id in a request's data; None when there is none."""
    try:
        found = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return None
    return found.get("id") if isinstance(found, dict) else None


@functools.cache
def _decoder(kind: str) -> msgspec.json.Decoder[Any] | None:
    """Return what reads the data of requests of a kind; made when first needed, as only the SDK's requests are read."""
    for request in _REQUESTS:
        if request.__struct_config__.tag == kind:
            return msgspec.json.Decoder(request)
    return None
