"""`capsule run` as a person uses it: a real command, a real kernel, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from capsule_kernel.cli import main

if TYPE_CHECKING:
    from nbformat import NotebookNode

COMMAND = [str(Path(sys.executable).with_name("capsule")), "run"]
DEADLINE_S = 50


def make(path: Path, *cells: str | NotebookNode, **metadata: Any) -> Path:
    made = [cell if isinstance(cell, dict) else new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=made, metadata=metadata), path)
    return path


def tagged(source: str, *tags: str) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


def run(*argv: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, argv)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def outputs(path: Path) -> list[Any]:
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return make(tmp_path / "a.ipynb", "print('hello')\n6 * 7", "import os; print(os.getcwd())")


def test_outputs_and_progress_are_shown_and_the_executed_notebook_is_written(notebook: Path, tmp_path: Path) -> None:
    before = notebook.read_bytes()
    done = run(notebook)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"hello\n42\n{tmp_path}\n"
    for line in ("a.ipynb: 2 cells to run on", "[1/2] print('hello') …", "2 of 2 cells run, none failed"):
        assert line in done.stderr
    assert f"written: {tmp_path}/a.executed.ipynb" in done.stderr
    assert "\x1b" not in done.stderr
    assert notebook.read_bytes() == before
    assert outputs(tmp_path / "a.executed.ipynb")[0][1].data == {"text/plain": "42"}
    assert sorted(os.listdir(tmp_path)) == ["a.executed.ipynb", "a.ipynb"]


def test_an_output_file_and_a_working_folder_can_be_chosen(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = run(notebook, "-o", tmp_path / "b.ipynb", "--cwd", tmp_path / "elsewhere")
    assert done.stdout.endswith(f"{tmp_path}/elsewhere\n")
    assert sorted(os.listdir(tmp_path)) == ["a.ipynb", "b.ipynb", "elsewhere"]


def test_a_failed_cell_ends_the_run_and_is_in_the_notebook(tmp_path: Path) -> None:
    late = new_code_cell("print('late')", outputs=[new_output("stream", name="stdout", text="of an earlier run")])
    done = run(make(tmp_path / "a.ipynb", "print('early')", "1 / 0", late))
    assert done.returncode == 1
    assert "early" in done.stdout
    assert "late" not in done.stdout
    assert "Cell In[2], line 1" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "\x1b" not in done.stdout
    assert "[2/3] failed with ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    _, second, third = outputs(tmp_path / "a.executed.ipynb")
    assert second[0].ename == "ZeroDivisionError"
    assert third == []


def test_an_announced_error_is_no_failure(tmp_path: Path) -> None:
    done = run(make(tmp_path / "a.ipynb", tagged("1 / 0", "raises-exception"), "print('next')"))
    assert done.returncode == 0
    assert done.stdout.endswith("next\n")
    assert "ended as announced with ZeroDivisionError" in done.stderr


def test_allowed_errors_do_not_end_the_run_and_still_count(tmp_path: Path) -> None:
    done = run(make(tmp_path / "a.ipynb", "1 / 0", "print('next')"), "--allow-errors")
    assert done.returncode == 1
    assert done.stdout.endswith("next\n")


def test_cells_that_are_empty_or_tagged_are_skipped(tmp_path: Path) -> None:
    done = run(make(tmp_path / "a.ipynb", " ", tagged("1 / 0", "skip-execution"), "print('only')"))
    assert (done.returncode, done.stdout) == (0, "only\n")
    assert "[1/1] print('only')" in done.stderr


def test_a_cell_that_takes_too_long_says_so_in_the_notebook(tmp_path: Path) -> None:
    done = run(make(tmp_path / "a.ipynb", "import time; print('in'); time.sleep(100)"), "--timeout", "1")
    assert done.returncode == 1
    assert "CellTimeoutError: the cell took longer than 1 s" in done.stdout
    # Between the two may be the KeyboardInterrupt that ended the cell: its traceback says where the time went.
    first, *_, last = outputs(tmp_path / "a.executed.ipynb")[0]
    assert (first.text, last.ename) == ("in\n", "CellTimeoutError")


def test_images_are_named_with_their_size(tmp_path: Path) -> None:
    # One black pixel.
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    code = f"from IPython.display import *; display({{'image/png': '{pixel}'}}, raw=True); display(HTML('<b>b</b>'))"
    done = run(make(tmp_path / "a.ipynb", code))
    assert done.stdout == "[image/png, 1x1 pixels, 67 bytes]\n<IPython.core.display.HTML object>\n"


def test_a_bar_drawn_with_carriage_returns_shows_its_last_state(tmp_path: Path) -> None:
    code = "import sys\nfor n in range(3): print(f'\\r{n}/3', end='')\nsys.stdout.flush()\n'end'"
    assert run(make(tmp_path / "a.ipynb", code)).stdout == "2/3\n'end'\n"


def test_a_kernel_that_dies_ends_the_run_with_its_notebook(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ipynb", "print('in')", "import os; os._exit(3)", "print('late')")
    done = run(path, "--kernel", "python3")
    assert done.returncode == 1
    assert "DeadKernelError: Kernel died" in done.stdout
    first, second, third = outputs(tmp_path / "a.executed.ipynb")
    assert (first[0].text, second[0].ename, third) == ("in\n", "DeadKernelError", [])


def test_a_kernel_that_does_not_start_leaves_an_earlier_result_alone(notebook: Path, tmp_path: Path) -> None:
    spec = tmp_path / "jupyter" / "kernels" / "broken" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "Broken", "language": "python"}))
    (tmp_path / "a.executed.ipynb").write_text("earlier")
    command = [*COMMAND, str(notebook), "--kernel", "broken"]
    done = subprocess.run(
        command,
        env=os.environ | {"JUPYTER_PATH": str(tmp_path / "jupyter")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "the kernel did not start" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.executed.ipynb").read_text() == "earlier"


def test_wrong_use_is_told_apart_from_failure(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.ipynb").write_text("not json")
    (tmp_path / "list.ipynb").write_text("[]")
    (tmp_path / "bytes.ipynb").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "odd.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"x": 1}]}')
    make(tmp_path / "r.ipynb", "cat(1)", kernelspec={"name": "ir", "display_name": "R", "language": "R"})
    for argv, part in [
        ((tmp_path / "absent.ipynb",), "no such file"),
        ((tmp_path,), "a folder, not a notebook"),
        ((tmp_path / "text.ipynb",), "no JSON at line 1, column 1"),
        ((tmp_path / "list.ipynb",), "no 'nbformat' number"),
        ((tmp_path / "bytes.ipynb",), "no UTF-8 text at byte 0"),
        ((tmp_path / "odd.ipynb",), "not a"),
        ((tmp_path / "r.ipynb",), "written for R"),
        ((notebook, "--kernel", "nope"), "no kernel is named 'nope'; installed: "),
        ((notebook, "--cwd", tmp_path / "nope"), "nope (--cwd) does not exist"),
        ((notebook, "-o", tmp_path / "nope" / "b.ipynb"), "nope does not exist"),
        ((notebook, "-o", tmp_path), "is a folder"),
    ]:
        assert main(["run", *map(str, argv)]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
    assert not (tmp_path / "a.executed.ipynb").exists()


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Wait for the cell's first line, send the signal, wait for the end; nothing of the run is left."""
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    texts = process.communicate(timeout=DEADLINE_S)
    _, left = psutil.wait_procs(family, timeout=10)
    assert left == []
    return texts


