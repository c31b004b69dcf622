"""No orphans.

Issue, point 9: after shutdown, SIGTERM, SIGKILL of the front, of its process group, or the end of the process named by
`JPY_PARENT_PID`, no process of ours is left after 1 s, also when a cell loops in C.
"""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Client
    from .starter import KernelStarter

STATES = {
    "idle": "",
    "in a Python loop": "while True: pass",
    "in a C loop": "sum(range(10**13))",
    "asleep": "import time; time.sleep(600)",
    "in an await": "import asyncio; await asyncio.sleep(600)",
    "deaf to signals": (
        "import signal, time\n"
        "for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n"
        "print('running', flush=True)\ntime.sleep(600)"
    ),
}
ENDS: dict[str, Callable[[Client], object]] = {
    "shutdown": lambda client: client.shutdown(),
    "shutdown for a restart": lambda client: client.shutdown(restart=True),
    "SIGTERM": lambda client: client.process.send_signal(signal.SIGTERM),
    "SIGKILL": lambda client: client.process.send_signal(signal.SIGKILL),
    "SIGTERM to the group": lambda client: client.process.signal_group(signal.SIGTERM),
    "SIGKILL to the group": lambda client: client.process.signal_group(signal.SIGKILL),
    "SIGHUP": lambda client: client.process.send_signal(signal.SIGHUP),
}

FAST_STATES = {"idle", "in a C loop"}
FAST_ENDS = {"shutdown", "SIGTERM", "SIGKILL"}
CASES = [
    pytest.param(end, state, marks=[] if end in FAST_ENDS or state in FAST_STATES else pytest.mark.slow)
    for end in ENDS
    for state in STATES
]
"""Every end in every state; the fast suite leaves out the less telling pairs."""


def bring_into(client: Client, state: str) -> None:
    code = STATES[state]
    if code:
        cell = client.start(f"print('running', flush=True)\n{code}")
        cell.wait_stream("running\n")


@only_capsule("ipykernel waits for its cell")
@pytest.mark.parametrize(("end", "state"), CASES)
def test_nothing_is_left(end: str, state: str, kernel: Client) -> None:
    bring_into(kernel, state)
    ENDS[end](kernel)
    kernel.process.wait_exit()
    kernel.abandon()
    kernel.process.wait_gone()


@only_capsule("ipykernel's poller is slower")
@pytest.mark.parametrize("state", STATES)
def test_nothing_is_left_when_the_parent_ends(state: str, start_kernel: KernelStarter) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as parent:
        try:
            kernel = start_kernel(parent_pid=parent.pid)
            bring_into(kernel, state)
        finally:
            parent.kill()
    kernel.process.wait_exit()
    kernel.abandon()
    kernel.process.wait_gone()


@only_capsule("ipykernel's poller is slower")
def test_a_parent_that_is_gone_already_ends_the_start(start_kernel: KernelStarter) -> None:
    with subprocess.Popen(["true"]) as parent:
        pass
    process = start_kernel.process(parent_pid=parent.pid)
    process.wait_exit()
    process.wait_gone()


@only_capsule("zygote and spare")
def test_nothing_is_left_when_killed_while_starting(start_kernel: KernelStarter) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = start_kernel.process()
        process.send_signal(number)
        if number is signal.SIGINT:
            # An interrupt before the start is done may end it or not; it leaves nothing either way.
            process.send_signal(signal.SIGKILL)
        process.wait_exit()
        process.wait_gone()


@only_capsule("zygote and spare")
def test_nothing_is_left_when_killed_right_after_the_first_answer(start_kernel: KernelStarter) -> None:
    kernel = start_kernel()
    kernel.process.send_signal(signal.SIGKILL)
    kernel.process.wait_exit()
    kernel.process.wait_gone()


@only_capsule("workers")
def test_forks_of_user_code_do_not_outlive_a_kill_of_the_group(kernel: Client) -> None:
    cell = kernel.run("import os, time\nif os.fork() == 0:\n    time.sleep(600)\n    os._exit(0)")
    cell.claim("stream")
    before = len(kernel.process.processes())
    assert before >= 2
    kernel.process.send_signal(signal.SIGTERM)
    kernel.process.wait_exit()
    kernel.process.wait_gone()


def test_a_graceful_shutdown_exits_with_status_zero(kernel: Client) -> None:
    kernel.run("x = 1")
    kernel.shutdown()
    assert kernel.process.wait_exit() == 0
    kernel.process.wait_gone()


def test_no_temporary_files_are_left(start_kernel: KernelStarter) -> None:
    tmp = start_kernel.directory / "tmp"
    tmp.mkdir()
    kernel = start_kernel(env={"TMPDIR": str(tmp)})
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"
    kernel.execute("import os; os._exit(1)").ignore_outputs() if not kernel.process_is_ipykernel() else None
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    assert [path for path in tmp.rglob("*") if path.is_file()] == []
