"""`capsule answer`: what counts as an answer, and what leaves a question open."""

from __future__ import annotations

from pathlib import Path

import pytest

from capsule_kernel import questions

from .commands import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def is_open(home: Home) -> bool:
    return bool(questions.pending(file=home.file))


def test_the_end_of_the_input_is_no_answer(home: Home) -> None:
    done = home.command("answer", home.ask("Go on? "))
    assert done.returncode == 1
    assert done.stderr == (
        "capsule: question k-1:input:1 stays open: standard input ended before a line came; "
        "give the answer as an argument, or --refuse\n"
    )
    assert is_open(home)


def test_a_closed_input_is_no_answer(home: Home) -> None:
    done = home.shell('capsule answer "$1" <&-', home.ask("Go on? "))
    assert done.returncode == 1
    assert "stays open" in done.stderr
    assert done.stderr.count("\n") == 1
    assert is_open(home)


@pytest.mark.parametrize("text", ["\n", "yes", "yes\n", "yes\r\n"])
def test_a_line_is_an_answer_also_an_empty_one_or_one_without_its_end(home: Home, text: str) -> None:
    assert home.command("answer", home.ask("Go on? "), text=text).returncode == 0
    assert not is_open(home)


def test_control_d_on_a_terminal_is_no_answer(home: Home) -> None:
    status, shown = home.terminal("answer", home.ask("Go on? "), typed=b"\x04", after=b"Go on? ")
    assert status == 1
    assert b"stays open" in shown
    assert b"Traceback" not in shown
    assert is_open(home)


def test_control_c_on_a_terminal_leaves_the_question_open(home: Home) -> None:
    status, shown = home.terminal("answer", home.ask("Go on? "), typed=b"\x03", after=b"Go on? ")
    assert status == 130
    assert b"Traceback" not in shown
    assert is_open(home)


@pytest.mark.parametrize("args", [["k-1:input:1", b"\xff"], [b"\xff", "yes"]])
def test_arguments_that_are_no_text_are_refused(home: Home, args: list[str | bytes]) -> None:
    home.ask("Go on? ")
    done = home.command("answer", *[arg.decode(errors="surrogateescape") for arg in map(_raw, args)])
    assert done.returncode == 2
    assert r"'\udcff': no UTF-8 text" in done.stderr
    assert is_open(home)


def test_a_line_that_is_no_text_is_refused(home: Home) -> None:
    done = home.command("answer", home.ask("Go on? "), text=b"\xff\n")
    assert done.returncode == 1
    assert "stays open: what came on standard input is no utf-8 text" in done.stderr
    assert is_open(home)


def test_a_prompt_cannot_drive_the_terminal(home: Home) -> None:
    prompt = "\x1b]0;title\x07\x1b[2J[sudo] password:\u202e é → "
    status, shown = home.terminal("answer", home.ask(prompt), typed=b"x\n", after="→ ".encode())
    assert status == 0
    text = shown.decode()
    assert r"\x1b]0;title\x07\x1b[2J[sudo] password:\u202e é → " in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}


def _raw(arg: str | bytes) -> bytes:
    return arg if isinstance(arg, bytes) else arg.encode()
