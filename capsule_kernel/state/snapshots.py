"""Instant snapshots: a fork of the worker that sleeps and shares its memory copy-on-write.

This module knows what makes a fork safe or unsafe, and nothing of what the worker does. Everything survives in a
snapshot that survives a fork: generators, locks, open files, cursors, figures. What does not (other threads) refuses
it, with the reason; what can be cured (OpenMP and BLAS pools, shared file offsets, reseeded generators) is.
"""

from __future__ import annotations

import concurrent.futures.thread as pools
import ctypes
import enum
import fcntl
import gc
import os
import random
import stat
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_OMP_PAUSE_HARD = 2
_ONLY_AT_CREATION = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_TMPFILE | os.O_NOFOLLOW
_IDLE_THREADS = ("tqdm_monitor", "TMonitor", "pydevd", "debugpy")
_UNSAFE_MODULES = {
    "polars": "polars keeps a thread pool that a fork would lose",
    "grpc": "gRPC's threads do not survive a fork",
    "duckdb": "duckdb keeps a thread pool that a fork would lose",
    "jpype": "a Java machine runs in this process",
    "ray": "ray keeps threads that a fork would lose",
}


class Role(enum.Enum):
    """Which side of a fork this is."""

    WORKER = "worker"
    SNAPSHOT = "snapshot"


def reason_against(own_threads: Iterable[threading.Thread]) -> str:
    """Return why a fork would not be safe now, empty if it is; `own_threads` are parked by the caller."""
    own = {threading.main_thread(), *own_threads}
    for thread in threading.enumerate():
        if thread in own or _is_idle(thread):
            continue
        return f"thread {thread.name!r} runs"
    for module, reason in _UNSAFE_MODULES.items():
        if module in sys.modules:
            return reason
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return "CUDA is initialised, which does not survive a fork"
    return ""


def fork_snapshot() -> tuple[Role, int]:
    """Fork, and return in both processes; in the worker with the pid of a helper to be reaped.

    The snapshot is the child of a child that leaves at once: user code that waits for any of its children must not find
    it. The caller has parked its own threads.
    """
    _pause_openmp()
    # CPython reseeds the module's generator in a fork's child; a snapshot has to go on where the worker was.
    state = random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
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
    if work is None:
        return False
    for pool in [found for found in gc.get_objects() if isinstance(found, ThreadPoolExecutor)]:
        if thread in pool._threads:  # noqa: SLF001 - as above
            return bool(work.empty() and pool._idle_semaphore._value >= len(pool._threads))  # noqa: SLF001 - as above
    return False


_openmp: dict[str, ctypes.CDLL] = {}
_modules_seen = [0]


def _pause_openmp() -> None:
    """Have every OpenMP runtime give up its threads: in a fork's child they would be waited for, for ever.

    Source: OpenMP 5.0, `omp_pause_resource_all`.
    """
    if len(sys.modules) != _modules_seen[0]:
        _modules_seen[0] = len(sys.modules)
        for path in _mapped_runtimes() - _openmp.keys():
            _openmp[path] = ctypes.CDLL(path)
    for library in _openmp.values():
        pause = getattr(library, "omp_pause_resource_all", None)
        if pause is not None:
            pause(_OMP_PAUSE_HARD)


def _mapped_runtimes() -> set[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "gomp" in line or "libomp" in line or "libiomp" in line}
    return {path for path in paths if path.startswith("/")}


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
