"""Why a value cannot be saved, in words that a person can act on."""

from __future__ import annotations

import pickle

TOO_DEEP = "nested too deeply"


class Unsaveable(Exception):
    """A value that lives in this process only; the text says why."""


def reason_of(exc: BaseException) -> str:
    """Return the reason that an error of pickling or loading gives."""
    if isinstance(exc, Unsaveable):
        return str(exc)
    cause = exc.__cause__
    if isinstance(exc, RecursionError) or isinstance(cause, RecursionError):
        return TOO_DEEP
    if isinstance(exc, MemoryError):
        return "not enough memory to write it down"
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - an exception's __str__ is user code
        text = ""
    if isinstance(exc, TypeError | pickle.PicklingError) and text.startswith(("cannot pickle", "Can't pickle")):
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
