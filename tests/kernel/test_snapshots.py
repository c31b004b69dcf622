"""Instant snapshots: what a crash gives back and `%undo` goes back to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .exchange import DEADLINE_S

if TYPE_CHECKING:
    from tests.kernel.client import Client
    from tests.kernel.starter import KernelStarter

CRASHES = {
    "os._exit": "import os; os._exit(3)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes; ctypes.string_at(0)",
}


@pytest.fixture
def kernel_with_snapshots(start_kernel: KernelStarter) -> Client:
    return start_kernel("--debug", "--CapsuleKernel.snapshots=4")


SLEEPS = "the fork took"
REFUSED = "no snapshot:"


def run_and_wait_for_snapshot(kernel: Client, code: str, *, sign: str = SLEEPS) -> None:
    """Run a cell and wait until the kernel's log says that a snapshot holds its effects, or (`REFUSED`) cannot."""
    before = kernel.process.log().count(sign)
    count = kernel.run(code).content["execution_count"]
    if sign == SLEEPS:
        wait_for(kernel, f"sleeps after cell [{count}]", 1)
    else:
        wait_for(kernel, sign, before + 1)


def wait_for(kernel: Client, sign: str, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while kernel.process.log().count(sign) < count:
        assert time.monotonic() < deadline, f"not {count} times {sign!r} in the log: {kernel.process.log()}"
        kernel.pass_time(0.02)


@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_gives_back_the_state_before_the_cell(kernel_with_snapshots: Client, how: str) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(
        kernel, "import random; kept = [1]; also = kept; numbers = iter(range(9)); _ = next(numbers)"
    )
    cell = kernel.execute(CRASHES[how])
    assert cell.ename == "WorkerDied"
    assert "The state after cell [1] is live again; what this cell changed is lost." in cell.error["evalue"]
    assert kernel.evaluate("kept is also, kept, next(numbers)") == "(True, [1], 1)"


@pytest.mark.parametrize("how", CRASHES)
def test_a_burst_of_cells_that_ends_in_a_crash_gives_back_its_beginning(
    kernel_with_snapshots: Client, how: str
) -> None:
    """As a batch run sends them: no moment between the cells in which a snapshot would be due."""
    kernel = kernel_with_snapshots
    first = kernel.start("kept = [1]")
    cell = kernel.start(CRASHES[how])
    first.wait()
    assert cell.ename == "WorkerDied"
    assert "The state after cell [1] is live again; what this cell changed is lost." in cell.error["evalue"]
    assert kernel.evaluate("kept") == "[1]"


def test_open_files_have_their_offset_after_a_crash(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(
        kernel,
        "import os, tempfile\nfile = tempfile.TemporaryFile('w+')\nfile.write('abcdef'); file.flush()\n"
        "_ = os.lseek(file.fileno(), 2, os.SEEK_SET)",
    )
    kernel.execute("os.lseek(file.fileno(), 5, os.SEEK_SET); os._exit(1)").claim("error")
    assert kernel.evaluate("os.lseek(file.fileno(), 0, os.SEEK_CUR)") == "2"


def test_a_warning_that_was_shown_is_not_shown_again_after_a_snapshot(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    kernel.run(
        "import types, warnings\nlibrary = types.ModuleType('library')\n"
        "exec(\"import warnings\\ndef warns(): warnings.warn('once for each place')\", vars(library))"
    )
    assert "once for each place" in kernel.run("library.warns(); x = 1").stderr
    run_and_wait_for_snapshot(kernel, "x = 2")
    assert kernel.run("async def f(): pass\nawait f()\nlibrary.warns()").stderr == ""


def test_random_streams_go_on_after_a_crash(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import random; random.seed(7); first = random.random()")
    kernel.execute(CRASHES["os._exit"]).claim("error")
    assert kernel.evaluate("random.random() == [random.seed(7), random.random(), random.random()][2]") == "True"


def test_undo_goes_back_a_cell_and_executes_nothing_again(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "value = 'old'; runs = []")
    run_and_wait_for_snapshot(kernel, "value = 'new'; runs.append(1); extra = 1")
    assert "back to the state after cell [1]" in kernel.run("%undo").stdout
    assert kernel.evaluate("value, runs, 'extra' in globals()") == "('old', [], False)"


def test_undo_several_cells(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    for number in range(3):
        run_and_wait_for_snapshot(kernel, f"value = {number}")
    kernel.run("%undo 2").claim("stream")
    assert kernel.evaluate("value") == "0"


def test_undo_goes_back_as_far_as_was_asked_or_not_at_all(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "value = 1")
    # One after the other: there is no moment for a snapshot between them.
    cells = [kernel.start(f"value = {number}") for number in (2, 3)]
    for cell in cells:
        cell.wait()
    wait_for(kernel, "sleeps after cell [3]", 1)
    run_and_wait_for_snapshot(kernel, "value = 4")
    refused = kernel.run("%undo 2")
    assert "nothing was changed" in refused.stderr
    assert "`%undo 1` goes back to the state after cell [3]" in refused.stderr
    assert "`%undo 3` goes back to the state after cell [1]" in refused.stderr
    assert kernel.evaluate("value") == "4"
    assert "back to the state after cell [1]" in kernel.run("%undo 3").stdout
    assert kernel.evaluate("value") == "1"


def test_undo_without_a_snapshot_says_so(kernel_with_snapshots: Client) -> None:
    cell = kernel_with_snapshots.run("%undo 5")
    assert "nothing was changed" in cell.stderr


def test_loop_tasks_completion_and_interrupts_work_after_a_takeover(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import asyncio, time; remarkable_name = 1")
    kernel.execute(CRASHES["SIGKILL"]).claim("error")
    assert kernel.run("await asyncio.sleep(0.01, 'awaited')").text == "'awaited'"
    cell = kernel.start("print('running', flush=True); time.sleep(60)")
    cell.wait_stream("running\n")
    kernel.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    assert kernel.run("print('still here')").stdout == "still here\n"


def test_a_snapshot_that_took_over_is_protected_as_well(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "value = 1")
    for _ in range(3):
        before = kernel.process.log().count(SLEEPS)
        kernel.execute(CRASHES["os._exit"]).claim("error")
        wait_for(kernel, SLEEPS, before + 1)
        assert kernel.evaluate("value") == "1"


def test_user_code_does_not_find_snapshots_among_its_children(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import os")
    code = "try:\n    os.wait()\nexcept ChildProcessError:\n    print('no children')"
    assert kernel.run(code).stdout == "no children\n"


def test_another_thread_stands_in_the_way_and_a_crash_then_loses(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import threading, os; stop = threading.Event(); value = 1")
    run_and_wait_for_snapshot(kernel, "threading.Thread(target=stop.wait).start(); value = 2", sign=REFUSED)
    kernel.execute(CRASHES["os._exit"]).claim("error")
    assert kernel.evaluate("value") == "1"


def test_reset_worker_starts_without_state(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "value = 1")
    kernel.run("%reset --worker")
    assert kernel.evaluate("'value' in globals()") == "False"


def test_nothing_is_left_of_snapshots_when_the_front_is_killed(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    for number in range(3):
        run_and_wait_for_snapshot(kernel, f"value = {number}")
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait_exit()


def test_the_oldest_ends_when_snapshots_hold_more_than_they_may(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--debug", "--CapsuleKernel.snapshots=4", "--CapsuleKernel.snapshots_cap_mb=60")
    run_and_wait_for_snapshot(kernel, "data = bytearray(b'a') * (100 << 20)")
    run_and_wait_for_snapshot(kernel, "value = 1; data[:] = b'b' * len(data)")
    wait_for(kernel, "ends for its memory", 1)
    assert "nothing was changed" in kernel.run("%undo").stderr
    kernel.execute(CRASHES["SIGKILL"]).claim("error")
    assert kernel.evaluate("value, data[-1:]") == "(1, bytearray(b'b'))"


def test_snapshots_are_the_first_to_go_when_the_machine_has_no_memory(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "score = open('/proc/self/oom_score_adj').read()")

    scores = {pid: Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in kernel.process.processes()}
    assert [score for score in scores.values() if score == "1000"], scores
    kernel.execute(CRASHES["SIGKILL"]).claim("error")
    assert kernel.evaluate("open('/proc/self/oom_score_adj').read() == score") == "True"


BURST = "import threading; stand_in_the_way = threading.Event(); threading.Thread(target=stand_in_the_way.wait).start()"


def test_the_error_names_the_signal_the_state_and_the_cells_since(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "value = 1")
    run_and_wait_for_snapshot(kernel, BURST, sign=REFUSED)
    kernel.run("value = 3")
    kernel.run("value = 4", silent=True)
    cell = kernel.execute(CRASHES["segfault"])
    evalue = cell.error["evalue"]
    assert "SIGSEGV" in evalue
    assert "The state after cell [1] is live again; cells [2], [3] and one without a number had run since" in evalue
    assert "string_at" in cell.traceback
    assert kernel.evaluate("value") == "1"
    # The numbers of cells go on, and the lost ones are not undone a second time.
    assert kernel.run("value = 5").content["execution_count"] == 5


def test_a_death_between_cells_is_told_with_the_next_one(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import os; value = 1")
    pid = int(kernel.evaluate("os.getpid()"))
    os.kill(pid, signal.SIGKILL)
    wait_for(kernel, "SIGKILL", 1)
    cell = kernel.run("print(value)")
    assert cell.stdout == "1\n"
    assert "died between cells: it was ended by SIGKILL (Killed). The state after cell [1] is live again" in cell.stderr
    assert kernel.run("print(value)").stdout == "1\n"


def test_comms_of_the_snapshot_live_on_and_others_are_closed(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    make = "import comm; {0} = comm.create_comm(target_name='t', comm_id='{0}')"
    for name in ("kept", "shut"):
        run_and_wait_for_snapshot(kernel, make.format(name))
    got = "kept.on_msg(lambda msg: kept.send({'back': msg['content']['data']}))"
    run_and_wait_for_snapshot(kernel, got)
    for cell in kernel.exchanges.values():
        cell.claim("comm_open")
    run_and_wait_for_snapshot(kernel, BURST, sign=REFUSED)
    kernel.run("shut.close()").claim("comm_close")
    kernel.run(make.format("late")).claim("comm_open")
    died = kernel.execute(CRASHES["SIGKILL"])
    died.claim("error")
    assert kernel.evaluate("sorted(comm.get_comm_manager().comms)") == "['kept', 'shut']"
    closed = [message for message in [*died.iopub, *died.late] if message.msg_type == "comm_close"]
    died.claimed.update(map(id, closed))
    assert [message.content["comm_id"] for message in closed] == ["late"]
    assert kernel.ask("comm_info_request")["comms"] == {"kept": {"target_name": "t"}, "shut": {"target_name": "t"}}
    message = kernel.request("comm_msg", {"comm_id": "kept", "data": 7}, expects_reply=False).wait()
    assert [m.content["data"] for m in message.claim("comm_msg")] == [{"back": 7}]


def test_widgets_live_on_and_show_what_the_snapshot_has(kernel_with_snapshots: Client) -> None:
    kernel = kernel_with_snapshots
    run_and_wait_for_snapshot(kernel, "import ipywidgets; slider = ipywidgets.IntSlider(3)")
    for cell in kernel.exchanges.values():
        cell.claim()
    run_and_wait_for_snapshot(kernel, BURST, sign=REFUSED)
    kernel.run("slider.value = 8").claim("comm_msg")
    kernel.execute(CRASHES["os._exit"]).claim("error")
    assert kernel.evaluate("slider.value") == "3"
    told = [message for cell in kernel.exchanges.values() for message in cell.late if message.msg_type == "comm_msg"]
    for cell in kernel.exchanges.values():
        cell.claimed.update(map(id, told))
    assert 3 in [message.content["data"]["state"].get("value") for message in told]
