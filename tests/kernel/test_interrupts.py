"""Interrupts.

Issue, point 6: `while True: pass`, `time.sleep`, `await asyncio.sleep`, `input()`, child processes and `!cmd` are
interrupted (the child's process group is signalled too); one KeyboardInterrupt even when every process gets SIGINT. One
interrupt never kills; a second one, 2 s or more after a first that nothing answered (a C loop), replaces the worker and
says so.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from .process import is_running, wait_all_exited
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Cell
    from .starter import KernelStarter

C_LOOP = """
while True:
    try:
        print('running', flush=True)
        sum(range(10**13))
    except KeyboardInterrupt:
        pass
"""
"""Holds the GIL in C for hours; Python's signal handlers do not run meanwhile. An interrupt that comes before the sum
has begun does not end the cell either."""

SOON = "import asyncio\nasyncio.get_running_loop().call_soon(lambda: running())\n"
"""Announces from the loop, when the await that follows has begun: just before, Python rightly warns of a coroutine that
nobody has awaited."""

INTERRUPTIBLE = {
    "a Python loop": "while True: pass",
    "time.sleep": "import time; time.sleep(60)",
    "await asyncio.sleep": f"{SOON}await asyncio.sleep(60)",
    "await of a task": f"{SOON}await asyncio.create_task(asyncio.sleep(60))",
    "await gather": f"{SOON}await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))",
    "a busy coroutine": "import asyncio\nwhile True: await asyncio.sleep(0)",
    "await beside a busy callback": (
        "import asyncio\n"
        "def busy():\n"
        "    running()\n"
        "    while True: pass\n"
        "asyncio.get_running_loop().call_soon(busy)\n"
        "await asyncio.sleep(60)"
    ),
    "asyncio.run": (
        "import asyncio\nasync def main():\n"
        "    asyncio.get_running_loop().call_soon(lambda: running())\n    await asyncio.sleep(60)\nasyncio.run(main())"
    ),
    "anyio.run": (
        "import anyio, asyncio\nasync def main():\n"
        "    asyncio.get_running_loop().call_soon(lambda: running())\n    await anyio.sleep(60)\nanyio.run(main)"
    ),
    "a __del__": (
        "class Slow:\n    def __del__(self):\n        running()\n        while True: pass\nSlow()\nwhile True: pass"
    ),
    "subprocess.run": "import subprocess; subprocess.run(['sleep', '60'])",
    "a lock": "import threading; threading.Event().wait(60)",
    "joining a thread": (
        "import threading, time; t = threading.Thread(target=time.sleep, args=(3,)); t.start(); t.join()"
    ),
    "select": "import select; select.select([], [], [], 60)",
}


def running(client: Client, code: str) -> Cell:
    """Start a cell and wait until it runs: until it has come to `running()`, or else to its first line."""
    announce = "print('running', flush=True)"
    code = code.replace("running()", announce) if "running()" in code else f"{announce}\n{code}"
    cell = client.start(code)
    cell.wait_stream("running\n")
    return cell


def is_interrupted(cell: Cell) -> bool:
    cell.wait()
    cell.claim("stream", name="stdout")
    assert cell.ename == "KeyboardInterrupt"
    # A second one, in the middle of the traceback of the first, would be told here.
    assert cell.stderr == ""
    return True


@pytest.mark.parametrize("name", INTERRUPTIBLE)
def test_is_interrupted(name: str, shared_kernel: Client) -> None:
    if shared_kernel.process_is_ipykernel() and (".run" in name or "await" in name):
        pytest.skip("ipykernel cannot")
    cell = running(shared_kernel, INTERRUPTIBLE[name])
    shared_kernel.interrupt()
    assert is_interrupted(cell)
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_shell_command_is_interrupted_with_its_process_group(shared_kernel: Client) -> None:
    cell = shared_kernel.start("!echo running $$; sleep 60; echo never")
    text = cell.wait_stream("running")
    shared_kernel.wait_until(lambda: cell.stream_so_far("stdout").endswith("\n"), "the shell's pid")
    pid = int(cell.stream_so_far("stdout").split()[1])
    assert "running" in text
    shared_kernel.interrupt()
    cell.wait()
    # IPython's own answer to an interrupted `!cmd` is quiet or a KeyboardInterrupt; either way the cell ends.
    cell.claim("error", "stream")
    assert "never" not in cell.stdout
    wait_all_exited({pid}, time.monotonic() + 5)
    assert not is_running(pid)
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_child_that_ignores_sigint_does_not_keep_the_cell(shared_kernel: Client) -> None:
    code = "import subprocess\nsubprocess.run(['sh', '-c', \"trap '' INT; sleep 60\"])"
    if shared_kernel.process_is_ipykernel():
        pytest.skip("ipykernel waits for the child")
    cell = running(shared_kernel, code)
    shared_kernel.interrupt()
    assert is_interrupted(cell)


def test_a_child_in_its_own_process_group_is_interrupted_too(shared_kernel: Client) -> None:
    code = "import subprocess, sys\nsubprocess.run(['sleep', '60'], process_group=0)"
    cell = running(shared_kernel, code)
    shared_kernel.interrupt()
    assert is_interrupted(cell)


def test_keyboard_interrupt_can_be_caught(shared_kernel: Client) -> None:
    cell = running(
        shared_kernel,
        "import time\ntry:\n    running(); time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')",
    )
    shared_kernel.interrupt()
    assert cell.wait().stdout == "running\ncaught\n"
    assert cell.status == "ok"


@only_capsule("ipykernel cannot interrupt an await")
def test_keyboard_interrupt_of_an_await_can_be_caught(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "try:\n"
        "    asyncio.get_running_loop().call_soon(lambda: running()); await asyncio.sleep(60)\n"
        "except (KeyboardInterrupt, asyncio.CancelledError):\n"
        "    print('caught')\n"
        "finally:\n"
        "    print('finally')"
    )
    cell = running(shared_kernel, code)
    shared_kernel.interrupt()
    cell.wait()
    assert cell.stdout == "running\ncaught\nfinally\n"
    cell.claim("error")
    assert shared_kernel.run("await asyncio.sleep(0, 'fine')").text == "'fine'"


@only_capsule("ipykernel cannot interrupt an await")
def test_cleanup_of_an_interrupted_await_may_await(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "try:\n"
        "    asyncio.get_running_loop().call_soon(lambda: running()); await asyncio.sleep(60)\n"
        "finally:\n"
        "    await asyncio.sleep(0.01)\n"
        "    print('cleaned up')"
    )
    cell = running(shared_kernel, code)
    shared_kernel.interrupt()
    assert is_interrupted(cell)
    assert cell.stdout == "running\ncleaned up\n"


@only_capsule("ipykernel cannot interrupt an await")
def test_other_tasks_survive_an_interrupt(shared_kernel: Client) -> None:
    shared_kernel.run("import asyncio\nother = asyncio.create_task(asyncio.sleep(0.2, 'survived'))")
    cell = running(shared_kernel, "await asyncio.sleep(60)")
    shared_kernel.interrupt()
    assert is_interrupted(cell)
    assert shared_kernel.run("await other").text == "'survived'"


def test_the_traceback_of_an_interrupt_names_the_line(shared_kernel: Client) -> None:
    cell = running(shared_kernel, "import time\nif True:\n    running(); time.sleep(60)")
    shared_kernel.interrupt()
    assert is_interrupted(cell)
    assert "line 3" in cell.traceback


def test_an_interrupt_of_an_idle_kernel_does_nothing(shared_kernel: Client) -> None:
    if shared_kernel.process_is_ipykernel():
        pytest.skip("needs interrupt_mode message")
    shared_kernel.run("survivor = 1")
    for _ in range(5):
        shared_kernel.interrupt()
    assert shared_kernel.evaluate("survivor") == "1"
    assert shared_kernel.run("import time\ntime.sleep(0.01)\n'undisturbed'").text == "'undisturbed'"


@only_capsule("the front and its workers share a group, or not")
def test_sigint_to_every_process_is_one_interrupt(kernel: Client) -> None:
    """VS Code signals every descendant, jupyter_server the group (research: Jupyter, 0.4)."""
    kernel.run("survivor = 1")
    code = (
        "import time\n"
        "caught = 0\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        if not caught: running()\n"
        "        time.sleep(0.5)\n"
        "    except KeyboardInterrupt:\n"
        "        caught += 1\n"
        "print('caught', caught)"
    )
    cell = running(kernel, code)
    for pid in kernel.process.processes():
        os.kill(pid, signal.SIGINT)
    kernel.process.signal_group(signal.SIGINT)
    assert "caught 1" in cell.wait().stdout
    assert cell.status == "ok"
    assert kernel.evaluate("survivor") == "1"


@only_capsule("the front is a process of its own")
def test_sigint_to_the_launched_process_interrupts(kernel: Client) -> None:
    """What a client with `interrupt_mode: signal` does."""
    cell = running(kernel, "import time\ntime.sleep(60)")
    kernel.process.send_signal(signal.SIGINT)
    assert is_interrupted(cell)
    kernel.process.signal_group(signal.SIGINT)
    assert kernel.run("6 * 7").text == "42"


@pytest.mark.parametrize("name", [n for n in INTERRUPTIBLE if n != "joining a thread"])
def test_one_interrupt_is_one_keyboard_interrupt(name: str, shared_kernel: Client) -> None:
    if shared_kernel.process_is_ipykernel():
        pytest.skip("ipykernel cannot interrupt an await")
    for _ in range(10):
        cell = running(shared_kernel, INTERRUPTIBLE[name])
        shared_kernel.interrupt()
        assert is_interrupted(cell)


def test_many_interrupts_of_many_cells_leave_the_kernel_well(shared_kernel: Client) -> None:
    shared_kernel.run("import time, asyncio\nsurvivor = 'still here'")
    for number in range(10):
        code = "while True: pass" if number % 2 else "time.sleep(60)"
        cell = running(shared_kernel, code)
        shared_kernel.interrupt()
        assert is_interrupted(cell)
    assert shared_kernel.evaluate("survivor") == "'still here'"


def test_the_next_cell_is_not_hit_by_an_interrupt_that_came_late(shared_kernel: Client) -> None:
    if shared_kernel.process_is_ipykernel():
        pytest.skip("needs interrupt_mode message")
    for _ in range(20):
        cell = shared_kernel.start("pass")
        shared_kernel.interrupt()
        cell.wait()
        cell.claim("error", "stream")
        assert shared_kernel.run("'fine'").text == "'fine'"


@only_capsule("ipykernel is not interrupted in C")
def interrupt_twice(kernel: Client, cell: Cell, *, after_s: float) -> None:
    """Interrupt a `C_LOOP`, and again when nothing has answered, which ends it.

    An interrupt from before the sum has begun is answered, and the next one is a first one again.
    """
    kernel.interrupt()
    kernel.pass_time(after_s)
    assert not cell.is_done
    for _ in range(4):
        kernel.interrupt()
        kernel.pass_time(after_s)
        if cell.is_done:
            break
    cell.wait()


class TestEscalation:
    def test_one_interrupt_never_kills(self, kernel: Client) -> None:
        cell = running(kernel, "survivor = 'kept'\nrunning(); sum(range(10**8))")
        kernel.interrupt()
        assert is_interrupted(cell)
        assert kernel.evaluate("survivor") == "'kept'"

    @pytest.mark.slow
    def test_a_second_interrupt_after_the_grace_time_replaces_the_worker(self, start_kernel: KernelStarter) -> None:
        # A snapshot of the first cell would bring it back, where there was time to take one.
        kernel = start_kernel("--CapsuleKernel.snapshots=0")
        kernel.run("lost = 1")
        cell = kernel.start(C_LOOP)
        cell.wait_stream("running\n")
        front = kernel.process.pid
        interrupt_twice(kernel, cell, after_s=2.2)
        shown = cell.traceback + cell.stdout + cell.stderr
        assert "interrupt" in shown.lower()
        assert kernel.process.pid == front
        assert kernel.process.is_alive()
        assert kernel.execute("lost").ename == "NameError"
        assert kernel.run("6 * 7").text == "42"

    def test_a_second_interrupt_within_the_grace_time_does_not_kill(self, kernel: Client) -> None:
        kernel.run("kept = 1")
        cell = running(kernel, "sum(range(5 * 10**7))")
        kernel.interrupt()
        kernel.interrupt()
        cell.wait()
        cell.claim("error", "stream")
        assert kernel.evaluate("kept") == "1"

    def test_the_grace_time_is_a_setting(self, start_kernel: KernelStarter) -> None:
        kernel = start_kernel("--CapsuleKernel.interrupt_grace_ms=100")
        cell = kernel.start(C_LOOP)
        cell.wait_stream("running\n")
        interrupt_twice(kernel, cell, after_s=0.3)
        cell.claim("error", "stream")
        assert kernel.run("6 * 7").text == "42"
