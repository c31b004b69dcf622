"""Durable checkpoints: `%checkpoint`, `%restore`, `%checkpoints`, and what is saved by itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capsule_kernel import checkpoints
from capsule_kernel.errors import StoreUnavailable

from .exchange import DEADLINE_S

if TYPE_CHECKING:
    from tests.kernel.client import Client
    from tests.kernel.exchange import Cell
    from tests.kernel.starter import KernelStarter

SAVED = "is durable"


class Sessions:
    """Kernels that share one store, one after the other."""

    def __init__(self, start_kernel: KernelStarter, store: Path) -> None:
        self._start = start_kernel
        self.store = store

    def __call__(self, *args: str, name: str = "notes.ipynb", idle_ms: int = 0) -> Client:
        return self._start(
            "--debug",
            f"--CapsuleKernel.checkpoints_folder={self.store}",
            f"--CapsuleKernel.checkpoint_idle_ms={idle_ms}",
            f"--CapsuleKernel.session={name}",
            *args,
        )


@pytest.fixture
def session(start_kernel: KernelStarter, tmp_path: Path) -> Sessions:
    return Sessions(start_kernel, tmp_path / "store")


def wait_for(kernel: Client, sign: str, count: int = 1) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while kernel.process.log().count(sign) < count:
        assert time.monotonic() < deadline, f"not {count} times {sign!r} in the log: {kernel.process.log()}"
        kernel.pass_time(0.02)


def told(kernel: Client, code: str) -> str:
    """Run a cell that prints; return its text."""
    return kernel.execute(code).stdout


def kill_all(kernel: Client) -> None:
    """End the front and every worker at once, as a machine that loses its power does."""
    for pid in kernel.process.processes():
        # One may have come to its end since they were listed.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    kernel.close()


def report(cell: Cell, what: str) -> Any:
    """What a cell's reply says to programs."""
    assert cell.reply is not None
    return cell.reply.metadata["capsule"][what]


# --- over a restart --------------------------------------------------------------------------------------------------


def test_a_checkpoint_brings_the_variables_back_in_another_kernel(session: Sessions) -> None:
    first = session()
    first.run("import math\nx = [1, 2]; y = x\ndef f(n):\n    return n + offset\noffset = 5\nclass C: pass\nc = C()")
    assert "7 names saved" in told(first, "%checkpoint start")
    kill_all(first)
    second = session()
    assert second.evaluate("'x' in globals()") == "False"
    assert "'start', after cell [2]: 7 names restored" in told(second, "%restore start")
    assert second.evaluate("x is y, x, f(1), isinstance(c, C), math.pi > 3") == "(True, [1, 2], 6, True, True)"
    second.run("offset = 6")
    assert second.evaluate("f(1)") == "7"


def test_restore_produces_exactly_that_moments_names_and_merge_keeps_newer_ones(session: Sessions) -> None:
    kernel = session()
    kernel.run("a = 1; b = 2")
    told(kernel, "%checkpoint")
    kernel.run("a = 10; del b; c = 3")
    assert "2 names restored" in told(kernel, "%restore --merge")
    assert kernel.evaluate("a, b, c") == "(1, 2, 3)"
    text = told(kernel, "%restore")
    assert "removed: c" in text
    assert kernel.evaluate("a, b, 'c' in globals(), 'In' in globals()") == "(1, 2, False, True)"


def test_the_newest_checkpoint_is_restored_unless_another_is_named(session: Sessions) -> None:
    kernel = session()
    for number in range(3):
        kernel.run(f"n = {number}")
        told(kernel, f"%checkpoint at-{number}")
    told(kernel, "%restore at-1")
    assert kernel.evaluate("n") == "1"
    told(kernel, "%restore")
    assert kernel.evaluate("n") == "2"
    told(kernel, "%restore 1")
    assert kernel.evaluate("n") == "0"


