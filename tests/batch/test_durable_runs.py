"""`capsule run --id`: a run that goes on where it was, whatever was killed."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_markdown_cell

from .kills import series
from .test_run import make, outputs, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = [sys.executable, "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())"]
DEADLINE_S = 50.0
"""Less than a test may take: what hangs is named, and ended."""


class Place:
    """A home of its own, with a notebook, and the commands run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "HOME": str(folder),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "CAPSULE_PROMISES_FILE": str(folder / "promises.sqlite3"),
            "CAPSULE_CHECKPOINTS": str(folder / "checkpoints"),
        }
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, *map(str, args)],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*MAIN, *map(str, args)],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, path: Path, *args: str | Path, run_id: str = "r") -> subprocess.CompletedProcess[str]:
        return self.command("run", path, "--id", run_id, *args)

    def state(self, run_id: str = "r") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("runs", "show", run_id, "--json").stdout)
        return found

    def log(self) -> list[str]:
        """What the cells wrote down outside, in order."""
        path = self.folder / "log"
        return path.read_text().split() if path.exists() else []

    def wait_for_log(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.log()) < count:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill_all(self, process: subprocess.Popen[str]) -> None:
        """End the runner with its kernel at once, as a machine does that loses its power."""
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=10)
        process.communicate()

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                self.kill_all(process)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


def noting(name: str, more: str = "") -> str:
    return f"_ = open('log', 'a').write('{name} ')\n{more}"


def hanging(name: str) -> str:
    """A cell that hangs the first time it is run, and ends at once when it is run again."""
    more = (
        f"import time, os\nfirst = not os.path.exists('{name}')\nopen('{name}', 'w').close()\nif first: time.sleep(600)"
    )
    return noting(name, more)


def test_a_run_without_trouble_is_like_any_other(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "x = 1", "print(x + 1)")
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
    assert place.state()["state"] == "finished"
    # Again: nothing is run, and the notebook is written all the same.
    executed = place.folder / "a.executed.ipynb"
    before = nbformat.read(executed, as_version=4)
    executed.unlink()
    again = place.run(path)
    assert again.returncode == 0, again.stderr
    assert "2 cells finished earlier" in again.stderr
    assert outputs(executed) == [cell.outputs for cell in before.cells]


@pytest.mark.parametrize("victim", ["all", pytest.param("kernel", marks=pytest.mark.slow)])
def test_after_a_kill_the_same_command_goes_on_and_no_finished_cell_runs_twice(place: Place, victim: str) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "import numpy as np\nx = np.arange(5); y = x[1:]\nprint('made')"),
        noting("b", "y[0] = 10\nclass C: pass\nc = C(); 6 * 7"),
        tagged(hanging("c") + "\nprint(x, isinstance(c, C), In[1][:4], Out[2])", "rerun:safe"),
        noting("d", "print('end')"),
    )
    process = place.start("run", path, "--id", "r")
    place.wait_for_log(3)
    if victim == "all":
        place.kill_all(process)
        state = place.state()
        assert (state["state"], state["done"]) == ("stopped", 2)
        assert [cell["status"] for cell in state["cells"]] == ["ok", "ok", "interrupted", "waiting"]
        done = place.run(path)
        returncode, stderr = done.returncode, done.stderr
    else:
        (kernel,) = [
            child for child in psutil.Process(process.pid).children() if "capsule_kernel" in " ".join(child.cmdline())
        ]
        kernel.kill()
        _, stderr = process.communicate(timeout=DEADLINE_S)
        returncode = process.returncode
    assert returncode == 0, stderr
    assert "2 cells finished earlier" in stderr
    assert place.log() == ["a", "b", "c", "c", "d"]
    cells = nbformat.read(place.folder / "a.executed.ipynb", as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    texts = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.outputs)
        for cell in cells
    ]
    assert texts == ["made\n", "42", "[ 0 10  2  3  4] True _ =  42\n", "end\n"]


@pytest.mark.slow
def test_a_worker_that_dies_under_a_cell_is_no_end_of_the_run(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "x = 5"),
        tagged(
            noting("b", "import os\nif os.path.exists('b'): print(x)\nelse:\n    open('b', 'w').close(); os._exit(3)"),
            "safe",
        ),
    )
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("5\n")
    assert place.log() == ["a", "b", "b"]


