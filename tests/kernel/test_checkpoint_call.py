"""`checkpoint()` in a cell: one that dies in its middle goes on from there, as the same execution."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Client
    from .exchange import Cell
    from .starter import KernelStarter

pytestmark = only_capsule("its checkpoint()")

DEATHS = {
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exit status 3": "import os; os._exit(3)",
}


def once(tmp_path: Path, death: str) -> str:
    """Code that dies the first time that it runs, whatever process it runs in."""
    flag = tmp_path / "died"
    return f"import os\n        if not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w').close(); {death}"


def times(tmp_path: Path, count: int) -> str:
    """Code of a function `perhaps_die` that dies the first `count` times."""
    log = tmp_path / "deaths"
    return (
        "import os, signal\n"
        "def perhaps_die():\n"
        f"    with open({str(log)!r}, 'a+') as file:\n"
        "        file.seek(0)\n"
        f"        if len(file.read()) >= {count}: return\n"
        "        file.write('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )


def marks(cell: Cell) -> list[str]:
    return [line for line in cell.stderr.splitlines() if line.startswith("[resumed from checkpoint() at line ")]


@pytest.mark.parametrize("how", DEATHS)
def test_a_loop_goes_on_from_its_newest_checkpoint_with_the_right_result(
    kernel: Client, tmp_path: Path, how: str
) -> None:
    code = (
        "total, begun = 0, []\n"
        "for step in range(100):\n"
        "    if step % 10 == 0:\n"
        "        if checkpoint(): begun.append(step)\n"
        "    if step == 55:\n"
        f"        {once(tmp_path, DEATHS[how])}\n"
        "    total += step\n"
        "print('end'); total, begun"
    )
    cell = kernel.run(code)
    assert cell.text == "(4950, [50])"
    assert cell.stdout == "end\n"
    (mark,) = marks(cell)
    assert "at line 4," in mark
    assert how in mark
    assert cell.content["execution_count"] == 1
    # What comes next is as after any cell.
    assert kernel.run("total").text == "4950"


def test_output_before_the_checkpoint_is_not_repeated_and_the_mark_stands_between(
    kernel: Client, tmp_path: Path
) -> None:
    code = f"{times(tmp_path, 1)}print('before'); checkpoint(); print('after', flush=True); perhaps_die(); print('end')"
    cell = kernel.run(code)
    texts = [message.content["text"] for message in cell.claim("stream")]
    joined = "".join(texts)
    assert joined.startswith("before\nafter\n[resumed from checkpoint()")
    assert joined.endswith("]\nafter\nend\n")


def test_after_two_resumes_without_a_newer_checkpoint_the_cell_fails(kernel: Client, tmp_path: Path) -> None:
    kernel.run("value = 1")
    cell = kernel.execute(f"{times(tmp_path, 9)}value = 2; checkpoint(); value = 3; perhaps_die()")
    assert cell.ename == "WorkerDied"
    assert "It had gone on from a checkpoint() 2 times." in cell.error["evalue"]
    assert len(marks(cell)) == 2
    assert len((tmp_path / "deaths").read_text()) == 3
    assert kernel.run("6 * 7").text == "42"


def test_a_newer_checkpoint_begins_the_count_anew(kernel: Client, tmp_path: Path) -> None:
    log = tmp_path / "deaths"
    code = (
        "import os, signal\n"
        "def die_twice(part):\n"
        f"    with open({str(log)!r} + str(part), 'a+') as file:\n"
        "        file.seek(0)\n"
        "        if len(file.read()) == 2: return\n"
        "        file.write('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "done = []\n"
        "for part in range(5):\n"
        "    checkpoint()\n"
        "    if part in (1, 3): die_twice(part)\n"
        "    done.append(part)\n"
        "done"
    )
    cell = kernel.run(code)
    assert cell.text == "[0, 1, 2, 3, 4]"
    assert len(marks(cell)) == 4


def test_a_cell_that_awaits_goes_on_as_well(kernel: Client, tmp_path: Path) -> None:
    code = (
        f"import asyncio\n{times(tmp_path, 1)}"
        "async def part():\n    await asyncio.sleep(0.01)\n    checkpoint()\n    await asyncio.sleep(0.01)\n"
        "    perhaps_die()\n    return await asyncio.sleep(0.01, 'arrived')\n"
        "await part()"
    )
    cell = kernel.run(code)
    assert cell.text == "'arrived'"
    assert len(marks(cell)) == 1


def test_a_resumed_cell_can_be_interrupted_and_shows_output_while_it_runs(kernel: Client, tmp_path: Path) -> None:
    cell = kernel.start(
        f"import time\n{times(tmp_path, 1)}checkpoint(); perhaps_die(); print('goes on'); time.sleep(60)"
    )
    cell.wait_stream("goes on\n")
    kernel.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    assert len(marks(cell)) == 1
    cell.claim("stream")
    assert kernel.run("6 * 7").text == "42"


def test_a_death_after_the_cell_goes_back_to_the_cell_and_not_into_it(kernel: Client) -> None:
    kernel.run("value = 1; checkpoint(); value = 2")
    cell = kernel.execute("import os; os._exit(1)")
    assert cell.ename == "WorkerDied"
    assert not marks(cell)


def test_a_cell_that_capsule_ends_does_not_go_on(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.interrupt_grace_ms=100")
    cell = kernel.start(
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "checkpoint()\nprint('deaf', flush=True)\nwhile True: pass"
    )
    cell.wait_stream("deaf\n")
    kernel.interrupt()
    kernel.pass_time(0.3)
    kernel.interrupt()
    assert cell.wait().ename == "WorkerDied"
    assert not marks(cell)
    cell.claim("stream")


def test_what_stands_in_the_way_is_warned_of(kernel: Client) -> None:
    kernel.run("import threading; gate = threading.Event(); threading.Thread(target=gate.wait, name='other').start()")
    cell = kernel.run("print(checkpoint())")
    assert cell.stdout == "False\n"
    assert "RuntimeWarning: checkpoint() could not be taken: thread 'other' runs" in cell.stderr
    kernel.run("gate.set()")


def test_a_name_of_the_users_goes_before_and_modules_import_it(kernel: Client) -> None:
    assert kernel.run("'checkpoint' in globals()").text == "False"
    assert kernel.run("from capsule_kernel import checkpoint as imported; imported is checkpoint").text == "True"
    assert kernel.run("checkpoint = 5; checkpoint").text == "5"
    kernel.run("del checkpoint; checkpoint()").ignore_outputs()


def test_a_worker_killed_from_outside_in_a_long_cell_goes_on(kernel: Client) -> None:
    cell = kernel.start(
        "import os, time\nprint(os.getpid(), flush=True)\nnumbers = iter(range(150))\n"
        "for step in numbers:\n    checkpoint()\n    time.sleep(0.01)\nstep, sum(numbers)"
    )
    pid = int(cell.wait_stream("\n"))
    kernel.pass_time(0.2)
    os.kill(pid, signal.SIGKILL)
    assert cell.wait(30).text == "(149, 0)"
    assert len(marks(cell)) == 1
    cell.claim("stream")
