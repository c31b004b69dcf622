"""When the worker dies.

Issue, point 8: the cell gets an error output and reply naming the cause (with the faulthandler trace for fatal
signals), then idle; the kernel lives, the next cell runs on a warm worker; queued executes abort; the front end never
sees "kernel died".
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .exchange import DEADLINE_S
from .process import is_running
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Cell
    from .starter import KernelStarter

pytestmark = only_capsule("other kernels die with their cell")

DEATHS = {
    "os._exit(0)": ("import os; os._exit(0)", ("exit", "0")),
    "os._exit(7)": ("import os; os._exit(7)", ("7",)),
    "SIGKILL": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ("SIGKILL",)),
    "SIGTERM": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", ("SIGTERM",)),
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", ("SIGSEGV",)),
    "abort": ("import os; os.abort()", ("SIGABRT",)),
    "in an awaiting cell": ("import asyncio, os; await asyncio.sleep(0); os._exit(3)", ("3",)),
    "in a thread": (
        "import os, threading, time; threading.Thread(target=os._exit, args=(5,)).start(); time.sleep(60)",
        ("5",),
    ),
}


def assert_lives_on(kernel: Client, front: int) -> None:
    assert kernel.process.pid == front
    assert kernel.process.is_alive()
    assert kernel.run("6 * 7").text == "42"


def died(cell: Cell) -> str:
    """The whole error text of a cell whose worker died."""
    return f"{cell.ename}: {cell.error['evalue']}\n{cell.traceback}"


@pytest.mark.parametrize("name", DEATHS)
def test_the_cell_says_why_and_the_next_one_runs_after(name: str, shared_kernel: Client) -> None:
    code, words = DEATHS[name]
    front = shared_kernel.process.pid
    cell = shared_kernel.execute(code)
    told = died(cell)
    assert all(word.lower() in told.lower() for word in words), told
    cell.claim("stream")
    assert_lives_on(shared_kernel, front)


def test_output_from_before_the_death_is_kept(kernel: Client) -> None:
    cell = kernel.execute(
        "import os\nprint('last words')\n_ = os.write(1, b'raw words\\n')\ndisplay('shown')\nos._exit(1)"
    )
    assert "exit" in died(cell).lower()
    assert "last words\n" in cell.stdout
    assert "raw words\n" in cell.stdout
    assert [content["data"]["text/plain"] for content in cell.displays] == ["'shown'"]


def test_a_segmentation_fault_shows_where_it_happened(kernel: Client) -> None:
    cell = kernel.execute("import ctypes\ndef culprit():\n    ctypes.string_at(0)\nculprit()")
    told = died(cell)
    cell.claim("stream")
    assert "SIGSEGV" in told
    assert "culprit" in told
    assert "line 3" in told
    assert "string_at" in told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_worker_killed_from_outside_is_replaced(number: signal.Signals, kernel: Client) -> None:
    cell = kernel.start("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    pid = int(cell.wait_stream("\n"))
    assert pid != kernel.process.pid
    os.kill(pid, number)
    assert number.name in died(cell)
    cell.claim("stream")
    assert_lives_on(kernel, kernel.process.pid)
    assert not is_running(pid)


def test_a_worker_killed_while_idle_is_replaced_and_the_user_is_told(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=0")
    kernel.run("import os\nlost = 1")
    pid = int(kernel.evaluate("os.getpid()"))
    os.kill(pid, signal.SIGKILL)
    cell = kernel.execute("lost")
    text = cell.stdout + cell.stderr + cell.traceback
    cell.claim("error")
    # The name is gone, and the reason is said somewhere where a person sees it: here or without a parent.
    assert cell.status == "error"
    kernel.drain()
    text += "".join(str(m.content.get("text", "")) for m in kernel.claim_unparented("stream"))
    assert "SIGKILL" in text
    assert kernel.run("6 * 7").text == "42"


@pytest.mark.slow
def test_running_out_of_memory_is_told(kernel: Client) -> None:
    code = (
        "import resource\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20, size + 300 * 2**20))\n"
        "hog = []\n"
        "while True: hog.append(bytearray(2**20))"
    )
    cell = kernel.execute(code, timeout_s=30)
    assert cell.ename == "MemoryError" or "memory" in died(cell).lower()
    cell.claim("stream")
    # Still under its limit the worker may fail again; a new one is asked for and works.
    kernel.execute("hog = None").ignore_outputs()
    kernel.execute("import os; os._exit(0)").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


@pytest.mark.parametrize("piece_bytes", [2**20, 2**12, 64])
def test_memory_used_up_to_the_last_piece_ends_in_an_answer_and_no_noise(piece_bytes: int, kernel: Client) -> None:
    """Small pieces leave nothing for the worker itself: it reads the next cell all the same, or ends and says why."""
    code = (
        "import resource\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 40 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "hog = []\n"
        f"while True: hog.append(bytearray({piece_bytes}))"
    )
    cell = kernel.execute(code, timeout_s=30)
    assert cell.ename == "MemoryError" or "memory" in died(cell).lower()
    cell.claim("stream")
    for code in ("1", "hog = None", "2"):
        cell = kernel.execute(code, timeout_s=30)
        if cell.status == "error" and cell.ename == "WorkerDied":
            # A stack that cannot grow is a segmentation fault.
            assert "memory" in died(cell).lower() or "SIGSEGV" in died(cell)
        cell.claim("error", "execute_result")
    # What the idle worker wrote meanwhile would be late output, which the client refuses.
    assert kernel.run("6 * 7").text == "42"


def test_queued_cells_abort_and_later_ones_run(kernel: Client) -> None:
    dying = kernel.start("input()\nimport os\nos._exit(1)", allow_stdin=True)
    queued = [kernel.start("print('must not run')") for _ in range(3)]
    info = kernel.request("kernel_info_request", {})
    kernel.answer(kernel.wait_input_request(dying), "")
    assert died(dying)
    assert [cell.wait().status for cell in queued] == ["aborted"] * 3
    assert info.wait().status == "ok"
    assert kernel.run("6 * 7").text == "42"


def test_without_stop_on_error_queued_cells_run_on_the_new_worker(kernel: Client) -> None:
    dying = kernel.start("input()\nimport os\nos._exit(1)", allow_stdin=True, stop_on_error=False)
    queued = kernel.start("'ran'")
    kernel.answer(kernel.wait_input_request(dying), "")
    assert died(dying)
    if queued.wait().status != "aborted":
        assert queued.text == "'ran'"


def test_counts_and_history_go_on(kernel: Client) -> None:
    kernel.run("before = 1")
    cell = kernel.execute("import os; os._exit(1)")
    assert died(cell)
    assert cell.execution_count == 2
    assert kernel.run("after = 1").execution_count == 3
    entries = kernel.ask("history_request", {"hist_access_type": "tail", "n": 3, "output": False, "raw": True})[
        "history"
    ]
    assert [(entry[1], entry[2]) for entry in entries] == [
        (1, "before = 1"),
        (2, "import os; os._exit(1)"),
        (3, "after = 1"),
    ]
    assert len({entry[0] for entry in entries}) == 1


def test_the_state_of_the_front_end_never_leaves_busy_and_idle(kernel: Client) -> None:
    """ "restarting" or "dead" would make JupyterLab reconnect; the client refuses any other state in an exchange."""
    for _ in range(3):
        assert died(kernel.execute("import os; os._exit(1)"))
    kernel.drain()
    assert [m for m in kernel.unclaimed if m.msg_type == "status"] == []


def test_a_death_while_waiting_for_input_ends_the_question(kernel: Client) -> None:
    asked = kernel.start("import os\nprint(os.getpid(), flush=True)\ninput('?')", allow_stdin=True)
    pid = int(asked.wait_stream("\n"))
    request = kernel.wait_input_request(asked)
    os.kill(pid, signal.SIGKILL)
    assert "SIGKILL" in died(asked)
    kernel.answer(request, "too late")
    cell = kernel.start("input('new?')", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "fresh")
    assert cell.wait().text == "'fresh'"
    (told,) = (message.content["text"] for message in asked.late)
    assert "came late and was not used" in told
    asked.ignore_outputs()


def test_a_death_during_completion_answers_it(kernel: Client) -> None:
    kernel.run("import os\nclass Deadly:\n    def __dir__(self): os._exit(1)\ndeadly = Deadly()")
    exchange = kernel.request("complete_request", {"code": "deadly.x", "cursor_pos": 8}).wait()
    assert exchange.content["status"] in {"ok", "error"}
    exchange.ignore_outputs()
    kernel.drain()
    kernel.claim_unparented("stream")
    kernel.execute("1").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_deaths_in_a_row_are_survived_without_a_spare_too(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.spare_workers=0")
    for number in range(5):
        assert str(number + 10) in died(kernel.execute(f"import os; os._exit({number + 10})"))
        assert kernel.run(f"{number}").text == str(number)


def test_a_silent_cell_that_dies_answers(kernel: Client) -> None:
    cell = kernel.execute("import os; os._exit(1)", silent=True)
    assert cell.status == "error"
    cell.ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_the_dead_worker_leaves_no_comms_behind(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=0")
    kernel.run("from comm import create_comm\nc = create_comm(target_name='t')").claim("comm_open")
    cell = kernel.execute("import os; os._exit(1)")
    assert died(cell)
    cell.claim("comm_close")
    kernel.drain()
    kernel.claim_unparented("comm_close")
    assert kernel.ask("comm_info_request")["comms"] == {}


def test_children_of_the_dead_worker_do_not_hold_the_kernel(kernel: Client) -> None:
    """They inherited what the worker had open: its end is seen all the same."""
    cell = kernel.execute(
        "import os, subprocess\nchild = subprocess.Popen(['sleep', '60'], close_fds=False)\nos._exit(1)"
    )
    assert died(cell)
    assert kernel.run("6 * 7").text == "42"
    kernel.shutdown()
    kernel.process.wait_exit()


def test_modules_and_memory_of_the_new_worker_are_fresh(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=0")
    kernel.run("import json\njson.tainted = True\nimport os")
    first = kernel.evaluate("os.getpid()")
    assert died(kernel.execute("os._exit(1)"))
    cell = kernel.run("import json, os\n(hasattr(json, 'tainted'), os.getpid() != %s)" % first)  # noqa: UP031
    assert cell.text == "(False, True)"


def stop(pid: int) -> None:
    """Stop a process that waits, so that it reads nothing more."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE_S
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "T":
        assert time.monotonic() < deadline, f"process {pid} is in state {state}"