def leaving(more: str) -> str:
    """A cell whose worker ends once, as soon as the cell has: before anybody can save what it did."""
    return noting(
        "b",
        f"{more}\nimport asyncio, os\nif not os.path.exists('left'):\n    open('left', 'w').close()\n"
        "    _ = asyncio.get_event_loop().call_soon(os._exit, 1)",
    )


def test_what_a_cell_did_is_not_lost_when_its_worker_dies_right_after_it(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "x = 1", tagged(leaving("x += 1"), "rerun:safe"), "x += 1", "print(x)")
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"
    assert place.log() == ["b", "b"]
    executed = nbformat.read(place.folder / "a.executed.ipynb", as_version=4)
    assert [len(cell.outputs) for cell in executed.cells] == [0, 0, 0, 1]


@pytest.mark.slow
def test_extensions_and_magics_of_earlier_cells_are_there_when_a_run_goes_on(place: Place) -> None:
    magic = (
        "from IPython.core.magic import register_line_magic\n@register_line_magic\ndef shout(line): print(line.upper())"
    )
    killing = (
        "import os, time\nif not os.path.exists('left'):\n    open('left', 'w').close()\n"
        "    os.kill(int(os.environ['JPY_PARENT_PID']), 9); time.sleep(30)"
    )
    cells = [
        "%load_ext autoreload\n%alias greet echo hello",
        magic,
        tagged(killing, "rerun:safe"),
        "%autoreload 0\n%shout quiet",
    ]
    path = make(place.folder / "a.ipynb", *cells)
    assert place.run(path).returncode == -9
    done = place.run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("QUIET\n")


def test_a_cell_of_a_run_may_go_back_on_purpose(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "x = 1", "import time; time.sleep(0.2); x = 2", "%undo", noting("went on"))
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert place.log() == ["went", "on"]


def test_a_worker_that_dies_before_the_first_cell_leaves_no_mark(place: Place) -> None:
    """What is killed has run nothing: a cell's outputs are as if nothing had happened."""
    folder = place.folder / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    (folder / "00.py").write_text(
        "import asyncio, os\nif not os.path.exists('left'):\n    open('left', 'w').close()\n"
        "    _ = asyncio.get_event_loop().call_soon(os._exit, 1)"
    )
    path = make(place.folder / "a.ipynb", "print(1)")
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert (place.folder / "left").exists()
    assert done.stdout == "1\n"
    executed = nbformat.read(place.folder / "a.executed.ipynb", as_version=4)
    assert [output.name for output in executed.cells[0].outputs] == ["stdout"]


def dying(name: str, times: int) -> str:
    """A cell whose worker dies `times` times under it before it ends."""
    counted = f"import os\nopen('{name}', 'a').write('.')\nif os.path.getsize('{name}') <= {times}: os._exit(3)"
    return noting(name, counted)


def test_each_cell_may_lose_its_kernel_twice(place: Place) -> None:
    path = make(place.folder / "a.ipynb", tagged(dying("a", 2), "safe"), tagged(dying("b", 2), "safe"))
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert place.log() == ["a"] * 3 + ["b"] * 3


def test_a_cell_that_always_ends_its_kernel_ends_the_run(place: Place) -> None:
    path = make(place.folder / "a.ipynb", tagged(dying("a", 99), "safe"))
    done = place.run(path)
    assert done.returncode == 1
    assert "cell 1 has ended its kernel 3 times" in done.stderr
    assert place.log() == ["a"] * 3


def test_an_interrupted_cell_is_asked_about_and_an_answer_from_elsewhere_counts(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a", "x = 1"), hanging("b"), noting("c", "print(x)"))
    _kill_at(place, path, 2)
    process = place.start("run", path, "--id", "r")
    question = _wait_for_question(place)
    assert "was interrupted" in question["prompt"]
    assert place.state()["state"] == "waiting"
    assert place.command("answer", question["id"], "yes").returncode == 0
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert out == "1\n"
    assert place.log() == ["a", "b", "b", "c"]


@pytest.mark.slow
def test_a_no_leaves_the_cell_alone(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), hanging("b"))
    _kill_at(place, path, 2)
    process = place.start("run", path, "--id", "r")
    question = _wait_for_question(place)
    place.command("answer", question["id"], "no")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "cell 2 was interrupted" in err
    assert place.log() == ["a", "b"]


