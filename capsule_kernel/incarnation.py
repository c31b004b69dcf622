"""Which process it was: what one that is gone has left behind is told from what another one still does."""

from __future__ import annotations

import functools
import os
import socket
from typing import Any

_SEPARATOR = "."
_FIRST_NAMESPACE = 0xEFFFFFFC
"""Inode of the pid namespace that a machine starts with (`PROC_PID_INIT_INO` of Linux)."""


@functools.cache
def incarnation() -> dict[str, Any]:
    """Return what tells this process from all others: machine, boot, pid and start."""
    return incarnation_of(os.getpid())


def incarnation_of(pid: int) -> dict[str, Any]:
    """Return the same of another process of this machine."""
    return {"host": _host(), "boot": _boot_id(), "pid": pid, "start": _started(pid)}


def is_foreign(described: Any) -> bool:
    """Return whether `incarnation` was described on another machine, of whose processes nothing is known here."""
    return isinstance(described, dict) and described.get("host") != _host()


def is_over(described: Any) -> bool:
    """Return whether the process that `incarnation` described is known to have ended."""
    if not isinstance(described, dict) or described.get("host") != _host():
        # Of another machine, nothing is known from here.
        return False
    pid, start = described.get("pid"), described.get("start")
    if not isinstance(pid, int):
        return False
    return described.get("boot") != _boot_id() or _started(pid) != start


def holder() -> str:
    """Return the same of this process as one word: who holds a durable function's task."""
    return _SEPARATOR.join(map(str, incarnation().values()))


def is_holder_over(text: str) -> bool:
    """Return whether the process that called itself `text` (see `holder`) is known to have ended."""
    return is_over(_described(text))


def described_holder(text: str) -> str:
    """Return what to call the process that called itself `text`."""
    described = _described(text)
    if described is None:
        return text
    pid, host = described["pid"], described["host"]
    return f"process {pid}" if host == _host() else f"process {pid} on {host}"


def _described(text: str) -> dict[str, Any] | None:
    parts = text.rsplit(_SEPARATOR, 3)
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return None
    return {"host": parts[0], "boot": parts[1], "pid": int(parts[2]), "start": int(parts[3])}


@functools.cache
def _host() -> str:
    """Return what this machine is called; a container that sees other processes counts as another machine."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = _FIRST_NAMESPACE
    return socket.gethostname() + ("" if namespace == _FIRST_NAMESPACE else f"-{namespace}")


def _started(pid: int) -> int:
    """Return a process's start in clock ticks since the boot (proc_pid_stat(5)), 0 if there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