def test_control_c_interrupts_the_cell_and_keeps_the_notebook(tmp_path: Path) -> None:
    source = "print('in', flush=True)\nimport time\nfor _ in range(500): time.sleep(0.1)"
    process = start(make(tmp_path / "a.ipynb", source, "print('late')"))
    out, err = end(process, signal.SIGINT)
    assert process.returncode == 130, err
    assert "KeyboardInterrupt" in out
    assert "late" not in out
    assert outputs(tmp_path / "a.executed.ipynb")[0][1].ename == "KeyboardInterrupt"


def test_control_c_ends_the_run_also_when_the_cell_catches_it(tmp_path: Path) -> None:
    source = "import time\ntry:\n  print('in', flush=True); time.sleep(50)\nexcept KeyboardInterrupt: print('caught')"
    process = start(make(tmp_path / "a.ipynb", source, "print('late')"))
    out, err = end(process, signal.SIGINT)
    assert (process.returncode, out) == (130, "caught\n"), err


def test_a_termination_ends_at_once_and_keeps_the_notebook(tmp_path: Path) -> None:
    process = start(make(tmp_path / "a.ipynb", "print('in', flush=True)\nimport time\ntime.sleep(50)"))
    out, err = end(process, signal.SIGTERM)
    assert process.returncode == 143, err
    assert "RunStopped: the run was ended by SIGTERM" in out
    assert outputs(tmp_path / "a.executed.ipynb")[0][1].ename == "RunStopped"


def test_a_reader_that_goes_away_does_not_cost_the_notebook(tmp_path: Path) -> None:
    cells = ["print('in', flush=True)", "print('x' * 5_000_000)", "print('last')"]
    process = start(make(tmp_path / "a.ipynb", *cells))
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "in\n"
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=DEADLINE_S) == 0, err
    assert outputs(tmp_path / "a.executed.ipynb")[2][0].text == "last\n"


def test_a_terminal_gets_a_live_bar_and_coloured_tracebacks(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ipynb", "print('hello', end='')\nimport time; time.sleep(0.5)", "1 / 0")
    parent, child = pty.openpty()
    process = subprocess.Popen([*COMMAND, str(path)], stdout=child, stderr=child, stdin=child)
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:
        pass  # Linux reports the end of a terminal as EIO
    os.close(parent)
    assert process.wait(timeout=DEADLINE_S) == 1
    text = shown.decode()
    assert "━" * 10 + "╌" * 10 + " 1/2" in text or "╌" * 20 + " 0/2" in text
    assert re.search(r"\x1b\[[0-9;]*mZeroDivisionError", text)
    # The bar never stands in an output's line.
    assert "\r\x1b[2Khello\r\n" in text
    assert text.splitlines()[-1] == f"\x1b[2Kwritten: {tmp_path}/a.executed.ipynb"


def test_the_tour_runs_and_stays_without_outputs(tmp_path: Path) -> None:
    tour = Path(__file__).parents[2] / "notebooks" / "tour.ipynb"
    assert all(cell.outputs == [] for cell in nbformat.read(tour, as_version=4).cells if cell.cell_type == "code")
    done = run(tour, "-o", tmp_path / "tour.ipynb")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("[image/png, ", "the task is running", "ran in a loop of its own", "ZeroDivisionError", "loops each"):
        assert part in done.stdout
    assert "hello from process" in done.stdout.rsplit("SIGKILL", 1)[-1]
