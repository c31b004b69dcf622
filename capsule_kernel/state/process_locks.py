"""Locks between processes (`multiprocessing.Lock`, `RLock`): they are in memory that a fork shares.

What the worker that died did to them since, it did to its snapshot's too. A progress bar of tqdm takes one each time
that it is drawn: a worker that is killed just then would leave a session whose next bar waits for ever.
"""

from __future__ import annotations

import ctypes
import sys


def put_back() -> None:
    """In a snapshot that is the worker now, and shares them with no child: have them held, or free, as they were then.

    Other semaphores keep their count: what it should be, nobody noted.
    """
    util, synchronize = (sys.modules.get(f"multiprocessing.{name}") for name in ("util", "synchronize"))
    if util is None or synchronize is None:
        return
    libc = ctypes.CDLL(None)
    for lock in list(util._afterfork_registry.values()):  # noqa: SLF001 - the standard library has no public way
        if type(lock) not in {synchronize.Lock, synchronize.RLock}:
            continue
        semaphore = lock._semlock  # noqa: SLF001 - as above
        # How often this process holds it is in its own memory.
        is_held, is_zero = bool(semaphore._count()), semaphore._is_zero()  # noqa: SLF001 - as above
        if is_zero and not is_held:
            libc.sem_post(ctypes.c_void_p(semaphore.handle))
        elif is_held and not is_zero:
            libc.sem_trywait(ctypes.c_void_p(semaphore.handle))
