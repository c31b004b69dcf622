"""`capsule run` in bad company: files that are no notebooks, streams that are full or closed, Ctrl-C before it runs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from capsule_kernel import questions
from capsule_kernel.batch import notebook as files
from capsule_kernel.cli import main
from tests.commands import MAIN, Home

from .test_run import make, outputs


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_cannot_be_a_notebook_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep.ipynb").write_text('{"nbformat":4,"x":' + "[" * 100_000 + "]" * 100_000 + "}")
    (tmp_path / "long.ipynb").write_text('{"nbformat":4,"x":' + "1" * 5000 + "}")
    source = make(tmp_path / "a.ipynb", "print('HALF')").read_text()
    (tmp_path / "half.ipynb").write_text(source.replace("HALF", "\\ud800"))
    for argument, part in [
        (tmp_path / "deep.ipynb", "nested too deeply"),
        (tmp_path / "long.ipynb", "a number in it has more than 4300 digits"),
        (tmp_path / "half.ipynb", r"cell 1 has half of a surrogate pair ('\ud800')"),
        (".", "a folder, not a notebook"),
        ("/", "a folder, not a notebook"),
    ]:
        assert main(["run", str(argument)]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1


def test_a_mark_of_the_byte_order_is_no_matter(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ipynb", "1")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert files.read(path).cells[0].source == "1"


def test_half_a_pair_in_an_output_is_written_as_it_came(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ipynb", "1")
    notebook = files.read(path)
    notebook.metadata["odd"] = "é\ud800"
    files.write(notebook, path)
    assert json.loads(path.read_bytes())["metadata"]["odd"] == "é\ud800"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", "--json"])
def test_a_full_disk_does_not_cost_the_notebook(home: Home, option: str) -> None:
    path = make(home.folder / "a.ipynb", "print('x')", "print('last')")
    done = home.shell(f"capsule run $1 {option} >/dev/full", path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "capsule: standard output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
    assert outputs(home.folder / "a.executed.ipynb")[1][0].text == "last\n"


def test_closed_streams_do_not_cost_the_notebook(home: Home) -> None:
    path = make(home.folder / "a.ipynb", "print('x')", "print('last')")
    done = home.shell("capsule run $1 --id r <&- >&-", path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert outputs(home.folder / "a.executed.ipynb")[1][0].text == "last\n"


def test_a_place_that_cannot_be_is_told_in_a_line(home: Home) -> None:
    path = make(home.folder / "a.ipynb", "1")
    del home.environment["JUPYTER_DATA_DIR"]
    done = home.command("run", path, "--id", "r", XDG_DATA_HOME="/proc/x")
    assert done.returncode == 1
    assert done.stderr == "capsule: /proc/x: No such file or directory\n"


@pytest.mark.slow
def test_a_name_that_is_no_text_can_be_run_durably(home: Home) -> None:
    path = make(home.folder / "\udcff.ipynb", "print('x')")
    done = home.shell("capsule run $1 --id r && capsule runs", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "x\nr  finished  1 of 1 cells  \\udcff.ipynb\n"


@pytest.mark.slow
def test_names_and_cells_cannot_drive_the_terminal(home: Home) -> None:
    path = make(home.folder / "\x1b]0;X\x07.ipynb", "globals()['\\x1b]0;X\\x07'] = 1 # \u202e\x9b")
    done = home.shell("capsule run $1 --id r && capsule runs && capsule runs show r", path)
    assert done.returncode == 0, done.stderr
    assert r"\x1b]0;X\x07.ipynb: 1 cell" in done.stderr
    assert r"\x1b]0;X\x07.executed.ipynb" in done.stderr
    assert r"# \u202e\x9b" in done.stderr
    assert done.stdout.count(r"\x1b]0;X\x07.ipynb") == 2
    assert not set(done.stdout + done.stderr) & {"\x1b", "\x07", "\u202e", "\x9b"}


@pytest.mark.parametrize("module", ["capsule_kernel.kernelspec", "nbformat", "jupyter_client.manager", "nbclient"])
def test_control_c_while_it_starts_is_no_traceback(home: Home, module: str) -> None:
    path = make(home.folder / "a.ipynb", "import time; time.sleep(60)")
    process = subprocess.Popen(
        [MAIN[0], "-X", "importtime", *MAIN[1:], "run", str(path)],
        env=home.environment,
        cwd=home.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not process.stderr.readline().endswith(f" {module}\n"):
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert process.returncode == 130, said
    assert len(said) <= 1, said


@pytest.fixture
def left(home: Home) -> Path:
    """A notebook whose durable run `r` was killed under its first cell."""
    path = make(home.folder / "a.ipynb", "open('begun', 'w').close(); import time; time.sleep(600)")
    process = subprocess.Popen(
        [*MAIN, "run", str(path), "--id", "r"],
        env=home.environment,
        cwd=home.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 50
    while not (home.folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()
    return path


@pytest.mark.slow
@pytest.mark.parametrize("typed", [b"\x03", b"\x04\x03"])
def test_control_c_while_it_waits_for_consent_is_no_traceback(home: Home, left: Path, typed: bytes) -> None:
    # The end of the input is no answer: the run waits on, until ^C.
    status, shown = home.terminal("run", left, "--id", "r", typed=typed, after=b"(yes/no)")
    assert status == 130, shown
    assert b"Traceback" not in shown
    (question,) = questions.pending(file=home.file)
    assert question.state == "pending"


def test_a_run_that_waits_for_consent_needs_no_input(home: Home, left: Path) -> None:
    question = "until read -r id _ < <(capsule inputs); do sleep 0.1; done"
    done = home.shell(f'capsule run $1 --id r <&- & run=$!; {question}; capsule answer "$id" no; wait $run', left)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "is not to be run again" in done.stderr
