"""What memory there is, and what processes hold of it, as /proc and the control groups tell.

Sources: proc(5), `smaps_rollup`; the kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from capsule_kernel.sessions.budget import Held, Room

_KIB = 1024
_FILES = {
    # Limit, usage, and what of the usage is cache that would be given up.
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def room(root: str = "/") -> Room:
    """Return the memory that this process may use, and what is left of it; `root` is where /proc and /sys are."""
    machine = _fields(os.path.join(root, "proc/meminfo"))
    usable = machine.get("MemTotal", 0)
    left = machine.get("MemAvailable", usable)
    for limit, used in _limits(root):
        usable = min(usable, limit)
        left = min(left, max(0, limit - used))
    return Room(usable_bytes=usable, left_bytes=left)


def held(worker: int, sleepers: Sequence[int]) -> Held:
    """Return what the snapshots `sleepers`, oldest first, hold beside process `worker`.

    Reading it walks the page tables: about a millisecond for 100 MB of small pages.
    """
    rolls = [_fields(f"/proc/{pid}/smaps_rollup") for pid in sleepers]
    private = [roll.get("Private_Dirty", 0) for roll in rolls]
    own = _fields(f"/proc/{worker}/smaps_rollup")
    if not own:
        # It has ended: what it shared is the snapshots' alone, one of which takes its place.
        return Held(private_bytes=[0] * len(sleepers), total_bytes=0)
    # Shared pages are counted in parts: with the worker's part added, and what it has taken off, snapshots' are left.
    shared = sum(roll.get("Pss_Anon", 0) for roll in rolls) + own.get("Pss_Anon", 0) - own.get("Anonymous", 0)
    return Held(private_bytes=private, total_bytes=max(sum(private), shared))


def _fields(path: str) -> dict[str, int]:
    """Return the lines `name: number kB` of a file, in bytes; empty where it cannot be read."""
    found: dict[str, int] = {}
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, rest = line.partition(":")
                words = rest.split()
                if len(words) == 2 and words[1] == "kB":
                    found[name] = int(words[0]) * _KIB
    except OSError:
        # The process has ended meanwhile.
        return {}
    return found


def _limits(root: str) -> Iterator[tuple[int, int]]:
    """Yield limit and usage of the memory groups that this process is in, from its own to the outermost."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, files = os.path.join(root, "sys/fs/cgroup"), _FILES["v2"]
        elif "memory" in controllers.split(","):
            top, files = os.path.join(root, "sys/fs/cgroup/memory"), _FILES["v1"]
        else:
            continue
        while True:
            # In a namespace of its own the path may be another's: then the group is at the top.
            found = _limit(os.path.join(top, path.lstrip("/")), files)
            if found is not None:
                yield found
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


def _limit(folder: str, files: tuple[str, str, str]) -> tuple[int, int] | None:
    limit_name, usage_name, cache_name = files
    try:
        limit = _number(os.path.join(folder, limit_name))
        used = _number(os.path.join(folder, usage_name))
        with open(os.path.join(folder, "memory.stat"), encoding="ascii") as file:
            cache = next((int(line.split()[1]) for line in file if line.split()[0] == cache_name), 0)
    except (OSError, ValueError):
        # No limit there ("max"), or no such group.
        return None
    return limit, max(0, used - cache)


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
