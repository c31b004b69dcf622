"""What is answered while a cell runs.

Issue, point 2: kernel_info, is_complete, history, comm_info, connect, usage are answered by the front at once, also
before the worker is up and while a cell blocks in C. Point 7: completion and inspection answer with the live namespace
(also when the main thread sleeps or waits in C without the GIL), and say so honestly (no result, at once) when the GIL
is held.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .client import Client
    from .exchange import Cell
    from .starter import KernelStarter

pytestmark = only_capsule("ipykernel's shell waits for the cell")

KERNEL_ARGS = ("--CapsuleKernel.inspect_ack_timeout_ms=8000", "--CapsuleKernel.inspect_timeout_ms=8000")
"""The machine of the tests may be busy too; how fast the answers are is measured elsewhere."""
IN_C_WITH_THE_GIL = "sum(range(10**13))"
BUSY = {
    "time.sleep": "import time; time.sleep(60)",
    "a Python loop": "while True: pass",
    "await": "import asyncio; await asyncio.sleep(60)",
    "in C without the GIL": "import select; select.select([], [], [], 60)",
    "input": "input('?')",
    "asyncio.run": "import asyncio; asyncio.run(asyncio.sleep(60))",
    "a child process": "import subprocess; subprocess.run(['sleep', '60'])",
}
SIMPLE_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("kernel_info_request", {}),
    ("connect_request", {}),
    ("comm_info_request", {}),
    ("is_complete_request", {"code": "for x in y:"}),
    ("history_request", {"hist_access_type": "tail", "n": 3, "output": False, "raw": True}),
]


def start(client: Client, code: str) -> Cell:
    cell = client.start(f"live_name = 'from the running cell'\nprint('running', flush=True)\n{code}", allow_stdin=True)
    cell.wait_stream("running\n")
    if "input" in code:
        client.wait_input_request(cell)
    return cell


@contextmanager
def busy(client: Client, code: str) -> Iterator[Cell]:
    """A cell that runs during the block, and is interrupted behind it."""
    cell = start(client, code)
    yield cell
    assert cell.idle is None
    client.interrupt()
    assert cell.ename == "KeyboardInterrupt"


@contextmanager
def busy_in_c(client: Client) -> Iterator[Cell]:
    """A cell that holds the GIL in C; the kernel is ended with it."""
    cell = start(client, IN_C_WITH_THE_GIL)
    yield cell
    assert cell.idle is None
    client.drain()
    client.shutdown()
    client.process.wait_exit()
    cell.ignore_outputs()


@pytest.mark.parametrize("name", BUSY)
def test_the_front_answers_during(name: str, shared_kernel: Client) -> None:
    with busy(shared_kernel, BUSY[name]):
        for channel in ("shell", "control"):
            for msg_type, content in SIMPLE_REQUESTS:
                reply = shared_kernel.request(msg_type, content, channel=channel).wait().content
                assert reply["status"] in {"ok", "incomplete"}
        usage = shared_kernel.request("usage_request", {}, channel="control").wait().content
        assert usage["kernel_memory"] > 0
        assert shared_kernel.heartbeat() == b"ping"


def test_the_front_answers_while_a_cell_holds_the_gil_in_c(kernel: Client) -> None:
    with busy_in_c(kernel):
        for channel in ("shell", "control"):
            for msg_type, content in SIMPLE_REQUESTS:
                reply = kernel.request(msg_type, content, channel=channel).wait().content
                assert reply["status"] in {"ok", "incomplete"}
        usage = kernel.request("usage_request", {}, channel="control").wait().content
        assert usage["kernel_cpu"] >= 0
        assert kernel.heartbeat() == b"ping"


@pytest.mark.parametrize("name", BUSY)
def test_completion_sees_the_live_namespace_during(name: str, shared_kernel: Client) -> None:
    with busy(shared_kernel, BUSY[name]):
        reply = shared_kernel.ask("complete_request", {"code": "live_na", "cursor_pos": 7})
        assert reply["matches"] == ["live_name"]
        assert (reply["cursor_start"], reply["cursor_end"]) == (0, 7)


@pytest.mark.parametrize("name", BUSY)
def test_inspection_sees_the_live_namespace_during(name: str, shared_kernel: Client) -> None:
    with busy(shared_kernel, BUSY[name]):
        reply = shared_kernel.ask("inspect_request", {"code": "live_name", "cursor_pos": 9, "detail_level": 0})
        assert reply["found"] is True
        assert "from the running cell" in reply["data"]["text/plain"]


def test_completion_says_that_it_has_nothing_while_the_gil_is_held(start_kernel: KernelStarter) -> None:
    # The second deadline is for the reader thread that has begun just before the cell's C code took the GIL for good.
    kernel = start_kernel("--CapsuleKernel.inspect_timeout_ms=2000")
    with busy_in_c(kernel):
        reply = kernel.ask("complete_request", {"code": "live_na", "cursor_pos": 7})
        assert reply["matches"] == []
        assert reply["cursor_start"] <= reply["cursor_end"] == 7
        reply = kernel.ask("inspect_request", {"code": "live_name", "cursor_pos": 9, "detail_level": 0})
        assert reply["found"] is False
        assert reply["data"] == {}


def test_completion_and_a_cells_warning_filters_do_not_meet(shared_kernel: Client) -> None:
    """What is provisional in IPython's completer warns; filters are the process's, and both would set them."""
    loop = "import warnings\nwhile True:\n    with warnings.catch_warnings(): warnings.simplefilter('ignore')\n"
    with busy(shared_kernel, loop):
        for _ in range(40):
            content = shared_kernel.ask("complete_request", {"code": "live_na", "cursor_pos": 7})
            assert content["status"] == "ok", content
            assert content["matches"] == ["live_name"]


def test_a_filter_that_a_cell_sets_during_a_completion_stays(shared_kernel: Client) -> None:
    code = (
        "import warnings\nclass Slow:\n    def __dir__(self):\n"
        "        warnings.filterwarnings('ignore', message='set meanwhile'); return ['found_it']\nslow = Slow()"
    )
    shared_kernel.run(code)
    content = shared_kernel.ask("complete_request", {"code": "slow.found", "cursor_pos": 10})
    assert content["matches"] == [".found_it"] or content["matches"] == ["found_it"]
    assert shared_kernel.run("any('set meanwhile' in str(each[1]) for each in warnings.filters)").text == "True"


def test_what_completion_prints_is_not_the_running_cells(shared_kernel: Client) -> None:
    shared_kernel.run(
        "class Loud:\n    def __dir__(self):\n        print('asked')\n        return ['loud_name']\nloud = Loud()"
    )
    with busy(shared_kernel, BUSY["time.sleep"]) as cell:
        exchange = shared_kernel.request("complete_request", {"code": "loud.lo", "cursor_pos": 7}).wait()
        assert exchange.status == "ok"
        exchange.claim("stream")
    assert cell.stdout == "running\n"


def test_a_second_cell_waits_its_turn(shared_kernel: Client) -> None:
    first = shared_kernel.start("print('running', flush=True)\ninput()", allow_stdin=True)
    first.wait_stream("running\n")
    second = shared_kernel.start("print('second')")
    shared_kernel.ask("kernel_info_request")
    assert second.busy is None
    shared_kernel.answer(shared_kernel.wait_input_request(first), "")
    assert first.wait().text == "''"
    assert second.wait().stdout == "second\n"


def test_comms_are_handled_while_a_cell_awaits(kernel: Client) -> None:
    """ipykernel 7.4 does (its PR 1565): a widget's slider moves a value that an awaiting cell waits for."""
    kernel.run(
        "import asyncio\n"
        "from comm import create_comm\n"
        "moved = asyncio.Event()\n"
        "c = create_comm(target_name='slider')\n"
        "c.on_msg(lambda msg: moved.set())"
    ).claim("comm_open")
    (comm_id,) = kernel.ask("comm_info_request")["comms"]
    cell = kernel.start("print('running', flush=True)\nawait moved.wait()")
    cell.wait_stream("running\n")
    kernel.request("comm_msg", {"comm_id": comm_id, "data": {}}, expects_reply=False).wait()
    assert cell.wait().text == "True"