def test_outputs_folder_environment_and_random_stream_come_back(session: Sessions, tmp_path: Path) -> None:
    first = session()
    first.execute("40 + 2").claim()
    first.run(f"import os, random; os.environ['MINE'] = 'yes'; os.chdir({str(tmp_path)!r}); random.seed(3)")
    told(first, "%checkpoint")
    expected = first.evaluate("random.random()")
    kill_all(first)
    second = session()
    told(second, "%restore")
    assert second.evaluate("random.random()") == expected
    assert second.evaluate("Out[1], os.environ['MINE']") == "(42, 'yes')"
    assert second.evaluate("os.getcwd()") == repr(str(tmp_path))


# --- by itself -------------------------------------------------------------------------------------------------------


def test_after_a_moment_of_idleness_the_state_is_durable(session: Sessions) -> None:
    first = session(idle_ms=50)
    first.execute("kept = {'a': [1]}", allow_stdin=True)
    wait_for(first, "after cell 1 is durable")
    kill_all(first)
    second = session()
    told(second, "%restore")
    assert second.evaluate("kept") == "{'a': [1]}"


def test_cells_of_a_client_that_cannot_be_asked_are_not_saved_by_themselves(session: Sessions) -> None:
    kernel = session(idle_ms=20)
    kernel.run("x = 1")
    kernel.execute("y = 1", allow_stdin=True)
    wait_for(kernel, "after cell 2 is durable")
    assert kernel.process.log().count(SAVED) == 1


def test_a_worker_that_dies_without_a_snapshot_points_to_the_checkpoint(session: Sessions) -> None:
    kernel = session("--CapsuleKernel.snapshots=0")
    kernel.run("x = 5")
    told(kernel, "%checkpoint")
    cell = kernel.execute("import os; os._exit(1)")
    assert "%restore brings back the variables as they were after cell [2]" in cell.error["evalue"]
    told(kernel, "%restore")
    assert kernel.evaluate("x") == "5"


# --- the notice ------------------------------------------------------------------------------------------------------


def test_a_notice_of_restorable_state_comes_before_the_first_cells_output(session: Sessions) -> None:
    first = session()
    first.run("x = 1")
    told(first, "%checkpoint mine")
    kill_all(first)
    second = session()
    cell = second.execute("print('hello')", allow_stdin=True)
    kinds = [message.msg_type for message in cell.iopub if message.msg_type in ("display_data", "stream")]
    assert kinds == ["display_data", "stream"]
    (notice,) = cell.claim("display_data")
    assert "%restore" in notice.content["data"]["text/plain"]
    assert "mine" in notice.content["data"]["text/plain"]
    assert cell.stdout == "hello\n"
    # Once is enough.
    assert second.execute("1", allow_stdin=True).text == "1"


def test_no_notice_without_state_or_where_nobody_can_be_asked(session: Sessions) -> None:
    first = session()
    first.execute("x = 1", allow_stdin=True)
    told(first, "%checkpoint")
    kill_all(first)
    second = session()
    second.run("y = 2")
    second.execute("z = 3", allow_stdin=True, store_history=False)
    other = session(name="other.ipynb")
    other.execute("x = 1", allow_stdin=True)


def test_values_under_the_engines_names_are_saved_where_they_are_the_users(session: Sessions) -> None:
    first = session()
    first.run("open = [1]; exit = 'way out'; __doc__ = 'mine'; x = 1")
    assert "4 names saved" in told(first, "%checkpoint plain")
    wait_for(first, "is proven")
    (message,) = first.execute("%checkpoints").claim("display_data")
    # `__doc__` is not counted, as no name that begins so is.
    assert "3 of 3" in message.content["data"]["text/plain"]
    kill_all(first)
    second = session()
    assert "4 names restored" in told(second, "%restore plain")
    assert second.evaluate("(open, exit, __doc__, x, callable(quit))") == "([1], 'way out', 'mine', 1, True)"
    second.run("del open, exit; quit = 5")
    assert "3 names saved" in told(second, "%checkpoint")
    second.run("open = 3")
    assert "removed: open" in told(second, "%restore")
    assert second.evaluate("(callable(open), quit)") == "(True, 5)"


