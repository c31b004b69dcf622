"""Promises and tasks as the Resonate protocol has them (`PromiseRecord`, `TaskRecord`). Pure.

Param and value are *values* of the protocol: `{"headers": {...}, "data": base64 of JSON}`. They are kept as the JSON
text that came in, so that what others wrote goes back to them unchanged, and are decoded only by who wants to look.
Nothing is ever unpickled here: data is JSON, or else text.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal, cast

import msgspec

type State = Literal["pending", "resolved", "rejected", "rejected_canceled", "rejected_timedout"]
type Settlement = Literal["resolved", "rejected", "rejected_canceled"]
type TaskState = Literal["pending", "acquired", "suspended", "halted", "fulfilled"]

EMPTY_VALUE = "{}"
FAR_FUTURE_MS = 253_402_300_799_000
"""A timeout for what has none: the end of the year 9999."""

KIND_TAG = "capsule:kind"
TARGET_TAG, TIMER_TAG, SCOPE_TAG = "resonate:target", "resonate:timer", "resonate:scope"
ORIGIN_TAG, BRANCH_TAG, PARENT_TAG = "resonate:origin", "resonate:branch", "resonate:parent"


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """A durable promise.

    Attributes:
        id: its name.
        state: `pending`, or how it was settled.
        param: what it was created with: a value's JSON text.
        value: what it was settled with: a value's JSON text.
        tags: labels; `capsule:kind` says what Capsule's own are for.
        timeout_at_ms: when it settles by itself (Unix time).
        created_at_ms: when it was created (Unix time).
        settled_at_ms: when it was settled (Unix time); None while pending.
    """

    id: str
    state: State = "pending"
    param: str = EMPTY_VALUE
    value: str = EMPTY_VALUE
    tags: dict[str, str] = {}
    timeout_at_ms: int
    created_at_ms: int
    settled_at_ms: int | None = None

    @property
    def is_pending(self) -> bool:
        """Whether nobody settled it yet."""
        return self.state == "pending"

    @property
    def kind(self) -> str:
        """What it is for, when it is one of Capsule's own: the tag `capsule:kind`."""
        return self.tags.get(KIND_TAG, "")

    def param_data(self) -> Any:
        """Return what it was created with, decoded: JSON, or else text; None when empty."""
        return decode_value(self.param)

    def value_data(self) -> Any:
        """Return what it was settled with, decoded: JSON, or else text; None when empty."""
        return decode_value(self.value)

    def param_headers(self) -> dict[str, str]:
        """Return the headers of what it was created with."""
        return _fields(self.param)[1]

    def value_headers(self) -> dict[str, str]:
        """Return the headers of what it was settled with."""
        return _fields(self.value)[1]

    def record(self) -> dict[str, Any]:
        """Return it as the protocol's `PromiseRecord`."""
        record: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "param": msgspec.Raw(self.param.encode()),
            "value": msgspec.Raw(self.value.encode()),
            "tags": self.tags,
            "timeoutAt": self.timeout_at_ms,
            "createdAt": self.created_at_ms,
        }
        if self.settled_at_ms is not None:
            record["settledAt"] = self.settled_at_ms
        return record


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Work on a promise that has a target: who holds it, and until when.

    Attributes:
        id: the promise's id.
        state: where it stands.
        version: grows with every acquisition; an old one fences its holder off.
        pid: the process that holds it.
        ttl_ms: how long an acquisition lasts without a heartbeat.
        resumes: awaited promises that were settled since it was last acquired.
        due_at_ms: when an acquisition lapses, or a pending task is announced again (Unix time).
    """

    id: str
    state: TaskState
    version: int = 0
    pid: str | None = None
    ttl_ms: int | None = None
    resumes: tuple[str, ...] = ()
    due_at_ms: int | None = None

    def record(self) -> dict[str, Any]:
        """Return it as the protocol's `TaskRecord`."""
        record: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "version": self.version,
            "resumes": len(self.resumes),
        }
        if self.pid is not None:
            record["pid"] = self.pid
        if self.ttl_ms is not None:
            record["ttl"] = self.ttl_ms
        return record


def encode_value(data: Any, headers: dict[str, str] | None = None) -> str:
    """Return a value's JSON text, in the form that Resonate's SDKs write and read.

    Raises:
        TypeError: `data` cannot be written as JSON.
    """
    encoded = "" if data is None else binascii.b2a_base64(msgspec.json.encode(data), newline=False).decode()
    if not headers:
        # Base64 has nothing that JSON would write in another way.
        return f'{{"data":"{encoded}"}}' if encoded else EMPTY_VALUE
    value: dict[str, Any] = {"headers": headers}
    if encoded:
        value["data"] = encoded
    return msgspec.json.encode(value).decode()


def decode_value(value: str) -> Any:
    """Return a value's data, whoever wrote it: JSON, or else text; None when there is none."""
    data, _ = _fields(value)
    if not isinstance(data, str):
        return data  # a command line wrote JSON where SDKs write base64
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return data
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return data  # a plain word that happens to be base64 too


def _fields(value: str) -> tuple[Any, dict[str, str]]:
    """Return data and headers; what is no value of the protocol has none."""
    try:
        found = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return value, {}
    if not isinstance(found, dict):
        return found, {}
    headers = found.get("headers")
    if not isinstance(headers, dict) or not all(isinstance(item, str) for item in headers.values()):
        headers = {}
    return found.get("data"), cast("dict[str, str]", headers)
