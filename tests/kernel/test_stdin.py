"""`input()` and `getpass` over the stdin channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .process import UNDER_TEST

if TYPE_CHECKING:
    from .client import Client


def test_input_asks_with_its_prompt_and_returns_the_answer(shared_kernel: Client) -> None:
    cell = shared_kernel.start("name = input('Who? ')\nprint('Hello', name)", allow_stdin=True)
    request = shared_kernel.wait_input_request(cell)
    assert request.content == {"prompt": "Who? ", "password": False}
    shared_kernel.answer(request, "Zoë \U0001f600")
    assert cell.wait().stdout == "Hello Zoë \U0001f600\n"


def test_what_was_printed_comes_before_the_question(shared_kernel: Client) -> None:
    cell = shared_kernel.start("print('first')\ninput('then? ');", allow_stdin=True)
    request = shared_kernel.wait_input_request(cell)
    cell.wait_stream("first\n")
    shared_kernel.answer(request, "")
    cell.wait()


def test_getpass_asks_for_a_password(shared_kernel: Client) -> None:
    cell = shared_kernel.start("import getpass\nsecret = getpass.getpass('Token: ')", allow_stdin=True)
    request = shared_kernel.wait_input_request(cell)
    assert request.content == {"prompt": "Token: ", "password": True}
    shared_kernel.answer(request, "hunter2")
    cell.wait().succeeded()
    assert shared_kernel.evaluate("secret") == "'hunter2'"


def test_several_questions_are_asked_one_after_the_other(shared_kernel: Client) -> None:
    cell = shared_kernel.start("[input(str(n)) for n in range(3)]", allow_stdin=True)
    for number in range(3):
        request = shared_kernel.wait_input_request(cell)
        assert request.content["prompt"] == str(number)
        shared_kernel.answer(request, "abc"[number])
    assert cell.wait().text == "['a', 'b', 'c']"


def test_end_of_transmission_is_end_of_file(shared_kernel: Client) -> None:
    cell = shared_kernel.start("input()", allow_stdin=True)
    shared_kernel.answer(shared_kernel.wait_input_request(cell), "\x04")
    assert cell.wait().ename == "EOFError"


def test_without_allow_stdin_input_raises(shared_kernel: Client) -> None:
    for code in ("input('?')", "import getpass; getpass.getpass()"):
        cell = shared_kernel.execute(code, allow_stdin=False)
        assert cell.ename == "StdinNotImplementedError"
    assert shared_kernel.run("1 + 1").text == "2"


def test_an_interrupt_ends_the_question(shared_kernel: Client) -> None:
    cell = shared_kernel.start("input('?')", allow_stdin=True)
    shared_kernel.wait_input_request(cell)
    shared_kernel.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    assert shared_kernel.run("1 + 1").text == "2"


def test_an_answer_that_comes_too_late_is_not_the_next_ones(shared_kernel: Client) -> None:
    old = shared_kernel.start("input('old?')", allow_stdin=True)
    stale = shared_kernel.wait_input_request(old)
    shared_kernel.interrupt()
    assert old.wait().ename == "KeyboardInterrupt"
    shared_kernel.answer(stale, "stale")
    # The control channel answers after the front has had the chance to see the stale answer.
    shared_kernel.ask("kernel_info_request", channel="control")
    cell = shared_kernel.start("input('new?')", allow_stdin=True)
    request = shared_kernel.wait_input_request(cell)
    shared_kernel.answer(request, "fresh")
    assert cell.wait().text == "'fresh'"
    # Capsule says so, on the old cell; ipykernel says nothing.
    told = [message.content["text"] for message in old.late]
    assert UNDER_TEST != "capsule" or len(told) == 1
    assert all("came late and was not used" in text for text in told)
    old.ignore_outputs()


def test_an_answer_that_nobody_asked_for_is_harmless(shared_kernel: Client) -> None:
    shared_kernel.send("input_reply", {"value": "unasked", "status": "ok"}, channel="stdin")
    shared_kernel.send("input_reply", {}, channel="stdin")
    assert shared_kernel.run("1 + 1").text == "2"


def test_input_in_an_awaiting_cell_works(shared_kernel: Client) -> None:
    cell = shared_kernel.start("import asyncio\nawait asyncio.sleep(0)\ninput('?')", allow_stdin=True)
    shared_kernel.answer(shared_kernel.wait_input_request(cell), "yes")
    assert cell.wait().text == "'yes'"


def test_pdb_talks_over_stdin(shared_kernel: Client) -> None:
    shared_kernel.run("def failing():\n    inside = 42\n    1 / 0")
    assert shared_kernel.execute("failing()").ename == "ZeroDivisionError"
    cell = shared_kernel.start("%debug", allow_stdin=True)
    shared_kernel.answer(shared_kernel.wait_input_request(cell), "p inside")
    shared_kernel.answer(shared_kernel.wait_input_request(cell), "q")
    cell.wait()
    assert "42" in cell.stdout
    cell.ignore_outputs()


def test_reading_sys_stdin_does_not_hang(shared_kernel: Client) -> None:
    """Descriptor 0 is user code's and is at its end."""
    cell = shared_kernel.execute("import sys, os\nos.read(0, 10)")
    assert cell.text == "b''"
