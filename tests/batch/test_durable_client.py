"""`DurableNotebookClient`: durable runs from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient

from capsule_kernel.batch import DurableNotebookClient
from capsule_kernel.errors import NotebookError

from .test_durable_runs import DEADLINE_S, Place, noting, place
from .test_run import make

__all__ = ["place"]

PROGRAM = """
import sys
import nbformat
from nbclient.exceptions import CellExecutionError
from capsule_kernel.batch import DurableNotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
ran = []
client = DurableNotebookClient(
    notebook,
    run_id="r",
    timeout=60,
    on_cell_executed=lambda cell, cell_index, execute_reply: ran.append(cell_index),
)
try:
    assert client.execute() is notebook
except CellExecutionError as error:
    print("failed", error.ename, ran)
else:
    print("done", [cell.outputs[0].text for cell in notebook.cells], ran)
"""


def test_it_goes_on_after_the_last_finished_cell_and_fails_as_nbclient_does(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "x = 20; print(x)"),
        noting("b", "import os\nif not os.path.exists('ready'): 1 / 0\nprint(x + 1)"),
    )
    assert _call(place, path) == "failed ZeroDivisionError [0, 1]"
    (place.folder / "ready").touch()
    assert _call(place, path) == "done ['20\\n', '21\\n'] [1]"
    assert _call(place, path) == "done ['20\\n', '21\\n'] []"
    assert place.log() == ["a", "b", "b"]


def test_the_same_process_goes_on_after_a_failure(place: Place) -> None:
    path = make(
        place.folder / "a.ipynb",
        noting("a", "x = 20; print(x)"),
        noting("b", "import os\nif not os.path.exists('ready'): 1 / 0\nprint(x + 1)"),
    )
    then = "open('ready', 'w').close(); client.execute(); print(notebook.cells[1].outputs)"
    again = PROGRAM.replace('print("failed", error.ename, ran)', then)
    assert "21" in _call(place, path, again)
    assert place.log() == ["a", "b", "b"]


def test_it_is_an_nbclient() -> None:
    assert issubclass(DurableNotebookClient, NotebookClient)


async def test_a_wrong_id_is_named() -> None:
    import nbformat

    with pytest.raises(NotebookError, match="use letters"):
        await DurableNotebookClient(nbformat.v4.new_notebook(), run_id="a b").async_execute()


def _call(place: Place, path: Path, program: str = PROGRAM) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        env=place.environment,
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