def test_what_has_no_text_for_a_name_is_named_and_the_rest_is_saved(session: Sessions) -> None:
    kernel = session()
    kernel.run("globals()[5] = 'five'; x = 1")
    text = told(kernel, "%checkpoint")
    assert "1 name saved" in text
    assert "live only: globals()[5]: its name is not a text" in text
    assert "lost: globals()[5]: its name is not a text" in told(kernel, "%restore")
    assert kernel.evaluate("x") == "1"


def test_an_object_that_raises_system_exit_costs_its_own_names_only(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "class Bad:\n    def __reduce__(self): raise SystemExit(3)\nclass Worse:\n"
        "    def __getstate__(self): return 1\n    def __setstate__(self, state): raise KeyboardInterrupt\n"
        "bad = Bad(); worse = Worse(); x = 1"
    )
    assert "live only: bad: SystemExit: 3" in told(kernel, "%checkpoint")
    assert "lost: worse: KeyboardInterrupt" in told(kernel, "%restore")
    assert kernel.evaluate("x") == "1"


def test_an_interrupt_ends_a_slow_restore(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "class Slow:\n    def __getstate__(self): return 1\n    def __setstate__(self, state):\n"
        "        import time; print('begun', flush=True); time.sleep(60)\nslow = Slow(); x = 1"
    )
    kernel.run("%checkpoint").claim("stream")
    cell = kernel.start("%restore")
    cell.wait_stream("begun")
    kernel.interrupt()
    cell.wait()
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.evaluate("x") == "1"


# --- honest ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_saved_is_named_with_its_reason(session: Sessions) -> None:
    first = session()
    first.run("numbers = (n for n in range(9)); x = 1")
    cell = first.execute("%checkpoint")
    assert "1 name saved" in cell.stdout
    assert "live only: numbers:" in cell.stdout
    names = report(cell, "checkpoint")["names"]
    assert names["x"] == {"status": "saved"}
    assert names["numbers"]["status"] == "live only"
    assert "generator" in names["numbers"]["reason"]
    kill_all(first)
    second = session()
    cell = second.execute("%restore")
    assert "lost: numbers:" in cell.stdout
    assert report(cell, "restore")["names"]["numbers"]["status"] == "lost"
    table = second.execute("%checkpoints")
    (message,) = table.claim("display_data")
    assert "numbers (" in message.content["data"]["text/plain"]
    assert "<table>" in message.content["data"]["text/html"]


def test_a_fresh_process_proves_what_is_saved(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "import numpy as np\nclass Bad:\n    def __setstate__(self, state): raise ValueError('never')\n"
        "bad = Bad(); bad.n = 1; a = np.arange(9.); v = a[2:5]\ndef f(): return a\nnumbers = (n for n in ())"
    )
    assert "6 names saved" in told(kernel, "%checkpoint")
    wait_for(kernel, "is proven")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    text = message.content["data"]["text/plain"]
    assert "5 of 5" in text
    assert "a fresh process cannot load it: ValueError: never" in text


def test_what_a_fresh_process_makes_differ_is_said_wherever_it_is_shown(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "class Forgets:\n    def __getstate__(self): return {'n': id(self)}\n"
        "    def __setstate__(self, state): self.n = 0\nf = Forgets(); f.n = 1; good = [1]"
    )
    kernel.run("%checkpoint").claim("stream")
    wait_for(kernel, "is proven")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    text = message.content["data"]["text/plain"]
    assert "2 of 3" in text
    assert "f (saved, but a fresh process makes it differ: value" in text
    cell = kernel.execute("%restore")
    assert "restored, but not as it was: f: value" in cell.stdout
    assert report(cell, "restore")["names"]["f"]["doubt"]


def test_a_proof_that_comes_to_no_end_is_said_in_the_log(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "import os\nclass Kills:\n    def __getstate__(self): return os.getpid()\n"
        "    def __setstate__(self, state):\n        import os; os._exit(7)\nk = Kills(); good = [1]"
    )
    kernel.run("%checkpoint").claim("stream")
    wait_for(kernel, "came to no end: ChildProcessError: the process that loads it ended with status 7")