def test_threads_of_the_user_run_while_the_kernel_is_idle(shared_kernel: Client) -> None:
    cell = shared_kernel.run(
        "import threading, time\n"
        "def work():\n"
        "    for n in range(3):\n"
        "        time.sleep(0.01)\n"
        "        print('step', n, flush=True)\n"
        "threading.Thread(target=work).start()"
    )
    assert cell.wait_any_stream("step 2\n") == "step 0\nstep 1\nstep 2\n"


def test_kernel_info_is_answered_before_the_worker_is_up(start_kernel: KernelStarter) -> None:
    """A worker whose start is held up by a slow start-up file: the front has answered long before."""
    environment = start_kernel.directory / "ipython"
    startup = environment / "profile_default" / "startup"
    startup.mkdir(parents=True)
    gate = start_kernel.directory / "gate"
    (startup / "00-slow.py").write_text(
        f"import os\nopened = os.open({str(gate)!r}, os.O_RDONLY)\nfrom_startup = 'ran'\n"
    )
    os.mkfifo(gate)
    # `connect` itself asks for kernel_info on shell and waits for it.
    kernel = start_kernel("--CapsuleKernel.spare_workers=0", env={"IPYTHONDIR": str(environment)})
    kernel.ask("kernel_info_request", channel="control")
    for msg_type, content in SIMPLE_REQUESTS:
        kernel.request(msg_type, content).wait()
    cell = kernel.start("from_startup")
    # Opening the other end lets the start-up file go on.
    os.close(os.open(gate, os.O_WRONLY))
    assert cell.wait().text == "'ran'"
