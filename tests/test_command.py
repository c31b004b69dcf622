"""The command in bad company: empty arguments, streams that are closed or full, names that drive a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capsule_kernel.cli import main
from capsule_kernel.terminal import all_printable, printable

from .commands import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["install", "--prefix", ""], "--prefix"),
        (["install", "--prefix="], "--prefix"),
        (["uninstall", "--prefix", ""], "--prefix"),
        (["install", "--prefix", "/nowhere", "--display-name", ""], "--display-name"),
        (["run", "", "--id", "r"], "NOTEBOOK"),
        (["run", "a.ipynb", "-o", ""], "--output"),
        (["run", "a.ipynb", "--cwd", ""], "--cwd"),
        (["promises", "gc", "--file", ""], "--file"),
        (["promises", "list", "--file", ""], "--file"),
        (["answer", "x", "y", "--file", ""], "--file"),
        (["checkpoints", "gc", "--folder", ""], "--folder"),
        (["replay", "x", "--into", ""], "--into"),
    ],
)
def test_an_empty_argument_is_not_taken_for_the_default(
    argv: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert option in last
    assert "empty" in last


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["checkpoints", "show", str(10**23)], "expected the number of a checkpoint"),
        (["checkpoints", "delete", "1", str(10**23)], "expected the number of a checkpoint"),
        (["checkpoints", "show", "9" * 5000], "expected the number of a checkpoint"),
        (["promises", "gc", "--days", str(10**20)], "expected a whole number of days"),
        (["promises", "gc", "--days", "9" * 5000], "expected a whole number of days"),
        (["promises", "list", "\udcff"], "no UTF-8 text"),
        (["checkpoints", "list", "\udcff"], "no UTF-8 text"),
    ],
)
def test_what_no_store_can_hold_is_refused(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert part in capsys.readouterr().err


def test_the_most_days_can_be_counted_back(home: Home) -> None:
    home.ask("Go on? ")
    done = home.command("promises", "gc", "--days", "1000000")
    assert done.stdout == "let go of 0 promises and 0 lines of the log\n", done.stderr


# --- streams ---------------------------------------------------------------------------------------------------------


def one_line(done: subprocess.CompletedProcess[str], part: str) -> None:
    assert part in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_reader_that_goes_away_ends_a_list_quietly(home: Home) -> None:
    for number in range(3):
        home.ask("?", promise_id=f"k-{number}:input:1")
    done = home.shell("{ sleep 0.01; capsule promises list; echo $? >status; } | true; cat status")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_long_list_ends_quietly_too(home: Home) -> None:
    for number in range(40):
        home.ask("?", promise_id=f"k-{number}:input:{'1' * 3000}")
    done = home.shell("{ capsule promises list --all; echo $? >status; } | head -1 | cut -c-7; cat status")
    assert (done.stdout, done.stderr) == ("pending\n0\n", "")


@pytest.mark.parametrize("line", ["promises list", "inputs", "runs", "--help", "inputs --json"])
def test_a_full_disk_is_told(home: Home, line: str) -> None:
    home.ask("?")
    done = home.shell(f"mkdir -p data/capsule; capsule {line} >/dev/full")
    if line == "runs":
        assert (done.returncode, done.stderr) == (0, "")  # there is none: nothing was to be written
        return
    assert done.returncode == 1
    one_line(done, "capsule: standard output cannot be written: No space left on device")


def test_closed_streams_are_nowhere(home: Home) -> None:
    home.ask("?")
    done = home.shell("capsule promises list >&-; echo $?; capsule promises list 2>&-; capsule inputs <&- >&- 2>&-")
    assert done.stdout == "0\npending           input    k-1:input:1\n"
    assert done.stderr == ""


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_what_a_stream_cannot_encode_is_escaped(home: Home, env: dict[str, str]) -> None:
    home.ask("?", session="é → a.ipynb")
    done = home.command("inputs", **env, PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert r"\xe9 \u2192 a.ipynb" in done.stdout
    listed = home.command("inputs", "--json", **env, PYTHONCOERCECLOCALE="0")
    assert json.loads(listed.stdout)[0]["session"] == "é → a.ipynb"


def test_closed_streams_are_nowhere_for_children_too(home: Home) -> None:
    child = "import os; os.write(2, b' '.join(os.readlink(b'/proc/self/fd/%d' % each) for each in (0, 1)))"
    code = "import subprocess, sys; from capsule_kernel import terminal; terminal.open_streams(); "
    code += f"subprocess.run([sys.executable, '-c', {child!r}])"
    (home.folder / "script.py").write_text(code)
    done = home.shell(f"{sys.executable} script.py <&- >&-")
    assert done.stderr == "/dev/null /dev/null"


# --- the system ------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_gone_is_told(home: Home) -> None:
    done = home.shell("mkdir gone; cd gone; rmdir ../gone; capsule run a.ipynb; capsule install --prefix here")
    assert done.returncode == 1
    assert done.stderr == "capsule: the current folder does not exist any more: change to one that does\n" * 2


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é → 日本 👍🏽 e\u0301", "plain é → 日本 👍🏽 e\u0301"),
        ("\x1b]0;X\x07", r"\x1b]0;X\x07"),
        ("a\nb\tc\rd\x7f\x9b", r"a\nb\tc\rd\x7f\x9b"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\u2028\u2029\udcff", r"\u2028\u2029\udcff"),
        ("👩\u200d💻\u00a0", "👩\u200d💻\u00a0"),
        ("C:\\x1b", "C:\\x1b"),
    ],
)
def test_what_drives_a_terminal_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert all_printable({text: [(text, 1)]}) == {shown: [(shown, 1)]}


def test_names_of_notebooks_cannot_drive_the_terminal(home: Home) -> None:
    home.ask("?", session="\x1b]0;X\x07\u202e.ipynb")
    assert r"\x1b]0;X\x07\u202e.ipynb" in home.command("inputs").stdout
    done = home.command("run", "\x1b[2J.ipynb")
    assert done.returncode == 2
    one_line(done, r"\x1b[2J.ipynb")


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{}", "it has no 'control_port'"),
        ("[]", "it has no 'control_port'"),
        ("text", "no JSON"),
        ("\xff", "no JSON"),
    ],
)
def test_what_is_no_connection_file_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, part: str
) -> None:
    path = tmp_path / "p.ipynb"
    path.write_text(content, encoding="latin-1")
    began = time.monotonic()
    assert main(["replay", str(path)]) == 1
    assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert f"connection file {path}: it is none: {part}" in error
    assert error.count("\n") == 1
