"""Which request an output belongs to.

A cell's code, and the tasks that it starts, carry their request in a context variable; a thread carries the request
during which it was started; anything else (a thread made in C) belongs to the newest cell.
"""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import msgspec

from capsule_kernel.wire.worker_messages import Execute

_variable: contextvars.ContextVar[int] = contextvars.ContextVar("capsule_request", default=0)
context_request = _variable.get
"""The serial that the current context carries; 0: it carries none, and `current` knows more."""

_newest = [0]
_THREAD_ATTRIBUTE = "_capsule_request"
_original_start = threading.Thread.start


def current() -> int:
    """Return the serial of the request that the caller's output belongs to."""
    return _variable.get() or getattr(threading.current_thread(), _THREAD_ATTRIBUTE, 0) or _newest[0]


def begin(serial: int) -> None:
    """Say that `serial` runs in the current context, and is the newest request."""
    _newest[0] = serial
    _variable.set(serial)


def newest() -> int:
    """Return the serial of the newest cell."""
    return _newest[0]


def message_of(parent: bytes, content: dict[str, Any]) -> dict[str, Any]:
    """Return a request as libraries expect to find it; `parent` is its header and metadata as JSON."""
    request: dict[str, Any] = msgspec.json.decode(parent)
    header = request["header"]
    return {
        **request,
        "parent_header": {},
        "msg_id": header.get("msg_id"),
        "msg_type": header.get("msg_type"),
        "content": content,
        "buffers": [],
    }


def request_of(message: Execute) -> dict[str, Any]:
    """Return an `execute_request` as libraries expect to find it."""
    content = {
        "code": message.code,
        "silent": message.silent,
        "store_history": message.store_history,
        "user_expressions": message.user_expressions,
        "allow_stdin": message.allow_stdin,
    }
    return message_of(message.parent, content)


def set_thread_parent(serial: int) -> contextvars.Token[int]:
    """Have the current context's output belong to `serial`; the token is for `reset_thread_parent`."""
    return _variable.set(serial)


def reset_thread_parent(token: contextvars.Token[int]) -> None:
    """Undo `set_thread_parent`."""
    _variable.reset(token)


def _start(self: threading.Thread) -> None:
    setattr(self, _THREAD_ATTRIBUTE, current())
    _original_start(self)


def pin_threads() -> None:
    """From now on remember in each new thread the request during which it was started."""
    threading.Thread.start = _start  # type: ignore[method-assign]
