"""Issue, point 4: `stop_on_error` aborts queued executes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client

# The cells behind it are queued by the time it fails: it waits for a line that is sent after them.
FAIL_WHEN_TOLD = "input()\n1 / 0"


def test_an_error_aborts_the_cells_behind_it(shared_kernel: Client) -> None:
    failing = shared_kernel.start(FAIL_WHEN_TOLD, allow_stdin=True)
    queued = [shared_kernel.start(f"print({n})") for n in range(3)]
    shared_kernel.answer(shared_kernel.wait_input_request(failing), "")
    assert failing.wait().ename == "ZeroDivisionError"
    for cell in queued:
        assert cell.wait().content["status"] == "aborted"
    assert shared_kernel.run("1 + 1").text == "2"


def test_an_aborted_cell_is_not_counted(shared_kernel: Client) -> None:
    failing = shared_kernel.start(FAIL_WHEN_TOLD, allow_stdin=True)
    queued = shared_kernel.start("pass")
    shared_kernel.answer(shared_kernel.wait_input_request(failing), "")
    count = failing.wait().execution_count
    failing.claim("error")
    assert queued.wait().status == "aborted"
    assert shared_kernel.run("pass").execution_count == count + 1


def test_other_requests_behind_an_error_are_answered(shared_kernel: Client) -> None:
    failing = shared_kernel.start(FAIL_WHEN_TOLD, allow_stdin=True)
    before = shared_kernel.start("pass")
    others = [
        shared_kernel.request("kernel_info_request", {}),
        shared_kernel.request("complete_request", {"code": "prin", "cursor_pos": 4}),
        shared_kernel.request("inspect_request", {"code": "print", "cursor_pos": 5}),
        shared_kernel.request("is_complete_request", {"code": "1"}),
        shared_kernel.request("history_request", {"hist_access_type": "tail", "n": 1, "output": False, "raw": True}),
        shared_kernel.request("comm_info_request", {}),
    ]
    after = shared_kernel.start("pass")
    shared_kernel.answer(shared_kernel.wait_input_request(failing), "")
    assert failing.wait().ename == "ZeroDivisionError"
    assert before.wait().status == after.wait().status == "aborted"
    for exchange in others:
        assert exchange.wait().status in {"ok", "complete"}


def test_without_stop_on_error_the_next_cells_run(shared_kernel: Client) -> None:
    failing = shared_kernel.start(FAIL_WHEN_TOLD, allow_stdin=True, stop_on_error=False)
    queued = shared_kernel.start("print('ran')")
    shared_kernel.answer(shared_kernel.wait_input_request(failing), "")
    assert failing.wait().ename == "ZeroDivisionError"
    assert queued.wait().stdout == "ran\n"


def test_an_error_in_a_user_expression_aborts_nothing(shared_kernel: Client) -> None:
    first = shared_kernel.start("input()", allow_stdin=True, user_expressions={"bad": "1 / 0"})
    queued = shared_kernel.start("print('ran')")
    shared_kernel.answer(shared_kernel.wait_input_request(first), "")
    assert first.wait().text == "''"
    assert queued.wait().stdout == "ran\n"


def test_an_interrupt_aborts_the_cells_behind_it(shared_kernel: Client) -> None:
    """Run all, then stop: the rest must not go on."""
    running = shared_kernel.start("import time\nprint('running', flush=True)\ntime.sleep(60)")
    queued = [shared_kernel.start("print('must not run')") for _ in range(3)]
    running.wait_stream("running\n")
    shared_kernel.interrupt()
    assert running.wait().ename == "KeyboardInterrupt"
    assert [cell.wait().status for cell in queued] == ["aborted"] * 3
    assert shared_kernel.run("1 + 1").text == "2"


def test_a_cell_sent_after_the_error_runs(shared_kernel: Client) -> None:
    assert shared_kernel.execute("1 / 0").ename == "ZeroDivisionError"
    assert shared_kernel.run("'fine'").text == "'fine'"
