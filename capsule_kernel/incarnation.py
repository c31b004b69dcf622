"""Which process it was: what one that is gone has left behind is told from what another one still does."""

from __future__ import annotations

import functools
import os
import socket
from typing import Any

_SEPARATOR = "."
_MACHINE_ID = "/etc/machine-id"


@functools.cache
def incarnation() -> dict[str, Any]:
    """Return what tells this process from all others: machine, boot, pid and start."""
    return incarnation_of(os.getpid())


def incarnation_of(pid: int) -> dict[str, Any]:
    """Return the same of another process of this machine."""
    return {
        "host": socket.gethostname(),
        "machine": _machine_id(),
        "boot": _boot_id(),
        "pid": pid,
        "start": _started(pid),
    }


def is_foreign(described: Any) -> bool:
    """Return whether `incarnation` was described on another machine, of whose processes nothing is known here."""
    if not isinstance(described, dict):
        return False
    # Two machines may be called the same.
    return described.get("host") != socket.gethostname() or described.get("machine", _machine_id()) != _machine_id()


def is_over(described: Any) -> bool:
    """Return whether the process that `incarnation` described is known to have ended."""
    if not isinstance(described, dict) or is_foreign(described):
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
    return f"process {described['pid']}" + (f" on {described['host']}" if is_foreign(described) else "")


def _described(text: str) -> dict[str, Any] | None:
    parts = text.rsplit(_SEPARATOR, 4)
    if len(parts) != 5 or not (parts[3].isdigit() and parts[4].isdigit()):
        return None
    host, machine, boot, pid, start = parts
    return {"host": host, "machine": machine, "boot": boot, "pid": int(pid), "start": int(start)}


def _started(pid: int) -> int:
    """Return a process's start in clock ticks since the boot (proc_pid_stat(5)), 0 if there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _boot_id() -> str:
    return _line("/proc/sys/kernel/random/boot_id")


@functools.cache
def _machine_id() -> str:
    """Return what a machine is given when it is set up (machine-id(5)); empty where there is none."""
    return _line(_MACHINE_ID)


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
