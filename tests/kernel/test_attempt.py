"""`%%attempt`: a cell on a branch, kept or discarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .exchange import plain
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client
    from .starter import KernelStarter

pytestmark = only_capsule("its %%attempt")

ATTEMPT = "%%attempt\n"
HINT = "`%attempt discard` goes back"


def refused(kernel: Client, code: str) -> str:
    """Run a cell that IPython ends with a line instead of a traceback; that line."""
    cell = kernel.execute(code)
    assert cell.status == "error"
    return cell.stderr


def test_discarding_goes_back_to_exactly_the_names_from_before(kernel: Client) -> None:
    kernel.run("kept = [1]; also = kept; gone = 1")
    cell = kernel.run(f"{ATTEMPT}kept.append(2); new = 3\ndel gone\nkept")
    assert cell.text == "[1, 2]"
    assert HINT in cell.stdout
    kernel.run("after = 4")
    assert "back to the state after cell [1]" in kernel.run("%attempt discard").stdout
    assert kernel.evaluate("kept, also is kept, gone, 'new' in globals(), 'after' in globals()") == (
        "([1], True, 1, False, False)"
    )


def test_keeping_keeps_and_decides(kernel: Client) -> None:
    kernel.run("value = 1")
    kernel.run(f"{ATTEMPT}value = 2").claim("stream")
    kernel.run("%attempt keep")
    assert kernel.evaluate("value") == "2"
    assert "no attempt is open" in refused(kernel, "%attempt discard")
    assert kernel.evaluate("value") == "2"


def test_the_first_cell_can_be_an_attempt(kernel: Client) -> None:
    kernel.run(f"{ATTEMPT}value = 1").claim("stream")
    kernel.run("%attempt discard").claim("stream")
    assert kernel.evaluate("'value' in globals()") == "False"


def test_a_cell_that_fails_awaits_or_shows_is_as_any_other(kernel: Client) -> None:
    kernel.run("import asyncio; value = 1")
    cell = kernel.execute(f"{ATTEMPT}value = await asyncio.sleep(0.01, 2)\n1 / 0")
    assert cell.ename == "ZeroDivisionError"
    assert "line 3" in plain(cell.traceback)
    cell.claim("stream")
    assert kernel.evaluate("value") == "2"
    kernel.run("%attempt discard").claim("stream")
    assert kernel.evaluate("value") == "1"


def test_the_branch_outlasts_any_number_of_snapshots(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.snapshots=2")
    kernel.run("value = 0")
    kernel.run(f"{ATTEMPT}value = 1").claim("stream")
    for number in range(2, 9):
        kernel.run(f"value = {number}")
        kernel.pass_time(0.03)
    kernel.run("%attempt discard").claim("stream")
    assert kernel.evaluate("value") == "0"


def test_one_is_open_at_a_time_and_words_are_checked(kernel: Client) -> None:
    kernel.run(f"{ATTEMPT}value = 1").claim("stream")
    assert "an attempt is open" in refused(kernel, f"{ATTEMPT}value = 2")
    assert kernel.evaluate("value") == "1"
    assert "takes `keep` or `discard`" in refused(kernel, "%attempt maybe")
    kernel.run("%attempt keep")
    kernel.run(f"{ATTEMPT}value = 3").claim("stream")
    assert kernel.evaluate("value") == "3"


def test_where_no_branch_can_be_had_the_cell_is_not_run(kernel: Client) -> None:
    kernel.run("import threading; gate = threading.Event(); threading.Thread(target=gate.wait, name='other').start()")
    assert "not run: thread 'other' runs" in refused(kernel, f"{ATTEMPT}value = 1")
    assert kernel.evaluate("'value' in globals()") == "False"
    kernel.run("gate.set()")


def test_a_crash_in_an_attempt_is_back_where_it_began(kernel: Client) -> None:
    kernel.run("value = 1")
    cell = kernel.execute(f"{ATTEMPT}value = 2\nimport os; os._exit(1)")
    assert "The state after cell [1] is live again" in cell.error["evalue"]
    assert kernel.evaluate("value") == "1"
    assert "no attempt is open" in refused(kernel, "%attempt discard")
