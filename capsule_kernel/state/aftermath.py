"""Functions that a checkpoint's pickles call: what has ended, made as it is afterwards.

As in `rebuild`, names and arguments are part of the stored format. Nothing here starts anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

type Outcome = tuple[str, Any]
"""`result`, `error`, `unseen error` or `cancelled`, and which."""


# --- asyncio ----------------------------------------------------------------------------------------------------------


def future(cls: Any, loop: Any, outcome: Outcome) -> Any:
    """Return a future that is done."""
    made = cls(loop=loop)
    how, value = outcome
    if how == "result":
        made.set_result(value)
    elif how == "cancelled":
        made.cancel(msg=value)
    else:
        made.set_exception(value)
        if how == "error":
            made._log_traceback = False
    return made


def task(
    cls: Any, loop: Any, name: str, coroutine: tuple[str, str, str, int], outcome: Outcome, cancelling: int
) -> Any:
    """Return a task that is done: that of a coroutine of this name and place, whose one step has this outcome.

    `cancelling`: how often it was asked to end.
    """
    how, value = outcome
    error = value if how in {"error", "unseen error"} else None
    kept = None if error is None else (error.__traceback__, error.__context__, error.__suppress_context__)
    if how == "cancelled":
        error = sys.modules["asyncio"].CancelledError(*(() if value is None else (value,)))
    # One that was asked to end, and has, ends before its code begins: with the message of the last who asked.
    requests = [value] * cancelling if how == "cancelled" else []
    made = _stepped(cls, loop, name, _named(_outcome, *coroutine)(value, error), requests)
    if kept is not None:
        value.__traceback__, value.__context__, value.__suppress_context__ = kept
    if how == "error":
        made._log_traceback = False  # noqa: SLF001 - as above
    return made


async def _outcome(result: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return result


def _stepped(cls: Any, loop: Any, name: str, coroutine: Any, cancel_messages: list[Any]) -> Any:
    """Return a task of `coroutine` after its first step, which the loop neither runs nor hears of."""
    steps: list[Any] = []
    loop.call_soon = lambda step, *_args, **_options: steps.append(step)
    try:
        made = cls(coroutine, loop=loop, name=name)
    finally:
        del loop.call_soon
    for message in cancel_messages:
        made.cancel(msg=message)
    with _as_running(loop), contextlib.suppress(KeyboardInterrupt, SystemExit):
        steps[0]()
    return made


@contextlib.contextmanager
def _as_running(loop: Any) -> Iterator[None]:
    """Have asyncio take `loop` for the running one, without a task: a restore may itself be inside of one."""
    asyncio: Any = sys.modules["asyncio"]
    running = asyncio._get_running_loop()  # noqa: SLF001 - for who makes loops
    loops = {id(each): each for each in (running, loop) if each is not None}.values()
    outer = [(each, found) for each in loops if (found := asyncio.current_task(each)) is not None]
    for each, found in outer:
        asyncio.tasks._leave_task(each, found)  # noqa: SLF001 - for who makes tasks
    asyncio._set_running_loop(loop)  # noqa: SLF001 - as above
    try:
        yield
    finally:
        asyncio._set_running_loop(running)  # noqa: SLF001 - as above
        for each, found in outer:
            asyncio.tasks._enter_task(each, found)  # noqa: SLF001 - as above


def closed_loop(cls: Any) -> Any:
    """Return an event loop that is closed."""
    made = cls()
    made.close()
    return made


# --- generators and coroutines ----------------------------------------------------------------------------------------


def _generator() -> Any:
    yield


async def _coroutine() -> None:
    pass


async def _async_generator() -> Any:
    yield


_KINDS: dict[str, Any] = {"generator": _generator, "coroutine": _coroutine, "async_generator": _async_generator}


def ended_generator(kind: str, name: str, qualname: str, filename: str, line: int, flags: int) -> Any:
    """Return a generator, coroutine or asynchronous generator that has run to its end; `flags`: more of its code's."""
    function = _named(_KINDS[kind], name, qualname, filename, line)
    function.__code__ = function.__code__.replace(co_flags=function.__code__.co_flags | flags)
    made = function()
    if kind == "async_generator":
        with contextlib.suppress(StopIteration, StopAsyncIteration):
            made.aclose().send(None)
    else:
        made.close()
    return made


def _named(function: Any, name: str, qualname: str, filename: str, line: int) -> Any:
    code = function.__code__.replace(co_name=name, co_qualname=qualname, co_filename=filename, co_firstlineno=line)
    made = types.FunctionType(code, function.__globals__, name)
    made.__qualname__ = qualname
    return made


# --- processes and their pools ----------------------------------------------------------------------------------------


def process(cls: Any, config: dict[str, Any], ended: tuple[Any, int, int] | None) -> Any:
    """Return a process of `multiprocessing` that has not begun, or that has ended: its kind, number, exit status."""
    import multiprocessing.process

    made = cls.__new__(cls)
    own: Any = multiprocessing.process.current_process()
    made._config = {**config, "authkey": own.authkey}  # noqa: SLF001 - as `BaseProcess` does
    made._parent_pid = os.getpid()  # noqa: SLF001 - as above
    made._popen = None  # noqa: SLF001 - as above
    if ended is not None:
        kind, pid, returncode = ended
        made._popen = kind.__new__(kind)  # noqa: SLF001 - as above
        vars(made._popen).update(pid=pid, returncode=returncode, sentinel=-1, finalizer=None)  # noqa: SLF001 - as above
        made._sentinel = -1  # noqa: SLF001 - as above
    return made


def ended_pool(cls: Any, plumbing: tuple[str, ...]) -> Any:
    """Return a pool of `multiprocessing` that was terminated: nothing leads to its processes any more."""
    made = cls.__new__(cls)
    vars(made).update(dict.fromkeys(plumbing), _terminate=_nothing)
    return made


def _nothing() -> None:
    """Terminate what was."""


# --- connections ------------------------------------------------------------------------------------------------------


def closed_socket(cls: Any, family: int, kind: int, proto: int, timeout_s: float | None) -> Any:
    """Return a socket that is closed."""
    made = cls(family, kind, proto)
    made.settimeout(timeout_s)
    made.close()
    return made
