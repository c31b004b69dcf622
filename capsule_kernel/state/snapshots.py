"""Instant snapshots: a fork of the worker that sleeps and shares its memory copy-on-write.

This module knows what makes a fork safe or unsafe, and nothing of what the worker does. Everything survives in a
snapshot that survives a fork: generators, locks, open files, cursors, figures. What does not (other threads) refuses
it, with the reason; what can be cured (OpenMP and BLAS pools, shared file offsets, reseeded generators) is.
"""

from __future__ import annotations

import concurrent.futures.thread as pools
import enum
import fcntl
import gc
import os
import random
import stat
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from capsule_kernel.quiet import ignoring
from capsule_kernel.state import file_locks
from capsule_kernel.state.file_locks import FileLock
from capsule_kernel.state.libraries import Libraries

_ONLY_AT_CREATION = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_TMPFILE | os.O_NOFOLLOW
_IDLE_THREADS = ("tqdm_monitor", "TMonitor", "pydevd", "debugpy")
_NATIVE_THREADS = ("polars", "rayon", "tokio", "async-executor", "grpc", "VM Thread", "GC Thread", "cuda")
"""How threads begin their names that keep a pool alive. (OpenBLAS, jemalloc and Arrow look after their own.)"""
_UNSAFE_MODULES = {
    "polars": "polars keeps a thread pool that a fork would lose",
    "grpc": "gRPC's threads do not survive a fork",
    "duckdb": "duckdb keeps a thread pool that a fork would lose",
    "jpype": "a Java machine runs in this process",
    "ray": "ray keeps threads that a fork would lose",
}


_libraries = Libraries()


class Role(enum.Enum):
    """Which side of a fork this is."""

    WORKER = "worker"
    SNAPSHOT = "snapshot"


def reason_against(own_threads: Iterable[threading.Thread], locks: Sequence[FileLock]) -> str:
    """Return why a fork would not be safe now, empty if it is.

    Args:
        own_threads: threads that are parked by the caller.
        locks: locks of files that this process holds.
    """
    _libraries.look()
    own = {threading.main_thread(), *own_threads}
    for thread in threading.enumerate():
        if thread in own or _is_idle(thread):
            continue
        return f"thread {thread.name!r} runs"
    for module, reason in _UNSAFE_MODULES.items():
        if module in sys.modules:
            return reason
    if _libraries.uses_cuda():
        return "CUDA is initialised, which does not survive a fork"
    native = _native_thread()
    if native:
        return f"native threads run ({native}), which a fork would lose"
    return file_locks.reason_against(locks)


def fork_snapshot() -> tuple[Role, int]:
    """Fork, and return in both processes; in the worker with the pid of a helper to be reaped.

    The snapshot is the child of a child that leaves at once: user code that waits for any of its children must not find
    it. The caller has parked its own threads.
    """
    _libraries.look()
    _libraries.pause_openmp()
    # CPython reseeds the module's generator in a fork's child; a snapshot has to go on where the worker was.
    state = random.getstate()
    with ignoring(DeprecationWarning):
        helper = os.fork()
        if helper:
            return Role.WORKER, helper
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)
    random.setstate(state)
    _give_files_their_own_offset()
    return Role.SNAPSHOT, 0


def revive_pools() -> int:
    """In a snapshot that wakes up: give idle thread pools new threads when they need some; return how many pools."""
    if not pools._threads_queues:  # noqa: SLF001 - the standard library has no public way
        return 0
    count = 0
    for pool in [found for found in gc.get_objects() if isinstance(found, ThreadPoolExecutor)]:
        if not pool._threads:  # noqa: SLF001 - as above
            continue
        pool._threads = set()  # noqa: SLF001 - as above
        pool._idle_semaphore = threading.Semaphore(0)  # noqa: SLF001 - as above
        count += 1
    pools._threads_queues = weakref.WeakKeyDictionary()  # noqa: SLF001 - as above
    return count


def _is_idle(thread: threading.Thread) -> bool:
    """Return whether a thread only waits for work that it will be given anew after a fork."""
    if any(name in type(thread).__name__ or name in thread.name for name in _IDLE_THREADS):
        return True
    work = pools._threads_queues.get(thread)  # noqa: SLF001 - as in `revive_pools`
    if work is None or not work.empty():
        return False
    # It waits inside of the loop's own frame; looking for its pool would go through all objects.
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - as above
    return frame is not None and frame.f_code is pools._worker.__code__  # noqa: SLF001 - as above


def _native_thread() -> str:
    """Return the name of a thread that is known not to survive a fork, empty if there is none."""
    # On the way of every snapshot: `pathlib` takes longer than the kernel here.
    tasks = os.listdir("/proc/self/task")  # noqa: PTH208 - as above
    if len(tasks) <= threading.active_count():
        return ""
    for task in tasks:
        try:
            name = file_locks.read_proc(f"/proc/self/task/{task}/comm").decode(errors="replace").strip()
        except OSError:
            # It has ended meanwhile.
            continue
        if name.startswith(_NATIVE_THREADS):
            return name
    return ""


def _give_files_their_own_offset() -> None:
    """Open regular files anew: an offset is shared by all that inherited the descriptor."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(entry.name)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or _is_memory(descriptor):
                continue
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_ONLY_AT_CREATION
            is_inheritable = os.get_inheritable(descriptor)
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
            anew = os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)
        except OSError:
            # Closed meanwhile (the listing's own), or not to be opened again: it stays shared.
            continue
        os.lseek(anew, offset, os.SEEK_SET)
        os.dup2(anew, descriptor, inheritable=is_inheritable)
        os.close(anew)


def _is_memory(descriptor: int) -> bool:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("/memfd:")
