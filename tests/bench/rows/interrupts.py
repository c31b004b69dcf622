"""Interrupts: from the request to the idle of the interrupted cell, the first one in a fresh worker and later ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.bench.process import KernelError

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.run import Run

CELLS = {
    "loop": "while True: pass",
    "sleep": "time.sleep(60)",
    "await": "await asyncio.sleep(60)",
    "input": "input()",
    "child": 'subprocess.run(["sleep", "60"])',
    "shell": "!sleep 60",
}
SETUP = "import asyncio, subprocess, time"
_DEADLINE_S = 3.0
_SETTLE_S = 0.3


def measure(run: Run) -> None:
    """A fresh kernel for each kind of cell and round: its first interrupt, then repeats."""
    for cell, code in CELLS.items():
        first, repeats = f"interrupt_{cell}_first", f"interrupt_{cell}"
        if not run.is_wanted(first, repeats):
            continue
        for _, kernel in run.interleaved(run.few_rounds):
            if run.has_failed(kernel, first, repeats):
                continue
            with run.attempt(kernel, first, repeats), run.client(kernel) as client:
                client.execute_ok(SETUP)
                run.record(kernel, first, _interrupt(client, run, code))
                for _ in range(3):
                    run.record(kernel, repeats, _interrupt(client, run, code))


def _interrupt(client: Client, run: Run, code: str) -> float:
    """Milliseconds from the interrupt to idle and reply."""
    # A comment would be part of a shell command's line: shell takes it as a comment, too.
    msg_id = client.send_execute(run.tag(code), allow_stdin=True)
    while client.receive(client.iopub).msg_type != "execute_input":
        pass
    if code == CELLS["input"]:
        client.receive(client.stdin, time.perf_counter() + _DEADLINE_S)
    time.sleep(_SETTLE_S)
    start = time.perf_counter()
    client.interrupt()
    try:
        client.wait_idle(msg_id, start + _DEADLINE_S)
        reply = client.wait_reply(client.shell, msg_id, start + _DEADLINE_S)
    except KernelError as failure:
        client.process.check_alive()
        msg = f"not interrupted within {_DEADLINE_S:g} s"
        raise KernelError(msg) from failure
    elapsed_ms = (time.perf_counter() - start) * 1000
    content = reply.json()
    if not code.startswith("!") and content.get("ename") != "KeyboardInterrupt":
        msg = f"ended as {content.get('ename', content['status'])}, not KeyboardInterrupt"
        raise KernelError(msg)
    return elapsed_ms
