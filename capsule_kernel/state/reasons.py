"""Why a value cannot be saved, in words that a person can act on."""

from __future__ import annotations

import dis
import pickle
import signal
from pathlib import Path

TOO_DEEP = "nested too deeply"
_RAISE = dis.opmap["RAISE_VARARGS"]
_OURS = f"{Path(__file__).parents[1]}/"


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
    except BaseException:  # noqa: BLE001 - an exception's __str__ is user code
        text = ""
    if isinstance(exc, TypeError | pickle.PicklingError) and text.startswith(("cannot pickle", "Can't pickle")):
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def is_interrupt(exc: BaseException) -> bool:
    """Return whether a person interrupted what runs, rather than that an object's own code raised the exception.

    An interrupt strikes anywhere, or comes out of a handler of the signal; an object has a `raise` statement.
    """
    if not isinstance(exc, KeyboardInterrupt):
        return False
    codes = []
    instruction = -1
    trace = exc.__traceback__
    while trace is not None:
        codes.append(trace.tb_frame.f_code)
        instruction = codes[-1].co_code[trace.tb_lasti]
        trace = trace.tb_next
    handler = getattr(signal.getsignal(signal.SIGINT), "__code__", None)
    return instruction != _RAISE or codes[-1].co_filename.startswith(_OURS) or handler in codes
