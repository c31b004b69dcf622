"""Instant snapshots: the pause of one, going back, a crash, and what they cost code that runs beside them.

Capsule only. A pause is the longest time for which the loop does not come round to a task while a snapshot is due.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.bench.kernels import CAPSULE
from tests.bench.process import KernelError

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.run import Run

_DEADLINE_S = 60.0
_SETTLED_S = 0.15
_OFF = CAPSULE.with_arguments("--CapsuleKernel.snapshots=0")
_ARRAY = "import numpy as np; big = np.ones(1 << 27)"
_OBJECTS = "big = [(number, number + 0.5) for number in range(9_000_000)]"
STATES = {
    "snapshot_bare": "x = 1",
    "snapshot_pandas": "import pandas as pd; df = pd.DataFrame({'a': range(1000)})",
    "snapshot_array": _ARRAY,
    "snapshot_objects": _OBJECTS,
}
_WATCH = """\
import asyncio, time
async def watch(pauses):
    last, worst, end = time.perf_counter(), 0.0, time.perf_counter() + 0.12
    while last < end:
        await asyncio.sleep(0)
        now = time.perf_counter()
        worst, last = max(worst, now - last), now
    pauses.append(worst * 1000)
pauses = []"""
_BEGIN = "_ = asyncio.ensure_future(watch(pauses))"
_TIMED = """\
import time
value = 1
def read():
    for _ in range(3_000_000):
        value
begun = time.perf_counter()
{code}
time.perf_counter() - begun"""
SLOWDOWNS = {
    "snapshot_globals": ("pass", "read()"),
    "snapshot_loop": ("pass", "for number in range(3_000_000):\n    other = number"),
    "snapshot_overwrite": (_ARRAY, "big[:] = 2"),
    "snapshot_iterate": (_OBJECTS, "total = 0\nfor pair in big:\n    total += pair[0]"),
}

_PAIRS = {"snapshot_globals": 7, "snapshot_loop": 7}
"""Pairs of kernels, of which the median counts: two processes that run the same code in the same way differ by several
percent, for as long as they live, by where their memory lies."""


def measure_pauses(run: Run) -> None:
    """Let a snapshot fall due again and again, and ask a task for how long it was kept waiting."""
    if CAPSULE not in run.kernels:
        return
    for name, code in STATES.items():
        if not run.is_wanted(name):
            continue
        with run.attempt(CAPSULE, name), run.client(CAPSULE) as client:
            client.execute_ok(f"{code}\n{_WATCH}")
            for _ in range(run.rounds * 3):
                client.execute_ok(run.tag(_BEGIN))
                time.sleep(_SETTLED_S)
            run.record(CAPSULE, name, *_floats(client, "pauses"))


def measure_returns(run: Run) -> None:
    """Go back, by `%undo` and by a crash, with 1 GB of arrays; each time until the next cell is answered."""
    if CAPSULE not in run.kernels:
        return
    names = ("snapshot_undo", "snapshot_crash")
    with run.attempt(CAPSULE, *names), run.client(CAPSULE) as client:
        client.execute_ok(_ARRAY)
        for _ in range(run.rounds * 3):
            client.execute_ok(run.tag("x = 1"))
            time.sleep(_SETTLED_S)
            client.execute_ok(run.tag("x = 2"))
            took_s = client.execute("%undo") + client.execute(run.tag("y = 1"))
            run.record(CAPSULE, "snapshot_undo", took_s * 1000)
            time.sleep(_SETTLED_S)
            client.execute(run.tag("import os; os._exit(1)"))
            run.record(CAPSULE, "snapshot_crash", client.execute(run.tag("y = 1")) * 1000)
            time.sleep(_SETTLED_S)
            if _floats(client, "big[-1], x") != [1.0, 1.0]:
                raise KernelError("state was lost")


def measure_slowdowns(run: Run) -> None:
    """Run the same code with snapshots and without, in turns; in percent of the time without."""
    if CAPSULE not in run.kernels:
        return
    for name, (state, code) in SLOWDOWNS.items():
        if not run.is_wanted(name):
            continue
        pairs = _PAIRS.get(name, 1)
        for _ in range(pairs):
            if run.has_failed(CAPSULE, name):
                break
            with run.attempt(CAPSULE, name):
                run.record(CAPSULE, name, _slowdown(run, state, code, rounds=max(2, run.rounds // pairs)))


def _slowdown(run: Run, state: str, code: str, *, rounds: int) -> float:
    with run.client(CAPSULE) as with_them, run.client(_OFF) as without:
        for client in (with_them, without):
            client.execute_ok(state)
            time.sleep(_SETTLED_S)
        took: dict[Client, list[float]] = {with_them: [], without: []}
        for round_ in range(rounds):
            for client in (with_them, without) if round_ % 2 else (without, with_them):
                took[client] += _floats(client, _TIMED.format(code=code))
                time.sleep(_SETTLED_S)
    off = statistics.median(took[without])
    return 100 * (statistics.median(took[with_them]) / off - 1)


def _floats(client: Client, code: str) -> list[float]:
    """The numbers that a cell's last expression shows."""
    msg_id = client.send_execute(code)
    text = ""
    for message in client.output_until_idle(msg_id, time.perf_counter() + _DEADLINE_S):
        if message.msg_type == "execute_result":
            text = message.json()["data"]["text/plain"]
    client.wait_reply(client.shell, msg_id)
    if not text:
        msg = f"{code!r} shows nothing"
        raise KernelError(msg)
    return [
        float(word.removeprefix("np.float64(").rstrip(")")) for word in text.strip("()[]").split(",") if word.strip()
    ]