def test_what_refers_to_the_engine_is_proven_too(session: Sessions) -> None:
    """The fresh process has no shell and no cell's streams, of which variables hold parts."""
    kernel = session()
    kernel.run(
        "import sys\nclass Bar:\n    def __init__(self): self.out = sys.stderr\n"
        "    def __setstate__(self, state): self.out = state['out']; self.out.write('')\n"
        "bar = Bar(); shell = get_ipython; write = sys.stdout.write"
    )
    assert "live only" not in told(kernel, "%checkpoint")
    wait_for(kernel, "is proven")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    assert "5 of 5" in message.content["data"]["text/plain"]


def test_tables_of_polars_are_saved_though_a_fork_has_not_its_threads(session: Sessions) -> None:
    kernel = session()
    kernel.run(
        "import polars as pl\none = pl.DataFrame({'a': range(1000), 'b': range(1000)})\n"
        "table = pl.concat([one, one, one], rechunk=False).filter(pl.col('a') > 1); column = table['a']\n"
        "plan = table.lazy()"
    )
    assert "plan: a plan of polars" in told(kernel, "%checkpoint")
    wait_for(kernel, "is proven")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    assert "4 of 4" in message.content["data"]["text/plain"]
    kernel.run("del table, column")
    told(kernel, "%restore")
    assert kernel.evaluate("table.shape, table['a'].n_chunks(), column.sum()") == "((2994, 2), 3, 1498497)"


def test_after_a_longer_rest_what_was_saved_by_itself_is_proven_too(session: Sessions) -> None:
    kernel = session("--CapsuleKernel.checkpoint_proof_idle_ms=100", idle_ms=20)
    kernel.execute("x = [1]", allow_stdin=True)
    wait_for(kernel, "is proven")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    assert "1 of 1" in message.content["data"]["text/plain"]


def test_what_getpass_returned_never_reaches_the_disk(session: Sessions) -> None:
    kernel = session()
    cell = kernel.start(
        "import getpass; word = getpass.getpass(); also = ['x', word]; copy = ''.join(list(word))", allow_stdin=True
    )
    kernel.answer(kernel.wait_input_request(cell), "correct-horse-battery")
    cell.wait()
    told_text = told(kernel, "%checkpoint")
    for name in ("word", "also", "copy"):
        assert f"live only: {name}:" in told_text
    for path in session.store.rglob("*"):
        if path.is_file():
            assert b"correct-horse-battery" not in path.read_bytes(), path
            assert path.stat().st_mode & 0o077 == 0, path


