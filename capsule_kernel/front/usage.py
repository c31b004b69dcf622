"""What the kernel uses: the sum over all its processes, as jupyter-resource-usage asks for it (`usage_request`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

_LOOKS_MAX = 10


class Usage:
    """Measures; CPU percentages are since the last call."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def measure(self) -> dict[str, Any]:
        """Return the content of a `usage_reply`: CPU in percent of one core, memory in bytes (PSS where readable)."""
        import psutil

        ours = psutil.Process(os.getpid())
        found = _found(ours)
        self._processes = {pid: self._processes.get(pid, process) for pid, process in found.items()}
        cpu = sum(_of(process, psutil.Process.cpu_percent) for process in self._processes.values())
        for _ in range(_LOOKS_MAX):
            memory = sum(_of(process, _memory_of) for process in found.values())
            before, found = found, _found(ours)
            if before.keys() == found.keys():
                break
            # A process came or went, as when a snapshot is taken: what it shares was counted in part only.
        virtual = psutil.virtual_memory()
        content: dict[str, Any] = {
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "kernel_cpu": cpu,
            "kernel_memory": int(memory),
            "cpu_count": psutil.cpu_count(),
            "host_virtual_memory": dict(virtual._asdict()),
        }
        percent = psutil.cpu_percent(interval=None)
        if percent:
            # It is 0 at the first call, which says nothing (psutil).
            content["host_cpu_percent"] = percent
        return content


def _found(ours: psutil.Process) -> dict[int, psutil.Process]:
    return {process.pid: process for process in [ours, *ours.children(recursive=True)]}


def _of(process: psutil.Process, measure: Callable[[psutil.Process], float]) -> float:
    import psutil

    try:
        return measure(process)
    except psutil.Error:
        # It has ended meanwhile.
        return 0


def _memory_of(process: psutil.Process) -> int:
    """Return the proportional set size: workers share most pages with the zygote, which would count several times."""
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, PermissionError):
        return int(process.memory_info().rss)
