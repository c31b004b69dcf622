"""How what has ended is taken apart: tasks, processes, pools, generators, connections that are closed.

While they run, something stands behind them that no checkpoint can hold, and they are live only. Afterwards they are
values: a result, an exit status. `aftermath` makes them anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import aftermath
from capsule_kernel.state.reasons import Unsaveable

if TYPE_CHECKING:
    from capsule_kernel.state.pickler import RecordPickler


# --- asyncio ----------------------------------------------------------------------------------------------------------


def _outcome(future: Any, what: str) -> aftermath.Outcome:
    if not future.done():
        raise Unsaveable(f"{what} that has not ended")
    if future.cancelled():
        # `cancel` takes a message, and nothing public gives it: the first who asks gets the error that has it.
        args = future._make_cancelled_error().args  # noqa: SLF001 - as above
        future._cancel_message = args[0] if args else None  # noqa: SLF001 - as above
        return "cancelled", args[0] if args else None
    # Whether somebody has asked is a part of it, and asking changes it.
    is_unseen = future._log_traceback  # noqa: SLF001 - as above
    error = future.exception()
    if error is None:
        return "result", future.result()
    return "unseen error" if is_unseen else "error", error


def _task(task: Any, pickler: RecordPickler) -> Any:
    outcome = _outcome(task, "a task")
    if outcome[0] in {"error", "unseen error"}:
        pickler.note("an exception comes back without its traceback")
    coroutine = task.get_coro()
    code = getattr(coroutine, "cr_code", None)
    place = ("", 0) if code is None else (code.co_filename, code.co_firstlineno)
    names = (getattr(coroutine, "__name__", "coroutine"), getattr(coroutine, "__qualname__", "coroutine"))
    return aftermath.task, (
        *(type(task), task.get_loop(), task.get_name()),
        *((*names, *place), outcome, task.cancelling()),
    )


def _future(future: Any, pickler: RecordPickler) -> Any:
    outcome = _outcome(future, "a future")
    if outcome[0] in {"error", "unseen error"}:
        pickler.note("an exception comes back without its traceback")
    return aftermath.future, (type(future), future.get_loop(), outcome)


def _event_loop(loop: Any, _pickler: RecordPickler) -> Any:
    cls = type(loop)
    if not loop.is_closed() or not cls.__module__.startswith("asyncio."):
        raise Unsaveable("an event loop")
    return aftermath.closed_loop, (cls,)


# --- generators and coroutines ----------------------------------------------------------------------------------------

_PREFIXES = {"generator": "gi", "coroutine": "cr", "async_generator": "ag"}


def _generator(generator: Any, _pickler: RecordPickler) -> Any:
    kind = type(generator).__name__
    prefix = _PREFIXES[kind]
    if getattr(generator, f"{prefix}_frame") is not None:
        # As pickle says it.
        raise Unsaveable(f"cannot pickle {kind!r} object")
    code = getattr(generator, f"{prefix}_code")
    names = (generator.__name__, generator.__qualname__)
    flags = code.co_flags & inspect.CO_ITERABLE_COROUTINE
    return aftermath.ended_generator, (kind, *names, code.co_filename, code.co_firstlineno, flags)


# --- processes and their pools ----------------------------------------------------------------------------------------


def _popen(child: Any, _pickler: RecordPickler) -> Any:
    # Only what was asked for: to ask now would be to wait for it.
    if child.returncode is None:
        raise Unsaveable("a child process")
    return object.__reduce_ex__(child, 5)


def _process(process: Any, _pickler: RecordPickler) -> Any:
    state = dict(vars(process))
    started = state.pop("_popen", None)
    for name in ("_sentinel", "_parent_pid"):
        state.pop(name, None)
    # A key of the session's processes, that pickle refuses, and secret.
    config = {name: value for name, value in state.pop("_config", {}).items() if name != "authkey"}
    if started is None:
        return aftermath.process, (type(process), config, None), state
    if started.returncode is None:
        raise Unsaveable("a child process")
    return aftermath.process, (type(process), config, (type(started), started.pid, started.returncode)), state


def _process_pool(pool: Any, pickler: RecordPickler) -> Any:
    # One that nobody has waited for lets go of its processes at once, and has work as long as they have.
    is_over = pool._shutdown_thread and not pool._processes and not pool._pending_work_items  # noqa: SLF001 - there is no public question
    if not is_over or _is_alive(pool._executor_manager_thread, pickler):  # noqa: SLF001 - as above
        raise Unsaveable("child processes")
    return object.__reduce_ex__(pool, 5)


_POOL_PLUMBING = (
    "_cache",
    "_inqueue",
    "_outqueue",
    "_change_notifier",
    "_taskqueue",
    "_quick_put",
    "_quick_get",
    "_terminate",
)


def _pool(pool: Any, pickler: RecordPickler, *, what: str = "child processes") -> Any:
    state = dict(vars(pool))
    if state.get("_state") not in {"CLOSE", "TERMINATE"} or any(
        _is_alive(state.get(name), pickler) for name in ("_worker_handler", "_task_handler", "_result_handler")
    ):
        raise Unsaveable(what)
    for name in _POOL_PLUMBING:
        state.pop(name, None)
    return aftermath.ended_pool, (type(pool), _POOL_PLUMBING), state


def _pool_of_threads(pool: Any, pickler: RecordPickler) -> Any:
    return _pool(pool, pickler, what="a pool of threads")


def _is_alive(thread: Any, pickler: RecordPickler) -> bool:
    return thread is not None and (thread.is_alive() or id(thread) in pickler.environment.alive_threads)


# --- connections ------------------------------------------------------------------------------------------------------


def _socket(connection: Any, _pickler: RecordPickler) -> Any:
    # What derives from it (that of `ssl`) is made in other ways.
    if connection.fileno() != -1 or type(connection).__module__ != "socket":
        raise Unsaveable("a connection")
    family, kind = int(connection.family), int(connection.type)
    if (family, kind) not in _ORDINARY:
        # To make another one may not be allowed.
        raise Unsaveable("a connection of a rare kind, though it is closed")
    args = (type(connection), family, kind, connection.proto, connection.gettimeout())
    return aftermath.closed_socket, args


_ORDINARY = frozenset((family, kind) for family in (1, 2, 10) for kind in (1, 2))
"""AF_UNIX, AF_INET, AF_INET6; SOCK_STREAM, SOCK_DGRAM: as numbers, of Linux."""


EXACT: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "builtins.generator": _generator,
    "builtins.coroutine": _generator,
    "builtins.async_generator": _generator,
    "_asyncio.Task": _task,
    "_asyncio.Future": _future,
}
"""For the values of just these types."""

DERIVED: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "subprocess.Popen": _popen,
    "multiprocessing.process.BaseProcess": _process,
    "concurrent.futures.process.ProcessPoolExecutor": _process_pool,
    "multiprocessing.pool.ThreadPool": _pool_of_threads,
    "multiprocessing.pool.Pool": _pool,
    "socket.socket": _socket,
    "asyncio.events.AbstractEventLoop": _event_loop,
}
"""For those of classes that are derived from these, too."""
