"""A new worker inside the living kernel: from the idle of the cell that killed the old one to that of the next cell.

Capsule only: the peers have no worker to replace. Without snapshots: one of them would take over, and neither a spare
nor the zygote be asked (how long that takes is a row of its own).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.bench.kernels import CAPSULE
from tests.bench.process import KernelError, marked_pids

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.run import Run

_NO_SNAPSHOTS = "--CapsuleKernel.snapshots=0"
_NO_SPARE = "--CapsuleKernel.spare_workers=0"
_PANDAS = "--CapsuleKernel.preload=['pandas']"
VARIANTS = {
    "worker_spare": ((_NO_SNAPSHOTS,), "x = 1"),
    "worker_zygote": ((_NO_SNAPSHOTS, _NO_SPARE), "x = 1"),
    "worker_pandas": ((_NO_SNAPSHOTS, _NO_SPARE, _PANDAS), "import pandas"),
}


def measure(run: Run) -> None:
    """Kill the worker again and again; each time all processes are back, and at rest, before the next kill."""
    if CAPSULE not in run.kernels:
        return
    for name, (arguments, code) in VARIANTS.items():
        if run.is_wanted(name):
            with run.attempt(CAPSULE, name), run.client(CAPSULE.with_arguments(*arguments)) as client:
                count = _wait_settled(client)
                for _ in range(run.rounds):
                    client.execute(run.tag("import os; os._exit(1)"))
                    run.record(CAPSULE, name, client.execute(run.tag(code)) * 1000)
                    _wait_settled(client, count)


def _wait_settled(client: Client, count: int = 0) -> int:
    """Until the kernel's processes number at least `count` and have not changed for 0.5 s; return their number."""
    end = time.monotonic() + 15
    pids, since = set[int](), time.monotonic()
    while time.monotonic() < end:
        now = set(marked_pids(client.process.mark))
        if now != pids:
            pids, since = now, time.monotonic()
        elif len(pids) >= count and time.monotonic() - since > 0.5:
            return len(pids)
        time.sleep(0.05)
    msg = f"its processes do not settle: {len(pids)}, {count} before the worker was killed"
    raise KernelError(msg)
