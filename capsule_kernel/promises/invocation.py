"""A durable function's root promise, as Resonate's SDK makes it: whoever makes one so can have the SDK run it.

Made here, it carries Capsule's own tags and a timeout that is no day (`Resonate.run` knows no tags). Pure.
"""

from __future__ import annotations

from typing import Any

from capsule_kernel.promises.model import BRANCH_TAG, ORIGIN_TAG, PARENT_TAG, SCOPE_TAG, TARGET_TAG, Promise

_VERSION = 1


def invocation_param(function: str, **arguments: Any) -> dict[str, Any]:
    """Return what the promise of a function's run is created with: the SDK's `TaskData`."""
    return {"func": function, "args": [], "kwargs": arguments, "version": _VERSION}


def invocation_tags(promise_id: str, address: str) -> dict[str, str]:
    """Return the tags of a function's run: the SDK's lineage of a root, and who is to run it."""
    return {
        ORIGIN_TAG: promise_id,
        BRANCH_TAG: promise_id,
        PARENT_TAG: promise_id,
        SCOPE_TAG: "global",
        TARGET_TAG: address,
    }


def is_invocation(promise: Promise, function: str) -> bool:
    """Return whether a promise is a run of a durable function of this name."""
    param = promise.param_data()
    return TARGET_TAG in promise.tags and isinstance(param, dict) and param.get("func") == function


def arguments_of(promise: Promise) -> dict[str, Any]:
    """Return what a function's run was called with; empty for another promise."""
    param = promise.param_data()
    arguments = param.get("kwargs") if isinstance(param, dict) else None
    return arguments if isinstance(arguments, dict) else {}