@pytest.mark.slow
def test_never_means_never(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), tagged(hanging("b"), "rerun:never"))
    _kill_at(place, path, 2)
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 1
    assert "cell 2 was interrupted" in done.stderr
    fresh = place.run(path, "--from-start")
    assert fresh.returncode == 0, fresh.stderr
    assert place.log() == ["a", "b", "a", "b"]


@pytest.mark.slow
def test_a_changed_notebook_is_noticed(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a", "x = 1"), hanging("b"))
    _kill_at(place, path, 2)
    make(path, noting("a", "x = 2"), hanging("b"))
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 1
    assert "cell 1 has changed since it ran" in done.stderr
    assert place.log() == ["a", "b"]
    # What has not run yet may change.
    make(path, noting("a", "x = 1"), noting("b", "print('new', x)"))
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "new 1\n"


@pytest.mark.slow
def test_cells_that_came_or_went_after_the_end_are_noticed(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), noting("b"))
    assert place.run(path).returncode == 0
    make(path, noting("a"), noting("b"), noting("c"))
    more = place.run(path)
    assert more.returncode == 1
    assert "it had finished before cell 3 was there" in more.stderr
    make(path, noting("a"))
    less = place.run(path)
    assert less.returncode == 1
    assert "cell 2 ran, and is not in the notebook any more" in less.stderr
    assert place.log() == ["a", "b"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_runs_whose_ids_begin_alike_are_strangers(place: Place) -> None:
    first = make(place.folder / "a.ipynb", noting("a"), noting("b"), hanging("c"))
    _kill_at(place, first, 3)
    assert place.run(first, "--rerun", "safe").returncode == 0
    # Cell 2 of r was tried twice; r-2 has cells 0, 1 and 2 of its own, and a question.
    second = make(place.folder / "b.ipynb", "print('A')", "print('B')", "print('C')", "print(input('D? '))")
    process = place.start("run", second, "--id", "r-2")
    question = _wait_for_question(place)
    assert place.state("r")["question"] == ""
    assert place.state("r-2")["question"] == question["id"]
    place.command("answer", question["id"], "D")
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert out == "A\nB\nC\nD\n"


KILL = """
import os, time
if not os.path.exists("killed"):
    open("killed", "w").close()
    os.kill(int(os.environ["JPY_PARENT_PID"]), 9)
    time.sleep(30)
"""
"""Ends the runner, once."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["another", pytest.param("emptied", marks=pytest.mark.slow)])
def test_a_run_takes_no_variables_of_another_one(place: Place, store: str) -> None:
    charging = make(place.folder / "d1.ipynb", "acct = 'alice'", KILL + "print('charging', acct)")
    other = make(place.folder / "d2.ipynb", "acct = 'bob'", "pass")
    assert place.run(charging, run_id="d1").returncode == -9
    if store == "another":
        place.environment["CAPSULE_CHECKPOINTS"] = str(place.folder / "others")
    else:
        shutil.rmtree(place.folder / "checkpoints")
    assert place.run(other, run_id="d2").returncode == 0
    resumed = place.run(charging, "--rerun", "safe", run_id="d1")
    assert resumed.returncode == 1
    assert resumed.stdout == ""
    assert "the variables after cell 1 cannot be restored" in resumed.stderr
    assert "run:d2" in resumed.stderr
    assert "--from-start runs all cells again" in resumed.stderr
    again = place.run(charging, "--from-start", run_id="d1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "charging alice\n"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_checkpoint_of_the_same_number_is_not_the_one_that_was_taken(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "acct = 'alice'", KILL + "print('charging', acct)")
    assert place.run(path).returncode == -9
    # A run of the same id in another place; then its checkpoints are all that there is.
    (place.folder / "killed").unlink()
    here = dict(place.environment)
    place.environment |= {
        "CAPSULE_PROMISES_FILE": str(place.folder / "others.sqlite3"),
        "CAPSULE_CHECKPOINTS": str(place.folder / "others"),
        "JUPYTER_DATA_DIR": str(place.folder / "others"),
    }
    assert place.run(make(path, "acct = 'bob'", KILL + "print('charging', acct)")).returncode == -9
    make(path, "acct = 'alice'", KILL + "print('charging', acct)")
    place.environment = here | {"CAPSULE_CHECKPOINTS": str(place.folder / "others")}
    resumed = place.run(path, "--rerun", "safe")
    assert resumed.returncode == 1
    assert resumed.stdout == ""
    assert "is not the one that is meant" in resumed.stderr


@pytest.mark.slow
def test_a_run_whose_checkpoint_is_gone_says_what_to_do_and_writes_nothing(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "x = 1", KILL + "print(x)")
    assert place.run(path).returncode == -9
    shutil.rmtree(place.folder / "checkpoints")
    resumed = place.run(path, "--rerun", "safe")
    assert resumed.returncode == 1
    assert "there is no checkpoint '1'" in resumed.stderr
    assert "--from-start runs all cells again" in resumed.stderr
    assert "%checkpoints" not in resumed.stderr
    assert "written:" not in resumed.stderr
    assert not (place.folder / "a.executed.ipynb").exists()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_cell_that_failed_asks_anew_and_one_that_was_interrupted_does_not(place: Place) -> None:
    path = make(place.folder / "a.ipynb", "n = int(input('How many? '))" + KILL + "print(n)")
    failed = _answering(place, path, "twelve")
    assert failed.returncode == 1
    assert "ValueError" in failed.stdout
    assert _answering(place, path, "12").returncode == -9
    third = place.run(path, "--rerun", "safe")
    assert third.returncode == 0, third.stderr
    assert third.stdout == "12\n"


@pytest.mark.slow
def test_what_a_failed_cell_has_asked_in_vain_is_open_no_more(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        "import asyncio, sqlite3, threading, time\n"
        "threading.Thread(target=input, args=('Who? ',), daemon=True).start()\n"
        "def is_asked():\n"
        "    with sqlite3.connect('promises.sqlite3') as file:\n"
        "        return file.execute(\"SELECT 1 FROM promise WHERE id LIKE '%:input:1'\").fetchone()\n"
        "while not is_asked(): time.sleep(0.05)\n"
        "1 / 0",
    )
    assert place.run(path).returncode == 1
    assert json.loads(place.command("inputs", "--json").stdout) == []


@pytest.mark.parametrize("more", [(), pytest.param(("--allow-errors",), marks=pytest.mark.slow)])
def test_a_cell_that_took_too_long_has_failed_and_is_run_again(place: Place, more: tuple[str, ...]) -> None:
    path = make(place.folder / "a.ipynb", noting("a", "x = 1"), hanging("b") + "\nx += 1", "print(x)")
    late = place.run(path, "--timeout", "4", *more)
    assert late.returncode == 1
    assert place.log() == ["a", "b"]
    assert [cell["status"] for cell in place.state()["cells"]] == ["ok", "error", "waiting"]
    executed = outputs(place.folder / "a.executed.ipynb")
    assert "CellTimeoutError" in [output.get("ename") for output in executed[1]]
    done = place.run(path, *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
    assert place.log() == ["a", "b", "b"]


@pytest.mark.slow
def test_from_start_begins_another_run_where_the_folder_of_the_last_one_was_lost(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"))
    assert place.run(path).returncode == 0
    assert place.run(path, "--from-start").returncode == 0
    shutil.rmtree(place.folder / "data" / "capsule" / "runs" / "r")
    again = place.run(path, "--from-start")
    assert again.returncode == 0, again.stderr
    assert place.log() == ["a", "a", "a"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_is_neither_yes_nor_no_is_no_answer(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), hanging("b"))
    _kill_at(place, path, 2)
    process = place.start("run", path, "--id", "r")
    first = _wait_for_question(place)
    assert place.command("answer", first["id"], "yes please").returncode == 0
    second = _wait_for_question(place, after=first["id"])
    assert second["prompt"].startswith("'yes please' is neither yes (y) nor no (n). Cell 2 of r was interrupted")
    place.kill_all(process)
    # Whoever asks next asks the same.
    process = place.start("run", path, "--id", "r")
    assert place.command("answer", second["id"], " YES ").returncode == 0
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert place.log() == ["a", "b", "b"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_later_cells_make_of_a_display_is_kept_and_goes_on(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        "print('first'); h = display('old', display_id='k')",
        new_markdown_cell("between"),
        "g = display('other', display_id='g')",
        "h.update('new')",
        KILL + "g.update('at last')",
    )
    assert place.run(path).returncode == -9
    assert place.run(path, "--rerun", "safe").returncode == 0
    again = place.folder / "again.ipynb"
    assert place.run(path, "-o", again).returncode == 0
    for executed in (place.folder / "a.executed.ipynb", again):
        cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
        texts = [[output.data["text/plain"] for output in cell.outputs if "data" in output] for cell in cells]
        assert texts == [["'new'"], ["'at last'"], [], []]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", [pytest.param("from-start", marks=pytest.mark.slow), "cancel"])
def test_what_ends_a_run_leaves_the_questions_of_another_one_alone(place: Place, how: str) -> None:
    asking = make(place.folder / "q.ipynb", "print(input('Who? '))")
    process = place.start("run", asking, "--id", "nightly")
    question = _wait_for_question(place)
    other = make(place.folder / "t.ipynb", "1 / 0")
    assert place.run(other, run_id="nightly-0").returncode == 1
    if how == "cancel":
        assert place.command("runs", "cancel", "nightly-0").returncode == 0
    else:
        assert place.run(other, "--from-start", run_id="nightly-0").returncode == 1
    answered = place.command("answer", question["id"], "Ada")
    assert answered.returncode == 0, answered.stderr
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert out == "Ada\n"


@pytest.mark.slow
def test_a_failed_cell_is_run_again_by_the_same_command(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "x = 1"),
        noting("b", "import os\nif not os.path.exists('ready'): 1 / 0\nprint(x)"),
    )
    failed = place.run(path)
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stdout
    (place.folder / "ready").touch()
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert place.log() == ["a", "b", "b"]


def test_what_a_remaining_cell_may_read_and_could_not_be_kept_stops_the_run(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "numbers = (n for n in range(3))\nx = 1"),
        hanging("b"),
        "print(next(numbers))",
    )
    _kill_at(place, path, 2)
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 1
    assert "numbers" in done.stderr
    assert "generator" in done.stderr
    assert place.log() == ["a", "b"]


@pytest.mark.slow
def test_what_a_function_needs_that_a_remaining_cell_calls_stops_the_run_as_well(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "numbers = (n for n in range(3))\ndef following(): return next(numbers)"),
        hanging("b"),
        "print(following())",
    )
    _kill_at(place, path, 2)
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 1
    assert "numbers: " in done.stderr
    # A cell that makes it anew needs nothing.
    make(
        path,
        noting("a", "numbers = (n for n in range(3))\ndef following(): return next(numbers)"),
        noting("b", "numbers = iter([7])"),
        "print(following())",
    )
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7\n"


@pytest.mark.slow
def test_what_no_remaining_cell_reads_may_be_lost(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb", noting("a", "numbers = (n for n in range(3))\nx = 1"), hanging("b"), "print(x)"
    )
    _kill_at(place, path, 2)
    done = place.run(path, "--rerun", "safe")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


def test_what_came_after_a_failed_cell_runs_again_when_that_does(place: Place) -> None:
    def cells(second: str) -> list[Any]:
        return [noting("a", "x = 1"), noting("b", second), noting("c", "y = x"), tagged(hanging("d"), "rerun:safe")]

    path = make(place.folder / "a.ipynb", *cells("1 / 0"), "print(y)")
    process = place.start("run", path, "--id", "r", "--allow-errors")
    place.wait_for_log(4)
    place.kill_all(process)
    make(path, *cells("x = 5"), "print(y)")
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5\n"
    assert place.log() == list("abcdbcd")


def test_a_run_that_is_canceled_leaves_nothing_that_waits(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), hanging("b"))
    process = place.start("run", path, "--id", "r")
    place.wait_for_log(2)
    assert place.command("runs", "cancel", "r").returncode == 0
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0, stderr
    with contextlib.closing(sqlite3.connect(place.folder / "promises.sqlite3")) as promises:
        assert promises.execute("SELECT id FROM promise WHERE state = 'pending'").fetchall() == []


def test_a_question_of_a_cell_pauses_the_run_and_its_answer_outlives_it(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a"),
        tagged(noting("b", "name = input('Name? ')\n") + hanging("c") + "\nprint(name)", "rerun:safe"),
    )
    process = place.start("run", path, "--id", "r")
    question = _wait_for_question(place)
    assert question["prompt"] == "Name? "
    assert place.command("answer", question["id"], "Ada").returncode == 0
    place.wait_for_log(3)
    place.kill_all(process)
    done = place.run(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Ada\n"


@pytest.mark.slow
def test_two_commands_cannot_run_the_same_run(place: Place) -> None:
    path = make(place.folder / "a.ipynb", hanging("a"))
    first = place.start("run", path, "--id", "r")
    place.wait_for_log(1)
    second = place.run(path)
    assert second.returncode == 1
    assert f"process {first.pid} runs it now" in second.stderr


@pytest.mark.slow
def test_a_run_is_listed_and_canceled(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), hanging("b"))
    process = place.start("run", path, "--id", "r")
    place.wait_for_log(2)
    assert "r  running  1 of 2 cells  a.ipynb" in place.command("runs", "list").stdout
    listed = json.loads(place.command("runs", "--json").stdout)
    assert [(run["id"], run["state"], run["done"], run["total"]) for run in listed] == [("r", "running", 1, 2)]
    assert place.command("runs", "cancel", "r").returncode == 0
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    assert place.state()["state"] == "canceled"
    refused = place.run(path)
    assert refused.returncode == 1
    assert "it was canceled" in refused.stderr
    unknown = place.command("runs", "show", "unknown")
    assert unknown.returncode == 1
    assert "no such run" in unknown.stderr


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--id", "a b"], "use letters, digits"),
        (["--id", "a__2"], "not twice in a row"),
        (["--id", "exec"], "other promises begin so"),
        (["--from-start"], "give the run an --id"),
        (["--id", "r", "--kernel", "python3"], "needs the Capsule kernel"),
        (["--id", "r", "--kernel-config", "durability=off"], "durability is off"),
    ],
)
def test_wrong_arguments_are_named(place: Place, args: list[str], part: str) -> None:
    path = make(place.folder / "a.ipynb", "1")
    refused = place.command("run", path, *args)
    assert refused.returncode in (1, 2)
    assert part in refused.stderr


def _kill_at(place: Place, path: Path, count: int) -> None:
    process = place.start("run", path, "--id", "r")
    place.wait_for_log(count)
    place.kill_all(process)


def _answering(place: Place, path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run, and answer from elsewhere."""
    process = place.start("run", path, "--id", "r")
    assert place.command("answer", _wait_for_question(place)["id"], text).returncode == 0
    out, err = process.communicate(timeout=DEADLINE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _wait_for_question(place: Place, after: str = "") -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        listed = place.command("inputs", "--json")
        found = json.loads(listed.stdout) if listed.returncode == 0 else []
        if found and found[0]["id"] != after:
            question: dict[str, Any] = found[0]
            return question
        assert time.monotonic() < deadline, listed.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_random_moments_leave_runs_as_if_nothing_had_happened(tmp_path: Path) -> None:
    assert series(tmp_path, 8, seed=7).kills >= 8


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_terminal_is_asked_and_may_be_forestalled(place: Place) -> None:
    path = make(place.folder / "a.ipynb", noting("a"), hanging("b"), hanging("c"))
    _kill_at(place, path, 2)
    process, terminal = _start_on_terminal(place, "run", path, "--id", "r")
    _read_until(terminal, "Run it again? (yes/no)")
    os.write(terminal, b"yes\n")
    place.wait_for_log(4)
    place.kill_all(process)
    os.close(terminal)
    # Somebody answers elsewhere: the run goes on, and ends without a line from the terminal.
    process, terminal = _start_on_terminal(place, "run", path, "--id", "r")
    _read_until(terminal, "Run it again? (yes/no)")
    place.command("answer", _wait_for_question(place)["id"], "yes")
    assert process.wait(DEADLINE_S) == 0
    os.close(terminal)
    assert place.log() == ["a", "b", "b", "c", "c"]


def _start_on_terminal(place: Place, *args: str | Path) -> tuple[subprocess.Popen[str], int]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MAIN, *map(str, args)],
        env=place.environment,
        cwd=place.folder,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    place.started.append(process)
    return process, ours


def _read_until(terminal: int, wanted: str) -> None:
    seen = ""
    while wanted not in seen:
        seen += os.read(terminal, 4096).decode(errors="replace")
