"""The memory of a kernel's processes, from `/proc/PID/smaps` and `smaps_rollup` (proc_pid_smaps(5))."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from .process import marked_pids


class MemoryUsage(NamedTuple):
    """Bytes of all processes together."""

    pss_bytes: int
    """Proportional set size: a page that n processes share counts 1/n in each, strangers included."""
    alone_bytes: int
    """What that sum would be if no stranger had mapped the same files.

    A kernel of one process shares libpython and the extension modules with whatever other Python runs, this one
    included, so that its proportional set size is that much smaller; a kernel of several counts them nearly whole.
    """


def memory_usage(mark: str) -> MemoryUsage:
    """Sum over the processes that bear the mark.

    Anonymous pages are shared by fork only, thus within the kernel: their proportional size holds. Of a file's mapping
    the processes have mostly the same pages: the largest resident size counts, once.
    """
    pss = anonymous = 0
    files: dict[str, int] = defaultdict(int)
    for pid in marked_pids(mark):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            ((_, rollup),) = _mappings(Path(f"/proc/{pid}/smaps_rollup"))
            pss += rollup["Pss"]
            anonymous += rollup["Pss_Anon"]
            for name, sizes in _mappings(Path(f"/proc/{pid}/smaps")):
                files[name] = max(files[name], sizes["Rss"] - sizes["Anonymous"])
    return MemoryUsage(pss, anonymous + sum(files.values()))


def _mappings(smaps: Path) -> list[tuple[str, dict[str, int]]]:
    """Each mapping's file (offset, device, inode) and its sizes in bytes."""
    found: list[tuple[str, dict[str, int]]] = []
    for line in smaps.read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            found.append((" ".join(rest[1:4]), {}))
        elif len(rest) == 2 and rest[1] == "kB":
            found[-1][1][first[:-1]] = int(rest[0]) * 1024
    return found
