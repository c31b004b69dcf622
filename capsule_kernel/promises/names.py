"""The ids of Capsule's promises: the same request always has the same id, on every machine. Pure.

An execution is `{kernel_id}-{n}`, and in a batch run `{run_id}-{cell}` or `{run_id}-{cell}_{attempt}`. Its promises
are `exec:{execution_id}`, `{execution_id}:input:{n}` and `{execution_id}:approve:{n}`, where n counts within the
execution; a run's is `{run_id}`, with a step `{run_id}:{n}` for each cell. Everything before the first colon is
Resonate's *origin* (its unit of sharding, of callbacks and of prefix tokens), so the parts hold no colon and no dot
(servers before 0.10 separate with dots).
"""

from __future__ import annotations

import re

import msgspec

from capsule_kernel.errors import InvalidPromiseId

EXECUTION, INPUT, APPROVAL = "exec", "input", "approve"
PROBE = "probe"
"""Begins the id of the promise by which a server is tried."""
TAKEN = frozenset({EXECUTION, PROBE})
"""What no run can be called."""

_PART = re.compile(r"[A-Za-z0-9_-]+")
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """What a promise's id says.

    Attributes:
        kind: `exec`, `input` or `approve`.
        execution_id: the execution that it belongs to.
        ordinal: its number within the execution; 0 for the execution itself.
    """

    kind: str
    execution_id: str
    ordinal: int = 0


def kernel_part(kernel_id: str) -> str:
    """Return a kernel's id as part of promise ids; foreign characters become `_`."""
    return _FOREIGN.sub("_", kernel_id)


def execution_id(owner: str, number: int) -> str:
    """Return the id of an execution: its kernel's id and a count, or its run's id and a cell's index.

    Raises:
        InvalidPromiseId: `owner` holds characters that ids must not have.
    """
    return f"{checked_part(owner)}-{number}"


def execution(execution_id: str) -> str:
    """Return the id of an execution's promise."""
    return f"{EXECUTION}:{checked_part(execution_id)}"


def input_request(execution_id: str, ordinal: int) -> str:
    """Return the id of the promise for an `input()` or `getpass()`, the `ordinal`-th of its execution."""
    return f"{checked_part(execution_id)}:{INPUT}:{ordinal}"


def approval(execution_id: str, ordinal: int) -> str:
    """Return the id of the promise for an approval, the `ordinal`-th of its execution."""
    return f"{checked_part(execution_id)}:{APPROVAL}:{ordinal}"


def parse(promise_id: str) -> Name | None:
    """Return what an id says; None for ids that are not Capsule's."""
    match promise_id.split(":"):
        case [kind, owner] if kind == EXECUTION and _PART.fullmatch(owner):
            return Name(kind=kind, execution_id=owner)
        case [owner, kind, number] if kind in {INPUT, APPROVAL} and _PART.fullmatch(owner) and _is_ordinal(number):
            return Name(kind=kind, execution_id=owner, ordinal=int(number))
    return None


def origin_of(promise_id: str) -> str:
    """Return the part of an id that says where it is kept: what stands before the first colon."""
    return promise_id.partition(":")[0]


def checked_part(text: str) -> str:
    """Return `text` when it may be part of an id.

    Raises:
        InvalidPromiseId: it is empty, or holds other characters than letters, digits, `_` and `-`.
    """
    if not _PART.fullmatch(text):
        raise InvalidPromiseId(text)
    return text


def _is_ordinal(text: str) -> bool:
    return text.isascii() and text.isdigit()
