"""The answers and messages of a Resonate server, and requests as they travel to it."""

from __future__ import annotations

from typing import Any

import msgspec
from resonate_base import PROTOCOL_VERSION, ConnectorError

from capsule_kernel.errors import PromisesUnavailable
from capsule_kernel.promises import requests as rq
from capsule_kernel.promises.model import EMPTY_VALUE, Promise, State
from capsule_kernel.promises.names import origin_of
from capsule_kernel.promises.outcome import OK
from capsule_kernel.promises.server import redacted


class Record(msgspec.Struct, rename="camel"):
    """The protocol's `PromiseRecord`."""

    id: str
    state: State
    timeout_at: int
    param: msgspec.Raw = msgspec.Raw(EMPTY_VALUE.encode())
    value: msgspec.Raw = msgspec.Raw(EMPTY_VALUE.encode())
    tags: dict[str, str] = {}
    created_at: int = 0
    settled_at: int | None = None

    def promise(self) -> Promise:
        """Return it as a promise."""
        return Promise(
            id=self.id,
            state=self.state,
            param=_text(self.param),
            value=_text(self.value),
            tags=self.tags,
            timeout_at_ms=self.timeout_at,
            created_at_ms=self.created_at,
            settled_at_ms=self.settled_at,
        )


class Found(msgspec.Struct):
    """What is said about one promise."""

    promise: Record


class Page(msgspec.Struct):
    """Part of what a search found."""

    promises: list[Record]
    cursor: str | None = None


class Head(msgspec.Struct):
    """The head of an answer."""

    status: int = OK


class Reply(msgspec.Struct):
    """An answer."""

    head: Head = msgspec.field(default_factory=Head)
    data: msgspec.Raw = msgspec.Raw(b"{}")


class PushMessage(msgspec.Struct):
    """What the server says unasked."""

    kind: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


def envelope(request: rq.Request, corr_id: str) -> str:
    """Return a request as it travels."""
    head = {"corrId": corr_id, "version": PROTOCOL_VERSION}
    return msgspec.json.encode({"kind": rq.kind_of(request), "head": head, "data": _fields(request)}).decode()


def _fields(request: rq.Request) -> dict[str, Any]:
    """Return a request's data as it travels."""
    names = zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True)
    return {there: value for here, there in names if (value := getattr(request, here)) is not None}


def origin(request: rq.Request) -> str:
    """Return where a request is routed to: the origin of the promise that it is about."""
    promise_id = getattr(request, "id", None) or getattr(request, "awaited", None)
    return origin_of(promise_id) if promise_id else "default"


def decoded[T](data: str | msgspec.Raw, kind: type[T], url: str) -> T:
    """Return what a server at `url` says.

    Raises:
        PromisesUnavailable: it is nothing that Resonate would say.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as exc:
        raise PromisesUnavailable(redacted(url), f"its answer is not Resonate's: {exc}") from exc


def translated_error(error: ConnectorError, url: str) -> PromisesUnavailable:
    """Return a connection's error as ours."""
    inner = error.error
    return inner if isinstance(inner, PromisesUnavailable) else PromisesUnavailable(redacted(url), str(inner))


def reason_of(data: msgspec.Raw) -> str:
    """Return why a request was refused."""
    found = msgspec.json.decode(data)
    return str(found.get("error", found)) if isinstance(found, dict) else str(found)


def _text(value: msgspec.Raw) -> str:
    text = bytes(value).decode()
    return EMPTY_VALUE if text == "null" else text
