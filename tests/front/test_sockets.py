"""The channels: ZMQ's threads and the loop's. Each in a process of its own, whose heartbeat ends with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import asyncio, json, os, time
from pathlib import Path
{first}
from capsule_kernel.front.sockets import Sockets
sockets = Sockets(asyncio.new_event_loop())
deadline, tasks = time.monotonic() + 20, []
while len(tasks) < 2 and time.monotonic() < deadline:
    # They name themselves, once they run.
    tasks = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith("ZMQbg/IO")]
print(json.dumps(sorted(os.sched_getscheduler(int(task.name)) for task in tasks)), flush=True)
sockets.close()
os._exit(0)
"""


def policies(first: str = "") -> list[int]:
    """How the system schedules the threads that send: the heartbeat's and that of the other channels."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True, text=True, check=True, timeout=30
    )
    found: list[int] = json.loads(done.stdout)
    return found


def test_the_thread_that_sends_does_not_take_the_loops_processor() -> None:
    # The heartbeat's answers at once, whatever else runs.
    assert policies() == [os.SCHED_OTHER, os.SCHED_BATCH]


def test_a_system_that_refuses_that_costs_nothing_else() -> None:
    refuse = "def refuse(*_): raise PermissionError\nos.sched_setscheduler = refuse"
    assert policies(refuse) == [os.SCHED_OTHER, os.SCHED_OTHER]