def start_unread(kernel: Client, pid: int, code: str) -> Cell:
    """Have a cell on its way to a worker that does not read it."""
    stop(pid)
    cell = kernel.start(code)
    kernel.wait_until(lambda: any(message.msg_type == "execute_input" for message in cell.iopub), "its execute_input")
    return cell


def test_a_cell_that_its_worker_had_not_read_runs_on_the_next_one(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=0")
    pid = int(kernel.run("import os\nos.getpid()").text)
    cell = start_unread(kernel, pid, "6 * 7")
    queued = kernel.start("7 * 7")
    os.kill(pid, signal.SIGKILL)
    cell.wait()
    assert cell.text == "42"
    assert "SIGKILL" in cell.stderr
    assert "Its variables are lost" in cell.stderr
    queued.wait()
    assert queued.text == "49"
    assert cell.content["execution_count"] == 2


def test_a_cell_that_no_worker_reads_ends_with_an_error(start_kernel: KernelStarter) -> None:
    """Each one leaves before it reads: the kernel does not try for ever."""
    line = "import asyncio, os; _ = asyncio.get_event_loop().call_soon(os._exit, 4)"
    kernel = start_kernel(f"--IPKernelApp.exec_lines=[{line!r}]")
    cell = kernel.execute("1")
    assert cell.ename == "WorkerDied"
    assert "exit status 4" in cell.error["evalue"]
    cell.claim("stream")


def test_a_cell_that_waits_for_a_worker_can_be_interrupted(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=0", "--CapsuleKernel.spare_workers=0")
    pid, zygote = (int(word) for word in kernel.run("import os\nprint(os.getpid(), os.getppid())").stdout.split())
    stop(zygote)
    try:
        cell = start_unread(kernel, pid, "6 * 7")
        os.kill(pid, signal.SIGKILL)
        # Nobody reaps it: the front does without the status after a moment.
        kernel.pass_time(1.5)
        assert not cell.is_done
        kernel.interrupt()
        cell.wait()
    finally:
        os.kill(zygote, signal.SIGCONT)
    assert cell.ename == "KeyboardInterrupt"
    cell.claim("stream")
    following = kernel.execute("6 * 7")
    assert following.text == "42"
    following.claim("stream")
