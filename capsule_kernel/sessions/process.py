"""Processes and signals: all that assumes Linux on the front's side.

It knows pids, descriptors and groups, and nothing of what the processes do.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from capsule_kernel.wire.worker_messages import ZygoteOptions

_ZYGOTE_CODE = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "from capsule_kernel.worker.zygote import main; main(int(sys.argv[1]), sys.argv[2])"
)


class SpawnedZygote(NamedTuple):
    """A zygote that has just been started, importing."""

    pid: int
    control: socket.socket


def fork_zygote(enter: Callable[[int, str], None], options: ZygoteOptions) -> SpawnedZygote:
    """Fork the first zygote off a front that has only begun: it has one thread and has read no key.

    What both have imported by then is in memory once. `enter` is called in the child with the descriptor of its socket
    and the options as JSON, and does not return.
    """
    ours, theirs = socket.socketpair()
    # Collections in either process would copy what they share.
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        ours.close()
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        folder = os.getcwd()
        sys.path[:] = [entry for entry in sys.path if entry not in ("", folder)]
        try:
            enter(theirs.detach(), msgspec.json.encode(options).decode())
        finally:
            os._exit(1)
    theirs.close()
    return SpawnedZygote(pid, ours)


def spawn_zygote(options: ZygoteOptions) -> SpawnedZygote:
    """Start a zygote in place of one that has ended; return at once, while it imports.

    It is executed, since the front has threads by now, and inherits one socket. `-c` rather than `-m`, with the empty
    entry of `sys.path` taken out: a notebook's folder may hold a `queue.py`.
    """
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    arguments = [sys.executable, "-c", _ZYGOTE_CODE, str(theirs.fileno()), msgspec.json.encode(options).decode()]
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)],
            setpgroup=0,
            setsigdef=[signal.SIGPIPE],
        )
    finally:
        os.close(null)
        theirs.close()
    return SpawnedZygote(pid, ours)


def signal_process(pidfd: int, number: int) -> None:
    """Send a signal to the process behind `pidfd`; one that has ended is no error."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to a process group; return whether anybody was there."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Return the pids of all children of `pid`, theirs included, as far as /proc shows them now."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        children = _children(current)
        found += children
        waiting += children
    return found


def signal_foreign_groups(pid: int, number: int) -> None:
    """Send a signal to the process groups of `pid`'s descendants that are not its own group."""
    groups = set()
    for child in descendants(pid):
        try:
            groups.add(os.getpgid(child))
        except ProcessLookupError:
            continue
    for group in groups - {pid, os.getpgrp()}:
        signal_group(group, number)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                children += [int(word) for word in file.read().split()]
    except OSError:
        # It has ended meanwhile.
        return children
    return children


def describe_status(status: int | None) -> str:
    """Return the wait status of `waitpid` in words."""
    if status is None:
        return "it ended, and its exit status could not be read"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        text = signal.strsignal(number) or ""
        return f"it was ended by {name} ({text})" if text else f"it was ended by {name}"
    return f"it ended by itself with exit status {os.WEXITSTATUS(status)}"
