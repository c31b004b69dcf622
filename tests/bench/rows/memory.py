"""Memory of an idle kernel, all its processes together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.bench.memory import memory_usage

if TYPE_CHECKING:
    from tests.bench.run import Run

_CELLS = 5
_IDLE_S = 3.0


def measure(run: Run) -> None:
    """Proportional set size after five cells and three seconds, one kernel at a time: none shares with another."""
    for _, kernel in run.interleaved(run.few_rounds):
        with run.attempt(kernel, "memory", "memory_alone"), run.client(kernel) as client:
            for i in range(_CELLS):
                client.execute_ok(run.tag(f"x{i} = {i}"))
            time.sleep(_IDLE_S)
            usage = memory_usage(client.process.mark)
            run.record(kernel, "memory", usage.pss_bytes / 2**20)
            run.record(kernel, "memory_alone", usage.alone_bytes / 2**20)