def test_nor_does_what_was_made_of_it(session: Sessions) -> None:
    kernel = session()
    cell = kernel.start("import getpass; word = getpass.getpass()", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "correct-horse-battéry")
    cell.wait()
    kernel.run(
        "import numpy as np, os, pandas as pd\n"
        "header = {'Authorization': f'Bearer {word}'}\nraw = word.encode() + b'!'\n"
        "array = np.array(['me', word])\ntable = pd.DataFrame({'user': ['me'], 'token': [word]})\n"
        "text = table.astype('string')\nlong = 'x' * 5000 + word\nos.environ['HEADER'] = header['Authorization']\n"
        "wide = word.encode('utf-16-le')\nplain = ['correct', 'horse']"
    )
    told_text = told(kernel, "%checkpoint")
    for name in ("header", "raw", "array", "table", "text", "long", "wide"):
        assert f"live only: {name}:" in told_text or f", {name}:" in told_text, told_text
    assert "plain:" not in told_text
    forms = ["correct-horse-battéry".encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
    for path in session.store.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert not any(form in held for form in forms), path


def test_the_table_says_what_changed(session: Sessions) -> None:
    kernel = session()
    kernel.run("import numpy as np; a = np.zeros((3, 4)); gone = 1")
    told(kernel, "%checkpoint")
    kernel.run("a = np.zeros((3, 5)); del gone; model = object()")
    told(kernel, "%checkpoint after")
    (message,) = kernel.execute("%checkpoints").claim("display_data")
    text = message.content["data"]["text/plain"]
    assert "a: 3×4 → 3×5" in text
    assert "model: new" in text
    assert "gone: deleted" in text
    (message,) = kernel.execute("%checkpoints --delete after").claim("display_data")
    assert "after" not in message.content["data"]["text/plain"].partition("\n")[2].split("\n")[0]


def test_files_and_children_that_stay_as_they_are_are_named(session: Sessions, tmp_path: Path) -> None:
    kernel = session()
    kernel.run(
        f"import subprocess; log = open({str(tmp_path / 'log')!r}, 'w'); child = subprocess.Popen(['sleep', '60'])"
    )
    told(kernel, "%checkpoint")
    kernel.run("child.kill(); _ = child.wait()")
    text = told(kernel, "%restore")
    assert "left as they are" in text
    assert str(tmp_path / "log") in text
    assert "child process" in text


def test_tasks_that_have_ended_come_back_to_the_sessions_event_loop(session: Sessions) -> None:
    first = session()
    first.run(
        "import asyncio\nasync def work(n):\n    await asyncio.sleep(0)\n    return [n]\n"
        "loop = asyncio.get_running_loop()\n"
        "async with asyncio.TaskGroup() as group: one = group.create_task(work(1), name='one')\n"
        "two = asyncio.create_task(work(2)); kept = await two\n"
        "other = asyncio.new_event_loop(); three = other.create_task(work(3))\n"
        "await asyncio.to_thread(other.run_until_complete, three); other.close()\n"
        "waits = asyncio.create_task(asyncio.sleep(600))"
    )
    assert "live only: waits: a task that has not ended" in told(first, "%checkpoint")
    kill_all(first)
    second = session()
    # In a cell that awaits: inside of a task of that loop.
    assert "lost: waits" in told(second, "import asyncio\nawait asyncio.sleep(0)\n%restore")
    assert second.run("await asyncio.gather(one, two, work(3))").text == "[[1], [2], [3]]"
    cell = second.run(
        "await asyncio.sleep(0)\nloop is asyncio.get_running_loop(), two.result() is kept, one.get_name()"
    )
    assert cell.text == "(True, True, 'one')"


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("%checkpoint a b", "one name at most"),
        ("%checkpoint 7", "no number"),
        ("%restore nothing-of-this-name", "there is no checkpoint"),
        ("%restore a b", "a name or a number"),
        ("%checkpoints --frobnicate", "--delete"),
        ("%checkpoints --delete 99", "there is no checkpoint '99'"),
    ],
)
def test_wrong_arguments_get_an_error_and_change_nothing(session: Sessions, line: str, part: str) -> None:
    kernel = session()
    kernel.run("x = 1")
    cell = kernel.execute(line)
    assert part in cell.stderr
    cell.claim("error")
    assert kernel.evaluate("x") == "1"


def test_a_store_that_cannot_be_used_says_so_and_the_session_goes_on(
    start_kernel: KernelStarter, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    kernel = start_kernel(f"--CapsuleKernel.checkpoints_folder={place}")
    kernel.run("x = 1")
    cell = kernel.execute("%checkpoint")
    assert "no checkpoint was taken" in cell.stderr
    cell.claim("error")
    assert kernel.evaluate("x") == "1"


def test_a_person_is_told_once_that_the_variables_are_not_being_saved(
    start_kernel: KernelStarter, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")
    kernel = start_kernel(
        "--debug", f"--CapsuleKernel.checkpoints_folder={place}", "--CapsuleKernel.checkpoint_idle_ms=20"
    )
    kernel.execute("x = 1", allow_stdin=True)
    wait_for(kernel, "WARNING Save:")
    cell = kernel.execute("y = 2", allow_stdin=True)
    assert "not being saved by themselves" in cell.stderr
    assert str(place) in cell.stderr
    wait_for(kernel, "WARNING Save:", 2)
    kernel.execute("z = 3", allow_stdin=True)


def test_a_damaged_checkpoint_is_named_and_the_others_stay(session: Sessions) -> None:
    first = session()
    first.run("x = 'a' * 300_000")
    told(first, "%checkpoint one")
    kill_all(first)
    for pack in (session.store / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        place = data.find(b"a" * 1000)
        if place >= 0:
            data[place + 500] ^= 1
            pack.write_bytes(data)
    second = session()
    second.run("y = 2")
    text = told(second, "%restore --merge")
    assert "lost: x:" in text
    assert "damaged" in text
    assert second.evaluate("y") == "2"
    told(second, "%checkpoint two")
    told(second, "%restore two")
    assert second.evaluate("y") == "2"


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_acknowledged_checkpoints_survive_a_kill_of_everything_at_any_moment(session: Sessions, seed: int) -> None:
    moments = random.Random(seed)
    first = session()
    first.run("import numpy as np; big = np.arange(200_000)")
    acknowledged = -1
    deadline = time.monotonic() + moments.uniform(0.1, 0.6)
    for number in range(100):
        cell = first.start(f"big[{number}] = -1; n = {number}\n%checkpoint\n")
        while not cell.is_done and time.monotonic() < deadline:
            first.pass_time(0.005)
        if not cell.is_done:
            cell.ignore_outputs()
            break
        acknowledged = number
        cell.claim()
    kill_all(first)
    second = session()
    if acknowledged < 0:
        return
    second.execute("%restore").claim()
    back = int(second.evaluate("n"))
    assert back >= acknowledged
    assert second.evaluate("int((big == -1).sum())") == str(back + 1)


def wait_for_child(kernel: Client, before: int) -> None:
    """Wait until the kernel has more processes than `before`: no message tells of it."""
    deadline = time.monotonic() + DEADLINE_S
    while len(kernel.process.processes()) <= before:
        assert time.monotonic() < deadline, "no child that captures"
        kernel.pass_time(0.01)


def test_nothing_of_a_capture_is_left_when_the_kernel_is_killed_in_its_middle(session: Sessions) -> None:
    kernel = session()
    kernel.run("class Slow:\n    def __reduce__(self):\n        import time; time.sleep(60)\nslow = Slow()")
    before = len(kernel.process.processes())
    cell = kernel.start("%checkpoint")
    wait_for_child(kernel, before)
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    kernel.close()
    # Whether its input was published before the end is nobody's promise.
    cell.ignore_outputs()


def test_an_interrupt_ends_the_wait_for_a_slow_checkpoint(session: Sessions) -> None:
    kernel = session()
    kernel.run("class Slow:\n    def __reduce__(self):\n        import time; time.sleep(60)\nslow = Slow()")
    before = len(kernel.process.processes())
    cell = kernel.start("%checkpoint")
    wait_for_child(kernel, before)
    kernel.interrupt()
    cell.wait()
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.evaluate("1") == "1"


# --- from outside ----------------------------------------------------------------------------------------------------


def command(session: Sessions, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from capsule_kernel.cli import main; sys.exit(main())",
            "checkpoints",
            *args,
            "--folder",
            str(session.store),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_lists_shows_deletes_and_collects(session: Sessions) -> None:
    kernel = session()
    kernel.run("x = 1; numbers = (n for n in ())")
    told(kernel, "%checkpoint mine")
    told(kernel, "%checkpoint")
    listed = command(session, "list")
    assert "notes.ipynb" in listed.stdout
    assert "mine" in listed.stdout
    (found,) = json.loads(command(session, "list", "--json").stdout)
    assert [line["checkpoint"] for line in found["lines"]] == [1, 2]
    shown = command(session, "show", "1").stdout
    assert "x: int, saved" in shown
    assert "numbers: generator, live only" in shown
    assert json.loads(command(session, "show", "1", "--json").stdout)["names"]["x"]["status"].startswith("saved")
    assert command(session, "delete", "2").returncode == 0
    refused = command(session, "delete", "1", "7")
    assert refused.returncode == 1
    assert "there is no checkpoint 7" in refused.stderr
    assert "gave back" in command(session, "gc").stdout
    told(kernel, "%restore mine")
    assert kernel.evaluate("x") == "1"


def test_a_store_that_is_not_there_is_said_to_be_so(session: Sessions) -> None:
    refused = command(session, "list")
    assert refused.returncode == 1
    assert "no checkpoint was taken yet" in refused.stderr
    assert not session.store.exists()


def test_python_reads_the_variables_of_a_checkpoint(session: Sessions) -> None:
    kernel = session()
    kernel.run("from capsule_kernel import checkpoints\nx = [1, 2]\ndef f(): return x\nnumbers = (n for n in ())")
    kernel.execute("checkpoints.save('mine').checkpoint").claim()
    kernel.run("x = 3")
    values = checkpoints.load(1, ["x", "f"], folder=str(session.store))
    assert values["f"]() is values["x"]
    assert values["x"] == [1, 2]
    with pytest.raises(KeyError, match="'numbers' is not to be had"):
        checkpoints.load(1, ["numbers"], folder=str(session.store))
    kernel.run("_ = checkpoints.restore('mine')")
    assert kernel.evaluate("x") == "[1, 2]"
    with pytest.raises(StoreUnavailable, match="no Capsule kernel"):
        checkpoints.save()
    with pytest.raises(ValueError, match="is no number"):
        checkpoints.save("5")


SHELL_STATE = """
import os, signal
from IPython.core.magic import register_line_magic
%load_ext autoreload
%alias greet echo hello
%precision 3
%xmode Minimal
@register_line_magic
def shout(line): return line.upper()
seen = []
def note(): seen.append(1)
get_ipython().events.register("post_execute", note)
def handler(number, frame): seen.append(number)
_ = signal.signal(signal.SIGUSR1, handler)
_ = os.umask(0o027)
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
"""


def test_what_cells_gave_to_the_shell_and_the_process_comes_back(session: Sessions) -> None:
    kernel = session()
    kernel.run(SHELL_STATE).claim("stream")
    told(kernel, "%checkpoint")
    kill_all(kernel)
    kernel = session()
    cell = kernel.run("%restore")
    # A figure of a backend without windows is not shown.
    assert not cell.claim("display_data")
    cell.claim("stream")
    kernel.run("%autoreload 0")
    assert kernel.run("%greet").stdout.strip() == "hello"
    assert kernel.run("3.14159265").text == "3.142"
    assert kernel.run("%shout quiet").text == "'QUIET'"
    assert kernel.run("seen.clear()").stderr == ""
    assert kernel.run("os.kill(os.getpid(), signal.SIGUSR1); seen == [1, signal.SIGUSR1]").text == "True"
    assert kernel.run("(oct(os.umask(0o022)), plt.get_backend().lower(), plt.gcf() is figure)").text == (
        "('0o27', 'agg', True)"
    )
    assert len(kernel.execute("1/0").traceback.splitlines()) == 1


def test_a_formatter_of_a_librarys_own_costs_no_variables(session: Sessions) -> None:
    """As rich puts one in the place of IPython's, without what IPython's has."""
    kernel = session()
    kernel.run(
        "class Plain:\n    enabled = True\n    def __call__(self, value): return repr(value)\n"
        "get_ipython().display_formatter.formatters['text/plain'] = Plain()\n"
        "get_ipython().InteractiveTB = None\nkept = [1]"
    )
    assert "saved" in told(kernel, "%checkpoint")
    kill_all(kernel)
    kernel = session()
    assert "restored" in told(kernel, "%restore")
    assert kernel.evaluate("kept") == "[1]"


def test_functions_that_a_cell_has_frozen_keep_their_globals(session: Sessions) -> None:
    """What `gc.freeze` has hidden holds globals as well, which nobody sees."""
    kernel = session()
    kernel.run(
        "import gc\nspace = {'rate': 2, 'unit': 'm'}\nexec('def f(): return rate\\ndef g(): return unit', space)\n"
        "f, g = space.pop('f'), space.pop('g')\ndel space\ngc.freeze()\n"
        "exec('def h(): return rate', f.__globals__, took := {})\nh = took['h']; del took"
    )
    told(kernel, "%checkpoint")
    kill_all(kernel)
    kernel = session()
    told(kernel, "%restore")
    assert kernel.evaluate("f(), g(), h(), f.__globals__ is h.__globals__") == "(2, 'm', 2, True)"
